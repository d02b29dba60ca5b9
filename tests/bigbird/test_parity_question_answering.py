"""Answers against the question-answering pipeline of transformers 4.37: later versions have none."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import bigbird
from bigbird.predictors import load_predictor

PYTHON = os.environ.get("TRANSFORMERS_437_PYTHON")


@pytest.mark.skipif(not PYTHON, reason="TRANSFORMERS_437_PYTHON is not set (make parity sets it)")
def test_answers_are_those_of_the_pipeline_of_transformers_437(tiny_checkpoint):
    directory = tiny_checkpoint(bigbird.BigBirdForQuestionAnswering)
    ours = load_predictor("question-answering", directory)
    context = "def tokenize(text: str): raise ValueError. Paris is the capital of France; Z\u00fcrich lies on a lake."
    calls = [
        {"question": question, "context": context, "top_k": top_k, "align_to_words": align, "max_answer_len": length,
         "handle_impossible_answer": impossible}
        for question in ("Where is Paris?", "What is raised?")
        for top_k, align, length, impossible in [(1, True, 15, False), (1, False, 15, False), (5, True, 3, False),
                                                 (8, False, 40, True), (3, True, 15, True)]
    ]  # fmt: skip
    command = [PYTHON, Path(__file__).parents[1] / "support" / "pipeline_437.py", directory]
    process = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    for call, expected in zip(calls, json.loads(process.stdout), strict=True):
        call["allow_no_answer"] = call.pop("handle_impossible_answer")
        record = ours(**call)
        for answer, theirs in zip(
            record.get("answers", [record]), expected if isinstance(expected, list) else [expected], strict=True
        ):
            assert answer["score"] == pytest.approx(theirs["score"], abs=1e-5)
            assert answer["answer"] == theirs["answer"].strip()  # theirs begins with the space before the word
            assert answer["end"] == theirs["end"]
