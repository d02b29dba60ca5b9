"""Which class a checkpoint holds, by its own word: `load_model`; and whether two hold one encoder."""

import hashlib
import json
import os
from typing import Any, NamedTuple

import torch

from bigbird.config import BigBirdConfig
from bigbird.config_values import RULES
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
from bigbird.loading.weight_files import read_weights
from bigbird.loading.weight_names import current_names, untied
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


_NOT_OF_THE_ENCODER = {
    *("architectures", "extra", "id2label", "problem_type", "classifier_dropout", "initializer_range"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "use_cache", "tie_word_embeddings"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id"),
    *("output_attentions", "output_hidden_states", "return_dict"),
}
"""Keys of a configuration that change no state of a prepared encoder."""


class EncoderDigest(NamedTuple):
    """SHA-256 of an encoder's weights and of the configuration that they are read by; how many weights it has."""

    digest: str
    num_weights: int


def encoder_digest(dir_or_hub_id: str | os.PathLike[str]) -> EncoderDigest:
    """What two checkpoints have in common whose heads stand on one encoder: its embeddings and layers, no pooler.

    Raises CheckpointError for files that cannot be read.
    """
    directory = resolve(dir_or_hub_id)
    config = BigBirdConfig.from_pretrained(directory)
    read_by = {key: value for key, value in config.to_dict().items() if key in RULES.keys() - _NOT_OF_THE_ENCODER}
    hashed = hashlib.sha256(json.dumps(read_by, sort_keys=True).encode())
    num_weights = 0
    tensors = current_names(read_weights(directory))
    untied(tensors, config.tie_word_embeddings)
    for name, tensor in sorted(tensors.items()):
        if name.startswith(("bert.embeddings.", "bert.encoder.")):
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            hashed.update(tensor.contiguous().view(torch.uint8).numpy().data)
            num_weights += tensor.numel()
    return EncoderDigest(hashed.hexdigest(), num_weights)
