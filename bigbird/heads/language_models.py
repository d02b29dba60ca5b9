"""The heads with vocabulary logits: masked, causal, and pre-training's two at once."""

import logging
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bigbird.config import BigBirdConfig
from bigbird.errors import ConfigError
from bigbird.generation.model_generate import Generates
from bigbird.head_layers import LanguageModelHead, Predictions, PreTrainingHeads
from bigbird.heads.answers import as_asked, logits_answer, token_loss
from bigbird.loading.generation_config import GenerationConfig
from bigbird.loading.pretrained import PretrainedModel
from bigbird.model import BigBirdModel
from bigbird.outputs import BaseModelOutput, CausalLMOutput, LogitsOutput, PastKeyValues, PreTrainingOutput

logger = logging.getLogger(__name__)


class _LanguageModel(PretrainedModel):
    """What the three share: the decoder over the vocabulary, tied to the word embeddings."""

    bert: BigBirdModel
    cls: LanguageModelHead

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        self.register_state_dict_post_hook(_unshare)  # type: ignore[no-untyped-call]

    @property
    def _predictions(self) -> Predictions:
        predictions = self.cls.predictions
        if not isinstance(predictions, Predictions):
            raise ConfigError("this model is prepared for inference; read, change or resize the loaded one")
        return predictions

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder, (vocab_size, hidden_size), with its bias."""
        return self._predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another decoder in its place; its bias, where it has one, is the head's from then on."""
        predictions = self._predictions
        if new_embeddings.bias is None:
            new_embeddings.bias = predictions.bias
        predictions.decoder, predictions.bias = new_embeddings, new_embeddings.bias

    def tie_weights(self) -> None:
        """Let the decoder use the head's bias and, where the configuration says so, the word embeddings."""
        if not isinstance(self.cls.predictions, Predictions):
            return
        decoder = self.cls.predictions.decoder
        decoder.bias = self.cls.predictions.bias
        if self.config.tie_word_embeddings:
            decoder.weight = self.bert.embeddings.word_embeddings.weight
        decoder.out_features = len(decoder.weight)


def _unshare(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Give tied parameters of a state dict, which has transformers' names, memory of their own.

    safetensors, and with it transformers' Trainer, writes no tensor that shares memory.
    """
    for name in ("weight", "bias"):
        key = f"{prefix}cls.predictions.decoder.{name}"
        if key in state:
            state[key] = state[key].clone()


class BigBirdForPreTraining(_LanguageModel):
    """Masked language modelling and next-sentence prediction together."""

    cls: PreTrainingHeads

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.cls = PreTrainingHeads(config)
        self.initialise()
        self.tie_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> PreTrainingOutput | tuple[Any, ...]:
        """labels: (batch, seq_len), -100 ignored. next_sentence_label: (batch,), 0 = B follows A."""
        encoded: BaseModelOutput = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.cls(encoded.last_hidden_state)
        relationship = self.cls.seq_relationship(encoded.pooler_output)
        loss = None if labels is None else token_loss(logits, labels)
        if loss is not None and next_sentence_label is not None:
            loss = loss + F.cross_entropy(relationship.view(-1, 2), next_sentence_label.view(-1))
        output = PreTrainingOutput(
            loss=loss,
            prediction_logits=logits,
            seq_relationship_logits=relationship,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return as_asked(self, output, return_dict)


class BigBirdForMaskedLM(_LanguageModel):
    """Vocabulary logits for masked tokens."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.cls = LanguageModelHead(config)
        self.initialise()
        self.tie_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Any, ...]:
        """labels: (batch, seq_len), -100 ignored. Logits: (batch, seq_len, vocab_size)."""
        encoded: BaseModelOutput = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.cls(encoded.last_hidden_state)
        loss = None if labels is None else token_loss(logits, labels)
        return logits_answer(self, loss, logits, encoded, return_dict)


class BigBirdForCausalLM(_LanguageModel, Generates):
    """Vocabulary logits for the next token. Needs `is_decoder=True` to be causal; without, it says so."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        if not config.is_decoder:
            logger.warning("BigBirdForCausalLM with is_decoder=False reads both ways; set is_decoder=True to generate")
        self.generation_config = GenerationConfig.of(config)
        self.bert = BigBirdModel(config)
        self.cls = LanguageModelHead(config)
        self.initialise()
        self.tie_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: PastKeyValues | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """labels: (batch, seq_len), the input's own ids: the shift by one is made here; -100 ignored."""
        encoded: BaseModelOutput = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.cls(encoded.last_hidden_state)
        output = CausalLMOutput(
            loss=None if labels is None else token_loss(logits[:, :-1], labels[:, 1:]),
            logits=logits,
            past_key_values=encoded.past_key_values,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            cross_attentions=encoded.cross_attentions,
        )
        return as_asked(self, output, return_dict)
