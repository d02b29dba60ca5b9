"""A call of the tokenizer, what it returns, and padding, against transformers' own with every keyword."""

import pickle
from itertools import product

import numpy as np
import pytest
import torch
from tokenizer_texts import PAIRS, TEXTS, WORDS

import bigbird
from bigbird.errors import InputError

transformers = pytest.importorskip("transformers", reason="needs the extra named parity")


def plain(value):
    return value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value


def same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert type(found[name]) is type(expected[name]), name
        assert plain(found[name]) == plain(expected[name]), name


INPUTS = {
    "one": ((TEXTS[2],), {}),
    "pair": ((TEXTS[2], PAIRS[1]), {}),
    "list": ((TEXTS,), {}),
    "lists": ((TEXTS, PAIRS), {}),
    "list of pairs": ((list(zip(TEXTS, PAIRS, strict=True)),), {}),
    "words": ((WORDS[2],), {"is_split_into_words": True}),
    "lists of words": ((WORDS,), {"is_split_into_words": True}),
    "pairs of words": ((WORDS, WORDS[::-1]), {"is_split_into_words": True}),
}
OPTIONS = [
    {},
    {"add_special_tokens": False},
    {"padding": True},
    {"padding": "do_not_pad"},
    {"padding": "longest", "padding_side": "left", "pad_to_multiple_of": 8},
    {"padding": "max_length", "max_length": 100},
    {"padding": "max_length", "truncation": True},
    {"truncation": True},
    {"truncation": "longest_first", "max_length": 9},
    {"truncation": "do_not_truncate"},
    {"truncation": True, "max_length": 10, "stride": 2, "return_overflowing_tokens": True, "padding": True},
    {"return_token_type_ids": True, "return_attention_mask": False},
    {"return_special_tokens_mask": True, "return_offsets_mapping": True, "return_length": True},
    {"padding": True, "return_tensors": "pt"},
    {"padding": True, "return_tensors": "np", "return_token_type_ids": True},
    {"padding": True, "truncation": True, "return_tensors": "pt", "return_offsets_mapping": True},
    {"return_overflowing_tokens": True},
]


@pytest.mark.parametrize(("form", "options"), list(product(INPUTS, OPTIONS)), ids=str)
def test_every_keyword_on_every_form_of_input_gives_what_transformers_gives(both, form, options):
    ours, theirs = both
    texts, more = INPUTS[form]
    same(ours(*texts, **more, **options), theirs(*texts, **more, **options))


@pytest.mark.parametrize("truncation", ["only_first", "only_second", "longest_first"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_cut_off_comes_back_as_rows_of_their_own(both, truncation, side):
    ours, theirs = both
    long = " ".join(TEXTS)
    options = {"truncation": truncation, "max_length": 30, "stride": 3, "return_overflowing_tokens": True}
    theirs.truncation_side = side
    try:
        for pair in ((long, PAIRS[0]), (PAIRS[0], long), (long, long)):
            try:
                expected = theirs(*pair, **options)
            except BaseException:  # the tokenizers library panics where the text is too short to be cut
                with pytest.raises(InputError, match=r"cannot be cut to max_length 30|stride is 3"):
                    ours(*pair, truncation_side=side, **options)
            else:
                found = ours(*pair, truncation_side=side, **options)
                same(found, expected)
                rows = range(len(expected["input_ids"]))
                assert [found.tokens(row) for row in rows] == [expected.tokens(row) for row in rows]
    finally:
        theirs.truncation_side = "right"


def test_a_batch_encoding_answers_as_transformers_does(both):
    for texts, options in (((TEXTS, PAIRS), {}), ((WORDS, WORDS[::-1]), {"is_split_into_words": True})):
        found, expected = (one(*texts, padding=True, **options) for one in both)
        assert found.n_sequences == expected.n_sequences == 2
        assert found.is_fast
        assert found.input_ids == found["input_ids"] == expected.input_ids
        assert found[1].ids == expected[1].ids
        assert len(found[:2]) == 2
        for row in range(3):
            for name in ("tokens", "word_ids", "sequence_ids"):
                assert getattr(found, name)(row) == getattr(expected, name)(row), name
            for token in range(len(found.tokens(row))):
                for name in ("token_to_sequence", "token_to_word", "token_to_chars"):
                    assert getattr(found, name)(row, token) == getattr(expected, name)(row, token), name
            for part, place in product((0, 1), range(45)):
                for name in ("char_to_token", "char_to_word", "word_to_tokens", "word_to_chars"):
                    theirs = getattr(expected, name)
                    try:
                        answer = theirs(row, place, part)
                    except TypeError:  # transformers unpacks the None it gets for what is not there
                        answer = None
                    assert getattr(found, name)(row, place, part) == answer, (name, row, part, place)
    one, other = (tokenizer(TEXTS[0]) for tokenizer in both)
    assert one.char_to_token(5) == other.char_to_token(5)
    assert one.token_to_chars(1).end == other.token_to_chars(1).end
    assert one.word_to_tokens(1) == other.word_to_tokens(1)


def test_a_batch_encoding_is_a_mapping_that_moves_pickles_and_becomes_tensors(both):
    batch = both[0](TEXTS, padding=True)
    assert dict(**batch) == dict(batch)
    assert "input_ids" in batch
    assert batch.get("labels") is None
    again = pickle.loads(pickle.dumps(batch))
    assert again == batch
    assert again.tokens(1) == batch.tokens(1)
    moved = batch.convert_to_tensors("pt").to("meta")
    assert moved is batch
    assert batch["input_ids"].device.type == "meta"
    with pytest.raises(AttributeError, match="no pixel_values"):
        _ = batch.pixel_values
    made = bigbird.BatchEncoding({"input_ids": [[1, 2]]}, tensor_type="np")
    assert made["input_ids"].shape == (1, 2)
    assert not made.is_fast
    with pytest.raises(InputError, match="do not come from texts"):
        made.tokens()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "max_length", "max_length": 40},
        {"padding": "max_length", "max_length": 33, "pad_to_multiple_of": 8},
        {"padding": True, "pad_to_multiple_of": 8, "padding_side": "left"},
        {"padding": True, "return_tensors": "np"},
    ],
    ids=str,
)
def test_rows_are_padded_as_transformers_pads_them(both, options):
    ours, theirs = both
    rows = [{**theirs(text, return_token_type_ids=True), "labels": index} for index, text in enumerate(TEXTS)]
    inputs = [rows, {"input_ids": [row["input_ids"] for row in rows]}, theirs(TEXTS), [theirs(t) for t in TEXTS]]
    for given in [*inputs, {"input_ids": rows[0]["input_ids"]}]:
        if "return_tensors" not in options or given is not inputs[-1]:
            same(ours.pad(given, **options), theirs.pad(given, **options))
    tensors = [{"input_ids": torch.tensor(row["input_ids"])} for row in rows]
    same(ours.pad(tensors, **options), theirs.pad(tensors, **options))


