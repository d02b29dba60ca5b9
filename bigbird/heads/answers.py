"""From a head's logits to what its `forward` returns, and the loss over tokens."""

from typing import Any, TypeVar

from torch import Tensor
from torch.nn import functional as F

from bigbird.loading.pretrained import PretrainedModel
from bigbird.outputs import BaseModelOutput, LogitsOutput, ModelOutput

_Output = TypeVar("_Output", bound=ModelOutput)


def as_asked(model: PretrainedModel, output: _Output, return_dict: bool | None) -> _Output | tuple[Any, ...]:
    """The result as a dataclass, or as a tuple where the call, or else the configuration, asks for one."""
    as_result = model.config.return_dict if return_dict is None else return_dict
    return output if as_result else output.to_tuple()


def logits_answer(
    model: PretrainedModel, loss: Tensor | None, logits: Tensor, encoded: BaseModelOutput, return_dict: bool | None
) -> LogitsOutput | tuple[Any, ...]:
    """The answer of heads with one kind of logits."""
    output = LogitsOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions)
    return as_asked(model, output, return_dict)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy. logits: (batch, seq_len, classes). labels: (batch, seq_len), -100 ignored."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
