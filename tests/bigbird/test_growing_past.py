"""The documented past_key_values: appended to in place, never beneath another's feet; transformers' caches as well."""

import copy
import pickle

import pytest
import torch
from tiny_decoders import tiny_decoder

from bigbird.attention.growing import Buffers


def logits_of(model, ids, **inputs):
    return model(ids, **inputs).logits


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("batch", [1, 3])
def test_steps_with_a_past_equal_the_whole_at_once(mode, batch):
    model = tiny_decoder(1)
    ids = torch.randint(4, 90, (batch, 200), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with mode():
        whole = logits_of(model, ids, attention_mask=mask)
        past, start = None, 0
        for size in (90, 1, 1, 1, 7, 60, *[1] * 40):
            end = start + size
            out = model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=past, use_cache=True)
            torch.testing.assert_close(out.logits, whole[:, start:end], atol=1e-3, rtol=1e-4)
            past, start = out.past_key_values, end
            assert past[0][0].shape == (batch, 2, end, 16)


def test_steps_write_behind_the_past_and_copy_it_seldom(monkeypatch):
    made = []
    original = Buffers.__init__
    monkeypatch.setattr(Buffers, "__init__", lambda self, length: (made.append(length), original(self, length))[1])
    model = tiny_decoder(1)
    with torch.no_grad():
        past = model(torch.arange(4, 34)[None], use_cache=True).past_key_values
        for token in range(100):
            past = model(torch.tensor([[4 + token % 50]]), past_key_values=past).past_key_values
    assert len(made) == 2


def test_an_older_past_may_be_gone_on_from_again_and_stays_as_it_is():
    model = tiny_decoder(2)
    ids = torch.randint(4, 90, (2, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        first = model(ids[:, 10:11], past_key_values=model(ids[:, :10]).past_key_values).past_key_values
        before = [[tensor.clone() for tensor in layer] for layer in first]
        one, other, again = (model(torch.full((2, 1), token), past_key_values=first) for token in (5, 6, 5))
        later = model(ids[:, 11:12], past_key_values=one.past_key_values)
    torch.testing.assert_close(one.logits, again.logits)
    assert not torch.equal(one.logits, other.logits)
    expected = logits_of(model, torch.cat([ids[:, :11], torch.full((2, 1), 5), ids[:, 11:12]], dim=1))[:, -1:]
    torch.testing.assert_close(later.logits, expected, atol=1e-3, rtol=1e-4)
    for layer, kept in zip(first, before, strict=True):
        for tensor, old in zip(layer, kept, strict=True):
            assert torch.equal(tensor, old)


def test_reordered_and_copied_pasts_are_gone_on_from():
    model = tiny_decoder(3)
    ids = torch.randint(4, 90, (3, 12), generator=torch.Generator().manual_seed(4))
    order = torch.tensor([2, 0, 0])
    with torch.no_grad():
        past = model(ids[:, 10:11], past_key_values=model(ids[:, :10]).past_key_values).past_key_values
        expected = logits_of(model, ids, use_cache=False)[:, -1:]
        reordered = tuple(tuple(tensor.index_select(0, order) for tensor in layer) for layer in past)
        found = logits_of(model, ids[order, 11:], past_key_values=reordered)
        torch.testing.assert_close(found, expected[order], atol=1e-3, rtol=1e-4)
        for copied in (copy.deepcopy(past), pickle.loads(pickle.dumps(past))):
            assert type(copied) is tuple
            found = logits_of(model, ids[:, 11:], past_key_values=copied)
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_a_dynamic_cache_of_transformers_is_read_updated_and_returned():
    transformers = pytest.importorskip("transformers")
    model = tiny_decoder(4)
    ids = torch.randint(4, 90, (2, 30), generator=torch.Generator().manual_seed(5))
    cache, start = transformers.DynamicCache(), 0
    with torch.no_grad():
        whole = logits_of(model, ids)
        for end in (10, 11, 16, 17):
            out = model(ids[:, start:end], past_key_values=cache, use_cache=True)
            torch.testing.assert_close(out.logits, whole[:, start:end], atol=1e-3, rtol=1e-4)
            assert out.past_key_values is cache
            assert cache.get_seq_length() == end
            start = end