def test_collators_of_transformers_take_the_tokenizer(both):
    ours = both[0]
    rows = [{**ours(text), "labels": index} for index, text in enumerate(TEXTS)]
    found, expected = (transformers.DataCollatorWithPadding(one)([dict(row) for row in rows]) for one in both)
    same(found, expected)
    collator = transformers.DataCollatorForLanguageModeling(ours, mlm_probability=0.5)
    batch = collator([ours(text, return_special_tokens_mask=True) for text in TEXTS])
    assert batch["input_ids"].shape == batch["labels"].shape
    assert bool((batch["labels"] != -100).any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "longes"}, "padding is 'longes', expected True"),
        ({"padding": 3}, "padding is 3"),
        ({"truncation": "nonsense"}, "truncation is 'nonsense', expected True"),
        ({"truncation": True, "max_length": -1}, "max_length is -1"),
        ({"truncation": True, "max_length": 8, "stride": 6}, "stride is 6, expected less than the 6 tokens"),
        ({"truncation": True, "stride": -1}, "stride is -1"),
        ({"pad_to_multiple_of": 8}, "pad_to_multiple_of is 8, but padding is False"),
        ({"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"padding": True, "truncation": True, "pad_to_multiple_of": 5}, "max_length is 12, not a multiple"),
        ({"padding": True, "padding_side": "up"}, "padding_side is 'up'"),
        ({"truncation": True, "truncation_side": "up"}, "truncation_side is 'up'"),
        ({"return_tensors": "tf"}, "return_tensors is 'tf', expected 'pt', 'np' or None"),
        ({"max_length": 3}, "tokens, max_length is 3; pass truncation=True"),
    ],
)
def test_an_argument_is_applied_or_refused_by_name(both, options, message):
    with pytest.raises(InputError, match=message):
        both[0](TEXTS[2], **options)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((None,), "text is of type NoneType"),
        (({"text": "a"},), "text is of type dict"),
        ((["a", "b"], ["c"]), "text_pair: 1 for 2 first texts"),
        ((["a", "b"], "c"), "text_pair: a str for 2 first texts"),
        ((["a", 3],), r"text\[1\]: expected a str, got int"),
        (([("a", "b", "c")],), r"text\[0\]: expected a text or a pair, got 3 texts"),
    ],
)
def test_texts_of_another_form_are_refused_by_their_place(both, texts, message):
    with pytest.raises(InputError, match=message):
        both[0](*texts)


def test_one_text_or_mapping_is_one_encoding_and_never_its_characters_or_keys(both):
    tokenizer = both[0]
    assert tokenizer.encode_batch(TEXTS[0]).ids == tokenizer.encode(TEXTS[0])
    pair = {"text": TEXTS[0], "text_pair": PAIRS[0]}
    assert tokenizer.encode_batch(pair).ids == tokenizer.encode(*pair.values())
    assert tokenizer.encode_batch({"text": TEXTS[0]}).ids == tokenizer.encode(TEXTS[0])
    with pytest.raises(InputError, match="texts has question, context, expected text"):
        tokenizer.encode_batch({"question": "a", "context": "b"})
