"""BigBirdFor*: the model with a head for a task, each with its documented loss.

Every `forward` takes the arguments of transformers 4.37, in its order; results are dataclasses of `bigbird.outputs`.
Packed execution uses the parts: `model.bert.encode(packed)`, then the head's module on the states it is needed for.
"""

from bigbird.heads.classification import (
    BigBirdForMultipleChoice,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
)
from bigbird.heads.language_models import BigBirdForCausalLM, BigBirdForMaskedLM, BigBirdForPreTraining
from bigbird.heads.question_answering import QUESTION_PENALTY, BigBirdForQuestionAnswering

__all__ = [
    "QUESTION_PENALTY",
    "BigBirdForCausalLM",
    "BigBirdForMaskedLM",
    "BigBirdForMultipleChoice",
    "BigBirdForPreTraining",
    "BigBirdForQuestionAnswering",
    "BigBirdForSequenceClassification",
    "BigBirdForTokenClassification",
]
