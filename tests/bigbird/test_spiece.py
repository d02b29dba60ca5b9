"""Conversion of spiece.model: ids as SentencePiece and transformers' slow tokenizer give them."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spiece_models import SENTENCES, spm, train

from bigbird.errors import CheckpointError
from bigbird.tokenization.tokenizer import BigBirdTokenizer

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    *SENTENCES,
    *(unicodedata.normalize("NFD", sentence) for sentence in SENTENCES),
    "",
    " ",
    "   ",
    "\n",
    "a  b   c    d     e",
    "  lead and trail  ",
    "tabs\tand\nnew\r\nlines\n\n",
    "no\u00a0break\u2003em\u3000ideographic\u200bzero",
    "NUL \x00 and \x01 control \x7f",
    "The [MASK] fox, the[MASK]fox, the  [MASK]  fox [MASK]",
    "[CLS] written [SEP] in </s> the <s> text <pad> <unk>",
    "[MASK][MASK] [MASK]",
    "half-width ｶﾞｷﾞ full-width \uff21\uff22 ① ½ ﬁne \uff21\u0301",
    "Ẅ́x\u0301\u0323 ậ ª\u0300",
    "already ▁escaped▁ ▁▁ spaces▁",
    "\U0001d4b3\U0001d4b4 unknown ᚠᚢᚦ letters ☃",
    "שָׁלוֹם בְּרֵאשִׁית اَلْعَرَبِيَّةُ",
    "word" * 60,
]
PAIRS = [("The quick fox", "the lazy dog"), ("who? ", " the [MASK] fox"), ("", "empty first"), ("empty second", "")]


VARIANTS = {
    "unigram": {"normalization_rule_name": "nmt_nfkc"},
    "bpe": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"},
    "unigram-identity": {},
    "bpe-identity": {"model_type": "bpe"},
    "unigram-keeps-spaces": {"normalization_rule_name": "nfkc", "remove_extra_whitespaces": False},
    "bpe-keeps-spaces": {"model_type": "bpe", "remove_extra_whitespaces": False},
    "unigram-across-words": {"split_by_whitespace": False, "max_sentencepiece_length": 24},
    "bpe-across-words": {"model_type": "bpe", "split_by_whitespace": False},
    "unigram-case-folded": {"normalization_rule_name": "nmt_nfkc_cf"},
    "unigram-bytes": {"byte_fallback": True, "vocab_size": 700},
    "bpe-bytes": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 900},
    "unigram-no-prefix": {"add_dummy_prefix": False},
    "bpe-no-prefix": {"model_type": "bpe", "add_dummy_prefix": False},
    "unigram-user-symbols": {
        "control_symbols": [],
        "user_defined_symbols": ["[CLS]", "[SEP]", "[MASK]", "<code>", "</code>", "fox"],
    },
    "bpe-user-symbols": {
        "model_type": "bpe",
        "control_symbols": [],
        "user_defined_symbols": ["[CLS]", "[SEP]", "[MASK]", "<code>", "</code>", "fox"],
    },
    "unigram-without-specials": {"pad_id": -1, "control_symbols": [], "bos_id": -1, "eos_id": -1, "unk_id": 0},
    "bpe-without-specials": {
        "model_type": "bpe",
        "pad_id": -1,
        "control_symbols": [],
        "bos_id": -1,
        "eos_id": -1,
        "unk_id": 0,
    },
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One model of each type, with the default normalization."""
    return {
        kind: train(tmp_path_factory.mktemp(kind), model_type=kind, normalization_rule_name="nmt_nfkc")
        for kind in ("unigram", "bpe")
    }


@pytest.fixture(scope="module")
def loaded(plain):
    return {kind: BigBirdTokenizer.from_pretrained(directory) for kind, directory in plain.items()}


ORACLE = """
import json, sys, transformers
asked = json.load(sys.stdin)
def rows(model):
    tokenizer = transformers.BigBirdTokenizer(model)
    for text, pair in [(text, None) for text in asked["texts"]] + asked["pairs"]:
        parts = [tokenizer.encode_batch(part, add_special_tokens=False) for part in (text, pair) if part is not None]
        yield [tokenizer(text, pair)["input_ids"], tokenizer.create_token_type_ids_from_sequences(*parts)]
print(json.dumps({model: list(rows(model)) for model in asked["models"]}))
"""


