"""`model.generate` as transformers documents it: a padded batch of token ids in, the ids with what follows out.

Each row gives what transformers gives for it alone, without padding. The arguments are translated into
`GenerationOptions`; what is not offered is refused by name. Texts in and out are `bigbird.generation.generate`'s.

Legend: B rows, L tokens a row, N num_return_sequences, K beams, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from bigbird.attention.past import check_encoder_states
from bigbird.errors import InputError
from bigbird.generation.generate import requests_of, run
from bigbird.generation.options import OF_BEAMS, GenerationOptions
from bigbird.generation.request import Request
from bigbird.generation.sampler import Processor
from bigbird.loading.generation_config import GenerationConfig
from bigbird.loading.keywords import refuse_unknown
from bigbird.outputs import ModelOutput

NEW_TOKENS = 20
"""Where neither max_new_tokens nor max_length is given, as in transformers 5."""

_SAMPLING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
_AS_OPTIONS = {  # those of `GenerationOptions`
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": (),
    "prompt_lookup_num_tokens": 0,
    **_SAMPLING,
    **OF_BEAMS,
}
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("max_length", "max_new_tokens", "bos_token_id", "eos_token_id", "pad_token_id")),
    "min_length": 0,
    "do_sample": False,
    "use_cache": True,
    "return_dict_in_generate": False,
    "output_scores": False,
    **_AS_OPTIONS,
}
_OF_THE_FILE = ("_from_model_config", "transformers_version")


@dataclass(kw_only=True)
class GenerateOutput(ModelOutput):
    """What `generate` returns with return_dict_in_generate.

    sequences: (B * N, L + new). With output_scores: scores, a tensor a step, (B * N, V), of beam search (B * K, V)
    log-probabilities, after all processors and zeros for a row that has ended; sequences_scores: (B * N,), of beams.
    """

    sequences: Tensor
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None


class Generates:
    """Adds `generate` to BigBirdForCausalLM."""

    config: Any
    generation_config: GenerationConfig | None

    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        generation_config: Any = None,
        logits_processor: Sequence[Processor] | None = None,
        stopping_criteria: Sequence[Callable[..., Any]] | None = None,
        streamer: Any = None,
        token_type_ids: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        **settings: Any,
    ) -> Tensor | GenerateOutput:
        """Continue every row; (B * N, L + new): the ids given, what follows, and pad_token_id after a row's end.

        input_ids: (B, L); None for one row of bos_token_id. attention_mask: (B, L), 1 = attend, padding on either
        side; without it, what is pad_token_id is padding. logits_processor, stopping_criteria: called with token ids
        (1, n), of beams (K, n), and scores (1, V), (K, V); the ids are a row's own, without padding.
        streamer: has `put` and `end`; for one row. settings: those of `_DEFAULTS`, as transformers names them, else
        the checkpoint's generation_config.json; drawn tokens follow `torch.manual_seed`, and are not transformers' own.

        Raises TypeError for an argument that it does not have, InputError for one out of range or without effect
        beside the others.
        """
        refuse_unknown("generate", settings, _DEFAULTS)
        chosen = _chosen((self.generation_config, generation_config), settings)
        if input_ids is None:
            if chosen["bos_token_id"] is None:
                raise InputError("input_ids must be given to a model without bos_token_id, got None")
            input_ids = torch.tensor([[chosen["bos_token_id"]]], device=getattr(self, "device", None))
        if input_ids.dim() != 2 or not input_ids.numel():
            raise InputError(f"input_ids must be (batch, seq_len) with a token at least, got {tuple(input_ids.shape)}")
        if token_type_ids is not None and bool((token_type_ids != 0).any()):
            raise InputError("token_type_ids must be 0 everywhere: generated tokens have no other type")
        num_beams, num_texts = chosen["num_beams"], len(input_ids) * chosen["num_return_sequences"]
        if num_beams > 1 and stopping_criteria:
            raise InputError(f"stopping_criteria need num_beams=1, got num_beams={num_beams}")
        if streamer is not None and (num_texts > 1 or num_beams > 1):
            raise InputError(f"streamer needs one row, num_return_sequences=1 and num_beams=1, got {num_texts} texts")
        mask = _mask(input_ids, attention_mask, chosen)
        requests: list[Request] = []
        for row, options in enumerate(_options(chosen, input_ids.shape[1], len(input_ids))):
            requests += requests_of(
                self,
                None,
                input_ids[row][mask[row]].tolist(),
                options,
                row,
                "row",
                processors=logits_processor or (),
                stops=stopping_criteria or (),
                keep_scores=chosen["output_scores"],
            )
        check_encoder_states(self.config, len(input_ids), encoder_hidden_states, encoder_attention_mask)
        chunks = run(self, requests, encoder_hidden_states, encoder_attention_mask)
        if streamer is not None:
            streamer.put(input_ids.cpu())
        for chunk in chunks:
            if streamer is not None:
                streamer.put(torch.tensor([chunk.token_id]))
        if streamer is not None:
            streamer.end()
        return _answer(input_ids, requests, chosen)


def _chosen(configs: Sequence[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, then what the configurations say, then what was given; options that do not apply are left out."""
    chosen = dict(_DEFAULTS)
    for config in configs:
        # A GenerationConfig of transformers has every default as well, what it is not asked for included.
        diff = getattr(config, "to_diff_dict", None)
        for name, value in (diff() if diff else vars(config) if config else {}).items():
            if value is None or name in _OF_THE_FILE:
                continue
            if name not in _DEFAULTS:
                raise InputError(f"generation_config has {name}={value!r}, which generate does not offer")
            chosen[name] = value
    asked = {name: value for name, value in given.items() if value is not None}
    chosen |= asked
    # What a checkpoint recommends for sampling says nothing of a call that does not sample; a caller's own would.
    for needed, holds, names in (
        ("do_sample=True", chosen["do_sample"], _SAMPLING),
        ("num_beams above 1", chosen["num_beams"] != 1, OF_BEAMS),
    ):
        for name, neutral in names.items() if not holds else ():
            if asked.get(name, neutral) != neutral:
                raise InputError(f"{name} needs {needed}, got {name}={asked[name]!r} without")
            del chosen[name]
    if not chosen["use_cache"]:
        raise InputError("use_cache must be True: generate has no other way")
    if asked.get("output_scores") and not chosen["return_dict_in_generate"]:
        raise InputError("output_scores needs return_dict_in_generate=True")
    if chosen["do_sample"] and chosen["num_beams"] != 1:
        raise InputError(f"num_beams must be 1 with do_sample=True, got {chosen['num_beams']}")
    if chosen["do_sample"] and chosen["temperature"] == 0:
        raise InputError("temperature must be above 0 with do_sample=True, got 0")
    return chosen


