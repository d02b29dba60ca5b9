"""What runs on CUDA: each head against the CPU, without a wait between batches; and what is refused there.

Tests marked `gpu` run on a GPU by `make gpu-check`.
"""

import numpy as np
import pytest
import torch
from flex_cases import CASES, TOLERANCES, flex_error
from weights import random_weights

from bigbird import BigBirdConfig, BigBirdForCausalLM, BigBirdForMaskedLM, load_predictor, prepare_for_inference
from bigbird.checkpoint import CLASSES
from bigbird.errors import InputError
from bigbird.generation.engine import Engine
from bigbird.predictors.batches import (
    CUDA_SHARE,
    FAST_MAX_TOKENS,
    activation_bytes,
    default_max_tokens_per_batch,
    pack_rows,
    warm_up,
)
from bigbird.predictors.examples import Row

LENGTHS = (300, 17, 113, 401, 112, 1, 512)


def rows_of(vocab_size=512, lengths=LENGTHS):
    draw = np.random.default_rng(0)
    return [Row(draw.integers(7, vocab_size, length, dtype=np.int32), types_from=length // 2) for length in lengths]


def test_rows_are_packed_with_their_positions_and_types_wherever_they_begin(tiny_config):
    class Spread:
        device = torch.device("cpu")

        def layout(self, lengths):
            return (0, 320, 340, 460, 870, 990, 1000), 1536

    rows = rows_of()
    packed = pack_rows(rows, Spread())
    assert len(packed.input_ids) == 1536
    for row, start in zip(rows, packed.starts, strict=True):
        tokens = slice(start, start + len(row))
        assert packed.input_ids[tokens].tolist() == row.ids.tolist()
        assert packed.position_ids[tokens].tolist() == list(range(len(row)))
        assert packed.token_type_ids[tokens].tolist() == [int(at >= row.types_from) for at in range(len(row))]
    assert packed.position_ids.max() < tiny_config.max_position_embeddings


def test_generation_elsewhere_than_on_the_cpu_is_refused_before_anything_is_loaded(tiny_config, tiny_checkpoint):
    decoder = BigBirdForCausalLM(tiny_config.replace(is_decoder=True)).to("meta")
    with pytest.raises(InputError, match="generated on the CPU only, and this model is for meta"):
        Engine(decoder)
    checkpoint = tiny_checkpoint(BigBirdForCausalLM, is_decoder=True)
    with pytest.raises(InputError, match="generated on the CPU only, and this model is for cuda"):
        load_predictor("text-generation", checkpoint, device="cuda", weights=False)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("case", CASES)
def test_flex_equals_the_dense_oracle_on_a_gpu(case, dtype, head_dim):
    flex_error(case, dtype, head_dim, "cuda", 2e-3 if dtype == torch.float32 else None)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-3), ("bfloat16", 6e-2), ("float16", 2e-2)])
@pytest.mark.parametrize("head", list(CLASSES))
def test_every_head_gives_on_a_gpu_what_it_gives_on_the_cpu(tiny_config, head, dtype, tolerance):
    model = CLASSES[head](tiny_config.replace(is_decoder=head == "BigBirdForCausalLM")).eval()
    random_weights(model)
    ids = torch.randint(7, 512, (2, 320), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 200:] = 0
    if head == "BigBirdForMultipleChoice":
        ids, mask = ids[None], mask[None]
    with torch.inference_mode():
        expected = model(ids, attention_mask=mask, return_dict=False)[0]
        fast = prepare_for_inference(model.to("cuda"), dtype)
        got = fast(ids.cuda(), attention_mask=mask.cuda(), return_dict=False)[0].float().cpu()
    shown = mask.bool() if got.shape[:2] == mask.shape else slice(None)
    scale = expected[shown].abs().max()
    torch.testing.assert_close(got[shown] / scale, expected[shown] / scale, atol=tolerance, rtol=0)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_between_two_batches(tiny_config):
    model = prepare_for_inference(BigBirdForMaskedLM(tiny_config).cuda(), "bfloat16")
    warm_up(model.bert)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            for turn in range(3):
                packed = pack_rows(rows_of(lengths=LENGTHS[turn:]), model.bert)
                model.cls(model.bert.encode(packed)[packed.first_tokens])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_batch_of_the_default_size_takes_the_memory_that_is_said():
    config = BigBirdConfig(num_hidden_layers=2)
    model = prepare_for_inference(BigBirdForMaskedLM(config).cuda())
    num_tokens = default_max_tokens_per_batch(model)
    assert num_tokens <= FAST_MAX_TOKENS["cuda"]
    rows = [Row(np.full(4096, 7, dtype=np.int32))] * (num_tokens // 4096)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        model.bert.encode(pack_rows(rows, model.bert))
    said = num_tokens * activation_bytes(config, "cuda", torch.bfloat16)
    assert torch.cuda.max_memory_allocated() - before < said / CUDA_SHARE


@pytest.mark.gpu
def test_a_training_step_on_a_gpu_has_the_gradients_of_the_cpu(tiny_config):
    config = tiny_config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = BigBirdForMaskedLM(config).train()
    random_weights(model)
    ids = torch.randint(7, 512, (2, 320), generator=torch.Generator().manual_seed(0))
    model(ids, labels=ids).loss.backward()
    expected = model.bert.encoder.layer[0].attention.self.query.weight.grad.clone()
    model.zero_grad()
    model.cuda()
    model(ids.cuda(), labels=ids.cuda()).loss.backward()
    got = model.bert.encoder.layer[0].attention.self.query.weight.grad.cpu()
    torch.testing.assert_close(got, expected, atol=1e-3 * expected.abs().max().item(), rtol=1e-2)
