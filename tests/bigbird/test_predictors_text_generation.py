"""text-generation: records equal what `generate` says of each prompt alone; long prompts are refused or cut openly."""

import json
import pickle
from dataclasses import replace

import pytest

from bigbird import BigBirdForCausalLM
from bigbird.errors import InputError
from bigbird.generation.generate import generate
from bigbird.predictors import load_predictor
from bigbird.predictors.examples import Failed
from bigbird.predictors.text_generation import TextGenerationOptions, TextGenerationPredictor
from bigbird.tokenization.tokenizer import BigBirdTokenizer

PROMPTS = ["Paris is", "def tokenize(text", "Long documents are read in blocks. " * 5, "é", ""]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint(BigBirdForCausalLM, is_decoder=True)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    model = BigBirdForCausalLM.from_pretrained(checkpoint).eval()
    return TextGenerationPredictor(BigBirdTokenizer.from_pretrained(checkpoint), model.config, model)


@pytest.mark.parametrize(
    "options",
    [
        TextGenerationOptions(max_new_tokens=12),
        TextGenerationOptions(
            max_new_tokens=12, temperature=0.9, top_p=0.9, seed=3, logprobs=True, prompt_logprobs=True
        ),
        TextGenerationOptions(max_new_tokens=8, num_beams=3),
    ],
)
def test_records_are_what_generate_says_of_each_prompt_alone(predictor, options):
    records = predictor([PROMPTS[0], None, *PROMPTS[1:]], options)
    assert records[1]["error"]["type"] == "InputError"
    for prompt, record in zip(PROMPTS, [records[0], *records[2:]], strict=True):
        (alone,) = generate(predictor.model, predictor.tokenizer, [prompt], options.generation)
        logprobs = record.pop("logprobs", None)
        if options.logprobs:
            assert logprobs == pytest.approx(alone.logprobs, abs=1e-4)
            expected = [item.logprob for item in alone.prompt_logprobs]
            assert record.pop("prompt_logprobs") == pytest.approx(expected, abs=1e-4)
        assert record == {
            "generated_text": alone.text,
            "finish_reason": alone.finish_reason,
            "num_prompt_tokens": alone.num_prompt_tokens,
            "num_generated_tokens": alone.num_generated_tokens,
            "num_tokens": alone.num_prompt_tokens - 1,
            "num_windows": 1,
            "truncated": False,
        }
    json.dumps(records)


def test_a_prompt_too_long_is_an_error_or_cut_at_its_beginning_and_says_so(predictor):
    text = "Each block of tokens reads its neighbours. " * 120
    options = TextGenerationOptions(max_new_tokens=10)
    (record,) = predictor([text], options)
    assert "512 less max_new_tokens=10 leave room for 501" in record["error"]["message"]
    options = TextGenerationOptions(max_new_tokens=10, on_long="truncate")
    (record,) = predictor([text], options)
    assert record["truncated"]
    assert record["num_tokens"] == 501
    ids = [predictor.tokenizer.cls_token_id, *predictor.tokenizer.encode(text, add_special_tokens=False)[-501:]]
    (alone,) = generate(predictor.model, predictor.tokenizer, [ids], options.generation)
    assert record["generated_text"] == alone.text
    (record,) = predictor(["a"], TextGenerationOptions(max_new_tokens=511))
    assert "leaves a prompt no room among the model's 512" in record["error"]["message"]


def test_full_texts_begin_with_the_prompt_and_several_are_all_in_the_record(predictor):
    plain = TextGenerationOptions(max_new_tokens=6, temperature=1.0, seed=2)
    several = replace(plain, num_return_sequences=3, return_full_text=True)
    (record,) = predictor(["Paris is"], several)
    alone = [predictor(["Paris is"], replace(plain, seed=seed))[0]["generated_text"] for seed in (2, 3, 4)]
    assert [one["generated_text"] for one in record["generated_sequences"]] == ["Paris is" + text for text in alone]
    assert record["generated_text"] == "Paris is" + alone[0]
    (record,) = predictor(["Paris is"], TextGenerationOptions(max_new_tokens=6, num_beams=3, num_return_sequences=2))
    assert len({one["generated_text"] for one in record["generated_sequences"]}) == 2


def test_preprocess_needs_no_weights_and_travels(predictor):
    light = TextGenerationPredictor(predictor.tokenizer, predictor.config)
    prepared = pickle.loads(pickle.dumps(light.preprocess(["Paris is", 5])))
    assert isinstance(prepared[1], Failed)
    assert light.postprocess(prepared, predictor.forward(prepared)) == predictor(["Paris is", 5])


def test_load_predictor_knows_the_task(checkpoint):
    loaded = load_predictor("text-generation", checkpoint, options=TextGenerationOptions(max_new_tokens=3))
    (record,) = loaded(["Paris is"])
    assert record["num_generated_tokens"] <= 3


def test_options_beyond_their_limit_are_refused():
    with pytest.raises(InputError, match="on_long is 'window', expected one of truncate, error"):
        TextGenerationOptions(on_long="window")
    with pytest.raises(InputError, match="max_new_tokens"):
        TextGenerationOptions(max_new_tokens=0)
