"""What runs compiled on CUDA, compiled here by Inductor for the CPU: the same graphs, another back end."""

import copy
import shutil

import pytest
import torch
from flex_cases import CASES, flex_error
from weights import random_weights

from bigbird import BigBirdConfig, BigBirdModel
from bigbird.attention.flex import FlexAttention
from bigbird.errors import CompileError
from bigbird.inference import FusedLayer, _Maker
from bigbird.packing import pack
from bigbird.predictors.batches import pack_rows, warm_up
from bigbird.predictors.examples import Row

pytestmark = [
    pytest.mark.skipif(
        shutil.which("g++") is None,
        reason="NOT CHECKED: Inductor needs a C++ compiler to compile the CUDA path's graphs",
    ),
    # torch's own tracing touches deprecated corners of Python.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def compilations():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture(autouse=True)
def graphs_as_in_a_new_process():
    """No graph of another test, and no shapes that an earlier run of the tests wrote into the compiler's cache."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(automatic_dynamic_local_pgo=False):
        yield


@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float32, 16), (torch.bfloat16, 64)], ids=str)
def test_compiled_flex_equals_the_dense_oracle_in_one_graph(dtype, head_dim):
    for case in CASES:
        flex_error(case, dtype, head_dim)
    assert compilations() == 1


def test_an_encoder_as_on_cuda_gives_the_plain_encoders_states_in_few_graphs(tiny_config: BigBirdConfig):
    plain = BigBirdModel(tiny_config).eval().requires_grad_(False)
    random_weights(plain)
    on_cuda = copy.deepcopy(plain)
    on_cuda.encoder.layer = torch.nn.ModuleList(
        FusedLayer(layer, _Maker(tiny_config, "float32", torch.float32, "cuda")) for layer in plain.encoder.layer
    )
    on_cuda.attention = FlexAttention
    warm_up(on_cuda)
    generator = torch.Generator().manual_seed(0)
    for turn in range(12):
        lengths = torch.randint(1, 513, (turn % 5 + 1,), generator=generator).tolist()
        rows = [torch.randint(7, 512, (length,), generator=generator).numpy() for length in lengths]
        packed = pack_rows([Row(row) for row in rows], on_cuda)
        with torch.inference_mode():
            states = on_cuda.encode(packed)
            expected = plain.encode(pack([row.tolist() for row in rows]))
        shown = torch.cat([states[a : a + n] for a, n in zip(packed.starts, lengths, strict=True)])
        torch.testing.assert_close(shown, expected, atol=1e-4, rtol=1e-4)
    assert compilations() <= 3


def test_what_is_not_compiled_raises_and_fills_no_square():
    with (
        torch.compiler.set_stance("force_eager"),
        pytest.raises(CompileError, match="FlexAttention runs compiled only"),
    ):
        flex_error("mixed", torch.float32, 16)
    flex_error("mixed", torch.float32, 16)
    with (
        torch._dynamo.config.patch(recompile_limit=1),
        pytest.raises(CompileError, match="recompile_limit"),
    ):
        flex_error("mixed", torch.float64, 16, tolerance=1e-5)


def test_a_compiler_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(CompileError, match=r"torch\.compile failed"):
        flex_error("mixed", torch.float16, 16)
