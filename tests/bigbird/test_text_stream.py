"""Streamed pieces are final: put together they are the tokens' text, without half characters or stop strings."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bigbird.generation.text_stream import TextStream

CORPUS = [
    "the cat sat on the mat, naïve façade",
    "日本語のテキスト 👩‍🔬🧪 emoji",
    "def f(x):\n    return x + 1\n\n",
] * 3


class Decoding:
    """A `tokenizers` object under the library's spelling."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()

    def __len__(self):
        return self.vocab_size

    def decode(self, token_ids, skip_special_tokens=False):
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)


def byte_level() -> Decoding:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return Decoding(tokenizer)


def sentence_pieces() -> Decoding:
    """A unigram vocabulary with spaces as "▁" and bytes for what it lacks, as SentencePiece makes them."""
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁the", -1.0), ("▁", -2.0), ("cat", -2.0), ("▁c", -3.0)]
    pieces += [(letter, -4.0) for letter in "abcdehnost.,"] + [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return Decoding(tokenizer)


TOKENIZERS = {"byte level": byte_level(), "sentence pieces": sentence_pieces()}
TEXTS = st.text(st.sampled_from("the cat,.é日🧪👩‍🔬\ufffd\n"), max_size=30)


def run(stream: TextStream, ids: list[int]) -> list[str]:
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces
    return [*pieces, stream.finish()]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(text=TEXTS, split=st.integers(0, 30))
def test_pieces_together_are_the_text_and_none_ends_within_a_character(name, text, split):
    decoding = TOKENIZERS[name]
    ids = decoding.tokenizer.encode(text, add_special_tokens=False).ids
    prompt, rest = ids[:split], ids[split:]
    whole = decoding.decode(ids)
    before = decoding.decode(prompt)
    if name == "sentence pieces":  # which show a whole run of bytes as U+FFFD when the last is not complete
        assume("\ufffd" not in before)
    while before and not whole.startswith(before):  # the prompt ends within a character, which then belongs to us
        before = before[:-1]
    pieces = run(TextStream(decoding, prompt), rest)
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)
        assert "".join(pieces) == whole[len(before) :]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_space_before_the_first_word_is_kept(name: str):
    decoding = TOKENIZERS[name]
    ids = decoding.tokenizer.encode("the cat the cat").ids
    for split in range(1, len(ids)):
        prompt = decoding.decode(ids[:split])
        assert prompt + "".join(run(TextStream(decoding, ids[:split]), ids[split:])) == "the cat the cat"


def test_special_tokens_do_not_swallow_the_space_after_them():
    decoding = TOKENIZERS["sentence pieces"]
    the, eos = decoding.tokenizer.token_to_id("▁the"), decoding.tokenizer.token_to_id("</s>")
    assert run(TextStream(decoding, []), [the, eos, the]) == ["the", "", " the", ""]


def test_a_character_appears_with_its_last_byte():
    decoding = TOKENIZERS["sentence pieces"]
    ids = [decoding.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "日".encode()]
    assert run(TextStream(decoding, []), ids) == ["", "", "日", ""]
    assert run(TextStream(decoding, []), ids[:2]) == ["", "", "\ufffd\ufffd"]


def test_replacement_characters_of_the_text_itself_get_through():
    decoding = TOKENIZERS["byte level"]
    ids = decoding.tokenizer.encode("a\ufffd\ufffd\ufffd\ufffd\ufffdb").ids
    pieces = run(TextStream(decoding, []), ids)
    assert "".join(pieces) == "a\ufffd\ufffd\ufffd\ufffd\ufffdb"
    assert pieces[-1] == ""


def test_replacement_characters_without_end_are_not_held_for_ever():
    decoding = TOKENIZERS["byte level"]
    pieces = run(TextStream(decoding, []), decoding.tokenizer.encode("\ufffd" * 20).ids)
    assert "".join(pieces) == "\ufffd" * 20
    assert pieces[-1].count("\ufffd") <= 3


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from("abc \n"), max_size=40), stop=st.lists(st.text("abc \n", min_size=1), max_size=3))
def test_text_ends_before_the_first_stop_string_wherever_tokens_divide_it(text, stop):
    decoding = TOKENIZERS["byte level"]
    ids = decoding.tokenizer.encode(text).ids
    stream = TextStream(decoding, [], tuple(stop))
    shown = ""
    for piece in run(stream, ids):
        shown += piece
        assert not any(string in shown for string in stop)
    found = [text.find(string) for string in stop if string in text]
    assert stream.stopped == bool(found)
    if found:
        # The first to be complete ends the text; one that began earlier may be complete only later.
        first = min(range(len(text) + 1), key=lambda end: (not any(string in text[:end] for string in stop), end))
        assert text.startswith(shown)
        assert len(shown) <= first
    else:
        assert shown == text


def test_the_start_of_a_stop_string_is_held_back_and_released():
    decoding = TOKENIZERS["sentence pieces"]
    ids = [decoding.tokenizer.token_to_id(piece) for piece in ("a", "b", "c", "a", "b", "d")]
    assert run(TextStream(decoding, [], ("abd",)), ids) == ["", "", "abc", "", "", ""]
    assert run(TextStream(decoding, [], ("abd",)), ids[:5]) == ["", "", "abc", "", "", "ab"]


def test_the_cost_of_a_token_does_not_grow_with_the_text():
    decoding = TOKENIZERS["byte level"]
    decoded = []
    original = decoding.decode

    class Counting:
        def __len__(self):
            return len(decoding)

        def decode(self, ids, *, skip_special_tokens=True):
            decoded.append(len(ids))
            return original(ids, skip_special_tokens=skip_special_tokens)

    ids = decoding.tokenizer.encode("the cat sat on the mat " * 50).ids
    run(TextStream(Counting(), ids[:1]), ids[1:])
    assert max(decoded) < 10
