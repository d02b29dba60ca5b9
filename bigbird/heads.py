"""BigBirdFor*: the model with a head for a task, each with its documented loss.

Every `forward` takes the arguments of `BigBirdModel.forward` and `labels`; results are dataclasses of
`bigbird.outputs`. Packed execution uses the parts: `model.bert.encode(packed)`, then the head's module on the
states it is needed for.
"""

import logging
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bigbird.config import BigBirdConfig
from bigbird.errors import ConfigError, InputError
from bigbird.head_layers import (
    LanguageModelHead,
    Predictions,
    PreTrainingHeads,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    classifier_dropout,
)
from bigbird.loading.pretrained import PretrainedModel
from bigbird.model import BigBirdModel, first_attended
from bigbird.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    LogitsOutput,
    ModelOutput,
    PreTrainingOutput,
    QuestionAnsweringOutput,
)

logger = logging.getLogger(__name__)

_Output = TypeVar("_Output", bound=ModelOutput)

QUESTION_PENALTY = 1e6
"""Taken from the logits of question tokens, so that no answer begins or ends in the question."""


class _TiedLanguageModel(PretrainedModel):
    """What the three heads with vocabulary logits share."""

    bert: BigBirdModel
    cls: LanguageModelHead

    def tie_weights(self) -> None:
        """Let the decoder use the word embeddings, where the configuration says so."""
        if self.config.tie_word_embeddings:
            self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight

    def resize_token_embeddings(self, num_tokens: int) -> None:
        """Grow or shrink the vocabulary in place; new words and their biases are drawn as at the beginning.

        Raises ConfigError for a model that is prepared for inference.
        """
        predictions = self.cls.predictions
        if not isinstance(predictions, Predictions):
            raise ConfigError("this model is prepared for inference; resize the loaded one")
        super().resize_token_embeddings(num_tokens)
        kept = min(num_tokens, predictions.bias.shape[0])
        bias = predictions.bias.new_zeros(num_tokens)
        bias[:kept] = predictions.bias.detach()[:kept]
        predictions.bias = nn.Parameter(bias)
        old = predictions.decoder
        predictions.decoder = nn.Linear(
            old.in_features, num_tokens, bias=False, device=old.weight.device, dtype=old.weight.dtype
        )
        nn.init.normal_(predictions.decoder.weight, std=self.config.initializer_range)
        with torch.no_grad():
            predictions.decoder.weight[:kept] = old.weight[:kept]
        self.tie_weights()


