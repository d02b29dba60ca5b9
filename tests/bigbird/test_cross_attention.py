"""A decoder beside an encoder: each row of any padded batch is what transformers gives for the row alone."""

import pytest
import torch
from mended_transformers import mended
from parity import assert_gradients_equal, pair, tokens

from bigbird import generate, prepare_for_inference
from bigbird.errors import InputError
from bigbird.generation.options import GenerationOptions

CONFIG = {"is_decoder": True, "add_cross_attention": True, "attention_type": "original_full"}
LENGTHS, ENCODER_LENGTHS = (10, 6, 10, 1), (7, 12, 3, 12)
SIDES = ["left", "right"]


def padded(rows, side, width):
    """Rows of (length, ...) -> (rows, width, ...) and the mask."""
    batch = rows[0].new_zeros(len(rows), width, *rows[0].shape[1:])
    mask = torch.zeros(batch.shape[:2], dtype=torch.long)
    for place, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        batch[place, where], mask[place, where] = row, 1
    if batch.is_floating_point():
        batch += (1 - mask)[..., None] * 9.0  # what stands at padding must not be read
    return batch, mask


def rows():
    ids = [tokens(length, seed=length + place)[0] for place, length in enumerate(LENGTHS)]
    draw = torch.Generator().manual_seed(5)
    return ids, [torch.randn(length, 32, generator=draw) for length in ENCODER_LENGTHS]


def batch(side, encoder_side):
    ids, states = rows()
    ids, mask = padded(ids, side, 10)
    states, encoder_mask = padded(states, encoder_side, 12)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "encoder_hidden_states": states,
        "encoder_attention_mask": encoder_mask,
    }


@pytest.fixture(scope="module")
def models():
    ours, other = pair("BigBirdForCausalLM", **CONFIG)
    return ours, mended(other)


@pytest.fixture(scope="module")
def alone(models):
    """transformers' logits of each row alone, one row after another."""
    with torch.no_grad():
        return torch.cat([theirs(models[1], *row) for row in zip(*rows(), strict=True)])


def theirs(model, ids, states):
    """Their logits of one row alone. With a cache they would read the encoder's states as a past."""
    return model(ids[None], encoder_hidden_states=states[None], use_cache=False).logits[0]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("encoder_side", SIDES)
@pytest.mark.parametrize("attentions", [False, True])
@torch.no_grad()
def test_every_row_of_a_padded_batch_is_the_row_alone(models, alone, side, encoder_side, attentions):
    inputs = batch(side, encoder_side)
    kept = inputs["attention_mask"].bool()
    for model in (models[0], prepare_for_inference(models[0])):
        output = model(**inputs, output_attentions=attentions)
        torch.testing.assert_close(output.logits[kept], alone, atol=1e-4, rtol=1e-5)
    if attentions:
        read = kept[:, None, :, None] & inputs["encoder_attention_mask"].bool()[:, None, None]
        assert torch.equal(output.cross_attentions[1] > 0, read.expand(-1, 2, -1, -1))
        torch.testing.assert_close(output.cross_attentions[1].sum(-1).mean(1)[kept], torch.ones(int(kept.sum())))


