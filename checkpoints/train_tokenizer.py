"""Train the demo family's tokenizer: byte-level BPE over the train part of the corpus.

    python -m checkpoints.train_tokenizer --corpus out/corpus.parquet --output checkpoints/fill-mask

Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`; transformers loads the directory as a
`PreTrainedTokenizerFast`. Knows nothing of models.

An identifier, with its underscores and digits, is never joined with the punctuation around it, so the characters of
a name in the source are always whole tokens; a run of line breaks and indentation is one token wherever it is common.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from checkpoints.corpus_split import read_documents

VOCAB_SIZE = 8192
MAX_LENGTH = 4096
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]")

# A name; up to four digits; punctuation; white space, all but its last character when a word follows (that one
# character belongs to the word).
WORDS = r" ?[\p{L}_][\p{L}\p{M}\p{N}_]*| ?\p{N}{1,4}| ?[^\s\p{L}\p{N}_]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A byte-level BPE tokenizer with the special tokens of BigBird as ids 0 to 6."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False, lstrip=token == "[MASK]") for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single="[CLS]:0 $A:0 [SEP]:0",
                pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
                special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
            ),
        ]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write the three files transformers and `BigBirdTokenizer` read."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    mask = {"content": "[MASK]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    names: dict[str, object] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": mask,
    }
    (directory / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")
    config = {
        **names,
        "mask_token": "[MASK]",
        "model_max_length": MAX_LENGTH,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    documents = read_documents(arguments.corpus, "train")
    tokenizer = train_tokenizer(document.text for document in documents)
    save_tokenizer(tokenizer, arguments.output)
    characters = sum(len(document.text) for document in documents[::20])
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch([d.text for d in documents[::20]]))
    print(f"{tokenizer.get_vocab_size()} tokens; {characters / tokens:.2f} characters a token")


if __name__ == "__main__":
    main()
