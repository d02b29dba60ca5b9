"""The scoring job: beside the bare predictor and beside the script a user writes today, and what it costs itself.

    python -m benchmarks.pipelines throughput [--layers 12] [--documents 40] [--input CORPUS.parquet ...]
    python -m benchmarks.pipelines resume [--rows 1000000]
    python -m benchmarks.pipelines scheduling [--actors 8] [--units 2000]
    python -m benchmarks.pipelines growth [--rows 20000 200000]
    python -m benchmarks.pipelines startup|scores|estimate [--runs 5] [--layers 12] [--documents 40]
    python -m benchmarks.pipelines inputs [--megabytes 800] [--files 20000]
    python -m benchmarks.pipelines units [--units 1000000]

throughput: tokens/s end to end (start-up included and apart), two actors of one thread against one of two, the bare
predictor in this process, and transformers in `map_batches`, float32, truncated at 4,096, batches of 8 and of 1
(`--batches`; none where nothing is named). The same documents for all, drawn from the Python corpus, and from each
`--input` in turn; `pipelines.corpus --files` makes one of any folder of text. Ratios are of end-to-end rates.
resume: what a start costs that finds its rows done. scheduling: units a second with actors that do nothing, and with
actors that sleep. growth: time and peak memory of driver and actors, rows short with a tail of 50,000 tokens.
startup: until the first batch and after the last. inputs: one huge row group, many tiny files, JSON lines;
memory and requests counted. units: what a million of them cost the driver. estimate: what `--estimate` says of two
corpora, beside what they then took (`pipelines_parts`).
Without a word: resume, then throughput with two layers.
"""

import argparse
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from benchmarks.actor_memory import actor_pids, peak_rss_mib
from benchmarks.idle import idle
from benchmarks.measure import machine
from benchmarks.pipelines_parts.checkpoint import make_checkpoint
from benchmarks.pipelines_parts.estimated import estimated
from benchmarks.pipelines_parts.inputs import inputs
from benchmarks.pipelines_parts.scores import scores
from benchmarks.pipelines_parts.startup import startup
from benchmarks.pipelines_parts.units import units
from bigbird.predictors import load_predictor
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.inputs.listing import list_inputs
from pipelines.scoring.job import run_job
from pipelines.scoring.ledger.ledger import open_output
from pipelines.scoring.ledger.parts import Footer, digest, part_name, read_parts, write_part
from pipelines.scoring.plan import Job
from pipelines.scoring.storage import locate

THREADS = 2
TASK = "token-classification"


def throughput(options: argparse.Namespace, folder: Path) -> None:
    import torch

    print(machine(THREADS))
    torch.set_num_threads(THREADS)
    model = make_checkpoint(folder / "model", options.layers)
    python = folder / "python.parquet"
    command = [sys.executable, "-m", "pipelines.corpus", "--python-docs", str(python)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for number, source in enumerate([python, *map(Path, options.input or ())]):
        compare(options, model, source, folder / str(number))


def compare(options: argparse.Namespace, model: Path, source: Path, folder: Path) -> None:
    folder.mkdir()
    table = pq.read_table(source, columns=["text"])
    table = table.filter(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(table["text"])), 0))
    picks = sorted(random.Random(0).sample(range(table.num_rows), min(options.documents, table.num_rows)))
    corpus = folder / "sample.parquet"
    pq.write_table(table.take(picks), corpus, row_group_size=8)
    texts = table.take(picks)["text"].to_pylist()
    predictor = load_predictor(TASK, str(model))
    predictor(texts[:1])
    began = time.perf_counter()
    counts = [record.get("num_tokens") or 0 for record in predictor(texts)]
    bare = sum(counts) / (time.perf_counter() - began)
    tokens, truncated = sum(counts), sum(min(count, 4094) for count in counts)
    print(f"{source.name}: {len(texts)} documents, {tokens:,} tokens, {options.layers} layers")
    print(f"bare predictor, {THREADS} threads                {bare:10,.0f} tokens/s")
    del predictor
    best = 0.0
    for actors, threads in ((THREADS, 1), (1, THREADS)):
        output = folder / f"job-{actors}-{threads}"
        pool = ["--num-actors", str(actors), "--num-cpus-per-actor", str(threads)]
        job = ["pipelines.score", "--task", TASK, "--model", str(model), "--output", str(output), *pool]
        began, ended = _timed(job, corpus)
        summaries = [footer.summary for footer in read_parts(locate(str(output))).values()]
        first, last = min(s["started"] for s in summaries), max(s["finished"] for s in summaries)
        rate, scoring = tokens / (ended - began), tokens / (last - first)
        best = max(best, rate)
        print(
            f"job, {actors} actors of {threads} threads               {rate:10,.0f} tokens/s end to end, "
            f"{rate / bare:.2f} of bare; {scoring:,.0f} while scoring, {scoring / bare:.2f} of bare "
            f"({first - began:.1f} s before the first batch, {ended - last:.1f} s after the last)"
        )
    for batch in options.batches:
        began, ended = _timed(["benchmarks.pipelines", "peer", "--model", str(model), "--batch", str(batch)], corpus)
        rate = truncated / (ended - began)
        print(
            f"transformers in map_batches, batches of {batch}  {rate:10,.0f} tokens/s end to end, {truncated:,} tokens "
            f"read; the better job is {best / rate:.1f}x"
        )


