"""huggingface_hub's InferenceClient, unmodified, against a real server: every parameter gives the library's answer."""

import numpy as np
import pytest
from endpoint_inputs import LONG, TEXT, close, post
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError

from bigbird import BigBirdTokenizer, load_model
from bigbird.generation.generate import GenerationOptions, generate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # as Serve is imported
QUESTION = "Which capital?"
LABELS = ["a lake", "a capital"]
# Of the endpoint and of the client's method: the call, the library's example with its options, and what of the record.
CALLS = {
    "fill-mask": [
        (("Paris is [MASK] capital.",), {"targets": ["a", "P", "i"], "top_k": 2},
         "Paris is [MASK] capital.", {"targets": ("a", "P", "i"), "top_k": 2},
         lambda record: [{k: c[k] for k in ("score", "token", "token_str")} for c in record["masks"][0]["candidates"]]),
    ],
    "token-classification": [
        ((LONG,), {"aggregation_strategy": "first", "ignore_labels": ["O", "LOC"], "stride": 30},
         LONG, {"aggregation_strategy": "first", "ignore_labels": ("O", "LOC"), "window_overlap": 30},
         lambda record: record["entities"]),
    ],
    "text-classification": [
        ((TEXT,), {"top_k": 2, "function_to_apply": "sigmoid"}, TEXT, {"top_k": 2, "function_to_apply": "sigmoid"},
         lambda record: record["labels"]),
    ],
    "zero-shot-classification": [
        ((TEXT, LABELS), {"multi_label": True, "hypothesis_template": "It names {}."}, TEXT,
         {"candidate_labels": LABELS, "multi_label": True, "hypothesis_template": "It names {}."},
         lambda record: record["labels"]),
    ],
    "question-answering": [
        ((QUESTION, LONG), {"align_to_words": False, "doc_stride": 40, "max_answer_len": 5, "max_question_len": 20,
                            "max_seq_len": 200, "top_k": 3},
         {"question": QUESTION, "context": LONG},
         {"align_to_words": False, "window_overlap": 40, "max_answer_len": 5, "max_question_len": 20,
          "max_length": 200, "top_k": 3},
         lambda record: record["answers"]),
        ((QUESTION, TEXT), {"handle_impossible_answer": True}, {"question": QUESTION, "context": TEXT},
         {"allow_no_answer": True}, lambda record: {k: record[k] for k in ("answer", "score", "start", "end")}),
    ],
    "feature-extraction": [
        ((LONG,), {"normalize": True, "truncate": True, "truncation_direction": "left"}, LONG,
         {"normalize": True, "on_long": "truncate", "truncation_side": "left"}, lambda record: [record["embedding"]]),
        ((TEXT,), {"dimensions": 7}, TEXT, {}, lambda record: [record["embedding"][:7]]),
    ],
}  # fmt: skip


def client(url, path):
    return InferenceClient(model=f"{url}/v1/{path}", timeout=90)


def plain(answer):
    """What the client made of the answer, without fields that are null."""
    if isinstance(answer, np.ndarray):
        return answer.astype(float).tolist()
    if isinstance(answer, list):
        return [plain(item) for item in answer]
    return {name: value for name, value in vars(answer).items() if value is not None and name != "sequence"}


@pytest.mark.parametrize("task", CALLS)
def test_huggingface_hub_s_client_gets_what_the_library_gives_with_every_parameter(url, library, task):
    for arguments, keywords, example, options, told in CALLS[task]:
        answer = getattr(client(url, task), task.replace("-", "_"))(*arguments, **keywords)
        assert close(plain(answer), told(library(task)([example], **options)[0])), keywords


