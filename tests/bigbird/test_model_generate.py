"""`model.generate`, argument by argument: transformers with the same random weights is the oracle, row by row."""

from typing import Any

import pytest
import torch
from tiny_decoders import prompts_of, with_theirs

from bigbird.errors import InputError
from bigbird.loading.generation_config import GenerationConfig

transformers = pytest.importorskip("transformers")
PAD = 0


def padded(prompts: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    fill = [[PAD] * (width - len(prompt)) for prompt in prompts]
    rows = [f + p if side == "left" else p + f for f, p in zip(fill, prompts, strict=True)]
    masks = [
        [0] * len(f) + [1] * len(p) if side == "left" else [1] * len(p) + [0] * len(f)
        for f, p in zip(fill, prompts, strict=True)
    ]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 12},
        {"max_new_tokens": 12, "eos_token_id": [*range(4, 20)], "min_new_tokens": 3},
        {"max_new_tokens": 10, "repetition_penalty": 1.4, "eos_token_id": 7},
        {"max_new_tokens": 12, "no_repeat_ngram_size": 2, "bad_words_ids": [[7], [11, 12]]},
        {"max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2, "eos_token_id": [*range(4, 20)]},
        {"max_new_tokens": 9, "num_beams": 4, "length_penalty": 0.3, "early_stopping": True, "repetition_penalty": 1.2},
        {"max_new_tokens": 12, "prompt_lookup_num_tokens": 4},
    ],
)
def test_rows_equal_transformers_row_by_row_with_padding_on_either_side(settings: dict[str, Any], side: str):
    theirs, ours = with_theirs(seed=4)
    prompts = prompts_of([5, 30, 12])
    batch = padded(prompts, side)
    found = ours.generate(**batch, **settings)
    assert torch.equal(found[:, :30], batch["input_ids"].repeat_interleave(settings.get("num_return_sequences", 1), 0))
    several = settings.get("num_return_sequences", 1)
    for row, prompt in enumerate(prompts):
        # Of transformers' lookup the same tokens are promised, as of ours: so it is asked without.
        plain = {name: value for name, value in settings.items() if name != "prompt_lookup_num_tokens"}
        expected = theirs.generate(torch.tensor([prompt]), **plain)[:, len(prompt) :]
        new = found[row * several : (row + 1) * several, 30:]
        filled = new[:, : expected.shape[1]] == PAD
        # Its beam search fills up with an end-of-sequence token where pad_token_id is 0.
        assert torch.equal(new[:, : expected.shape[1]].masked_fill(filled, 4), expected.masked_fill(filled, 4))
        assert (new[:, expected.shape[1] :] == PAD).all()


def test_lengths_count_the_padded_prompt_as_transformers_does():
    theirs, ours = with_theirs(seed=5)
    ids = torch.tensor(prompts_of([9]))
    for settings in ({"max_length": 15}, {"max_length": 15, "min_length": 13, "eos_token_id": [*range(4, 60)]}):
        assert torch.equal(ours.generate(ids, **settings), theirs.generate(ids, **settings))
    assert ours.generate(ids, eos_token_id=96).shape == (1, 9 + 20)  # as transformers 5 does, which warns
    assert ours.generate(padded(prompts_of([9, 4]), "left")["input_ids"], max_length=15).shape == (2, 15)
    with pytest.raises(InputError, match="max_length must be above the 9 tokens of input_ids, got 9"):
        ours.generate(ids, max_length=9)


def test_padding_is_inferred_from_the_ids_and_a_model_begins_by_itself():
    theirs, ours = with_theirs(seed=6)
    batch = padded(prompts_of([4, 9]), "left")
    assert torch.equal(ours.generate(batch["input_ids"]), ours.generate(**batch))
    assert torch.equal(ours.generate(max_new_tokens=5), theirs.generate(max_new_tokens=5))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_are_those_of_transformers(num_beams: int):
    theirs, ours = with_theirs(seed=7)
    ids = torch.tensor(prompts_of([9]))
    settings = {"max_new_tokens": 6, "num_beams": num_beams, "repetition_penalty": 1.3}
    asked = {"return_dict_in_generate": True, "output_scores": True}
    found, expected = ours.generate(ids, **settings, **asked), theirs.generate(ids, **settings, **asked)
    assert torch.equal(found.sequences, expected.sequences)
    assert len(found.scores) == len(expected.scores)
    for one, other in zip(found.scores, expected.scores, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    if num_beams > 1:
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-4, rtol=1e-4)
    assert set(ours.generate(ids, return_dict_in_generate=True).keys()) == {"sequences"}


def test_scores_of_sampling_are_the_distributions_drawn_from():
    theirs, ours = with_theirs(seed=7)
    ids = torch.tensor(prompts_of([9]))
    settings = {"max_new_tokens": 1, "do_sample": True, "temperature": 0.8, "top_k": 9, "top_p": 0.9}
    asked = {"return_dict_in_generate": True, "output_scores": True}
    (found,), (expected,) = (model.generate(ids, **settings, **asked).scores for model in (ours, theirs))
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), atol=1e-5, rtol=1e-4)


