"""load_predictor: from a checkpoint directory to records, and what it refuses before it reads weights."""

import pytest

import bigbird
from bigbird.errors import CheckpointError, ConfigError, InputError
from bigbird.predictors import (
    HEADS,
    OPTIONS,
    TASKS,
    FillMaskOptions,
    TextClassificationOptions,
    TextGenerationOptions,
    load_predictor,
)
from bigbird.predictors.tasks import check_checkpoint

EXAMPLES = {
    "fill-mask": "Paris is the [MASK] of France",
    "question-answering": {"question": "What is Paris?", "context": "Paris is the capital of France."},
    "multiple-choice": {"prompt": "Paris is", "choices": ["a lake", "the capital of France"]},
}
READING_TASKS = [task for task in TASKS if task not in ("text-generation", "zero-shot-classification")]


def head_of(task):
    return getattr(bigbird, HEADS[task][0]) if HEADS[task] else bigbird.BigBirdModel


@pytest.mark.parametrize("task", READING_TASKS)
def test_a_checkpoint_becomes_a_predictor_with_the_same_results_as_the_plain_model(tiny_checkpoint, task):
    directory = tiny_checkpoint(head_of(task))
    predictor = load_predictor(task, directory)
    example = EXAMPLES.get(task, "Paris is the capital of France")
    plain = type(predictor)(predictor.tokenizer, predictor.config, head_of(task).from_pretrained(directory).eval())
    assert predictor.task == task
    assert isinstance(predictor.options, OPTIONS[task])
    assert predictor.max_tokens_per_batch == 16_384
    (record,), (expected,) = predictor([example]), plain([example])
    assert record.keys() == expected.keys()
    assert record["num_tokens"] == expected["num_tokens"]
    for key in ("nll", "score", "embedding", "choices"):
        assert record.get(key) == pytest.approx(expected.get(key), abs=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_precisions_give_nearly_the_same_score(tiny_checkpoint, dtype):
    directory = tiny_checkpoint(bigbird.BigBirdForMaskedLM)
    text = "Paris is the capital of France; Z\u00fcrich lies on a lake."
    try:
        predictor = load_predictor("masked-lm-scoring", directory, dtype=dtype)
    except ConfigError as error:
        pytest.skip(str(error))
    (exact,) = load_predictor("masked-lm-scoring", directory)([text])
    assert predictor([text])[0]["nll"] == pytest.approx(exact["nll"], rel=0.05)


def test_masked_lm_tasks_read_pretraining_checkpoints(tiny_checkpoint):
    predictor = load_predictor("fill-mask", tiny_checkpoint(bigbird.BigBirdForPreTraining))
    assert "masks" in predictor([EXAMPLES["fill-mask"]])[0]


def test_embeddings_come_from_the_encoder_of_any_head(tiny_checkpoint):
    predictor = load_predictor("feature-extraction", tiny_checkpoint(bigbird.BigBirdForTokenClassification))
    assert len(predictor(["Paris"])[0]["embedding"]) == predictor.config.hidden_size


def test_without_weights_none_are_read(tiny_checkpoint):
    directory = tiny_checkpoint(bigbird.BigBirdForMaskedLM)
    (directory / "model.safetensors").unlink()
    predictor = load_predictor("masked-lm-scoring", directory, weights=False)
    assert predictor.preprocess(["Paris"])[0].num_tokens > 0


def test_options_and_budget_given_at_loading_hold_for_every_call(tiny_checkpoint):
    options = FillMaskOptions(top_k=2)
    directory = tiny_checkpoint(bigbird.BigBirdForMaskedLM)
    predictor = load_predictor("fill-mask", directory, options=options, max_tokens_per_batch=99)
    assert predictor.max_tokens_per_batch == 99
    masks = predictor([EXAMPLES["fill-mask"]])[0]["masks"]
    assert len(masks[0]["candidates"]) == 2


def test_what_cannot_work_is_refused_by_name(tiny_checkpoint):
    directory = tiny_checkpoint(bigbird.BigBirdForMaskedLM)
    with pytest.raises(InputError, match="task 'summarization' is not known; the tasks are fill-mask"):
        load_predictor("summarization", directory)
    with pytest.raises(CheckpointError, match=r"TokenClassification; .* has BigBirdForMaskedLM"):
        load_predictor("token-classification", directory)
    with pytest.raises(InputError, match="TextClassificationOptions, expected FillMaskOptions"):
        load_predictor("fill-mask", directory, options=TextClassificationOptions())
    with pytest.raises(InputError, match="max_length is 513, but the model reads at most 512"):
        load_predictor("fill-mask", directory, options=FillMaskOptions(max_length=513))
    with pytest.raises(InputError, match="max_tokens_per_batch is 0"):
        load_predictor("fill-mask", directory, max_tokens_per_batch=0)


def test_a_causal_model_goes_on_from_its_prompts(tiny_checkpoint):
    directory = tiny_checkpoint(bigbird.BigBirdForCausalLM, is_decoder=True, attention_type="original_full")
    options = TextGenerationOptions(max_new_tokens=3, eos_token_ids=())
    records = load_predictor("text-generation", directory, options=options)(["Paris is", None, "the capital"])
    assert [record.get("num_generated_tokens") for record in records] == [3, None, 3]
    assert "error" in records[1]


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("zero-shot-classification", {"id2label": {0: "yes", 1: "no"}}, "begins with 'entail' .* labels are yes, no"),
        ("zero-shot-classification", {"id2label": {0: "entailment"}}, "labels are entailment$"),
        (
            "token-classification",
            {"task_specific_params": {"token-classification": {"aggregation_strategy": "longest"}}},
            "aggregation_strategy is 'longest', expected one of",
        ),
    ],
)
def test_what_a_task_asks_of_labels_is_known_from_the_configuration_alone(task, changes, message):
    config = bigbird.BigBirdConfig(architectures=HEADS[task], **changes)
    with pytest.raises((CheckpointError, InputError), match=message):
        check_checkpoint(task, "model", config, None)