def test_ids_equal_the_slow_tokenizer_of_transformers(tmp_path):
    oracle = os.environ.get("TRANSFORMERS_437_PYTHON")
    if not oracle:
        pytest.skip("TRANSFORMERS_437_PYTHON names no python with transformers 4.37.2 (`make parity` sets it)")
    models = [str(train(tmp_path / name, **options) / "spiece.model") for name, options in VARIANTS.items()]
    asked = {"models": models, "texts": TEXTS, "pairs": PAIRS}
    answer = subprocess.run(
        [oracle, "-c", ORACLE], input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=300
    )
    for model, rows in json.loads(answer.stdout).items():
        tokenizer = BigBirdTokenizer.from_pretrained(Path(model).parent)
        for item, (ids, types) in zip([*TEXTS, *PAIRS], rows, strict=True):
            encoding = tokenizer.encode_batch([item])[0]
            assert encoding.ids == ids, (model, item)
            assert encoding.token_type_ids == types, (model, item)


@pytest.mark.parametrize("name", VARIANTS)
def test_ids_equal_sentencepiece(name, tmp_path):
    directory = train(tmp_path, **VARIANTS[name])
    original = spm.SentencePieceProcessor(model_file=str(directory / "spiece.model"))
    tokenizer = BigBirdTokenizer.from_pretrained(directory)
    for text in TEXTS:
        if not any(token in text for token in SPECIAL):
            assert tokenizer.encode(text, add_special_tokens=False) == original.encode(text), text


@pytest.fixture(scope="module")
def originals(plain):
    return {
        kind: spm.SentencePieceProcessor(model_file=str(directory / "spiece.model"))
        for kind, directory in plain.items()
    }


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_split_as_sentencepiece_splits_it(originals, loaded, text):
    assume(not any(token in text for token in SPECIAL))
    for kind, original in originals.items():
        found = loaded[kind].encode(text, add_special_tokens=False)
        expected = original.encode(text)
        if kind == "unigram" and found != expected:  # two ways of one score: 32 bits choose another than 64
            assert sum(map(original.get_score, found)) == pytest.approx(sum(map(original.get_score, expected)))
        else:
            assert found == expected


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("a ½ﬁ\u0301\u1100\u1161\u11a8ｶﾞé\t\x00▁🙂ộ"), max_size=30))
def test_offsets_are_ordered_and_within_the_original_text(loaded, text):
    for tokenizer in loaded.values():
        offsets = tokenizer.encode_batch(text, add_special_tokens=False).offsets
        assert all(0 <= start <= end <= len(text) for start, end in offsets)
        assert offsets == sorted(offsets)


def test_offsets_point_into_the_original_where_normalization_changes_lengths(loaded):
    text = "\uff21\uff22\uff23 " + unicodedata.normalize("NFD", "Tiếng Việt 각") + " ½ end"
    for tokenizer in loaded.values():
        encoding = tokenizer.encode_batch([(text, "ｶﾞ end")])[0]
        tokens = zip(encoding.offsets, encoding.sequence_ids, encoding.tokens, strict=True)
        # Tokens of one ½ share its range; the sign of a space alone may share that of the letter it precedes.
        ranges = dict.fromkeys(offsets for offsets, part, token in tokens if part == 0 and token != "▁")
        assert "".join(text[start:end].strip() for start, end in ranges) == text.replace(" ", "")
        assert encoding.offsets[-2][1] == len("ｶﾞ end")


def test_a_converted_tokenizer_is_the_same_after_saving(plain, loaded, tmp_path):
    for kind, tokenizer in loaded.items():
        tokenizer.save_pretrained(tmp_path / kind)
        again = BigBirdTokenizer.from_pretrained(tmp_path / kind)
        rows = ([(row.ids, row.offsets) for row in one.encode_batch([*TEXTS, *PAIRS])] for one in (again, tokenizer))
        assert next(rows) == next(rows)
        saved = (tmp_path / kind / "spiece.model").read_bytes()
        assert saved == (plain[kind] / "spiece.model").read_bytes(), "for the slow tokenizer of transformers 4"
        transformers = pytest.importorskip("transformers", reason="needs the extra named parity")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)
        for text in SENTENCES[:4]:
            assert theirs(text)["input_ids"] == tokenizer.encode(text)


