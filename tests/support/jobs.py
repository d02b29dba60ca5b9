"""A scoring job in a test: a corpus, the command line, what it left, and a stand-in for the model."""

import io
import os

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.scoring.checks import ModelInfo


class CountCharacters:
    """A masked-lm-scoring predictor whose nll is the length of the text; some texts do what corpora do."""

    def __init__(self, marker):
        self.marker = marker

    def preprocess(self, examples, options=None):
        return list(examples)

    def forward(self, prepared):
        for text in prepared:
            if text == "raises":
                raise RuntimeError("no luck with this one")
            if text == "kills":
                os._exit(1)
            if text == "memory" and not os.path.exists(self.marker):
                raise MemoryError("not now")
        return [None if text is None else len(text) for text in prepared]

    def postprocess(self, prepared, outputs, options=None):
        return [
            {"error": {"type": "InputError", "message": "text is null, expected a string"}}
            if length is None
            else {
                "nll": length / 3,
                "pseudo_perplexity": 1.0,
                "num_tokens": length,
                "num_windows": 1,
                "truncated": False,
            }
            for length in outputs
        ]


def model_info(task, model, dtype="float32", options=None):
    return ModelInfo(digest=model, embedding_size=4, weight_bytes=1000)


def write_corpus(path, rows, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": list(range(len(rows))), "text": rows, **columns}), path, row_group_size=25)
    return path


def command(folder, *more):
    return [
        *("--task", "masked-lm-scoring", "--model", "m", "--input", str(folder / "in")),
        *("--output", str(folder / "out"), "--target-file-size", "150", "--num-actors", "1", *more),
    ]


def records(folder):
    rows = [row for name in parts(folder) for row in pq.read_table(folder / "out" / name).to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows), "a row is there twice"
    return {row["id"]: row for row in rows}


def parts(folder):
    return {path.name: path.stat().st_mtime_ns for path in sorted((folder / "out").glob("part-*"))}


class SaidSoFar(io.StringIO):
    """What was written, and a call when a text first stands in it."""

    def __init__(self, text, then):
        super().__init__()
        self._text, self._then = text, then

    def write(self, said):
        written = super().write(said)
        if self._then and self._text in self.getvalue():
            then, self._then = self._then, None
            then()
        return written
