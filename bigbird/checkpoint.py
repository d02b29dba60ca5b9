"""Which class a checkpoint holds, by its own word: `load_model`."""

import os
from typing import Any

from bigbird.config import BigBirdConfig
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
from bigbird.loading.options import LoadOptions
from bigbird.loading.pretrained import PretrainedModel, load_into
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


def load_model(dir_or_hub_id: str | os.PathLike[str], **keywords: Any) -> PretrainedModel:
    """The model a checkpoint says it is, by the `architectures` of its configuration, in evaluation mode.

    keywords: as of `from_pretrained`, for example dtype="bfloat16" or random_attention="seeded". Raises
    CheckpointError when the class is not named or not known, or the weights do not fit it; else what that raises.
    """
    options, hub_options, _ = LoadOptions.taken_from("load_model", keywords)
    directory = resolve(dir_or_hub_id, options=hub_options)
    config = BigBirdConfig.from_pretrained(directory) if options.config is None else options.config
    if not isinstance(config, BigBirdConfig):
        config = BigBirdConfig.from_pretrained(config)
    named = config.architectures
    if len(named) != 1 or named[0] not in CLASSES:
        raise CheckpointError(
            f"{directory}: architectures is {list(named)}, expected one of {', '.join(CLASSES)}; "
            "to choose the class, call its from_pretrained"
        )
    model, _ = load_into(CLASSES[named[0]], dir_or_hub_id, "load_model", **keywords)
    return model