class BigBirdForPreTraining(_TiedLanguageModel):
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
        *,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> PreTrainingOutput | tuple[Any, ...]:
        """labels: (batch, seq_len), -100 ignored. next_sentence_label: (batch,), 0 = B follows A."""
        encoded = _encode(self.bert, input_ids, attention_mask, inputs)
        logits = self.cls(encoded.last_hidden_state)
        assert encoded.pooler_output is not None
        relationship = self.cls.seq_relationship(encoded.pooler_output)
        loss = None if labels is None else _token_loss(logits, labels)
        if loss is not None and next_sentence_label is not None:
            loss = loss + F.cross_entropy(relationship.view(-1, 2), next_sentence_label.view(-1))
        output = PreTrainingOutput(
            loss=loss,
            prediction_logits=logits,
            seq_relationship_logits=relationship,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return _as_asked(self, output, return_dict)


class BigBirdForMaskedLM(_TiedLanguageModel):
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
        *,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> LogitsOutput | tuple[Any, ...]:
        """labels: (batch, seq_len), -100 ignored. Logits: (batch, seq_len, vocab_size)."""
        encoded = _encode(self.bert, input_ids, attention_mask, inputs)
        logits = self.cls(encoded.last_hidden_state)
        loss = None if labels is None else _token_loss(logits, labels)
        return _as_asked(self, _logits_output(loss, logits, encoded), return_dict)


class BigBirdForCausalLM(_TiedLanguageModel):
    """Vocabulary logits for the next token. Needs `is_decoder=True` to be causal; without, it says so."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        if not config.is_decoder:
            logger.warning("BigBirdForCausalLM with is_decoder=False reads both ways; set is_decoder=True to generate")
        self.bert = BigBirdModel(config)
        self.cls = LanguageModelHead(config)
        self.initialise()
        self.tie_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """labels: (batch, seq_len), the input's own ids: the shift by one is made here; -100 ignored."""
        encoded = _encode(self.bert, input_ids, attention_mask, inputs)
        logits = self.cls(encoded.last_hidden_state)
        output = CausalLMOutput(
            loss=None if labels is None else _token_loss(logits[:, :-1], labels[:, 1:]),
            logits=logits,
            past_key_values=encoded.past_key_values,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            cross_attentions=encoded.cross_attentions,
        )
        return _as_asked(self, output, return_dict)


class BigBirdForSequenceClassification(PretrainedModel):
    """Labels, or a value, for a text or a pair of texts."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.classifier = SequenceClassificationHead(config)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> LogitsOutput | tuple[Any, ...]:
        """labels: (batch,) classes; (batch,) values for regression; (batch, num_labels) 0 or 1 for multi-label.

        `config.problem_type` decides; where it is None, one label means regression, integer labels mean classes,
        floating ones several labels at once.
        """
        encoded = _encode(self.bert, input_ids, attention_mask, inputs)
        logits = self.classifier(first_attended(encoded.last_hidden_state, attention_mask))
        loss = None if labels is None else self._loss(logits, labels)
        return _as_asked(self, _logits_output(loss, logits, encoded), return_dict)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        problem = self.config.problem_type
        if problem is None:
            several = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
            problem = "regression" if self.config.num_labels == 1 else several
        if problem == "regression":
            return F.mse_loss(logits.view(labels.shape), labels.to(logits.dtype))
        if problem == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return F.cross_entropy(logits, labels.view(-1))


class BigBirdForMultipleChoice(PretrainedModel):
    """A score for each of several continuations."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> LogitsOutput | tuple[Any, ...]:
        """Inputs: (batch, num_choices, seq_len). labels: (batch,), the right choice. Logits: (batch, num_choices)."""
        given = input_ids if input_ids is not None else inputs.get("inputs_embeds")
        if given is None or given.dim() < 3:
            raise InputError("multiple choice takes (batch, num_choices, seq_len)")
        num_choices = given.shape[1]
        for name in ("token_type_ids", "position_ids", "inputs_embeds"):
            values = inputs.get(name)
            if values is not None and values.dim() > 1:  # else it is the same for every choice
                inputs[name] = _flat_choices(values)
        encoded = _encode(self.bert, _flat_choices(input_ids), _flat_choices(attention_mask), inputs)
        logits = self.classifier(self.dropout(encoded.pooler_output)).view(-1, num_choices)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return _as_asked(self, _logits_output(loss, logits, encoded), return_dict)


class BigBirdForTokenClassification(PretrainedModel):
    """Labels for every token."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> LogitsOutput | tuple[Any, ...]:
        """labels: (batch, seq_len), -100 ignored. Logits: (batch, seq_len, num_labels)."""
        encoded = _encode(self.bert, input_ids, attention_mask, inputs)
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None if labels is None else _token_loss(logits, labels)
        return _as_asked(self, _logits_output(loss, logits, encoded), return_dict)


class BigBirdForQuestionAnswering(PretrainedModel):
    """Where in a context the answer to a question begins and ends."""

    def __init__(self, config: BigBirdConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config.replace(num_labels=2))
        self.bert = BigBirdModel(self.config, add_pooling_layer=add_pooling_layer)
        self.qa_classifier = QuestionAnsweringHead(self.config)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        question_lengths: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> QuestionAnsweringOutput | tuple[Any, ...]:
        """question_lengths: (batch,) or (batch, 1), tokens of `[CLS] question [SEP]`; read off the first separator
        where it is not given. Token types follow from it unless they are given. start_positions, end_positions:
        (batch,); positions beyond the row are ignored.
        """
        if question_lengths is None and input_ids is not None:
            separators = input_ids.eq(-1 if self.config.sep_token_id is None else self.config.sep_token_id)
            question_lengths = separators.int().argmax(dim=-1) + 1
        in_question = None
        if question_lengths is not None:
            given = input_ids if input_ids is not None else inputs["inputs_embeds"]
            in_question = torch.arange(given.shape[1], device=given.device) < question_lengths.view(-1, 1)
            if inputs.get("token_type_ids") is None:
                inputs["token_type_ids"] = (~in_question).long()
            in_question[:, 0] = False  # no answer is said by pointing at [CLS]
        encoded = _encode(self.bert, input_ids, attention_mask, inputs)
        logits = self.qa_classifier(encoded.last_hidden_state)
        if in_question is not None:
            logits = logits - in_question[..., None] * QUESTION_PENALTY
        start_logits, end_logits = logits.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            pairs = ((start_logits, start_positions), (end_logits, end_positions))
            loss = torch.stack([_position_loss(logits, positions) for logits, positions in pairs]).mean()
        output = QuestionAnsweringOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            pooler_output=encoded.pooler_output,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return _as_asked(self, output, return_dict)


def _flat_choices(values: Tensor | None) -> Tensor | None:
    """(batch, num_choices, ...) -> (batch * num_choices, ...)."""
    return None if values is None else values.flatten(0, 1)


def _encode(
    bert: BigBirdModel, input_ids: Tensor | None, attention_mask: Tensor | None, inputs: dict[str, Any]
) -> BaseModelOutput:
    encoded = bert(input_ids, attention_mask, return_dict=True, **inputs)
    assert isinstance(encoded, BaseModelOutput)
    return encoded


def _logits_output(loss: Tensor | None, logits: Tensor, encoded: BaseModelOutput) -> LogitsOutput:
    return LogitsOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions)


def _as_asked(model: PretrainedModel, output: _Output, return_dict: bool | None) -> _Output | tuple[Any, ...]:
    as_result = model.config.return_dict if return_dict is None else return_dict
    return output if as_result else output.to_tuple()


def _token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def _position_loss(logits: Tensor, positions: Tensor) -> Tensor:
    beyond = logits.shape[1]
    return F.cross_entropy(logits, positions.view(-1).clamp(0, beyond), ignore_index=beyond)