def test_drawn_texts_follow_the_global_seed_and_differ():
    _, ours = with_theirs(seed=8)
    batch = padded(prompts_of([9, 9]), "left")
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(ours.generate(**batch, do_sample=True, max_new_tokens=8, num_return_sequences=3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len({tuple(row.tolist()) for row in drawn[0]}) == 6


def test_processors_criteria_and_streamers_of_transformers_are_called():
    theirs, ours = with_theirs(seed=9)
    ids = torch.tensor(prompts_of([9]))

    class Chunks(transformers.generation.BaseStreamer):
        def __init__(self) -> None:
            self.seen: list[int] = []
            self.ended = False

        def put(self, value: torch.Tensor) -> None:
            self.seen += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    def arguments(model: Any) -> dict[str, Any]:
        return {
            "max_new_tokens": 20,
            "logits_processor": transformers.LogitsProcessorList(
                [transformers.SuppressTokensLogitsProcessor([3, 5, 7, 8], device="cpu")]
            ),
            "stopping_criteria": transformers.StoppingCriteriaList(
                [lambda ids, scores, **_: torch.tensor([ids.shape[1] > 13])]
            ),
            "streamer": model,
        }

    chunks = Chunks(), Chunks()
    found, expected = ours.generate(ids, **arguments(chunks[0])), theirs.generate(ids, **arguments(chunks[1]))
    assert torch.equal(found, expected)
    assert found.shape[1] == 14
    assert chunks[0].seen == chunks[1].seen == found[0].tolist()
    assert chunks[0].ended


def test_settings_come_from_the_checkpoints_file_and_yield_to_the_call():
    theirs, ours = with_theirs(seed=10)
    ids = torch.tensor(prompts_of([9]))
    recommended = {"max_new_tokens": 7, "repetition_penalty": 1.5, "temperature": 0.7, "top_p": 0.9}
    ours.generation_config = GenerationConfig(**vars(ours.generation_config) | recommended)
    expected = theirs.generate(ids, max_new_tokens=7, repetition_penalty=1.5)
    assert torch.equal(ours.generate(ids), expected)
    assert torch.equal(ours.generate(ids, max_new_tokens=4), expected[:, :13])
    other = transformers.GenerationConfig(max_new_tokens=3, repetition_penalty=1.5)
    assert torch.equal(ours.generate(ids, generation_config=other), expected[:, :12])
    ours.generation_config.typical_p = 0.5
    with pytest.raises(InputError, match=r"typical_p=0\.5, which generate does not offer"):
        ours.generate(ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.7}, "temperature needs do_sample=True, got temperature=0.7 without"),
        ({"top_p": 0.9}, "top_p needs do_sample=True"),
        ({"length_penalty": 2.0}, "length_penalty needs num_beams above 1"),
        ({"do_sample": True, "num_beams": 2}, "num_beams must be 1 with do_sample=True, got 2"),
        ({"do_sample": True, "temperature": 0.0}, "temperature must be above 0 with do_sample=True"),
        ({"num_return_sequences": 2}, "num_return_sequences must be at most num_beams 1 at temperature 0, got 2"),
        ({"use_cache": False}, "use_cache must be True"),
        ({"output_scores": True}, "output_scores needs return_dict_in_generate=True"),
        ({"num_beams": 2, "stopping_criteria": [len]}, "stopping_criteria need num_beams=1"),
        ({"num_beams": 2, "early_stopping": "never"}, "early_stopping must be True or False, got 'never'"),
        ({"token_type_ids": torch.ones(1, 9)}, "token_type_ids must be 0 everywhere"),
        ({"attention_mask": torch.ones(1, 8)}, "attention_mask must be .1, 9., got .1, 8."),
        ({"attention_mask": torch.zeros(1, 9)}, "row 0: a prompt needs at least 1 token, got 0"),
        ({"max_new_tokens": 4000}, "row 0: prompt and max_new_tokens must be at most 2048"),
        ({"encoder_hidden_states": torch.ones(1, 3, 32)}, "add_cross_attention=True"),
    ],
)
def test_what_is_not_offered_or_without_effect_is_refused_by_name(settings: dict[str, Any], message: str):
    _, ours = with_theirs()
    with pytest.raises(InputError, match=message):
        ours.generate(torch.tensor(prompts_of([9])), **settings)


@pytest.mark.parametrize(("name", "near"), [("max_new_token", "max_new_tokens"), ("assistant_model", "")])
def test_an_argument_that_generate_does_not_have_is_refused_as_python_refuses_it(name: str, near: str):
    _, ours = with_theirs()
    with pytest.raises(TypeError, match=f"generate.* unexpected keyword argument '{name}'; the nearest .* '{near}"):
        ours.generate(torch.tensor(prompts_of([9])), **{name: None})
