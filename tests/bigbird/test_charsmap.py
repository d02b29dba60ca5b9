"""The character map does what SentencePiece does with it, and knows where each character came from."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbird.errors import CheckpointError
from bigbird.tokenization.charsmap import Charsmap

spm = pytest.importorskip("sentencepiece", reason="needs the extra named spiece")

# Letters and the marks that combine with them, jamo, half-width kana, ligatures, controls, and what has no rule.
ALPHABET = "aeAu \u0301\u0302\u0323\u0345ω\u03b1\u1100\u1161\u11a8가ｶﾞﾊﾟﬁ½ª①\t\r\n\x00\u200b漢🙂\U0001d4b3\uff21"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """SentencePiece's own normalizer, with spaces left alone."""
    prefix = str(tmp_path_factory.mktemp("charsmap") / "model")
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g"] * 4),
        model_prefix=prefix,
        model_type="char",
        vocab_size=12,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return spm.SentencePieceProcessor(model_file=prefix + ".model")


@pytest.fixture(scope="module")
def blob(original):
    """The map out of the model file, read by the package's own reader."""
    from bigbird.tokenization.spiece import _read_model

    return _read_model(original.serialized_model_proto()).charsmap


@pytest.fixture(scope="module")
def unprotected(blob):
    return Charsmap(blob)


@pytest.fixture(scope="module")
def charsmap(blob):
    return Charsmap(blob, ["[MASK]", "½kept"])


@given(
    text=st.one_of(st.text(st.sampled_from(ALPHABET), max_size=20), st.text(st.characters(exclude_categories=["Cs"])))
)
def test_normalization_equals_sentencepiece(original, unprotected, text):
    assert unprotected.normalize(text).text.replace(" ", "▁") == original.normalize(text)


@given(text=st.text(st.sampled_from(ALPHABET), max_size=20))
def test_every_range_comes_from_characters_that_normalize_to_it(charsmap, text):
    normalized = charsmap.normalize(text)
    ranges = normalized.original_offsets((index, index + 1) for index in range(len(normalized.text)))
    rebuilt = dict.fromkeys(ranges)
    assert "".join(charsmap.normalize(text[start:end]).text for start, end in rebuilt) == normalized.text
    assert list(rebuilt) == sorted(rebuilt)
    assert normalized.original_offsets([(0, 0)])[0][0] in (0, ranges[0][0] if ranges else len(text))


def test_protected_strings_are_left_as_they_are(charsmap):
    assert charsmap.normalize("½ ½kept ½").text == "1\u20442 ½kept 1\u20442"
    assert charsmap.normalize("[MASK]\u0301").text == "[MASK]\u0301"


def test_a_text_without_rules_has_no_edits(charsmap):
    normalized = charsmap.normalize("plain text")
    assert not normalized.edits
    assert normalized.original_offsets([(0, 5), (6, 10)]) == [(0, 5), (6, 10)]


@pytest.mark.parametrize(
    "damaged", [b"", b"\x01", struct.pack("<I", 3) + b"abc", struct.pack("<I", 0), struct.pack("<I", 99) + b"ab"]
)
def test_a_damaged_map_is_refused(damaged):
    with pytest.raises(CheckpointError, match="character map"):
        Charsmap(damaged)


def test_a_map_cut_short_is_refused(blob):
    with pytest.raises(CheckpointError, match="character map: damaged"):
        Charsmap(blob[: 4 + struct.unpack_from("<I", blob)[0] + 10])