def test_what_the_client_may_ask_and_is_not_served_is_refused_by_name(url):
    for keywords, said in (
        ({"prompt_name": "query"}, "prompt_name: not served"),
        ({"dimensions": 99}, "dimensions: 99, the model's vectors have 32"),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            client(url, "feature-extraction").feature_extraction(TEXT, **keywords)
        assert said in str(refused.value)
    with pytest.raises(HfHubHTTPError) as refused:
        client(url, "question-answering").question_answering(QUESTION, TEXT, max_question_len=1)
    assert "max_question_len=1" in str(refused.value)


@pytest.mark.parametrize(
    ("task", "example", "parameters"),
    [
        ("text-classification", LONG, {"top_k": 1}),
        ("zero-shot-classification", LONG, {"candidate_labels": LABELS}),
        ("question-answering", {"question": QUESTION, "context": LONG}, {}),
        ("feature-extraction", LONG, {"normalize": True}),
        ("masked-lm-scoring", LONG, {}),
    ],
)
def test_each_window_s_result_and_place_come_with_the_answer(url, library, task, example, parameters):
    asked = {"inputs": example, "parameters": {**parameters, "return_windows": True}}
    answer = post(url, f"/v1/{task}", asked).json()
    if isinstance(answer, list):
        (answer,) = answer
    (record,) = library(task)([example], **parameters, return_windows=True)
    assert close(answer["windows"], record["windows"])
    assert len(answer["windows"]) == record["num_windows"] > 2
    assert all(answer[name] == record[name] or close(answer[name], record[name]) for name in answer if name in record)


@pytest.fixture
def generated(checkpoints):
    """What the library generates, greedily, after a prompt."""
    model, path = load_model(checkpoints["text-generation"]), checkpoints["text-generation"]
    tokenizer = BigBirdTokenizer.from_pretrained(path)

    def of(**options):
        (result,) = generate(model, tokenizer, ["Paris is"], GenerationOptions(logprobs=True, **options))
        return result

    return of


def test_text_generation_speaks_the_client_s_own_format_whole_and_streamed(url, generated):
    endpoint = client(url, "text-generation")
    wanted = generated(max_new_tokens=20)
    assert endpoint.text_generation("Paris is", max_new_tokens=20) == wanted.text
    whole = endpoint.text_generation("Paris is", max_new_tokens=20, details=True, decoder_input_details=True,
                                     top_n_tokens=2, return_full_text=True)  # fmt: skip
    assert whole.generated_text == "Paris is" + wanted.text
    assert [token.id for token in whole.details.tokens] == list(wanted.token_ids)
    np.testing.assert_allclose([token.logprob for token in whole.details.tokens], wanted.logprobs, atol=1e-3)
    assert whole.details.generated_tokens == wanted.num_generated_tokens
    assert len(whole.details.prefill) == wanted.num_prompt_tokens
    assert all(top[0]["logprob"] >= token.logprob - 1e-4 for top, token in zip(
        whole.details.top_tokens, whole.details.tokens, strict=True
    ))  # fmt: skip
    assert "".join(endpoint.text_generation("Paris is", max_new_tokens=20, stream=True)) == wanted.text
    events = list(endpoint.text_generation("Paris is", max_new_tokens=20, stream=True, details=True))
    assert [event.token.id for event in events] == list(wanted.token_ids)
    assert events[-1].generated_text == wanted.text
    assert events[-1].details.finish_reason == whole.details.finish_reason


def test_text_generation_draws_stops_and_cuts_as_it_is_asked(url, generated):
    endpoint = client(url, "text-generation")
    drawn = endpoint.text_generation("Paris is", max_new_tokens=12, do_sample=True, temperature=0.7, top_k=20,
                                     top_p=0.9, repetition_penalty=1.2, seed=3, details=True)  # fmt: skip
    wanted = generated(max_new_tokens=12, temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.2, seed=3)
    assert drawn.generated_text == wanted.text
    assert drawn.details.seed == 3
    text = generated(max_new_tokens=20).text
    stopped = endpoint.text_generation("Paris is", max_new_tokens=20, stop=[text[4:7]], details=True)
    assert stopped.generated_text == text[: text.index(text[4:7])]
    assert stopped.details.finish_reason == "stop_sequence"
    by_end = endpoint.text_generation(LONG + "Paris is", max_new_tokens=5, truncate=4, details=True)
    assert by_end.details.generated_tokens == 5
    with pytest.raises(ValidationError, match=r"parameters\.max_new_tokens: 5000"):
        endpoint.text_generation("Paris is", max_new_tokens=5000)
