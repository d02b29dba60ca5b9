"""The tokenizer's vocabulary, decoding, adding and loading against transformers' own, on files made here."""

from itertools import product

import numpy as np
import pytest
import torch
from tiny_predictors import SPECIAL_ROLES, train
from tokenizer_texts import PAIRS, SETTINGS, TEXTS
from tokenizers import AddedToken

from bigbird.errors import CheckpointError, InputError
from bigbird.tokenization.tokenizer import BigBirdTokenizer

transformers = pytest.importorskip("transformers", reason="needs the extra named parity")


def test_encoding_decoding_and_converting_equal_transformers(both):
    ours, theirs = both
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.encode(text, PAIRS[1], truncation=True, max_length=9) == theirs.encode(
            text, PAIRS[1], truncation=True, max_length=9
        )
        assert torch.equal(ours.encode(text, return_tensors="pt"), theirs.encode(text, return_tensors="pt"))
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours.tokenize(text, PAIRS[0], add_special_tokens=True) == theirs.tokenize(
            text, PAIRS[0], add_special_tokens=True
        )
        for skip, clean in product((False, True), (None, False)):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            for given in (ids, torch.tensor(ids), np.array(ids)):
                assert ours.decode(given, **options) == theirs.decode(given, **options)
        tokens = theirs.convert_ids_to_tokens(ids)
        assert ours.convert_ids_to_tokens(ids) == tokens
        assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == theirs.convert_ids_to_tokens(
            ids, skip_special_tokens=True
        )
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens) == ids
        assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
    assert ours.decode(5) == theirs.decode(5)
    assert ours.convert_ids_to_tokens(5) == theirs.convert_ids_to_tokens(5)
    assert ours.convert_tokens_to_ids("no such") == theirs.convert_tokens_to_ids("no such") == ours.unk_token_id
    rows = theirs(TEXTS, padding=True, return_tensors="pt")["input_ids"]
    for given in (rows, rows.tolist(), rows.numpy()):
        assert ours.batch_decode(given, skip_special_tokens=True) == theirs.batch_decode(
            given, skip_special_tokens=True
        )
    with pytest.raises(InputError, match="batch_decode takes several"):
        ours.decode(rows)


def test_spaces_are_cleaned_up_where_a_call_or_the_files_ask_for_it():
    loaded = BigBirdTokenizer(train("sentence-piece"), {**SETTINGS, "clean_up_tokenization_spaces": True})
    ids = loaded.encode("in , a . ' do n't", add_special_tokens=False)
    expected = transformers.PreTrainedTokenizerBase.clean_up_tokenization(
        None, loaded.decode(ids, clean_up_tokenization_spaces=False)
    )
    assert loaded.decode(ids) == loaded.decode(ids, clean_up_tokenization_spaces=True) == expected


def test_names_sizes_and_maps_equal_transformers(both):
    ours, theirs = both
    names = [f"{role}{end}" for role in SPECIAL_ROLES for end in ("", "_id")]
    names += ["vocab_size", "model_max_length", "special_tokens_map", "all_special_tokens", "all_special_ids"]
    names += ["padding_side", "truncation_side", "model_input_names", "pad_token_type_id", "is_fast", "vocab"]
    names += ["added_tokens_encoder"]
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs)
    assert ours
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert {i: str(t) for i, t in ours.added_tokens_decoder.items()} == {
        i: str(t) for i, t in theirs.added_tokens_decoder.items()
    }
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == theirs.num_special_tokens_to_add(pair)


def test_special_tokens_are_put_around_ids_as_around_texts(both):
    ours, theirs = both
    first, second = (theirs.encode(text, add_special_tokens=False) for text in (TEXTS[0], PAIRS[1]))
    for pair in ((first,), (first, second)):
        texts = (TEXTS[0], PAIRS[1])[: len(pair)]
        expected = theirs(*texts, return_token_type_ids=True, return_special_tokens_mask=True)
        assert ours.build_inputs_with_special_tokens(*pair) == expected["input_ids"]
        assert ours.create_token_type_ids_from_sequences(*pair) == expected["token_type_ids"]
        assert ours.get_special_tokens_mask(*pair) == expected["special_tokens_mask"]
    ids = theirs.encode(TEXTS[2])
    assert ours.get_special_tokens_mask(ids, already_has_special_tokens=True) == theirs.get_special_tokens_mask(
        ids, already_has_special_tokens=True
    )


