"""`make demo`: a corpus from this Python, scored by the shipped checkpoints, and what came out.

Documents are taken from the part of the corpus that the checkpoints were not trained on. The two jobs are the
commands printed before them, run in this process; what is shown is read back from the Parquet they wrote.
"""

import hashlib
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from examples.demo_family.corpus_split import part_of
from pipelines import corpus, score

ROOT = Path(__file__).parent.parent
# Relative, as a person at the root of the repository types them.
CHECKPOINTS = Path("checkpoints")
OUTPUT = Path("out") / "demo"

# What two cores score in about a minute: masked-LM scoring reads every document seven times.
SAMPLE_CHARS = 200_000
SHOWN_LINES = 14
SHOWN_DOCUMENTS = 4
COLORS = {"CLASS": 36, "FUNCTION": 33, "PARAMETER": 32, "MODULE": 35, "EXCEPTION": 31}


def main() -> int:
    began = time.monotonic()
    os.chdir(ROOT)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    everything, sample = OUTPUT / "python-docs.parquet", OUTPUT / "sample.parquet"

    title("1  A corpus of long documents, from the running interpreter")
    run(corpus.main, "pipelines.corpus", ["--python-docs", str(everything)])
    documents = held_out_sample(pq.read_table(everything))
    pq.write_table(documents, sample, row_group_size=8)
    print(f"{documents.num_rows} documents that no checkpoint was trained on -> {sample}")
    # One Ray for both jobs, and quiet: what it has to say is for operators.
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")

    for number, task, model in (
        (2, "token-classification", "token-classification"),
        (3, "masked-lm-scoring", "fill-mask"),
    ):
        title(f"{number}  {task} on Ray Data")
        command = ["--task", task, "--model", str(CHECKPOINTS / model), "--input", str(sample)]
        command += ["--output", str(OUTPUT / task), "--id-column", "id", "--overwrite"]
        run(score.main, "pipelines.score", command)

    show_entities(read_output("token-classification"))
    show_surprise(read_output("masked-lm-scoring"))
    title("Where it lies")
    for task in ("token-classification", "masked-lm-scoring"):
        print(f"{OUTPUT / task}/    Parquet: the corpus' columns and the results beside them")
    print(f"\n{time.monotonic() - began:.0f} s in all. Serve the same checkpoints: make serve")
    return 0


def held_out_sample(table: pa.Table) -> pa.Table:
    """Documents of the test part, `SAMPLE_CHARS` characters at most, drawn by their digests: always the same."""
    held_out = [row for row in table.to_pylist() if row["text"].strip() and part_of(row["text"]) == "test"]
    rows: list[dict[str, Any]] = []
    num_chars = 0
    for row in sorted(held_out, key=lambda row: hashlib.sha256(row["id"].encode()).digest()):
        if num_chars + len(row["text"]) <= SAMPLE_CHARS:
            rows.append(row)
            num_chars += len(row["text"])
    return pa.Table.from_pylist(rows, schema=table.schema)


def run(main: Any, module: str, arguments: Sequence[str]) -> None:
    """Runs a command line of the project in this process; a demo that failed must not go on."""
    print("$", shlex.join(["python", "-m", module, *arguments]))
    sys.stdout.flush()
    status = main(arguments)
    if status:
        raise SystemExit(status)


def read_output(task: str) -> list[dict[str, Any]]:
    """The rows of a job without error, as a person would read them: any Parquet reader, the whole directory."""
    rows = pq.read_table(OUTPUT / task).to_pylist()
    return [row for row in rows if row["error"] is None]


def show_entities(rows: Sequence[dict[str, Any]]) -> None:
    title("What the tagger finds: a held-out file with its entities")
    counts = Counter(entity["entity_group"] for row in rows for entity in row["entities"])
    print("  ".join(f"{paint(group, group)} {count:,}" for group, count in counts.most_common()), "in the sample\n")
    sources = [row for row in rows if row["kind"] == "source" and row["text"].count("\n") > SHOWN_LINES]
    if not sources:
        print("no source file of this length in the sample")
        return
    row = max(sources, key=lambda row: len(row["entities"]) / len(row["text"]))
    first, last = densest_lines(row["text"], row["entities"])
    size = f"{row['num_tokens']:,} tokens in {row['num_windows']} window(s)"
    print(f"{row['path']}, lines {first + 1} to {last}, of {size}:")
    begin = sum(len(line) for line in row["text"].splitlines(keepends=True)[:first])
    end = begin + sum(len(line) for line in row["text"].splitlines(keepends=True)[first:last])
    print(marked(row["text"], row["entities"], begin, end).rstrip())


def densest_lines(text: str, entities: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """The `SHOWN_LINES` lines in a row with the most kinds of entities, then the most entities: [first, last)."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def wealth(first: int) -> tuple[int, int]:
        inside = [e for e in entities if starts[first] <= e["start"] < starts[first + SHOWN_LINES]]
        return len({entity["entity_group"] for entity in inside}), len(inside)

    best = max(range(len(lines) - SHOWN_LINES + 1), key=wealth)
    return best, best + SHOWN_LINES


def marked(text: str, entities: Sequence[dict[str, Any]], begin: int, end: int) -> str:
    """`text[begin:end]` with its entities in color, or in brackets where the output is no terminal."""
    pieces, position = [], begin
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if begin <= entity["start"] and entity["end"] <= end and entity["start"] >= position:
            pieces += [text[position : entity["start"]]]
            pieces += [paint(text[entity["start"] : entity["end"]], entity["entity_group"], named=True)]
            position = entity["end"]
    return "".join([*pieces, text[position:end]])


def paint(text: str, group: str, *, named: bool = False) -> str:
    if sys.stdout.isatty():
        return f"\033[1;{COLORS.get(group, 34)}m{text}\033[0m"
    return f"[{text} {group}]" if named else text


def show_surprise(rows: Sequence[dict[str, Any]]) -> None:
    title("What the masked language model finds surprising")
    print("pseudo-perplexity: how many tokens it wavers between, on average, where one is masked\n")
    ranked = sorted(rows, key=lambda row: row["nll"])
    for heading, chosen in (("least", ranked[:SHOWN_DOCUMENTS]), ("most", ranked[: -SHOWN_DOCUMENTS - 1 : -1])):
        print(heading)
        for row in chosen:
            opening = " ".join(row["text"].split())[:54]
            print(f"  {row['pseudo_perplexity']:8.1f}  {row['num_tokens']:7,} tokens  {row['path'][:36]:36}  {opening}")


def title(text: str) -> None:
    line = f"\n{text}\n{'-' * len(text)}"
    print(f"\033[1m{line}\033[0m" if sys.stdout.isatty() else line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
