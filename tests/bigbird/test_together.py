"""Several predictors over the same rows: what they share is done once, and each gives what it gives alone."""

import json

import pytest
from safetensors.torch import load_file, save_file
from tiny_predictors import near, save_heads_on_one_encoder, tiny_predictor

from bigbird.checkpoint import encoder_digest
from bigbird.model import BigBirdModel
from bigbird.predictors import OPTIONS, Together, load_predictor
from bigbird.tokenization.tokenizer import BigBirdTokenizer

LONG = "the microsoft company met Angela in Zürich and [MASK] returned the parameter value; " * 60
TEXTS = ["the [MASK] company", None, LONG, "", "import numpy as np [MASK]", "the [MASK] company"]
OPTIONS_OF = {
    "fill-mask": {"max_length": 200},
    "masked-lm-scoring": {"num_passes": 3, "return_windows": True},
    "token-classification": {"window_overlap": 8},
    "text-classification": {"max_length": 64, "window_overlap": 16, "return_windows": True},
    "question-answering": {"on_long": "truncate"},
    "feature-extraction": {"pooling": "none", "on_long": "error"},
}


def examples(task):
    if task == "multiple-choice":
        return [text and {"prompt": text, "choices": ["Angela", text[:40]]} for text in TEXTS]
    return [text and {"question": "who?", "context": text} for text in TEXTS] if task[0] == "q" else TEXTS


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return save_heads_on_one_encoder(tmp_path_factory.mktemp("heads"))


@pytest.fixture
def encoded(monkeypatch):
    """The lengths of the rows of every batch that any encoder reads."""
    batches, encode = [], BigBirdModel.encode

    def watched(self, packed):
        batches.append(packed.lengths)
        return encode(self, packed)

    monkeypatch.setattr(BigBirdModel, "encode", watched)
    return batches


@pytest.fixture
def tokenized(monkeypatch):
    """The texts that any tokenizer reads."""
    texts, encode = [], BigBirdTokenizer.encode_batch

    def watched(self, given, **how):
        texts.extend(given)
        return encode(self, given, **how)

    monkeypatch.setattr(BigBirdTokenizer, "encode_batch", watched)
    return texts


def load(heads, options_of, **settings):
    first, predictors = None, []
    for task, directory in heads.items():
        options = OPTIONS[task](**options_of.get(task, {}))
        predictors.append(load_predictor(task, directory, options=options, encoder=first, **settings))
        first = first or predictors[0].encoder
    return Together(predictors)


def test_heads_with_options_of_their_own_give_what_each_gives_alone(heads):
    together = load(heads, OPTIONS_OF, max_tokens_per_batch=700)
    prepared = together.preprocess([examples(task) for task in heads])
    found = together.postprocess(prepared, together.forward(prepared))
    for (task, directory), records in zip(heads.items(), found, strict=True):
        options = OPTIONS[task](**OPTIONS_OF.get(task, {}))
        alone = load_predictor(task, directory, options=options)(examples(task))
        assert near(alone, records), task
        assert any("error" not in record for record in records)


def test_heads_that_read_the_same_rows_need_one_encoder_pass_and_one_of_the_tokenizer(heads, encoded, tokenized):
    tasks = ("token-classification", "text-classification", "feature-extraction")
    together = load({task: heads[task] for task in tasks}, {})
    prepared = together.preprocess([TEXTS] * 3)
    assert sorted(tokenized) == sorted({text for text in TEXTS if text is not None})
    together.forward(prepared)
    once = list(encoded)
    encoded.clear()
    together.predictors[0].forward(prepared[0])
    assert once == encoded
    assert len(once) == 1


def test_a_row_that_one_head_alone_reads_does_not_reach_the_others(heads, encoded):
    tasks = ("token-classification", "fill-mask")
    together = load({task: heads[task] for task in tasks}, {})
    masked, unmasked = "the [MASK] company", "the microsoft company met Angela"
    prepared = together.preprocess([[masked, unmasked]] * 2)
    outputs = together.forward(prepared)
    assert outputs[1][1] is None
    assert [len(lengths) for lengths in encoded] == [2]


def test_the_digest_is_of_the_encoder_and_of_what_changes_its_states(heads, tmp_path):
    first, *others = (encoder_digest(directory) for directory in heads.values())
    assert all(other == first for other in others)
    assert first.num_weights < 512 * 16 + 512 * 16 + 2 * 5000
    directory = heads["token-classification"]
    for name, changes in {
        "attention": {"attention_type": "original_full"},
        "labels": {"id2label": {"0": "A", "1": "B", "2": "C", "3": "D", "4": "E"}},
    }.items():
        (tmp_path / name).mkdir()
        for file in directory.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        config = json.loads((directory / "config.json").read_text())
        config.pop("label2id")
        (tmp_path / name / "config.json").write_text(json.dumps(config | changes))
    assert encoder_digest(tmp_path / "attention") != first
    assert encoder_digest(tmp_path / "labels") == first
    weights = load_file(directory / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.bias"][3] += 1e-6
    save_file(weights, tmp_path / "labels" / "model.safetensors")
    assert encoder_digest(tmp_path / "labels") != first


def test_predictors_of_other_tokenizers_and_encoders_keep_their_own(heads):
    other = tiny_predictor("token-classification", hidden_size=32)
    own = load_predictor("token-classification", heads["token-classification"])
    together = Together([own, other])
    given = [["the microsoft company"]] * 2
    prepared = together.preprocess(given)
    found = together.postprocess(prepared, together.forward(prepared))
    assert found == [own(given[0]), other(given[0])]