def fresh(kind, tmp_path):
    BigBirdTokenizer(train(kind), SETTINGS).save_pretrained(tmp_path)
    return BigBirdTokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["byte-level", "sentence-piece"])
def test_tokens_are_added_saved_and_loaded_as_in_transformers(kind, tmp_path):
    pair = fresh(kind, tmp_path / "before")
    for one in pair:
        assert one.add_tokens(["micro", AddedToken("Angela", lstrip=True)]) == 2
        assert one.add_tokens("micro") == 0
        assert one.add_tokens("<x>", special_tokens=True) == 1
        assert one.add_special_tokens({"pad_token": "<new pad>", "additional_special_tokens": ["<a>", "<b>"]}) == 3
        one.sep_token = "<x>"
        one.bos_token_id = one.convert_tokens_to_ids("micro")
    ours, theirs = pair
    text = "the microsoft Angela <a> <x> micro"
    assert ours.sep_token == "<x>"
    assert ours.bos_token == "micro"
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert ours.pad_token_id == theirs.pad_token_id == len(ours) - 3
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.encode(text) == theirs.encode(text)
    ids = ours.encode(text)
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    ours.save_pretrained(tmp_path / "after")
    for again in (
        BigBirdTokenizer.from_pretrained(tmp_path / "after"),
        ours.__class__(tmp_path / "after/tokenizer.json"),
    ):
        assert again.encode(text) == ids
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "after")
    assert again.encode(text) == ids
    assert again.all_special_tokens == ours.all_special_tokens


def test_a_vocabulary_without_unk_and_s_takes_every_text_and_answers_none(tmp_path):
    content = train().to_str()
    for token in ("<unk>", "<s>", "</s>"):
        content = content.replace(f'"{token}"', f'"{token[0]}~{token[1:]}"')
    (tmp_path / "tokenizer.json").write_text(content.replace('"unk_token":"<~unk>"', '"unk_token":null'))
    tokenizer = BigBirdTokenizer.from_pretrained(tmp_path)
    assert tokenizer.unk_token is tokenizer.unk_token_id is tokenizer.bos_token_id is tokenizer.eos_token is None
    assert tokenizer.decode(tokenizer.encode(TEXTS[0]), skip_special_tokens=True) == TEXTS[0]
    with pytest.raises(InputError, match="'no such' is not in the vocabulary, which has no unknown token"):
        tokenizer.convert_tokens_to_ids("no such")


def test_keywords_of_from_pretrained_stand_in_the_place_of_the_files(tmp_path):
    BigBirdTokenizer(train(), SETTINGS).save_pretrained(tmp_path / "below")
    options = {"model_max_length": 99, "padding_side": "left", "truncation_side": "left", "pad_token": "[MASK]"}
    found = BigBirdTokenizer.from_pretrained(tmp_path, subfolder="below", local_files_only=True, **options)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "below", **options)
    for name, value in options.items():
        assert getattr(found, name) == getattr(theirs, name) == value
    assert found(TEXTS, padding=True) == dict(theirs(TEXTS, padding=True))
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'model_max_len'; the nearest it takes is 'model_max"
    ):
        BigBirdTokenizer.from_pretrained(tmp_path / "below", model_max_len=3)
    with pytest.raises(CheckpointError, match="there is no subfolder above"):
        BigBirdTokenizer.from_pretrained(tmp_path, subfolder="above")
    with pytest.raises(InputError, match="unk_token: the vocabulary lacks 'nothing'"):
        found.unk_token = "nothing"
