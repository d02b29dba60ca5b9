"""text-generation: a prompt in; the text a causal language model goes on with, out.

Prompts share the engine's steps, so a short text makes room for the next one at once; each gives what it gives
alone. Beam search runs a prompt at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from bigbird.errors import InputError
from bigbird.generation.continuation import GenerationChunk
from bigbird.generation.engine import Engine
from bigbird.generation.generate import GenerationResult, generate
from bigbird.generation.options import GenerationOptions
from bigbird.predictors.examples import Failed, Prepared, Record, Row, TokenizedText
from bigbird.predictors.options import require_choice
from bigbird.predictors.predictor import Predictor

OnLong = Literal["truncate", "error"]


@dataclass(frozen=True, kw_only=True)
class TextGenerationOptions(GenerationOptions):
    """How to go on, and what to do with a prompt too long for the model beside max_new_tokens.

    on_long: "error" makes it an error record; "truncate" goes on from its end and says so in the record. There are
    no windows: a text goes on in one place only.
    """

    on_long: OnLong = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("on_long", self.on_long, ("truncate", "error"))

    @property
    def generation(self) -> GenerationOptions:
        """The same without on_long."""
        return GenerationOptions(**{field.name: getattr(self, field.name) for field in fields(GenerationOptions)})


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedPrompt(Prepared):
    """A prompt's token ids, its one row, and how to go on from them."""

    options: GenerationOptions

    @property
    def prompt_ids(self) -> list[int]:
        ids: list[int] = self.rows[0].ids.tolist()
        return ids


class TextGenerationPredictor(Predictor[TextGenerationOptions, PreparedPrompt, GenerationResult]):
    """Predictor for BigBirdForCausalLM. An example is a text, the prompt.

    max_tokens_per_batch: what the prompts and texts in the cache may have together, at least one of full length.
    """

    task = "text-generation"
    options_class = TextGenerationOptions
    architectures = ("BigBirdForCausalLM",)
    takes_empty_texts = True

    def build(self, texts: list[TokenizedText], options: TextGenerationOptions) -> PreparedPrompt:
        """Begin with [CLS], as every stretch of a text did in training, also where a prompt's beginning is left out."""
        begin = [self.tokenizer.cls_token_id]
        (text,) = texts
        room = self.config.max_position_embeddings - len(begin) - options.max_new_tokens
        if room < 1:
            raise InputError(
                f"max_new_tokens is {options.max_new_tokens}, which leaves a prompt no room among the model's "
                f"{self.config.max_position_embeddings} tokens"
            )
        if len(text) > room and options.on_long == "error":
            raise InputError(
                f"text has {len(text)} tokens; the model's {self.config.max_position_embeddings} less "
                f"max_new_tokens={options.max_new_tokens} leave room for {room}"
            )
        ids = text.ids[-room:]
        return PreparedPrompt(
            rows=(Row(np.concatenate([begin, ids]).astype(np.int32)),),
            num_tokens=len(ids),
            num_windows=1,
            truncated=len(ids) < len(text),
            options=options.generation,
        )

    def forward(self, prepared: Sequence[PreparedPrompt | Failed]) -> list[GenerationResult | None]:
        """The texts, as `bigbird.generation.generate` gives them; None for a Failed."""
        results: list[GenerationResult | None] = [None] * len(prepared)
        together: dict[int, PreparedPrompt] = {}
        for index, item in enumerate(prepared):
            if isinstance(item, Failed):
                continue
            if item.options.num_beams > 1:
                (results[index],) = generate(self.model, self.tokenizer, [item.prompt_ids], item.options)
            else:
                together[index] = item
        for index, result in self._run(together).items():
            results[index] = result
        return results

    def decode(self, item: PreparedPrompt, output: GenerationResult, options: TextGenerationOptions) -> Record:
        """{"generated_text", "finish_reason", "num_prompt_tokens", "num_generated_tokens"}, with logprobs also those.

        The text is the continuation, without the prompt. What options could change was settled before the model ran:
        those given here are not read.
        """
        record: Record = {
            "generated_text": output.text,
            "finish_reason": output.finish_reason,
            "num_prompt_tokens": output.num_prompt_tokens,
            "num_generated_tokens": output.num_generated_tokens,
        }
        if output.logprobs is not None:
            record["logprobs"] = list(output.logprobs)
        return record

    def _run(self, prompts: dict[int, PreparedPrompt]) -> dict[int, GenerationResult]:
        if not prompts:
            return {}
        room = max(self.max_tokens_per_batch, self.config.max_position_embeddings)
        # Offline nobody waits for a first token, so prompts are read in larger chunks than a server's.
        engine = Engine(self.model, self.tokenizer, max_cache_tokens=room, prefill_tokens=1024)
        chunks: dict[int, list[GenerationChunk]] = {}
        index_of = {}
        for index, item in prompts.items():
            index_of[engine.submit(item.prompt_ids, item.options)] = index
            chunks[index] = []
        while engine.has_work:
            for event in engine.step():
                chunks[index_of[event.request_id]].append(event)
        return {index: _result(prompts[index], generated) for index, generated in chunks.items()}


def _result(prompt: PreparedPrompt, chunks: Sequence[GenerationChunk]) -> GenerationResult:
    reason = chunks[-1].finish_reason
    assert reason is not None
    return GenerationResult(
        text="".join(chunk.text for chunk in chunks),
        token_ids=tuple(chunk.token_id for chunk in chunks if chunk.token_id is not None),
        finish_reason=reason,
        num_prompt_tokens=len(prompt.prompt_ids),
        logprobs=tuple(chunk.logprob for chunk in chunks if chunk.logprob is not None)
        if prompt.options.logprobs
        else None,
    )
