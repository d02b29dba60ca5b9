"""Our heads against transformers 5: same weights, batch of one, no padding, a fresh model a call.

What transformers gets wrong in batches (BIGBIRD's table in ARCHITECTURE.md) is asserted in test_model.py.
"""

import pytest
import torch
import transformers
from mended_transformers import mended
from parity import LOSSES, assert_gradients_equal, assert_same, pair, tokens

HEADS = [
    "BigBirdModel",
    "BigBirdForPreTraining",
    "BigBirdForMaskedLM",
    "BigBirdForSequenceClassification",
    "BigBirdForTokenClassification",
    "BigBirdForQuestionAnswering",
]
THREE_HEADS = ("BigBirdForMaskedLM", "BigBirdForSequenceClassification", "BigBirdForTokenClassification")
LENGTHS = [1, 63, 64, 300, 704, 705, 900, 1024, 2500, 4096]


FIELDS = {
    "BigBirdModel": ("last_hidden_state", "pooler_output"),
    "BigBirdForPreTraining": ("prediction_logits", "seq_relationship_logits"),
    "BigBirdForQuestionAnswering": ("start_logits", "end_logits"),
}


@pytest.mark.parametrize(
    ("head", "length"),
    [(head, length) for head in HEADS for length in LENGTHS if length <= 1024 or head in THREE_HEADS],
)
def test_logits_and_hidden_states_equal_transformers(head, length):
    ours, theirs = pair(head)
    ids = tokens(length)
    with torch.no_grad():
        a, b = ours(ids, output_hidden_states=True), theirs(ids, output_hidden_states=True)
    assert_same(a, b, length, (*FIELDS.get(head, ("logits",)), "hidden_states"))


@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("num_random_blocks", [1, 3])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("rescale_embeddings", [True, False])
def test_every_configuration_equals_transformers(block_size, num_random_blocks, use_bias, rescale_embeddings):
    config = {
        "block_size": block_size,
        "num_random_blocks": num_random_blocks,
        "use_bias": use_bias,
        "rescale_embeddings": rescale_embeddings,
    }
    for length in (300, 900):
        ours, theirs = pair("BigBirdForMaskedLM", **config)
        with torch.no_grad():
            assert_same(ours(tokens(length)), theirs(tokens(length)), length, ("logits",))


@pytest.mark.parametrize("activation", ["gelu", "gelu_fast", "relu", "silu"])
def test_activations_equal_transformers(activation):
    ours, theirs = pair("BigBirdForTokenClassification", hidden_act=activation)
    with torch.no_grad():
        assert_same(ours(tokens(40)), theirs(tokens(40)), 40, ("logits",))


@pytest.mark.parametrize("length", [50, 800])
def test_masks_types_positions_and_embeddings_equal_transformers(length):
    ours, theirs = pair("BigBirdModel")
    generator = torch.Generator().manual_seed(3)
    mask = (torch.rand(1, length, generator=generator) > 0.2).long()
    mask[0, -1] = 1
    inputs = {
        "inputs_embeds": torch.randn(1, length, 32, generator=generator),
        "token_type_ids": torch.randint(0, 2, (1, length), generator=generator),
        "position_ids": torch.randint(0, 4096, (1, length), generator=generator),
        "attention_mask": mask,
    }
    with torch.no_grad():
        a, b = ours(**inputs).last_hidden_state, theirs(**inputs).last_hidden_state
    torch.testing.assert_close(a, b * mask[..., None], atol=1e-4, rtol=1e-5)


def test_multiple_choice_equals_transformers():
    for length in (30, 710):
        ours, theirs = pair("BigBirdForMultipleChoice")
        ids = torch.stack([tokens(length, 3, seed) for seed in range(2)])
        labels = torch.tensor([2, 0])
        with torch.no_grad():
            a, b = ours(ids, labels=labels), theirs(ids, labels=labels)
        assert_same(a, b, 0, ("logits", "loss"))


@pytest.mark.parametrize("positions", [(2, 3, 20), (20,)])
def test_choices_with_embeddings_masks_types_and_positions_equal_transformers(positions):
    ours, theirs = pair("BigBirdForMultipleChoice")
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 3, 20, dtype=torch.long)
    mask[0, 1, 15:] = 0
    inputs = {
        "inputs_embeds": torch.randn(2, 3, 20, 32, generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, (2, 3, 20), generator=generator),
        "position_ids": torch.randint(0, 99, positions, generator=generator),
    }
    with torch.no_grad():
        assert_same(ours(**inputs), theirs(**inputs), 0, ("logits",))


QUESTIONS = {
    "given lengths": lambda ids: {"input_ids": ids, "question_lengths": torch.tensor([[5], [9]])},
    "no separator": lambda ids: {"input_ids": ids.masked_fill(ids == 66, 70)},
    "given types": lambda ids: {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)},
    "embeddings": lambda ids: {"inputs_embeds": torch.randn(2, ids.shape[1], 32)},
    "embeddings and lengths": lambda ids: {
        "inputs_embeds": torch.randn(2, ids.shape[1], 32),
        "question_lengths": torch.tensor([[5], [9]]),
    },
    "positions beyond the row": lambda ids: {
        "input_ids": ids,
        "start_positions": torch.tensor([[12], [99]]),
        "end_positions": torch.tensor([[14], [40]]),
    },
}


