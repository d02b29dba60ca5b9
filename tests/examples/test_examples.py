"""The examples run on the shipped checkpoints, as a reader would run them."""

import sys
from pathlib import Path

import pytest
import torch
import transformers
from commands import run

import bigbird
from examples import documentation

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"


@pytest.mark.parametrize("example", documentation.EXAMPLES, ids=lambda example: example.__name__)
def test_the_documented_examples_run_on_the_shipped_checkpoints(example):
    for value in example(bigbird, CHECKPOINTS / documentation.EXAMPLES[example]).values():
        if isinstance(value, torch.Tensor | float):
            assert torch.as_tensor(value).isfinite().all()


@pytest.mark.parametrize("example", documentation.EXAMPLES, ids=lambda example: example.__name__)
def test_the_documented_examples_give_the_values_of_transformers(tiny_checkpoint, tiny_tokenizer_dir, example):
    """The same code on the same random checkpoint; only the library differs."""
    head = {"bare_model": "BigBirdModel", "causal_lm": "BigBirdForCausalLM", "masked_lm": "BigBirdForMaskedLM"}.get(
        example.__name__, f"BigBirdFor{example.__name__.title().replace('_', '')}"
    )
    tokenizer = bigbird.AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 4096}
    checkpoint = tiny_checkpoint(getattr(bigbird, head), **sizes)
    tokenizer.save_pretrained(checkpoint)
    ours, theirs = example(bigbird, checkpoint), example(transformers, checkpoint)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor | float):
            torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=1e-4)
        else:
            assert ours[name] == value


@pytest.mark.ray
def test_a_corpus_is_scored_from_python_and_the_row_without_text_gets_an_error():
    said = run([sys.executable, "examples/score_corpus.py"])
    assert "ValueError EXCEPTION" in said
    assert "nothing: InputError" in said


@pytest.mark.ray
def test_a_corpus_on_s3_is_scored_to_s3():
    said = run([sys.executable, "examples/s3.py"])
    assert "('path', 'PARAMETER')" in said
