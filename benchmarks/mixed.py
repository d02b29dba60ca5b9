"""A mixed batch of documents: ours packed, against transformers' padded batches and its rows one by one.

    python -m benchmarks.mixed [--layers 12] [--threads 2] [--documents 48] [--rounds 3]

Lengths are those of the Python corpus under the shipped tokenizer, cut at 4,096 tokens, drawn with a fixed seed.
Also: as many tokens in rows of equal length. The predictors' own rates are in `benchmarks.predictors`.
"""

import argparse
import random
import sys
from pathlib import Path

import torch

from benchmarks.measure import Peer, encoder_flops, in_turns, machine, matrix_rate
from bigbird import BigBirdConfig, BigBirdModel, BigBirdTokenizer, prepare_for_inference
from bigbird.packing import pack
from pipelines.corpus import Document, python_documents

ROOT = Path(__file__).parent.parent
PEER = ROOT / "benchmarks" / "transformers_peer.py"
TOKENS_A_BATCH = 16384


def corpus_lengths(documents: int) -> list[int]:
    tokenizer = BigBirdTokenizer.from_pretrained(ROOT / "checkpoints" / "fill-mask")
    texts = [document.text for document in python_documents() if isinstance(document, Document)]
    chosen = random.Random(0).sample(texts, documents)
    return [min(4096, len(encoding.ids)) for encoding in tokenizer.encode_batch(chosen)]


def batches(lengths: list[int]) -> list[list[int]]:
    """Rows by length, in batches of at most TOKENS_A_BATCH tokens."""
    made: list[list[int]] = [[]]
    for length in sorted(lengths):
        if sum(made[-1]) + length > TOKENS_A_BATCH and made[-1]:
            made.append([])
        made[-1].append(length)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--documents", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    config = BigBirdConfig(num_hidden_layers=options.layers)
    model = prepare_for_inference(BigBirdModel(config))
    lengths = corpus_lengths(options.documents)
    mean = sum(lengths) // len(lengths)
    print(f"{machine(options.threads)}; {options.layers} layers, float32, median of {options.rounds}")
    print(f"{len(lengths)} documents, {sum(lengths)} tokens, mean {mean}, longest {max(lengths)}")

    def ours(rows: list[int]) -> None:
        with torch.inference_mode():
            for batch in batches(rows):
                model.encode(pack([[7] * length for length in batch]))

    with Peer(sys.executable, PEER, str(options.layers), str(options.threads), "float32") as peer:
        seconds = in_turns(
            {
                "ours, mixed": lambda: ours(lengths),
                "ours, equal lengths": lambda: ours([mean] * len(lengths)),
                "transformers 5, padded batches of 8": lambda: peer({"rows": lengths, "batch": 8}),
                "transformers 5, one by one": lambda: peer({"rows": lengths}),
            },
            options.rounds,
        )
    floor = encoder_flops(config, lengths) / matrix_rate(config)
    for name, took in seconds.items():
        rows = [mean] * len(lengths) if "equal" in name else lengths
        print(
            f"  {name:38s} {took:8.2f} s {sum(rows) / took:9.0f} tokens/s {took / seconds['ours, mixed']:7.2f} x ours"
        )
    print(f"  {'floor':38s} {floor:8.2f} s; ours reaches {floor / seconds['ours, mixed']:.2f} of it")


if __name__ == "__main__":
    main()
