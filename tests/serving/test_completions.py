"""serving.replicas.generation without Ray: OpenAI's choices, their log-probabilities against the model's own logits."""

import asyncio
import math

import pytest
import torch

from bigbird import BigBirdForCausalLM, BigBirdTokenizer, load_model
from bigbird.generation.generate import encode_prompt
from serving.settings import HeadArguments

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # as Serve is imported
TEXT = "Long documents: naïve 😀 café,  two  spaces.\n"


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tiny_tokenizer_dir):
    vocab_size = BigBirdTokenizer.from_pretrained(tiny_tokenizer_dir).vocab_size + 3  # more rows than tokens
    return tiny_checkpoint(BigBirdForCausalLM, is_decoder=True, attention_type="original_full", vocab_size=vocab_size)


@pytest.fixture(scope="module")
def replica(checkpoint):
    from serving.replicas.generation import GenerationReplica

    return GenerationReplica("text-generation", HeadArguments(checkpoint=str(checkpoint), max_tokens_per_request=9000))


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return BigBirdTokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def logprobs_after(checkpoint):
    """Log-probabilities after each of some tokens, (n, V), by the model as anybody would call it."""
    model = load_model(checkpoint).eval()

    def get(ids):
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return get


def asked(prompts, *, n=1, best_of=None, echo=False, **options):
    return {"prompts": prompts, "n": n, "best_of": best_of or n, "echo": echo, "options": options, "timeout_s": 60.0}