@pytest.mark.parametrize("encoder_side", SIDES)
@torch.no_grad()
def test_a_past_goes_on_as_the_row_alone(models, alone, encoder_side):
    inputs = batch("left", encoder_side)
    mask, encoder = inputs["attention_mask"], {k: v for k, v in inputs.items() if k.startswith("encoder")}
    for model in (models[0], prepare_for_inference(models[0])):
        past, logits = None, []
        for start, end in ((0, 5), (5, 6), (6, 10)):
            new = slice(start, end)
            step = model(
                inputs["input_ids"][:, new],
                mask[:, :end],
                position_ids=inputs["position_ids"][:, new],
                past_key_values=past,
                use_cache=True,
                **encoder,
            )
            past = step.past_key_values
            logits.append(step.logits)
        torch.testing.assert_close(torch.cat(logits, 1)[mask.bool()], alone, atol=1e-4, rtol=1e-5)
    assert [tuple(states.shape) for states in past[0]] == [(4, 2, 10, 16)] * 2 + [(4, 2, 12, 16)] * 2


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("encoder_side", SIDES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_a_padded_batch_are_the_sum_of_the_rows_alone(side, encoder_side, checkpointing):
    ours, other = pair("BigBirdForCausalLM", **CONFIG)
    mended(other)
    inputs = batch(side, encoder_side)
    states = inputs["encoder_hidden_states"].requires_grad_()
    if checkpointing:
        ours.gradient_checkpointing_enable()
    kept = inputs["attention_mask"].bool()
    ours.train()(**inputs).logits[kept].square().sum().backward()
    ids, alone = rows()
    alone = [of_row.requires_grad_() for of_row in alone]
    other.train()
    for of_row, encoder in zip(ids, alone, strict=True):
        theirs(other, of_row, encoder).square().sum().backward()
    assert_gradients_equal(ours, {n: p.grad for n, p in other.named_parameters() if p.grad is not None})
    expected, _ = padded([of_row.grad for of_row in alone], encoder_side, 12)
    mask = inputs["encoder_attention_mask"].bool()
    torch.testing.assert_close(states.grad[mask], expected[mask], atol=1e-3, rtol=1e-4)
    assert not states.grad[~mask].any()


@pytest.mark.parametrize("encoder_side", SIDES)
@pytest.mark.parametrize("num_beams", [1, 2])
def test_generated_tokens_are_those_of_the_row_alone(models, encoder_side, num_beams):
    ids, states = rows()
    padded_states, mask = padded(states, encoder_side, 12)
    options = GenerationOptions(max_new_tokens=6, num_beams=num_beams)
    prompts = [of_row.tolist() for of_row in ids]
    together = generate(
        models[0], None, prompts, options, encoder_hidden_states=padded_states, encoder_attention_mask=mask
    )
    for prompt, encoder, found in zip(prompts, states, together, strict=True):
        (single,) = generate(models[0], None, [prompt], options, encoder_hidden_states=encoder[None])
        assert found.token_ids == single.token_ids
    if num_beams == 1:
        for prompt, encoder, found in zip(prompts, states, together, strict=True):
            said = list(prompt)
            with torch.no_grad():
                for _ in found.token_ids:
                    said.append(int(theirs(models[1], torch.tensor(said), encoder)[-1].argmax()))
            assert tuple(said[len(prompt) :]) == found.token_ids


@torch.no_grad()
def test_a_row_whose_states_are_all_masked_reads_nothing_whatever_stands_beside_it(models):
    ids, states = tokens(6, 2), torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(6))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1] = 0
    found = []
    for attentions in (False, True):
        both = models[0](ids, encoder_hidden_states=states, encoder_attention_mask=mask, output_attentions=attentions)
        one = models[0](
            ids[1:],
            encoder_hidden_states=states[1:, :2],
            encoder_attention_mask=mask[1:, :2],
            output_attentions=attentions,
        )
        torch.testing.assert_close(both.logits[1], one.logits[0], atol=1e-5, rtol=1e-5)
        assert torch.isfinite(both.logits).all()
        found.append(both.logits)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)  # nothing is a context of zero, however it is computed


@torch.no_grad()
@pytest.mark.parametrize("states_dtype", [torch.float32, torch.bfloat16])
def test_a_bfloat16_decoder_takes_an_encoders_states_of_either_type(models, alone, states_dtype):
    inputs = batch("left", "right")
    kept = inputs["attention_mask"].bool()
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].to(states_dtype)
    fast = prepare_for_inference(models[0], "bfloat16")
    logits = fast(**inputs).logits[kept]
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - alone).square().mean().sqrt() < 0.1 * alone.std()
    prompts = [of_row.tolist() for of_row in rows()[0]]
    asked = {name: inputs[name] for name in ("encoder_hidden_states", "encoder_attention_mask")}
    results = generate(fast, None, prompts, GenerationOptions(max_new_tokens=3), **asked)
    assert all(result.num_generated_tokens for result in results)


def test_what_does_not_fit_is_refused_by_name(models):
    ours, ids, states = models[0], tokens(6, 2), torch.zeros(2, 5, 32)
    past = ours(ids, encoder_hidden_states=states, use_cache=True).past_key_values
    bad = [
        ({"encoder_hidden_states": states[:1]}, r"must be \(2, encoder_length, 32\), got \(1, 5, 32\)"),
        ({"encoder_hidden_states": states[:, :0]}, r"\(2, encoder_length, 32\), got \(2, 0, 32\)"),
        ({"encoder_hidden_states": states[..., :8]}, r"got \(2, 5, 8\)"),
        (
            {"encoder_hidden_states": states, "encoder_attention_mask": torch.ones(2, 4)},
            r"must be \(2, 5\), got \(2, 4\)",
        ),
        ({"encoder_attention_mask": torch.ones(2, 5)}, "needs encoder_hidden_states"),
        ({"past_key_values": past}, "pass its encoder_hidden_states"),
        ({"past_key_values": past, "encoder_hidden_states": states[:, :4]}, "are of 5 encoder states, got 4"),
    ]
    for arguments, message in bad:
        with pytest.raises(InputError, match=message):
            ours(ids, **arguments)
