"""Small SentencePiece models over many scripts, trained on the spot."""

import pytest

spm = pytest.importorskip("sentencepiece", reason="needs the extra named spiece")

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Documents are long, and models are slow: 1234 of 5678 tokens, 90 percent.",
    "def forward(self, input_ids=None): return self.encoder(input_ids)",
    "Ünïcödé café naïve œuvre déjà vu",
    "Быстрая коричневая лиса прыгает через ленивую собаку",
    "素早い茶色の狐がのろまな犬を飛び越える がぎぐげご",
    "한국어 문장도 길 수 있습니다 각 값",
    "الثعلب البني السريع يقفز فوق الكلب",
    "שלום עולם השועל החום המהיר",
    "ภาษาไทยน้ำ हिन्दी भाषा தமிழ் မြန်မာ",
    "Tiếng Việt rất đẹp và dễ thương",
    "🙂 🎉 👍🏽 👨‍👩‍👧‍👦 are emoji",
]


def train(directory, **changes):
    """A small model over many scripts, in `directory/spiece.model`."""
    options = {
        "model_type": "unigram",
        "vocab_size": 420,
        "hard_vocab_limit": False,
        "character_coverage": 0.999,
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "pad_piece": "<pad>",
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
        "minloglevel": 2,
        "num_threads": 1,
        "normalization_rule_name": "identity",  # the default, nmt_nfkc, has 200,000 rules to read
    }
    options |= changes
    if options["model_type"] == "bpe":
        options["vocab_size"] = 600
    directory.mkdir(parents=True, exist_ok=True)
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_prefix=str(directory / "spiece"), **options
    )
    return directory
