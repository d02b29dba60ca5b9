"""Token types of pairs: none by default, as in transformers, and given where the tokenizer's files name them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_predictors import SPECIAL_ROLES, tiny_predictor, train

from bigbird import load_predictor
from bigbird.errors import CheckpointError
from bigbird.predictors import MultipleChoiceOptions, TextClassificationOptions
from bigbird.tokenization.tokenizer import BigBirdTokenizer

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
NAMES = ["input_ids", "token_type_ids", "attention_mask"]
PAIRS = [("the microsoft company", "met Angela Merkel"), ("in Z\u00fcrich", "import numpy as np")]


@pytest.fixture(scope="module", params=["none", "named"])
def tokenizer(request):
    named = {"model_input_names": NAMES} if request.param == "named" else {}
    return BigBirdTokenizer(train(), {**SPECIAL_ROLES, **named})


def test_predictors_and_the_tokenizers_own_call_give_a_model_the_same_pairs(tokenizer):
    classifier = tiny_predictor("text-classification", tokenizer)
    examples = [{"text": first, "text_pair": second} for first, second in PAIRS]
    records = classifier(examples, TextClassificationOptions(function_to_apply="none"))
    chooser = tiny_predictor("multiple-choice", tokenizer)
    chosen = chooser([{"prompt": first, "choices": [second, "x"]} for first, second in PAIRS], MultipleChoiceOptions())
    for (first, second), record, choice in zip(PAIRS, records, chosen, strict=True):
        inputs = tokenizer(first, second, return_tensors="pt")
        assert ("token_type_ids" in inputs) == ("token_type_ids" in tokenizer.model_input_names)
        pair = tokenizer([first, first], [second, "x"], padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = classifier.model(**inputs).logits[0]
            of_choices = chooser.model(**{name: value[None] for name, value in pair.items()}).logits[0]
        found = {entry["label"]: entry["score"] for entry in record["labels"]}
        expected = {classifier.config.id2label[index]: score for index, score in enumerate(logits.tolist())}
        assert found == pytest.approx(expected, abs=1e-5)
        assert choice["choices"] == pytest.approx(of_choices.softmax(0).tolist(), abs=1e-5)


def test_the_context_of_a_question_has_type_1_as_the_head_itself_would_give_it(tokenizer):
    predictor = tiny_predictor("question-answering", tokenizer)
    prepared = predictor.preprocess([{"question": first, "context": second} for first, second in PAIRS])
    for (first, second), logits in zip(PAIRS, predictor.forward(prepared), strict=True):
        batch = tokenizer(first, second, return_tensors="pt")
        with torch.inference_mode():
            alone = predictor.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        begin = len(tokenizer.encode(first))
        expected = [alone.start_logits[0, 0].item(), *alone.start_logits[0, begin:-1].tolist()]
        assert logits[0][:, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_saved_tokenizers_give_the_same_types_in_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save_pretrained(tmp_path)
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert oracle.model_input_names == tokenizer.model_input_names
    assert dict(oracle(*PAIRS[0])) == dict(tokenizer(*PAIRS[0]))
    again = BigBirdTokenizer.from_pretrained(tmp_path)
    assert again.model_input_names == tokenizer.model_input_names


@pytest.mark.parametrize(
    ("settings", "typed"),
    [
        ({}, False),
        ({"tokenizer_class": "BigBirdTokenizer"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ({"tokenizer_class": "BertTokenizerFast"}, True),
        ({"tokenizer_class": "BertTokenizer", "model_input_names": ["input_ids", "attention_mask"]}, False),
    ],
)
def test_the_files_decide_by_names_and_else_by_the_class_they_name(settings, typed):
    assert ("token_type_ids" in BigBirdTokenizer(train(), settings).model_input_names) is typed


@pytest.mark.parametrize("names", [["attention_mask"], ["input_ids", "pixels"], "input_ids"])
def test_input_names_no_bigbird_has_are_refused(names):
    with pytest.raises(CheckpointError, match="model_input_names is"):
        BigBirdTokenizer(train(), {"model_input_names": names})


def test_shipped_checkpoints_score_pairs_as_transformers_does():
    transformers = pytest.importorskip("transformers")
    for directory in sorted(CHECKPOINTS.glob("*/tokenizer_config.json")):
        assert json.loads(directory.read_text())["model_input_names"] == NAMES, directory
    prompt, choices = "def add(a, b):\n    ", ["return a + b", "import os", "class A: pass"]
    path = CHECKPOINTS / "multiple-choice"
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.BigBirdForMultipleChoice.from_pretrained(path).eval().float()
    pairs = theirs([prompt] * len(choices), choices, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**{name: value[None] for name, value in pairs.items()}).logits[0].softmax(0)
    (record,) = load_predictor("multiple-choice", path)([{"prompt": prompt, "choices": choices}])
    assert record["choices"] == pytest.approx(expected.tolist(), abs=1e-4)

    path = CHECKPOINTS / "question-answering"
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.BigBirdForQuestionAnswering.from_pretrained(path).eval().float()
    question, context = "What does add do?", 'def add(a, b):\n    """Sum of both."""\n    return a + b\n'
    inputs = theirs(question, context, return_tensors="pt")
    predictor = load_predictor("question-answering", path)
    ((logits,),) = predictor.forward(predictor.preprocess([{"question": question, "context": context}]))
    with torch.inference_mode():
        start = model(**inputs).start_logits[0].numpy()
    in_context = np.array([part == 1 for part in inputs.sequence_ids()])
    assert logits[1:, 0] == pytest.approx(start[in_context], abs=2e-3)

    path = CHECKPOINTS / "text-classification"
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.BigBirdForSequenceClassification.from_pretrained(path).eval().float()
    with torch.inference_mode():
        expected = model(**theirs(prompt, context, return_tensors="pt")).logits[0].softmax(0)
    (record,) = load_predictor("text-classification", path)([{"text": prompt, "text_pair": context}])
    found = {entry["label"]: entry["score"] for entry in record["labels"]}
    assert found == pytest.approx({model.config.id2label[i]: p for i, p in enumerate(expected.tolist())}, abs=1e-4)


def test_a_checkpoint_of_ours_without_the_names_reads_pairs_as_transformers_reads_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    path = tmp_path / "older"
    shutil.copytree(CHECKPOINTS / "multiple-choice", path)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    del settings["model_input_names"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    assert dict(BigBirdTokenizer.from_pretrained(path)(*PAIRS[0])) == dict(theirs(*PAIRS[0]))
