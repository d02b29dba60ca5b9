"""text-generation: a prompt in; the text a causal language model goes on with, out.

Prompts share the engine's steps, so a short text makes room for the next one at once; each gives what it gives
alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bigbird.errors import InputError
from bigbird.generation.generate import GenerationResult, requests_of, results_of, run
from bigbird.generation.options import GenerationOptions
from bigbird.predictors.examples import Failed, Prepared, Record, Row
from bigbird.predictors.predictor import Predictor
from bigbird.predictors.tasks import TextGenerationOptions
from bigbird.predictors.texts import TokenizedText


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedPrompt(Prepared):
    """A prompt's token ids, its one row, and how to go on from them. text: what generated texts begin with."""

    text: str
    options: GenerationOptions

    @property
    def prompt_ids(self) -> list[int]:
        ids: list[int] = self.rows[0].ids.tolist()
        return ids


class TextGenerationPredictor(Predictor[TextGenerationOptions, PreparedPrompt, list[GenerationResult]]):
    """Predictor for BigBirdForCausalLM. An example is a text, the prompt.

    max_tokens_per_batch: what the prompts and texts in the cache may have together, at least one of full length.
    """

    task = "text-generation"
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
            num_lost=len(text) - len(ids),
            text=text.text if options.return_full_text else "",
            options=options.generation,
        )

    def forward(self, prepared: Sequence[PreparedPrompt | Failed]) -> list[list[GenerationResult] | None]:
        """num_return_sequences texts each, as `bigbird.generation.generate` gives them; None for a Failed."""
        requests = [
            [] if isinstance(item, Failed) else requests_of(self.model, self.tokenizer, item.prompt_ids, item.options)
            for item in prepared
        ]
        of_all = [request for of_one in requests for request in of_one]
        # One of full length, whatever the budget, and all of its beams.
        num_beams = max((request.options.num_beams for request in of_all), default=1)
        room = max(self.max_tokens_per_batch, self.config.max_position_embeddings * num_beams)
        for _ in run(self.model, of_all, max_cache_tokens=room):
            pass
        return [
            [result for request in of_one for result in results_of(self.model, self.tokenizer, request)] or None
            for of_one in requests
        ]

    def decode(self, item: PreparedPrompt, output: list[GenerationResult], options: TextGenerationOptions) -> Record:
        """{"generated_text", "finish_reason", "num_prompt_tokens", "num_generated_tokens"}, and the logprobs asked for.

        The text is the continuation, without the prompt unless return_full_text. With num_return_sequences above 1 the
        record is that of the first text, and "generated_sequences" has one of all of them. What options could change
        was settled before the model ran: those given here are not read.
        """
        records = [_record(item, result) for result in output]
        if len(records) == 1:
            return records[0]
        return {**records[0], "generated_sequences": records}


def _record(item: PreparedPrompt, result: GenerationResult) -> Record:
    record: Record = {
        "generated_text": item.text + result.text,
        "finish_reason": result.finish_reason,
        "num_prompt_tokens": result.num_prompt_tokens,
        "num_generated_tokens": result.num_generated_tokens,
    }
    if result.logprobs is not None:
        record["logprobs"] = list(result.logprobs)
    if result.prompt_logprobs is not None:
        record["prompt_logprobs"] = [item.logprob for item in result.prompt_logprobs]
    return record
