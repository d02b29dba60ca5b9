"""Four heads on one encoder in one pass, against one head and against four jobs.

Processor seconds of what an actor does with its rows (a table in, a table with results out), in turns, medians: it
says the same on a machine that is busy with other work. The jobs' starts and their reading of the corpus, four times
in the place of once, come on top of the four.
"""

import argparse
import random
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import torch

from benchmarks.measure import in_turns, machine
from bigbird import (
    BigBirdConfig,
    BigBirdForMaskedLM,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
    load_predictor,
)
from bigbird.model import BigBirdModel
from pipelines.scoring.actors.pool import ScoreOptions
from pipelines.scoring.actors.score_rows import ScoreRows
from pipelines.scoring.actors.stages import make_stage
from pipelines.scoring.checks import inspect_model
from pipelines.scoring.scores import Score

TOKENIZER = Path(__file__).parents[2] / "checkpoints" / "fill-mask" / "tokenizer.json"
HEADS = {
    "ner": ("token-classification", BigBirdForTokenClassification),
    "topic": ("text-classification", BigBirdForSequenceClassification),
    "quality": ("text-classification", BigBirdForSequenceClassification),
    "vector": ("feature-extraction", BigBirdForMaskedLM),
}


def scores(options: argparse.Namespace, folder: Path) -> None:
    threads = 1
    torch.set_num_threads(threads)
    print(machine(threads))
    asked = [_checkpoint(folder, name, options.layers) for name in HEADS]
    table = _corpus(options.documents)
    passes = [0]
    _count(passes)
    scorers = {name: _scorer([score]) for name, score in zip(HEADS, asked, strict=True)}
    scorers["all"] = _scorer(asked)
    calls = {}
    for name, scorer in scorers.items():
        passes[0] = 0
        tokens = scorer(table)[f"{'ner' if name == 'all' else name}_num_tokens"]
        calls[name] = passes[0]
    seconds = in_turns({name: _processor_time(scorer, table) for name, scorer in scorers.items()}, options.runs)
    jobs = sum(seconds[name] for name in HEADS)
    print(f"{table.num_rows} documents, {sum(tokens.to_pylist()):,} tokens, {options.layers} layers, float32")
    for name, spent in seconds.items():
        print(f"{name:8} {spent:8.2f} s of processor time, {calls[name]} encoder passes")
    of_one, of_four = seconds["all"] / seconds["ner"], seconds["all"] / jobs
    print(f"four heads in one pass: {of_one:.2f} of one head, {of_four:.2f} of four jobs")


def _checkpoint(folder: Path, name: str, layers: int) -> Score:
    """A head with random weights; all have the encoder that the first one drew."""
    task, head = HEADS[name]
    model = head(BigBirdConfig(num_hidden_layers=layers, vocab_size=8192, id2label=dict(enumerate("ABCD"))))
    encoder = folder / "encoder.pt"
    if not encoder.exists():
        torch.save(model.bert.state_dict(), encoder)
    model.bert.load_state_dict(torch.load(encoder), strict=False)
    model.save_pretrained(folder / name)
    (folder / name / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    return Score(name=name, task=task, model=str(folder / name))


def _corpus(documents: int) -> pa.Table:
    """Files of the running Python's library, none so long that it alone decides."""
    files = sorted(Path(random.__file__).parent.glob("*.py"))
    texts = (path.read_text(errors="replace") for path in random.Random(0).sample(files, len(files)))
    return pa.table({"text": list(islice((text for text in texts if 0 < len(text.strip()) < 30_000), documents))})


def _scorer(asked: list[Score]) -> ScoreRows:
    stage, _ = make_stage(asked, ScoreOptions(), load=load_predictor, inspect=inspect_model)
    return ScoreRows(stage)


def _count(passes: list[int]) -> None:
    encode = BigBirdModel.encode

    def counted(self: BigBirdModel, packed: object) -> torch.Tensor:
        passes[0] += 1
        return encode(self, packed)

    BigBirdModel.encode = counted


def _processor_time(scorer: ScoreRows, table: pa.Table) -> Callable[[], float]:
    def run() -> float:
        began = time.process_time()
        scorer(table)
        return time.process_time() - began

    return run