def _mask(input_ids: Tensor, attention_mask: Tensor | None, chosen: Mapping[str, Any]) -> Tensor:
    """(B, L), bool."""
    if attention_mask is not None:
        if attention_mask.shape != input_ids.shape:
            raise InputError(f"attention_mask must be {tuple(input_ids.shape)}, got {tuple(attention_mask.shape)}")
        return attention_mask != 0
    pad = chosen["pad_token_id"]
    if pad is None or pad in _tokens(chosen["eos_token_id"]):
        return torch.ones_like(input_ids, dtype=torch.bool)
    return input_ids.ne(pad)


def _tokens(ids: Any) -> tuple[int, ...]:
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(int(token) for token in ids)


def _options(chosen: Mapping[str, Any], width: int, num_rows: int) -> list[GenerationOptions]:
    """Of every row; they differ in their seeds."""
    max_new_tokens = chosen["max_new_tokens"]
    if max_new_tokens is None:
        max_new_tokens = NEW_TOKENS if chosen["max_length"] is None else chosen["max_length"] - width
        if max_new_tokens < 1:
            raise InputError(f"max_length must be above the {width} tokens of input_ids, got {chosen['max_length']}")
    asked = {name: chosen[name] for name in _AS_OPTIONS if name in chosen}
    asked["min_new_tokens"] = max(chosen["min_new_tokens"], chosen["min_length"] - width)
    if not chosen["do_sample"]:
        asked["temperature"] = 0.0
    options = GenerationOptions(**asked, max_new_tokens=max_new_tokens, eos_token_ids=_tokens(chosen["eos_token_id"]))
    if not chosen["do_sample"]:
        return [options] * num_rows
    return [replace(options, seed=seed) for seed in torch.randint(2**62, (num_rows,)).tolist()]


def _answer(input_ids: Tensor, requests: Sequence[Request], chosen: Mapping[str, Any]) -> Tensor | GenerateOutput:
    several = chosen["num_return_sequences"]
    texts, totals = [request.token_ids for request in requests], None
    if searches := [request.search for request in requests if request.search is not None]:
        best = [pair for search in searches for pair in search.complete[:several]]
        texts, totals = [tokens for _, tokens in best], torch.tensor([total for total, _ in best])
    longest = max(map(len, texts))
    fill = chosen["pad_token_id"]
    if fill is None:
        fill = (*_tokens(chosen["eos_token_id"]), 0)[0]
    new = torch.tensor([text + [fill] * (longest - len(text)) for text in texts]).to(input_ids)
    sequences = torch.cat([input_ids.repeat_interleave(several, dim=0), new], dim=1)
    if not chosen["return_dict_in_generate"]:
        return sequences
    if not chosen["output_scores"]:
        return GenerateOutput(sequences=sequences)
    kept = [request.scores or [] for request in requests]
    steps = zip_longest(*kept, fillvalue=torch.zeros_like(kept[0][0]))
    return GenerateOutput(sequences=sequences, sequences_scores=totals, scores=tuple(map(torch.cat, steps)))
