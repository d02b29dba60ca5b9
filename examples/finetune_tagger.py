"""Fine-tune a tagger on a labelled file that this program makes itself, and use what came out.

python examples/finetune_tagger.py

The task is easy on purpose: mark every version number. A row is a text and its entities, {start, end, label} in
characters. Takes about a minute on two cores.
"""

import random
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bigbird import load_predictor
from pipelines import finetune

FILL_MASK = Path(__file__).resolve().parents[1] / "checkpoints" / "fill-mask"
SENTENCES = (
    "Changed in version {}.",
    "Since {} it is an error.",
    "Python {} removed it.",
    "See the notes of {} for more.",
)


def labelled_rows(count: int, seed: int) -> pa.Table:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        sentences = (draw.choice(SENTENCES).format(f"3.{draw.randrange(20)}") for _ in range(20))
        text = " ".join(sentences)
        found = re.finditer(r"3\.\d+", text)
        rows.append(
            {"text": text, "entities": [{"start": m.start(), "end": m.end(), "label": "VERSION"} for m in found]}
        )
    return pa.Table.from_pylist(rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for part, count, seed in (("train", 200, 1), ("eval", 20, 2)):
            pq.write_table(labelled_rows(count, seed), f"{folder}/{part}.parquet")
        command = f"--task token-classification --model {FILL_MASK} --train {folder}/train.parquet"
        command += f" --eval {folder}/eval.parquet --output {folder}/tagger --learning-rate 1e-3 --tokens-per-step 4096"
        if finetune.main(command.split()):
            raise SystemExit(1)
        text = "The module was added in 3.4 and deprecated in 3.12."
        (record,) = load_predictor("token-classification", f"{folder}/tagger")([text])
        print([text[entity["start"] : entity["end"]] for entity in record["entities"]])


if __name__ == "__main__":
    main()
