"""Where the family begins: a tokenizer trained on the corpus, and a model with random weights.

    python -m examples.demo_family.new_checkpoint --corpus out/corpus.parquet --output out/new

The tokenizer is byte-level BPE. An identifier, with its underscores and digits, is never joined with the punctuation
around it, so that the characters of a name are always whole tokens; a run of line breaks and indentation is one token
wherever it is common.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bigbird import BigBirdConfig, BigBirdForMaskedLM
from examples.demo_family.corpus_split import read_documents

VOCAB_SIZE = 8192
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]")

# A name; up to four digits; punctuation; white space, all but its last character when a word follows (that one
# character belongs to the word).
WORDS = r" ?[\p{L}_][\p{L}\p{M}\p{N}_]*| ?\p{N}{1,4}| ?[^\s\p{L}\p{N}_]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
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
        vocab_size=VOCAB_SIZE,
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
    """Write the two files that transformers and `BigBirdTokenizer` read."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    names = ("pad_token", "bos_token", "eos_token", "unk_token", "cls_token", "sep_token", "mask_token")
    config = {
        **dict(zip(names, SPECIAL_TOKENS, strict=True)),
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        # The heads for pairs are trained with types; by default BigBird's tokenizers give none.
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def demo_config() -> BigBirdConfig:
    """2.8 million parameters: what fits in a repository and runs anywhere."""
    return BigBirdConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=4096,
        block_size=256,  # attention is dense up to 1,792 tokens
        num_random_blocks=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=128**-0.5,
        sep_token_id=SPECIAL_TOKENS.index("[SEP]"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    texts = [document.text for document in read_documents(arguments.corpus, "train")]
    save_tokenizer(train_tokenizer(texts), arguments.output)
    torch.manual_seed(0)
    BigBirdForMaskedLM(demo_config()).save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
