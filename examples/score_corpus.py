"""Score a corpus from Python: `score()` as one step of a Ray Data pipeline.

python examples/score_corpus.py
"""

import logging
from pathlib import Path
from typing import Any

import ray

from pipelines.score import score

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
TEXTS = {
    "reader": "import os\n\ndef read_lines(path):\n    if not os.path.exists(path):\n        raise ValueError(path)\n",
    "cache": "class Cache:\n    def load(self, key):\n        return self.values[key]\n",
    "nothing": None,  # a row that cannot be scored gets an `error`; it costs its neighbours nothing
}


def with_counts(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "num_entities": len(row["entities"]) if row["error"] is None else 0}


def main() -> None:
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items([{"name": name, "text": text} for name, text in TEXTS.items()])
    scored = score(rows, "token-classification", str(CHECKPOINTS / "token-classification")).map(with_counts)
    for row in scored.take_all():
        if row["error"]:
            print(f"{row['name']}: {row['error']['type']}: {row['error']['message']}")
            continue
        entities = ", ".join(f"{entity['word'].strip()} {entity['entity_group']}" for entity in row["entities"])
        print(f"{row['name']}: {row['num_entities']} entities: {entities}")
    ray.shutdown()


if __name__ == "__main__":
    main()
