"""`make demo`: a corpus from this Python, scored by the shipped checkpoints, and what came out.

Scores documents that the checkpoints were not trained on. The two jobs are the commands printed before them; what is
shown is read back from the Parquet that they wrote.
"""

import hashlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from examples.demo_family.corpus_split import part_of
from pipelines import corpus, score

OUTPUT = Path("out") / "demo"
MAX_CHARS = 200_000  # of the sample: what two cores score in about a minute
SHOWN_LINES, SHOWN_DOCUMENTS = 14, 4
COLORS = {"CLASS": 36, "FUNCTION": 33, "PARAMETER": 32, "MODULE": 35, "EXCEPTION": 31}


def main() -> None:
    began = time.monotonic()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    everything, sample = OUTPUT / "python-docs.parquet", OUTPUT / "sample.parquet"
    title("A corpus of long documents, from the running interpreter")
    run(corpus.main, "pipelines.corpus", ["--python-docs", str(everything)])
    documents = held_out_sample(pq.read_table(everything))
    pq.write_table(documents, sample, row_group_size=8)
    print(f"{documents.num_rows} documents that no checkpoint was trained on -> {sample}")
    # One quiet Ray for both jobs.
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    for task, model in (("token-classification", "token-classification"), ("masked-lm-scoring", "fill-mask")):
        title(f"{task} on Ray Data")
        command = f"--task {task} --model checkpoints/{model} --input {sample} --output {OUTPUT / task}"
        run(score.main, "pipelines.score", [*command.split(), "--id-column", "id", "--overwrite"])
    show_entities(pq.read_table(OUTPUT / "token-classification").to_pylist())
    show_surprise(pq.read_table(OUTPUT / "masked-lm-scoring").to_pylist())
    title("Where it is")
    print(
        f"{OUTPUT}/token-classification/, {OUTPUT}/masked-lm-scoring/: Parquet, the corpus' columns beside the results"
    )
    print(f"\n{time.monotonic() - began:.0f} s in all. Serve the same checkpoints: make serve")


def held_out_sample(table: pa.Table) -> pa.Table:
    """Documents of the test part, `MAX_CHARS` characters at most, drawn by their digests: always the same."""
    held_out = [row for row in table.to_pylist() if row["text"].strip() and part_of(row["text"]) == "test"]
    rows: list[dict[str, Any]] = []
    for row in sorted(held_out, key=lambda row: hashlib.sha256(row["id"].encode()).digest()):
        if sum(len(taken["text"]) for taken in rows) + len(row["text"]) <= MAX_CHARS:
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=table.schema)


def run(command: Callable[[Sequence[str]], int], module: str, arguments: Sequence[str]) -> None:
    print("$", shlex.join(["python", "-m", module, *arguments]), flush=True)
    if status := command(arguments):
        raise SystemExit(status)


def show_entities(rows: Sequence[dict[str, Any]]) -> None:
    """The first lines of the source with the most entities a character, each in its color or in brackets."""
    title("What the tagger finds")
    sources = [row for row in rows if row["kind"] == "source" and len(row["text"].splitlines()) > SHOWN_LINES]
    for row in sorted(sources, key=lambda row: -len(row["entities"]) / len(row["text"]))[:1]:
        print(f"{row['path']}, tokens: {row['num_tokens']:,}, windows: {row['num_windows']}")
        shown, end = row["text"], len("".join(row["text"].splitlines(keepends=True)[:SHOWN_LINES]))
        for entity in sorted(row["entities"], key=lambda entity: -entity["start"]):  # backwards: places stay true
            name = shown[entity["start"] : entity["end"]]
            color = f"\033[1;{COLORS[entity['entity_group']]}m{name}\033[0m"
            marked = color if sys.stdout.isatty() else f"[{name} {entity['entity_group']}]"
            if entity["end"] <= end:
                shown = shown[: entity["start"]] + marked + shown[entity["end"] :]
        print("".join(shown.splitlines(keepends=True)[:SHOWN_LINES]).rstrip())


def show_surprise(rows: Sequence[dict[str, Any]]) -> None:
    title("What the masked language model finds surprising")
    ranked = sorted(rows, key=lambda row: row["nll"])
    for heading, chosen in (("least", ranked[:SHOWN_DOCUMENTS]), ("most", ranked[: -SHOWN_DOCUMENTS - 1 : -1])):
        print(f"{heading}: pseudo-perplexity, tokens, document")
        for row in chosen:
            print(f"  {row['pseudo_perplexity']:8.1f}  {row['num_tokens']:7,}  {row['path']}")


def title(text: str) -> None:
    line = f"\n{text}\n{'-' * len(text)}"
    print(f"\033[1m{line}\033[0m" if sys.stdout.isatty() else line, flush=True)


if __name__ == "__main__":
    main()