@pytest.fixture(scope="module")
def loop(replica):
    """One event loop for the module: an engine's worker lives in the one it was started in."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(replica._loop.close())
    loop.close()


@pytest.fixture
def complete(replica, loop):
    def call(*arguments, **options):
        return loop.run_until_complete(replica.complete(asked(*arguments, **options)))

    return call


def check_logprobs(logprobs, ids, wanted, num_top, num_added=0):
    """wanted: (n, V), the log-probabilities after each of the tokens; the first num_added are not in `logprobs`."""
    assert len(logprobs["tokens"]) == len(ids) - num_added
    for place, token in enumerate(ids[num_added:]):
        row = wanted[place + num_added - 1]
        given, top = logprobs["token_logprobs"][place], logprobs["top_logprobs"][place]
        if place == 0:
            assert (given, top) == (None, None)
            continue
        assert given == pytest.approx(float(row[token]), abs=1e-4)
        assert sorted(top.values(), reverse=True)[:num_top] == pytest.approx(
            row.topk(num_top).values.tolist(), abs=1e-4
        )
        assert top[logprobs["tokens"][place]] == given
        assert len(top) == num_top + (list(top.values()).index(given) == num_top)


@pytest.mark.parametrize("num_top", [0, 1, 5])
def test_an_echoed_prompt_and_its_continuation_have_the_model_s_own_logprobs(
    complete, tokenizer, logprobs_after, num_top
):
    by_ids = [[*encode_prompt(tokenizer, TEXT)[:9]], [7]]
    outcome = complete(
        [TEXT, *by_ids, ""], echo=True, max_new_tokens=4, temperature=0.0, logprobs=True, num_top_logprobs=num_top
    )
    prompts = [encode_prompt(tokenizer, TEXT), *by_ids, [tokenizer.cls_token_id]]
    added = [1, 0, 0, 1]
    assert outcome["usage"]["prompt_tokens"] == sum(map(len, prompts))
    for choice, prompt, num_added in zip(outcome["choices"], prompts, added, strict=True):
        logprobs = choice["logprobs"]
        ids = list(prompt)
        while len(ids) < len(logprobs["tokens"]) + num_added:
            ids.append(int(logprobs_after(ids)[-1].argmax()))
        assert len(ids) == len(prompt) + 4 or ids[-1] == tokenizer.sep_token_id
        if prompt != [tokenizer.cls_token_id]:
            check_logprobs(logprobs, ids, logprobs_after(ids), num_top, num_added)
        assert choice["text"] == tokenizer.decode(ids, skip_special_tokens=True)
        for token, name, begin in zip(ids[num_added:], logprobs["tokens"], logprobs["text_offset"], strict=True):
            if token not in tokenizer.all_special_ids and not name.startswith(("bytes:", "token_id:")):
                assert choice["text"][begin : begin + len(name)] == name


def test_a_prompt_is_scored_without_a_continuation_and_at_the_model_s_full_length(complete, tokenizer, logprobs_after):
    ids = (encode_prompt(tokenizer, TEXT) * 40)[:512]
    (choice,) = complete([ids], echo=True, max_new_tokens=0, logprobs=True, num_top_logprobs=5)["choices"]
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == 512
    check_logprobs(choice["logprobs"], ids, logprobs_after(ids), 5)
    (silent,) = complete([TEXT], echo=True, max_new_tokens=0)["choices"]
    assert silent == {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "length"}
    (empty,) = complete([TEXT], max_new_tokens=0, logprobs=True)["choices"]
    assert (empty["text"], empty["logprobs"]["tokens"]) == ("", [])


def test_offsets_are_places_in_the_text_with_stop_and_streamed_as_at_once(complete, replica, loop, tokenizer):
    options = {"max_new_tokens": 30, "temperature": 1.0, "seed": 4, "logprobs": True, "num_top_logprobs": 2}
    for echo in (False, True):
        (plain,) = complete([TEXT], echo=echo, **options)["choices"]
        start = len(TEXT) * echo
        stop = plain["text"][start + 9 : start + 12]
        call = asked([TEXT], echo=echo, stop=(stop,), **options)
        (choice,) = loop.run_until_complete(replica.complete(call))["choices"]
        end = plain["text"].index(stop, start)
        assert choice["text"] == plain["text"][:end]
        offsets = choice["logprobs"]["text_offset"]
        num = len(offsets)
        assert offsets == [min(offset, end) for offset in plain["logprobs"]["text_offset"][:num]]
        assert choice["logprobs"]["tokens"] == plain["logprobs"]["tokens"][:num]

        async def pieces(call=call):
            return [event async for event in replica.stream(call)]

        joined = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        text = ""
        for event in loop.run_until_complete(pieces()):
            for piece in event.get("choices", ()):
                text += piece["text"]
                for name, values in piece["logprobs"].items():
                    joined[name] += values
        assert (text, joined) == (choice["text"], choice["logprobs"])


def test_a_bias_decides_and_best_of_keeps_the_likeliest(complete):
    (biased,) = complete(["a"], max_new_tokens=3, temperature=1.0, seed=1, logit_bias=((70, 100.0),), logprobs=True)[
        "choices"
    ]
    assert len(set(biased["logprobs"]["tokens"])) == 1
    sampled = {"max_new_tokens": 6, "temperature": 1.5, "seed": 1}
    every = complete(["a", "b"], n=5, logprobs=True, **sampled)["choices"]
    best = complete(["a", "b"], n=2, best_of=5, **sampled)
    assert best["usage"]["completion_tokens"] == sum(len(choice["logprobs"]["tokens"]) for choice in every)
    assert [choice["index"] for choice in best["choices"]] == [0, 1, 2, 3]
    assert {str(choice["logprobs"]) for choice in best["choices"]} == {"None"}
    for number in (0, 1):
        of_prompt = every[5 * number : 5 * number + 5]
        of_prompt.sort(
            key=lambda choice: -math.fsum(choice["logprobs"]["token_logprobs"]) / len(choice["logprobs"]["tokens"])
        )
        wanted = [choice["text"] for choice in of_prompt[:2]]
        assert [choice["text"] for choice in best["choices"][2 * number : 2 * number + 2]] == wanted


@pytest.mark.parametrize(
    ("call", "kind", "message", "param"),
    [
        (asked([[9] * 500], max_new_tokens=13), "context_length_exceeded", "context length is 512 tokens, however you "
         "requested 513 tokens (500 in your prompt; 13 for the completion)", "max_tokens"),
        (asked([[9] * 512]), "context_length_exceeded", "512 in your prompt", "prompt"),
        (asked(["Long, " * 20000]), "context_length_exceeded", "your prompt has more than 512 tokens", "prompt"),
        (asked([[9, 10**6]]), "invalid_input", "prompt: token id 1000000, the limit is", "prompt"),
        (asked(["a"], logit_bias=((10**6, 1.0),)), "invalid_input", "logit_bias must be", "logit_bias"),
        (asked(["a"], max_new_tokens=3, min_new_tokens=4), "invalid_input", "min_tokens must be", "min_tokens"),
        (asked([[9] * 500] * 20), "invalid_input", "prompt: 10000 tokens, the limit is 9000", "prompt"),
        (asked([[9] * 500] * 16, n=16, echo=True, logprobs=True, num_top_logprobs=5), "invalid_input",
         "logprobs: up to", "logprobs"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_the_client_s_words(replica, loop, call, kind, message, param):
    error = loop.run_until_complete(replica.complete(call))["failure"]
    assert (error["kind"], error["param"]) == (kind, param)
    assert message in error["message"]


def test_without_max_tokens_there_are_sixteen_or_as_many_as_fit(complete):
    assert complete([[9] * 500], logit_bias=((70, 100.0),))["usage"]["completion_tokens"] == 12
    assert complete([[9]], logit_bias=((70, 100.0),))["usage"]["completion_tokens"] == 16
