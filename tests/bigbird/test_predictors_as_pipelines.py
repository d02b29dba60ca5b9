"""Predictors beside transformers' own pipelines, on the same checkpoint: the same values, whatever is asked for."""

import numpy as np
import pytest
import transformers
from tiny_predictors import SPECIAL_ROLES

import bigbird
from bigbird import load_predictor
from bigbird.errors import CheckpointError, InputError
from bigbird.predictors import ALIASES, FillMaskOptions, ZeroShotClassificationOptions

TEXT = "Paris is the capital of France; Z\u00fcrich lies on a lake."
LONG = "Each block of tokens reads its neighbours, the first block and the last. " * 5
NLI = {"id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}}


@pytest.fixture(scope="module")
def beside(tiny_checkpoint, tiny_tokenizer_dir):
    """beside(task, head, ...) -> our predictor and transformers' pipeline of one checkpoint."""

    def make(task, head, **config):
        entries = bigbird.BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir).vocab_size
        directory = tiny_checkpoint(getattr(bigbird, head), vocab_size=entries, **config)
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(directory / "tokenizer.json"),
            model_input_names=["input_ids", "attention_mask"],
            **SPECIAL_ROLES,
        )
        model = getattr(transformers, head).from_pretrained(directory)
        return load_predictor(task, directory), transformers.pipeline(task, model=model, tokenizer=tokenizer)

    return make


def assert_candidates_equal(ours, theirs):
    assert [c["token"] for c in ours] == [c["token"] for c in theirs]
    assert [c["token_str"] for c in ours] == [c["token_str"] for c in theirs]
    assert [c["sequence"] for c in ours] == [c["sequence"] for c in theirs]
    assert [c["score"] for c in ours] == pytest.approx([c["score"] for c in theirs], abs=1e-5)


@pytest.mark.parametrize("targets", [None, ["a", "e", "\u0120re", "e"], "n"])
@pytest.mark.parametrize("top_k", [1, 5])
def test_masks_are_filled_as_by_the_pipeline(beside, targets, top_k):
    ours, theirs = beside("fill-mask", "BigBirdForMaskedLM")
    for text in ("Paris is the [MASK] of France", LONG + "[MASK]"):
        (mask,) = ours(text, top_k=top_k, targets=targets, return_sequence=True)["masks"]
        expected = theirs(text, top_k=top_k, **({} if targets is None else {"targets": targets}))
        assert_candidates_equal(mask["candidates"], expected)
    masks = ours("[MASK] is the [MASK]", top_k=top_k, targets=targets, return_sequence=True)["masks"]
    expected = theirs("[MASK] is the [MASK]", top_k=top_k, **({} if targets is None else {"targets": targets}))
    for mask, found in zip(masks, expected, strict=True):
        assert_candidates_equal(mask["candidates"], found)


def test_requests_of_several_targets_share_a_batch(beside):
    ours, _ = beside("fill-mask", "BigBirdForMaskedLM")
    text = "[MASK] is the [MASK]"
    options = [FillMaskOptions(top_k=2), FillMaskOptions(targets=["a", "b"]), FillMaskOptions(targets=["b"], top_k=9)]
    prepared = [item for option in options for item in ours.preprocess([text], option)]
    records = ours.postprocess(prepared, ours.forward(prepared))
    for record, option in zip(records, options, strict=True):
        expected = ours(text, option)
        for mask, alone in zip(record["masks"], expected["masks"], strict=True):
            assert [c["token"] for c in mask["candidates"]] == [c["token"] for c in alone["candidates"]]


def test_a_target_of_several_tokens_is_an_error_record_never_its_first_token(beside):
    ours, _ = beside("fill-mask", "BigBirdForMaskedLM")
    for targets, message in (
        (["a", "zzzzzz"], r"targets[1] is 'zzzzzz', 6 tokens of the vocabulary, expected 1"),
        ([""], "targets[0] is '', 0 tokens"),
        ([], "targets is empty"),
    ):
        assert message in ours("[MASK]", targets=targets)["error"]["message"]


@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("top_k", [None, 1, 2, 9])
def test_texts_are_classified_as_by_the_pipeline(beside, function, num_labels, top_k):
    ours, theirs = beside("text-classification", "BigBirdForSequenceClassification", num_labels=num_labels)
    for text in (TEXT, LONG, {"text": TEXT, "text_pair": "a lake"}):
        found = ours(text, function_to_apply=function, top_k=top_k)["labels"]
        expected = theirs([text], top_k=top_k, **({} if function is None else {"function_to_apply": function}))[0]
        assert [label["label"] for label in found] == [label["label"] for label in expected]
        assert [label["score"] for label in found] == pytest.approx([label["score"] for label in expected], abs=1e-4)


