"""Texts as rows of tokens: the call of a tokenizer, with every keyword of transformers' applied or refused by name.

Knows how texts are encoded, cut, padded and returned; nothing of files.
"""

from collections.abc import Mapping, Sequence
from typing import Any, overload

from bigbird.errors import InputError
from bigbird.tokenization.arguments import (
    LARGE_INTEGER,
    check_at_least,
    check_tensors,
    padding_strategy,
    round_up,
    side,
    truncation_strategy,
)
from bigbird.tokenization.batch_encoding import BatchEncoding
from bigbird.tokenization.encoding import Encoding
from bigbird.tokenization.padding import Rows, pad_rows
from bigbird.tokenization.texts import Item, Text, pairs_of, prepare
from bigbird.tokenization.truncation import Truncation, encoded, truncated
from bigbird.tokenization.vocabulary import Vocabulary


class TextEncoder(Vocabulary):
    """A vocabulary that reads texts.

    model_input_names: what a call returns; token_type_ids only where the files name them.
    model_max_length: the length at which a call with truncation cuts when it names none.
    padding_side, truncation_side: where a call pads and cuts when it does not say.
    """

    model_input_names: list[str]
    model_max_length: int
    padding_side: str
    truncation_side: str

    @overload
    def encode_batch(  # type: ignore[overload-overlap]  # a str is one text, never a sequence of them
        self, texts: str | Mapping[str, str], *, add_special_tokens: bool = True
    ) -> Encoding: ...
    @overload
    def encode_batch(self, texts: Sequence[Text], *, add_special_tokens: bool = True) -> list[Encoding]: ...
    def encode_batch(
        self, texts: str | Mapping[str, str] | Sequence[Text], *, add_special_tokens: bool = True
    ) -> Encoding | list[Encoding]:
        """Texts, or pairs of texts, in the order given; the same as one by one, but on all cores.

        One text, or a mapping with text and text_pair, gives one encoding. Raises InputError naming the first item
        that is not valid text.
        """
        if isinstance(texts, str):
            return self._encode([(texts,)], False, add_special_tokens)[0]
        if isinstance(texts, Mapping):
            parts = [texts.get(name) for name in ("text", "text_pair")[: len(texts)]]
            if set(texts) - {"text", "text_pair"} or "text" not in texts:
                raise InputError(f"texts has {', '.join(map(str, texts))}, expected text, and text_pair for a pair")
            return self._encode([tuple(parts)], False, add_special_tokens)[0]
        items = [text if isinstance(text, tuple) else (text,) for text in texts]
        for index, text in enumerate(texts):
            if isinstance(text, tuple) and len(text) != 2:
                raise InputError(f"text[{index}]: expected a text or a pair, got a tuple of {len(text)}")
        return self._encode(items, False, add_special_tokens)

    def encode(self, text: str | Sequence[str], text_pair: str | Sequence[str] | None = None, **options: Any) -> Any:
        """The ids of one text, or of a pair: `input_ids` of the call with the same options."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(
        self,
        text: str | Sequence[str],
        pair: str | Sequence[str] | None = None,
        add_special_tokens: bool = False,
        **options: Any,
    ) -> list[str]:
        """The tokens of one text, or of a pair."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def pad(
        self,
        encoded_inputs: Rows,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Rows of ids, as calls returned them, filled up to one length: see `pad_rows`.

        verbose: there is nothing to say.
        """
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        limit = None if self.model_max_length > LARGE_INTEGER else self.model_max_length
        return pad_rows(
            encoded_inputs,
            fill={"input_ids": self.pad_token_id, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1},
            padding=padding,
            max_length=limit if max_length is None else max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side or self.padding_side,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Texts, or pairs, as a model reads them.

        text, text_pair: one text or a list; or with is_split_into_words one list of words, or a list of those. A list
            of texts may hold pairs, with no text_pair.
        padding: True or "longest" to the longest row, "max_length" to max_length; on padding_side; to a multiple of
            pad_to_multiple_of. truncation: True or "longest_first", "only_first", "only_second", on truncation_side.
            max_length: model_max_length when None.
        return_overflowing_tokens: what was cut off as rows of their own, each beginning with `stride` tokens of the
            row before; overflow_to_sample_mapping says whose they are.
        return_tensors: "pt" or "np", int64, (batch, seq_len); None: lists, flat for one text.
        Returns `model_input_names`, of which attention_mask has 1 for a token and 0 for padding, and what is asked for:
            special_tokens_mask, offset_mapping (in characters of the text), length. verbose: there is nothing to say.
        Raises InputError where transformers warns or cuts: a text longer than max_length without truncation.
        """
        check_tensors(return_tensors)
        strategy = padding_strategy(padding)
        if strategy is None and pad_to_multiple_of is not None:
            raise InputError(f"pad_to_multiple_of is {pad_to_multiple_of}, but padding is {padding!r}")
        check_at_least("pad_to_multiple_of", pad_to_multiple_of, 1)
        cut = Truncation(
            strategy=truncation_strategy(truncation),
            limit=self._limit(max_length, strategy, truncation_strategy(truncation)),
            stride=stride,
            side=side("truncation_side", truncation_side or self.truncation_side),
        )
        limit = cut.limit
        if None not in (cut.strategy, strategy, limit) and limit != round_up(limit or 0, pad_to_multiple_of):
            raise InputError(f"max_length is {limit}, not a multiple of pad_to_multiple_of={pad_to_multiple_of}")
        items, single = pairs_of(text, text_pair, is_split_into_words)
        rows: list[Encoding] = []
        owners: list[int] = []
        for index, row in enumerate(self._encode(items, is_split_into_words, add_special_tokens, cut)):
            rows += [row, *row.overflowing] if return_overflowing_tokens else [row]
            owners += [index] * (len(rows) - len(owners))
        if strategy is not None:
            longest = max(map(len, rows), default=0)
            length = round_up(cut.limit if strategy == "max_length" and cut.limit else longest, pad_to_multiple_of)
            for row in rows:
                row.pad(
                    length,
                    side=side("padding_side", padding_side or self.padding_side),
                    pad_id=self.pad_token_id,
                    pad_token=self.pad_token,
                )
        wanted = {
            "input_ids": True,
            "token_type_ids": return_token_type_ids,
            "attention_mask": return_attention_mask,
            "special_tokens_mask": return_special_tokens_mask,
        }
        columns: dict[str, Any] = {}
        for name, asked in wanted.items():
            if asked if asked is not None else name in self.model_input_names:
                columns[name] = [getattr(row, "ids" if name == "input_ids" else name) for row in rows]
        if return_offsets_mapping:
            columns["offset_mapping"] = [row.offsets for row in rows]
        if return_length:
            columns["length"] = [len(row) for row in rows]
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = owners
        elif single and return_tensors is None:
            columns = {name: value if name == "length" else value[0] for name, value in columns.items()}
        return BatchEncoding(columns, rows, return_tensors)

    def _limit(self, max_length: int | None, padding: str | None, truncation: str | None) -> int | None:
        """The length a call keeps to; None where nothing asks for one."""
        check_at_least("max_length", max_length, 0)
        if max_length is not None:
            return max_length
        if self.model_max_length <= LARGE_INTEGER:
            return self.model_max_length if truncation is not None or padding == "max_length" else None
        if padding == "max_length":
            raise InputError(
                "padding is 'max_length': max_length is needed, for the tokenizer names no model_max_length"
            )
        return None

    def _encode(
        self, items: Sequence[Item], in_words: bool, add_special_tokens: bool, cut: Truncation | None = None
    ) -> list[Encoding]:
        inputs, sources = prepare(items, self._charsmap, in_words)
        if cut is None or cut.strategy is None or cut.limit is None:
            whole = [parts[0] if len(parts) == 1 else parts for parts in inputs]
            raws = encoded(self._tokenizer, whole, in_words, add_special_tokens)
            if cut is not None and cut.limit is not None:
                for index, raw in enumerate(raws):
                    if len(raw) > cut.limit:
                        raise InputError(
                            f"text[{index}]: {len(raw)} tokens, max_length is {cut.limit}; pass truncation=True to cut"
                        )
        else:
            raws = truncated(self._tokenizer, inputs, in_words, add_special_tokens, cut)
        return [Encoding(raw, source) for raw, source in zip(raws, sources, strict=True)]
