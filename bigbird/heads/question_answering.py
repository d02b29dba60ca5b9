"""The head that points at the answer to a question."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bigbird.config import BigBirdConfig
from bigbird.errors import InputError
from bigbird.head_layers import QuestionAnsweringHead
from bigbird.heads.answers import as_asked
from bigbird.loading.pretrained import PretrainedModel
from bigbird.model import BigBirdModel
from bigbird.outputs import BaseModelOutput, QuestionAnsweringOutput

QUESTION_PENALTY = 1e6
"""Taken from the logits of question tokens, so that no answer begins or ends in the question."""


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
        question_lengths: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringOutput | tuple[Any, ...]:
        """question_lengths: (batch,) or (batch, 1), tokens of `[CLS] question [SEP]`; read off the first separator
        where it is not given. Token types follow from it unless they are given. start_positions, end_positions:
        (batch,); positions beyond the row are ignored.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if question_lengths is None and input_ids is not None:
            separators = input_ids.eq(-1 if self.config.sep_token_id is None else self.config.sep_token_id)
            question_lengths = separators.int().argmax(dim=-1) + 1
        in_question = None
        if question_lengths is not None:
            if given is None:
                raise InputError("pass exactly one of input_ids and inputs_embeds")
            in_question = torch.arange(given.shape[1], device=given.device) < question_lengths.view(-1, 1)
            if token_type_ids is None:
                token_type_ids = (~in_question).long()
            in_question[:, 0] = False  # no answer is said by pointing at [CLS]
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
        return as_asked(self, output, return_dict)


def _position_loss(logits: Tensor, positions: Tensor) -> Tensor:
    beyond = logits.shape[1]
    return F.cross_entropy(logits, positions.view(-1).clamp(0, beyond), ignore_index=beyond)
