"""Texts as tokens and tokens as texts, for those who count or cut before they ask."""

from __future__ import annotations

from typing import Any

from serving.errors import ServingError
from serving.replicas.failures import failure
from serving.replicas.text_threads import TextThreads, pieces

# Of one request: each is an object of the answer.
MAX_TOKENS = 65_536


class TokenLists:
    """What every replica does that has a tokenizer; one that has not sets `_tokenizer`, `_config` and `_text`."""

    _tokenizer: Any
    _config: Any
    _text: TextThreads

    async def tokenize(self, request: dict[str, Any]) -> dict[str, Any]:
        """`request`: inputs, add_special_tokens. Gives of each input its tokens: id, text, special, start and stop.

        start and stop: characters of the text; null for a special token, whose text is its name.
        """
        tokens: list[list[dict[str, Any]]] = []
        num_tokens = 0
        try:
            for piece in pieces(request["inputs"]):
                for index, text in enumerate(piece, len(tokens)):
                    _check(await self._text.tokens_at_least(text, self._tokenizer, MAX_TOKENS), f"inputs.{index}")
                found = await self._text.run(
                    piece, _tokens_of, self._tokenizer, list(piece), request["add_special_tokens"]
                )
                tokens += found
                num_tokens += sum(map(len, found))
                _check(num_tokens, "inputs")
        except ServingError as error:
            return failure(error)
        return {"tokens": tokens}

    async def decode(self, request: dict[str, Any]) -> dict[str, Any]:
        """`request`: ids (a list of lists), skip_special_tokens. Gives the text of each."""
        limit = self._config.vocab_size
        for index, ids in enumerate(request["ids"]):
            if (largest := max(ids)) >= limit:
                message = f"ids.{index}: token id {largest}, the limit is {limit - 1}"
                return failure(ServingError("invalid_input", message, param=f"ids.{index}"))
        skip = request["skip_special_tokens"]
        return {"texts": await self._text.run(request["ids"], _texts_of, self._tokenizer, request["ids"], skip)}


def _check(num_tokens: int, param: str) -> None:
    if num_tokens > MAX_TOKENS:
        raise ServingError("invalid_input", f"{param}: more than {MAX_TOKENS} tokens, the limit", param=param)


def _tokens_of(tokenizer: Any, texts: list[str], add_special_tokens: bool) -> list[list[dict[str, Any]]]:
    encodings = tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
    return [_listed(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]


def _listed(text: str, encoding: Any) -> list[dict[str, Any]]:
    tokens = []
    rows = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
    for token, name, special, (start, stop) in rows:
        place = {"text": name, "special": True, "start": None, "stop": None}
        if not special:
            place = {"text": text[start:stop], "special": False, "start": start, "stop": stop}
        tokens.append({"id": token, **place})
    return tokens


def _texts_of(tokenizer: Any, every: list[list[int]], skip_special_tokens: bool) -> list[str]:
    return [tokenizer.decode(ids, skip_special_tokens=skip_special_tokens) for ids in every]