def test_decoding_gives_the_text_back(loaded):
    for tokenizer in loaded.values():
        text = "The quick brown fox jumps over the lazy dog."
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_special_tokens_keep_the_ids_of_the_file_or_follow_after_its_last(tmp_path):
    inside = BigBirdTokenizer.from_pretrained(train(tmp_path / "inside"))
    assert (inside.pad_token_id, inside.eos_token_id, inside.bos_token_id, inside.unk_token_id) == (0, 1, 2, 3)
    directory = train(tmp_path / "after", **VARIANTS["bpe-without-specials"])
    last = spm.SentencePieceProcessor(model_file=str(directory / "spiece.model")).get_piece_size()
    after = BigBirdTokenizer.from_pretrained(directory)
    assert [after.bos_token_id, after.eos_token_id, after.sep_token_id] == [last, last + 1, last + 2]
    assert [after.pad_token_id, after.cls_token_id, after.mask_token_id] == [last + 3, last + 4, last + 5]
    assert (after.vocab_size, len(after)) == (last, last + 6)


def test_a_very_long_word_and_long_runs_of_spaces_are_split_in_linear_time(loaded):
    for tokenizer in loaded.values():
        assert len(tokenizer.encode("a" * 200_000)) > 1000
        assert len(tokenizer.encode(" " * 200_000 + "▁" * 1000 + "a")) < 2000


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\xff"])
def test_a_damaged_model_is_refused(tmp_path, content):
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable SentencePiece model"):
        BigBirdTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["word", "char"])
def test_other_kinds_of_model_are_refused(tmp_path, kind):
    train(tmp_path, model_type=kind)
    with pytest.raises(CheckpointError, match="model_type is"):
        BigBirdTokenizer.from_pretrained(tmp_path)


def test_spaces_written_after_words_are_refused(tmp_path):
    train(tmp_path, treat_whitespace_as_suffix=True)
    with pytest.raises(CheckpointError, match="treat_whitespace_as_suffix"):
        BigBirdTokenizer.from_pretrained(tmp_path)


def test_a_conversion_that_splits_otherwise_is_refused(plain, monkeypatch):
    from bigbird.tokenization import spiece

    monkeypatch.setattr(spiece, "_SPACE", "_")
    with pytest.raises(CheckpointError, match="SentencePiece gives"):
        BigBirdTokenizer.from_pretrained(plain["bpe"])


def test_without_the_sentencepiece_package_the_error_names_it(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(CheckpointError, match="needs the sentencepiece package"):
        BigBirdTokenizer.from_pretrained(plain["bpe"])


def test_the_mask_swallows_the_space_before_it(tmp_path):
    tokenizer = BigBirdTokenizer.from_pretrained(train(tmp_path, **VARIANTS["bpe-keeps-spaces"]))
    assert tokenizer.encode("the  [MASK] fox") == tokenizer.encode("the[MASK] fox")
    assert tokenizer.encode("the [SEP]") != tokenizer.encode("the[SEP]")


def test_the_model_file_alone_is_a_tokenizer(plain, loaded):
    for kind, directory in plain.items():
        for found in (
            BigBirdTokenizer(directory / "spiece.model"),
            BigBirdTokenizer.from_pretrained(str(directory / "spiece.model")),
        ):
            assert found.encode(SENTENCES[0]) == loaded[kind].encode(SENTENCES[0])


def test_offsets_of_words_point_into_each_word_as_it_was(loaded):
    words = ["\uff21\uff22", "½", "plain", unicodedata.normalize("NFD", "Việt")]
    for tokenizer in loaded.values():
        batch = tokenizer(words, is_split_into_words=True, return_offsets_mapping=True, add_special_tokens=False)
        for number, word in enumerate(words):
            ends = [end for (_, end), at in zip(batch["offset_mapping"], batch.word_ids(), strict=True) if at == number]
            assert max(ends) == len(word), word


def test_tokens_that_the_settings_add_to_a_model_file_keep_their_ids(tmp_path):
    directory = train(tmp_path)
    last = len(BigBirdTokenizer.from_pretrained(directory))
    path = directory / "tokenizer_config.json"
    stored = {str(last): {"content": "<late>", "special": False, "lstrip": False, "rstrip": False}}
    path.write_text(json.dumps({"added_tokens_decoder": stored}))
    assert BigBirdTokenizer.from_pretrained(directory).convert_tokens_to_ids("<late>") == last
    path.write_text(json.dumps({"added_tokens_decoder": {str(last + 5): stored[str(last)]}}))
    with pytest.raises(CheckpointError, match=f"'<late>' gets id {last}, added_tokens_decoder says {last + 5}"):
        BigBirdTokenizer.from_pretrained(directory)