def _timed(command: list[str], corpus: Path) -> tuple[float, float]:
    began = time.time()
    whole = [sys.executable, "-m", *command, "--input", str(corpus)]
    done = subprocess.run(whole, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return began, time.time()


def peer(options: argparse.Namespace, folder: Path) -> None:
    """The script a user writes today. Its tokens are those of the documents as truncated; ours reads them whole."""

    class Tagger:
        def __init__(self, model: str) -> None:
            import torch
            from transformers import BigBirdForTokenClassification as Peer
            from transformers import PreTrainedTokenizerFast

            torch.set_num_threads(THREADS)
            special = {"pad_token": "<pad>", "cls_token": "[CLS]", "sep_token": "[SEP]"}
            self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{model}/tokenizer.json", **special)
            self.model = Peer.from_pretrained(model).eval()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            import torch

            texts = list(batch["text"])
            fed = self.tokenizer(texts, padding=True, truncation=True, max_length=4096, return_tensors="pt")
            with torch.inference_mode():
                best = self.model(**fed).logits.argmax(-1)
            return {"text": texts, "labels": [row.tolist() for row in best]}

    # One more than the actor holds: reading and writing are tasks of their own.
    ray.init(num_cpus=THREADS + 1, include_dashboard=False)
    rows = ray.data.read_parquet(options.input[0]).map_batches(
        Tagger,
        fn_constructor_args=(options.model,),
        batch_size=options.batch,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=THREADS,
    )
    rows.write_parquet(str(folder / "peer"))


def resume(options: argparse.Namespace, folder: Path) -> None:
    rows, files = options.rows[0], 20
    each = rows // files
    (folder / "in").mkdir()
    for number in range(files):
        table = pa.table({"text": pa.array(np.full(each, "some words of a document"))})
        pq.write_table(table, folder / "in" / f"{number:03}.parquet", row_group_size=10_000)
    listing = list_inputs([str(folder / "in")])
    row = pa.table({"nll": [0.0]})
    start = {"fingerprint": {}, "listing": listing, "schema": row.schema, "unit_bytes": 1 << 20}
    ledger = open_output(locate(str(folder / "out")), **start)
    for file in listing.files:
        for begin in range(0, each, 5000):
            ranges = ((file.name, begin, begin + 5000),)
            write_part(ledger.output, part_name(digest({}), ranges), row, Footer(digest({}), ranges, {"retryable": 0}))
    began = time.perf_counter()
    listing = list_inputs([str(folder / "in")])
    listed = time.perf_counter()
    ledger = open_output(locate(str(folder / "out")), **{**start, "listing": listing})
    left = ledger.units_left(listing)
    ended = time.perf_counter()
    assert not left
    assert ledger.num_done == each * files
    print(machine(1))
    print(
        f"{ledger.num_done:,} rows done in {len(ledger.parts)} files: {listed - began:.2f} s to list the input, "
        f"{ended - listed:.2f} s to read the ledger; peak memory {peak_rss_mib(os.getpid())} MiB"
    )


def scheduling(options: argparse.Namespace, folder: Path) -> None:
    rows_a_unit = 8
    rows = options.units * rows_a_unit
    table = pa.table({"text": pa.array([f"{number:06} " * 40 for number in range(rows)])})
    pq.write_table(table, folder / "in.parquet", row_group_size=rows_a_unit, use_dictionary=False)
    print(machine(1))
    ray.init(num_cpus=options.actors, include_dashboard=False, log_to_driver=False)
    for seconds in (0.0, 0.5):
        output = folder / f"out-{seconds}"
        job = Job(
            task="masked-lm-scoring",
            model="idle",
            inputs=[str(folder / "in.parquet")],
            output=str(output),
            options=ScoreOptions(num_actors=options.actors, num_cpus_per_actor=1),
            unit_bytes=4000,  # more than a row group has: each is a unit
        )
        began = time.process_time()
        run_job(job, **idle(seconds / rows_a_unit), out=io.StringIO())
        driver = time.process_time() - began
        summaries = [footer.summary for footer in read_parts(locate(str(output))).values()]
        span = max(s["finished"] for s in summaries) - min(s["started"] for s in summaries)
        asleep = seconds * len(summaries) / options.actors / span
        ideal = f", {asleep:.0%} of the sleepers' time asleep" if seconds else ""
        print(
            f"{options.actors} actors, {seconds} s a unit: {len(summaries) / span:,.0f} units/s{ideal}; "
            f"driver: {1000 * driver / len(summaries):.1f} ms of processor time a unit, {peak_rss_mib(os.getpid())} MiB"
        )


def growth(options: argparse.Namespace, folder: Path) -> None:
    print(machine(1))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    for rows in options.rows:
        source = folder / f"in-{rows}"
        source.mkdir()
        for number in range(0, rows, 20_000):
            lengths = [50_000 if row % 2000 == 0 else 5 + row % 60 for row in range(min(20_000, rows))]
            texts = ["word " * length for length in lengths]
            pq.write_table(pa.table({"text": texts}), source / f"{number:07}.parquet", use_dictionary=False)
        job = Job(
            task="masked-lm-scoring",
            model="idle",
            inputs=[str(source)],
            output=str(folder / f"out-{rows}"),
            options=ScoreOptions(num_actors=1, num_cpus_per_actor=1),
            unit_bytes=1 << 20,
        )
        seen = [0]
        began = time.perf_counter()
        summary = run_job(job, **idle(0.0), out=_Watched(seen))
        print(
            f"{summary.documents:,} rows, {summary.tokens:,} words: {time.perf_counter() - began:.1f} s; "
            f"peak memory: driver {peak_rss_mib(os.getpid())} MiB, largest actor {seen[0]} MiB"
        )


class _Watched(io.StringIO):
    """Where the progress goes; every line is an occasion to look at the actors."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self._seen = seen

    def write(self, text: str) -> int:
        self._seen[0] = max([self._seen[0], *map(peak_rss_mib, actor_pids())])
        return super().write(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"throughput": throughput, "resume": resume, "scheduling": scheduling, "growth": growth, "peer": peer}
    parts |= {"startup": startup, "inputs": inputs, "units": units, "scores": scores}
    parts["estimate"] = estimated
    parser.add_argument("part", nargs="?", choices=parts)
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--input", nargs="+")
    parser.add_argument("--batches", type=int, nargs="*", default=[8, 1])
    parser.add_argument("--model")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, nargs="+", default=None)
    parser.add_argument("--actors", type=int, default=8)
    parser.add_argument("--units", type=int, default=None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=800)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.units = options.units or (1_000_000 if options.part == "units" else 2000)
    chosen = [options.part] if options.part else ["resume", "throughput"]
    options.layers = options.layers or (12 if options.part else 2)
    options.rows = options.rows or ([20_000, 200_000] if options.part == "growth" else [1_000_000])
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="pipelines-") as folder:
            parts[name](options, Path(folder))


if __name__ == "__main__":
    main()
