"""The heads with labels for a text, for each of its tokens, or for several continuations."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bigbird.config import BigBirdConfig
from bigbird.dropout import Dropout
from bigbird.errors import InputError
from bigbird.head_layers import SequenceClassificationHead, classifier_dropout
from bigbird.heads.answers import logits_answer, token_loss
from bigbird.loading.pretrained import PretrainedModel
from bigbird.model import BigBirdModel, first_attended
from bigbird.outputs import BaseModelOutput, LogitsOutput


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
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Any, ...]:
        """labels: (batch,) classes; (batch,) values for regression; (batch, num_labels) 0 or 1 for multi-label.

        `config.problem_type` decides; where it is None, one label means regression, integer labels mean classes,
        floating ones several labels at once.
        """
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
        logits = self.classifier(first_attended(encoded.last_hidden_state, attention_mask))
        loss = None if labels is None else self._loss(logits, labels)
        return logits_answer(self, loss, logits, encoded, return_dict)

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
        self.dropout = Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Any, ...]:
        """Inputs: (batch, num_choices, seq_len). labels: (batch,), the right choice. Logits: (batch, num_choices)."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None or given.dim() < 3:
            raise InputError("multiple choice takes (batch, num_choices, seq_len)")
        encoded: BaseModelOutput = self.bert(
            _flat_choices(input_ids),
            _flat_choices(attention_mask),
            _flat_choices(token_type_ids),
            _flat_choices(position_ids),
            head_mask,
            _flat_choices(inputs_embeds),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(encoded.pooler_output)).view(-1, given.shape[1])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return logits_answer(self, loss, logits, encoded, return_dict)


class BigBirdForTokenClassification(PretrainedModel):
    """Labels for every token."""

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        self.bert = BigBirdModel(config)
        self.dropout = Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LogitsOutput | tuple[Any, ...]:
        """labels: (batch, seq_len), -100 ignored. Logits: (batch, seq_len, num_labels)."""
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
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None if labels is None else token_loss(logits, labels)
        return logits_answer(self, loss, logits, encoded, return_dict)


def _flat_choices(values: Tensor | None) -> Tensor | None:
    """(batch, num_choices, ...) -> (batch * num_choices, ...); one axis is the same for every choice."""
    return values if values is None or values.dim() < 2 else values.flatten(0, 1)