@pytest.mark.parametrize("kind", QUESTIONS)
def test_questions_of_every_kind_equal_transformers(kind):
    ours, theirs = pair("BigBirdForQuestionAnswering")
    inputs = QUESTIONS[kind](tokens(40, 2))
    with torch.no_grad():
        a, b = ours(**inputs), theirs(**inputs)
    assert_same(a, b, 40, ("start_logits", "end_logits", *(["loss"] if "start_positions" in inputs else [])))
    assert (a.start_logits[:, 1:4].max() < -1e5) == (kind not in ("no separator", "embeddings"))


KINDS = [
    ({"num_labels": 3, "problem_type": "regression"}, torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])),
    ({"num_labels": 1}, torch.tensor([1, 2])),
    ({"num_labels": 1}, torch.tensor([[0.5], [2.0]])),
    ({"num_labels": 3}, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])),
    ({"num_labels": 3}, torch.tensor([[1], [2]])),
]


@pytest.mark.parametrize(("config", "labels"), KINDS)
def test_losses_of_every_problem_type_equal_transformers(config, labels):
    ours, theirs = pair("BigBirdForSequenceClassification", **config)
    ids = tokens(30, 2)
    torch.testing.assert_close(ours(ids, labels=labels).loss, theirs(ids, labels=labels).loss, rtol=1e-5, atol=1e-6)
    assert ours.config.problem_type == config.get("problem_type")  # theirs writes what it found into the configuration


@pytest.mark.parametrize(("head", "config", "make_labels"), LOSSES)
@pytest.mark.parametrize("length", [100, 720, 1024])
def test_losses_and_gradients_in_training_equal_transformers(head, config, make_labels, length):
    ours, theirs = pair(head, **config)
    ids = tokens(length)
    losses = []
    for model in (ours.train(), theirs.train()):
        loss = model(ids, **make_labels(ids)).loss
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert_gradients_equal(ours, {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("length", [1500, 3072, 4096])
def test_gradients_through_long_seeded_plans_equal_transformers(length):
    ours, theirs = pair("BigBirdForTokenClassification")
    ids = tokens(length)
    for model in (ours.train(), theirs.train()):
        model(ids, labels=ids % 2).loss.backward()
    assert_gradients_equal(ours, {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})


@pytest.mark.parametrize(("head", "config", "make_labels"), LOSSES)
def test_tuples_are_transformers_tuples(head, config, make_labels):
    ours, theirs = pair(head, **config | {"attention_type": "original_full"})
    theirs.set_attn_implementation("eager")
    ids = tokens(40)
    asked = {"return_dict": False, "output_hidden_states": True, "output_attentions": True, **make_labels(ids)}
    with torch.no_grad():
        a, b = ours(ids, **asked), theirs(ids, **asked)
    assert type(a) is tuple
    # Theirs ends with an empty tuple where there is no cross-attention.
    for x, y in zip(a, [field for field in b if not isinstance(field, tuple) or field], strict=True):
        if not isinstance(y, transformers.Cache):
            assert_equal_or_all_equal(x, y)


def assert_equal_or_all_equal(ours, theirs) -> None:
    for x, y in zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]:
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-5)


def test_a_decoder_with_past_and_cross_attention_equals_transformers():
    config = {"is_decoder": True, "add_cross_attention": True, "attention_type": "original_full"}
    ours, theirs = pair("BigBirdForCausalLM", **config)
    mended(theirs)
    ids = tokens(20, 2)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    encoder = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(5))
    encoder_mask = torch.ones(2, 11, dtype=torch.long)
    encoder_mask[0, 7:] = 0
    cross = {"encoder_hidden_states": encoder, "encoder_attention_mask": encoder_mask}
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask, use_cache=False, **cross).logits
        whole = ours(ids, attention_mask=mask, use_cache=False, **cross)
        first = ours(ids[:, :13], attention_mask=mask[:, :13], use_cache=True, **cross)
        rest = ours(ids[:, 13:], attention_mask=mask, past_key_values=first.past_key_values, **cross)
    kept = mask.bool()
    assert whole.past_key_values is None
    torch.testing.assert_close(whole.logits[kept], expected[kept], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(rest.logits, whole.logits[:, 13:], atol=1e-5, rtol=1e-5)
    shapes = [tuple(tensor.shape) for tensor in rest.past_key_values[0]]
    assert shapes == [(2, 2, 20, 16), (2, 2, 20, 16), (2, 2, 11, 16), (2, 2, 11, 16)]


@pytest.mark.parametrize("is_decoder", [True, False])
def test_attention_probabilities_equal_transformers_full_attention(is_decoder):
    config = {"attention_type": "original_full", "is_decoder": is_decoder}
    ours, theirs = pair("BigBirdModel", **config)
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        a = ours(tokens(33, 2), output_attentions=True)
        b = theirs(tokens(33, 2), output_attentions=True)
    for x, y in zip(a.attentions, b.attentions, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
