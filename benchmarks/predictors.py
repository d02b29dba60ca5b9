"""The predictors' tokens/s, tokenizing and records included, beside the bare encoder's on the same rows.

    python -m benchmarks.predictors [--layers 12] [--threads 2] [--documents 16] [--rounds 3]

Base size, random weights; texts of the Python corpus, truncated at 4,096 tokens. masked-lm-scoring reads every document
seven times; its rate counts each reading.
"""

import argparse
import random
import tempfile
from pathlib import Path

import torch

from benchmarks.measure import in_turns, machine
from benchmarks.mixed import ROOT, batches
from bigbird import (
    BigBirdConfig,
    BigBirdForMaskedLM,
    BigBirdForTokenClassification,
    BigBirdModel,
    BigBirdTokenizer,
    load_predictor,
    prepare_for_inference,
)
from bigbird.packing import pack
from bigbird.predictors import MaskedLMScoringOptions, TokenClassificationOptions
from pipelines.corpus import Document, python_documents

TOKENIZER = ROOT / "checkpoints" / "fill-mask"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = BigBirdConfig(num_hidden_layers=options.layers)
    encoder = prepare_for_inference(BigBirdModel(config))
    documents = [document.text for document in python_documents() if isinstance(document, Document)]
    texts = random.Random(0).sample(documents, options.documents)
    tokenizer = BigBirdTokenizer.from_pretrained(TOKENIZER)
    lengths = [min(4096, len(encoding.ids)) for encoding in tokenizer.encode_batch(texts)]
    print(f"{machine(options.threads)}; {options.layers} layers, float32, median of {options.rounds}")
    print(f"{len(texts)} documents, {sum(lengths)} tokens")

    def bare(rows: list[int]) -> None:
        with torch.inference_mode():
            for batch in batches(rows):
                encoder.encode(pack([[7] * length for length in batch]))

    with tempfile.TemporaryDirectory() as folder:
        tagger, scorer = Path(folder) / "tagger", Path(folder) / "scorer"
        for directory, model in (
            (tagger, BigBirdForTokenClassification(config.replace(num_labels=11))),
            (scorer, BigBirdForMaskedLM(config)),
        ):
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
        tag = load_predictor("token-classification", tagger, options=TokenClassificationOptions(on_long="truncate"))
        score = load_predictor("masked-lm-scoring", scorer, options=MaskedLMScoringOptions(on_long="truncate"))
    few = sorted(range(len(texts)), key=lengths.__getitem__)[:: max(1, len(texts) // 3)]
    passes = 7 * [lengths[index] for index in few]
    seconds = in_turns(
        {
            "encoder": lambda: bare(lengths),
            "token-classification": lambda: tag(texts) and None,
            "encoder, seven passes": lambda: bare(passes),
            "masked-lm-scoring": lambda: score([texts[index] for index in few]) and None,
        },
        options.rounds,
    )
    for name, rows, reference in (
        ("token-classification", lengths, "encoder"),
        ("masked-lm-scoring", passes, "encoder, seven passes"),
    ):
        print(
            f"  {name:24s} {sum(rows) / seconds[name]:8.0f} tokens/s, bare encoder "
            f"{sum(rows) / seconds[reference]:8.0f}: {seconds[reference] / seconds[name]:.2f} of it"
        )


if __name__ == "__main__":
    main()
