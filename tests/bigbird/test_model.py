"""What the model promises beyond parity: rows are independent, causal, stateless, and zero where nothing is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weights import random_weights

from bigbird import (
    BigBirdConfig,
    BigBirdForCausalLM,
    BigBirdForMaskedLM,
    BigBirdForMultipleChoice,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
    BigBirdModel,
)
from bigbird.attention.reference import DenseAttention
from bigbird.errors import InputError
from bigbird.linear.packed import can_pack
from bigbird.packing import pack


@pytest.fixture(scope="module")
def model(tiny_config: BigBirdConfig) -> BigBirdModel:
    made = BigBirdModel(tiny_config).eval()
    random_weights(made)
    return made


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(7, 512, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.integers(0, 1000))
def test_a_row_gives_alone_what_it_gives_in_any_batch(model, lengths, seed):
    rows = [tokens(length, seed=seed + length) for length in lengths]
    batch = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(batch)
    for place, row in enumerate(rows):
        batch[place, : len(row)] = row
        mask[place, : len(row)] = 1
    padded = model(batch, mask).last_hidden_state
    packed = model.encode(pack([row.tolist() for row in rows])).split(lengths)
    for place, row in enumerate(rows):
        alone = model(row[None]).last_hidden_state[0]
        torch.testing.assert_close(padded[place, : len(row)], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(packed[place], alone, atol=1e-5, rtol=1e-5)


def test_output_is_zero_wherever_the_mask_is(model):
    mask = torch.ones(3, 150, dtype=torch.long)
    mask[0, 100:] = 0
    mask[1, :20] = 0
    mask[2] = 0
    with torch.no_grad():
        hidden = model(tokens(3, 150), mask).last_hidden_state
    assert torch.equal(hidden.abs().sum(-1) > 0, mask.bool())


def test_a_short_call_does_not_change_what_a_long_one_gives(model):
    with torch.no_grad():
        before = model(tokens(1, 300)).last_hidden_state
        model(tokens(1, 20))
        assert torch.equal(model(tokens(1, 300)).last_hidden_state, before)


@pytest.mark.parametrize("length", [100, 400])
def test_a_decoder_is_causal_and_caches_at_every_length(tiny_config, length):
    decoder = BigBirdForCausalLM(tiny_config.replace(is_decoder=True)).eval()
    random_weights(decoder)
    ids = tokens(1, length)
    changed = ids.clone()
    changed[0, length // 2 :] = 9
    with torch.no_grad():
        whole, other = decoder(ids), decoder(changed)
        first = decoder(ids[:, : length - 3])
        rest = decoder(ids[:, length - 3 :], past_key_values=first.past_key_values)
    torch.testing.assert_close(whole.logits[:, : length // 2], other.logits[:, : length // 2], atol=1e-5, rtol=1e-5)
    assert (whole.logits[0, -1] - other.logits[0, -1]).abs().max() > 0.1
    torch.testing.assert_close(rest.logits, whole.logits[:, -3:], atol=1e-5, rtol=1e-5)
    assert whole.past_key_values[1][0].shape == (1, 2, length, 16)


def test_a_past_with_padding_and_holes_goes_on_as_the_whole(tiny_config):
    decoder = BigBirdForCausalLM(tiny_config.replace(is_decoder=True)).eval()
    random_weights(decoder)
    ids, mask = tokens(2, 150), torch.ones(2, 150, dtype=torch.long)
    mask[0, :7] = 0
    mask[1, 40:45] = 0
    mask[1, 120] = 0
    asked = {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        whole = decoder(ids, mask, **asked)
        past, steps = None, []
        for start, end in ((0, 50), (50, 51), (51, 130), (130, 150)):
            step = decoder(ids[:, start:end], mask[:, :end], past_key_values=past, **asked)
            past = step.past_key_values
            steps.append(step)
    kept = mask.bool()
    logits = torch.cat([step.logits for step in steps], dim=1)
    torch.testing.assert_close(logits[kept], whole.logits[kept], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(steps[-1].attentions[1], whole.attentions[1][:, :, 130:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(steps[-1].hidden_states[1], whole.hidden_states[1][:, 130:], atol=1e-5, rtol=1e-5)
    assert not whole.attentions[1][0, :, 10, :7].any()  # left padding is not read


@pytest.mark.parametrize("length", [60, 200])
@pytest.mark.parametrize("head", [BigBirdModel, BigBirdForSequenceClassification, BigBirdForMultipleChoice])
def test_padding_on_the_left_does_not_change_what_is_read_off_the_first_token(tiny_config, head, length):
    made = head(tiny_config.replace(attention_type="original_full")).eval()  # sparse blocks move with the padding
    random_weights(made)
    ids = tokens(2, length)
    mask = torch.ones_like(ids)
    mask[1, :30] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    rows = [ids, mask, positions]
    alone = [values[1:, 30:] for values in rows]
    if head is BigBirdForMultipleChoice:
        rows, alone = [values[None] for values in rows], [values[None] for values in alone]
    with torch.no_grad():
        together, single = (made(i, m, position_ids=p, return_dict=False)[-1] for i, m, p in (rows, alone))
    torch.testing.assert_close(together.flatten()[-single.numel() :], single.flatten(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [60, 200])
def test_gradients_reach_hidden_states_and_attention_probabilities(model, length):
    mask = torch.ones(2, length, dtype=torch.long)
    mask[0, 50:] = 0
    mask[1, :5] = 0
    output = model(tokens(2, length), mask, output_hidden_states=True, output_attentions=True)
    inner = [*output.hidden_states, *output.attentions]
    for tensor, gradient in zip(inner, torch.autograd.grad(output.pooler_output[0, 0], inner), strict=True):
        assert gradient[0].any(), tuple(tensor.shape)
        assert not gradient[1].any()  # the other row has no part in it
    torch.testing.assert_close(output.last_hidden_state, model(tokens(2, length), mask).last_hidden_state)


@pytest.mark.parametrize("seeded", [False, True])
def test_attention_probabilities_sum_to_one_and_belong_to_the_result(model, tiny_config, seeded):
    sparse = BigBirdModel(tiny_config.replace(random_attention="seeded" if seeded else "collapsed")).eval()
    sparse.load_state_dict(model.state_dict())
    mask = torch.ones(2, 200, dtype=torch.long)
    mask[1, 150:] = 0
    with torch.no_grad():
        dense = sparse(tokens(2, 200), mask, output_attentions=True)
        fast = sparse(tokens(2, 200), mask)
    torch.testing.assert_close(dense.last_hidden_state, fast.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert dense.attentions[0].shape == (2, 2, 200, 200)
    torch.testing.assert_close(dense.attentions[0].sum(-1)[0], torch.ones(2, 200))
    torch.testing.assert_close(dense.attentions[0].sum(-1)[1, :, :150], torch.ones(2, 150))
    # A middle query block does not read a block that is neither near, global, nor random.
    assert (dense.attentions[0][0, 0, 96] == 0).any()


@pytest.mark.parametrize("length", [60, 250])
def test_a_head_mask_silences_heads_in_full_and_sparse_attention(model, length):
    head_mask = torch.tensor([[1.0, 0.0], [0.5, 1.0]])

    class Masked(DenseAttention):
        def __call__(self, layer, query, key, value):
            return super().__call__(layer, query, key, value) * head_mask[layer][:, None]

    packed = pack([tokens(length).tolist()])
    with torch.no_grad():
        got = model(tokens(1, length), head_mask=head_mask).last_hidden_state[0]
        attend = Masked(model._attention((length,), None).plan)
        embedded = model.embeddings(packed.input_ids, packed.token_type_ids, packed.position_ids)
        torch.testing.assert_close(got, model.encoder(embedded, attend), atol=1e-5, rtol=1e-5)
        assert (got - model(tokens(1, length)).last_hidden_state[0]).abs().max() > 0.1


def test_results_read_as_dataclass_mapping_and_tuple(tiny_config):
    head = BigBirdForMaskedLM(tiny_config).eval()
    ids = tokens(1, 10)
    result = head(ids, labels=ids, output_hidden_states=True)
    loss, logits, hidden_states = result
    assert result["loss"] is loss
    assert result[1] is logits
    assert result.hidden_states is hidden_states
    assert result.keys() == ["loss", "logits", "hidden_states"]
    as_tuple = head(ids, return_dict=False)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_tuple[0], logits)


@pytest.mark.parametrize("is_decoder", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients_dropout_and_cache_included(tiny_config, is_decoder):
    config = tiny_config.replace(is_decoder=is_decoder, add_cross_attention=is_decoder)
    head = (BigBirdForCausalLM if is_decoder else BigBirdForMaskedLM)(config).train()
    ids, gradients = tokens(2, 200), []
    inputs = {"encoder_hidden_states": torch.randn(2, 5, 32)} if is_decoder else {}
    for enabled in (False, True):
        can_pack.cache_clear()  # it is tried within the first layer that is computed twice
        if enabled:
            head.gradient_checkpointing_enable()
        head.zero_grad()
        torch.manual_seed(3)
        head(ids, labels=ids, **inputs).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_a_training_step_keeps_grows_linearly_with_the_length(tiny_config, dropout):
    config = tiny_config.replace(
        max_position_embeddings=8192, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    head = BigBirdForTokenClassification(config).train()

    def kept_bytes(length: int) -> int:
        storages = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        ids = tokens(1, length)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = head(ids, labels=ids % 2).loss
        loss.backward()
        return sum(storages.values())

    first, second, third = (kept_bytes(length) for length in (2000, 4000, 6000))
    assert third - second == pytest.approx(second - first, rel=0.05)


def test_training_under_bfloat16_autocast_stays_close(tiny_config):
    head = BigBirdForTokenClassification(
        tiny_config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ).train()
    ids = tokens(2, 200)
    exact = head(ids, labels=ids % 2).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head(ids, labels=ids % 2).loss
    loss.backward()
    torch.testing.assert_close(loss, exact, atol=0.01, rtol=0.01)
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_resized_embeddings_keep_the_old_words(tiny_config):
    head = BigBirdForMaskedLM(tiny_config).eval()
    ids = tokens(1, 20)
    before = head(ids).logits
    size = head.num_parameters()
    head.resize_token_embeddings(520)
    assert head(ids).logits.shape[-1] == head.config.vocab_size == 520
    torch.testing.assert_close(head(ids).logits[..., :512], before)
    assert head.num_parameters() == size + 8 * (32 + 1)
    assert head.cls.predictions.decoder.weight is head.bert.embeddings.word_embeddings.weight


BAD_CALLS = [
    (lambda m: m(), "exactly one of input_ids"),
    (lambda m: m(tokens(1, 0)), r"at least one row of one token is needed, got \(1, 0\)"),
    (lambda m: m(tokens(0, 5)), r"at least one row of one token is needed, got \(0, 5\)"),
    (
        lambda m: m(tokens(2, 9), token_type_ids=torch.zeros(2, 8)),
        r"token_type_ids must be \(2, 9\) or \(9,\), got \(2, 8\)",
    ),
    (lambda m: m(tokens(2, 9), position_ids=torch.zeros(8)), r"position_ids must be \(2, 9\) or \(9,\), got \(8,\)"),
    (lambda m: m(tokens(1, 513)), "513 tokens; max_position_embeddings is 512"),
    (lambda m: m(tokens(1, 9), torch.ones(1, 8)), r"attention_mask has shape \(1, 8\), expected \(1, 9\)"),
    (lambda m: m(tokens(1, 9), use_cache=True), "is_decoder=False"),
    (lambda m: m(tokens(1, 9), encoder_hidden_states=torch.ones(1, 2, 32)), "add_cross_attention"),
    (lambda m: m(tokens(1, 9), head_mask=torch.ones(3)), r"head_mask must be \(2,\) or \(2, 2\), got \(3,\)"),
    (lambda m: m.encode(pack([[7] * 600])), "600 tokens; max_position_embeddings is 512"),
    (lambda m: pack([[7], []]), "row 1 has 0 tokens"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls_name_the_argument_the_limit_and_the_value(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)