@pytest.mark.parametrize("text", [TEXT, LONG])
def test_every_tokens_features_are_the_pipelines(beside, text):
    ours, theirs = beside("feature-extraction", "BigBirdModel")
    record = ours(text, pooling="none")
    assert np.abs(np.array(record["token_embeddings"]) - np.array(theirs(text)[0])).max() < 1e-4
    assert len(record["token_embeddings"]) == record["num_tokens"] + 2
    normed = np.array(ours(text, pooling="none", normalize=True)["token_embeddings"])
    assert np.abs(np.linalg.norm(normed, axis=1) - 1).max() < 1e-6
    windowed = ours(text, pooling="none", max_length=8, window_overlap=2)
    assert windowed["num_windows"] > 1
    assert np.shape(windowed["token_embeddings"]) == np.shape(record["token_embeddings"])


@pytest.mark.parametrize("labels", [["city", "lake", "block"], "city, lake", ["city"]])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("id2label", [NLI["id2label"], {0: "ENTAILMENT", 1: "not_entailment"}])
def test_labels_of_the_callers_own_are_scored_as_by_the_pipeline(beside, labels, multi_label, id2label):
    ours, theirs = beside("zero-shot-classification", "BigBirdForSequenceClassification", id2label=id2label)
    for text, template in ((TEXT, "This example is {}."), (LONG, "a text of {}")):
        asked = {"candidate_labels": labels, "multi_label": multi_label, "hypothesis_template": template}
        found, expected = ours(text, **asked)["labels"], theirs(text, **asked)
        assert [label["label"] for label in found] == expected["labels"]
        assert [label["score"] for label in found] == pytest.approx(expected["scores"], abs=1e-4)


def test_a_long_text_is_read_in_windows_with_every_label_in_each(beside):
    ours, _ = beside("zero-shot-classification", "BigBirdForSequenceClassification", **NLI)
    options = ZeroShotClassificationOptions(candidate_labels=["city", "lake"], max_length=40, window_overlap=4)
    (item,) = ours.preprocess([LONG], options)
    assert len(item.rows) == 2 * item.num_windows > 4
    assert max(map(len, item.rows)) <= 40
    (logits,) = ours.forward([item])
    assert logits.shape == (item.num_windows, 2, 3)
    assert len(ours(LONG, options)["labels"]) == 2


def test_what_zero_shot_classification_cannot_do_is_refused_by_name(beside, tiny_checkpoint):
    ours, _ = beside("zero-shot-classification", "BigBirdForSequenceClassification", **NLI)
    assert "candidate_labels is empty" in ours(TEXT)["error"]["message"]
    many = ours(TEXT, candidate_labels=["a"] * 50, max_tokens_per_document=200)
    assert "read with each of 50 labels" in many["error"]["message"]
    for template in ("no place", "{x}", "{", "{} {}"):
        with pytest.raises(InputError, match="hypothesis_template is"):
            ours(TEXT, hypothesis_template=template)
    with pytest.raises(CheckpointError, match="labels are LABEL_0, LABEL_1"):
        load_predictor("zero-shot-classification", tiny_checkpoint(bigbird.BigBirdForSequenceClassification))


@pytest.mark.parametrize(("alias", "head"), [("ner", "TokenClassification"), ("sentiment-analysis",
                                                                             "SequenceClassification")])  # fmt: skip
def test_tasks_go_by_the_pipelines_other_names(tiny_checkpoint, alias, head):
    directory = tiny_checkpoint(getattr(bigbird, f"BigBirdFor{head}"))
    assert load_predictor(alias, directory).task == ALIASES[alias]


@pytest.mark.parametrize(
    ("task", "head", "text", "asked"),
    [
        ("fill-mask", "BigBirdForMaskedLM", "Paris is the [MASK] of France", {}),
        ("text-classification", "BigBirdForSequenceClassification", TEXT, {"top_k": None}),
        ("token-classification", "BigBirdForTokenClassification", TEXT, {"aggregation_strategy": "simple"}),
        ("feature-extraction", "BigBirdModel", TEXT, {}),
        ("zero-shot-classification", "BigBirdForSequenceClassification", TEXT, {"candidate_labels": ["city", "lake"]}),
    ],
)
def test_transformers_pipelines_take_our_models_and_tokenizers(beside, task, head, text, asked):
    _, theirs = beside(task, head, **(NLI if "zero" in task else {}))
    directory = theirs.model.name_or_path
    tokenizer = bigbird.AutoTokenizer.from_pretrained(directory)
    ours = transformers.pipeline(task, model=getattr(bigbird, head).from_pretrained(directory), tokenizer=tokenizer)
    assert near(ours(text, **asked), theirs(text, **asked))


def near(found, expected):
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(near(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(near, found, expected))
    return found == expected if isinstance(expected, str | int) else found == pytest.approx(expected, abs=1e-4)
