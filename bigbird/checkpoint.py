"""Which class a checkpoint holds, by its own word: `load_model`."""

import os
from typing import Any

import torch

from bigbird.errors import CheckpointError
from bigbird.heads import (
    BigBirdForCausalLM,
    BigBirdForMaskedLM,
    BigBirdForMultipleChoice,
    BigBirdForPreTraining,
    BigBirdForQuestionAnswering,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
)
from bigbird.loading.hub import resolve
from bigbird.loading.pretrained import PretrainedModel, load_config, load_into
from bigbird.model import BigBirdModel

CLASSES: dict[str, type[PretrainedModel]] = {
    cls.__name__: cls
    for cls in (
        BigBirdModel,
        BigBirdForPreTraining,
        BigBirdForMaskedLM,
        BigBirdForCausalLM,
        BigBirdForSequenceClassification,
        BigBirdForMultipleChoice,
        BigBirdForTokenClassification,
        BigBirdForQuestionAnswering,
    )
}


def load_model(
    dir_or_hub_id: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
    check_finite: bool = False,
    **config_overrides: Any,
) -> PretrainedModel:
    """The model a checkpoint says it is, by the `architectures` of its configuration.

    dtype: of the parameters, float32 when None. device: the CPU when None.
    check_finite: refuse weights that hold nan or inf.
    config_overrides: keys of the configuration with other values, for example random_attention="seeded".
    Returns the model in evaluation mode. Raises CheckpointError when the class is not named or not known, or the
    weights do not fit it; ConfigError for an override.
    """
    directory = resolve(dir_or_hub_id)
    named = load_config(directory).architectures
    if len(named) != 1 or named[0] not in CLASSES:
        raise CheckpointError(
            f"{directory}: architectures is {list(named)}, expected one of {', '.join(CLASSES)}; "
            "to choose the class, call its from_pretrained"
        )
    return load_into(
        CLASSES[named[0]], directory, dtype=dtype, device=device, check_finite=check_finite, **config_overrides
    )
