"""The CUDA path on one GPU, base size: is it right, and how fast. At most eight minutes on an H100 or H200.

    python -m benchmarks.gpu [--rounds 5]

Needs torch 2.11 or later and Python 3.11 to 3.13; no Ray. transformers is compared with where it is installed. Prints
one line a figure; a part that fails says so, and the others go on. Not yet run on a GPU.
"""

import argparse
import importlib.util
import random
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import encoder_flops, in_turns, matrix_rate
from bigbird import BigBirdConfig, BigBirdForCausalLM, BigBirdForMaskedLM, BigBirdModel, BigBirdTokenizer
from bigbird import prepare_for_inference as prepare
from bigbird.checkpoint import CLASSES
from bigbird.errors import InputError
from bigbird.generation.engine import Engine
from bigbird.predictors import FeatureExtractionPredictor
from bigbird.predictors.batches import activation_bytes, default_max_tokens_per_batch, pack_rows, warm_up
from bigbird.predictors.examples import Row

TOKENS = 65_536
LENGTHS = (512, 1024, 2048, 4096)
_draw = random.Random(0)
# As Python files are long: most are short, a few fill the model.
MIXED = [min(4096, int(_draw.lognormvariate(6.5, 1.0)) + 16) for _ in range(60)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: torch sees no CUDA device here")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}", flush=True)
    began, failed = time.perf_counter(), 0
    for part in (heads, memory, attention_kernels, rates, end_to_end, training, decoding):
        try:
            part(options.rounds)
        except Exception:
            failed += 1
            print(f"FAILED {part.__name__}\n{traceback.format_exc()}", flush=True)
        print(f"-- {part.__name__}: {time.perf_counter() - began:.0f} s since the start", flush=True)
    raise SystemExit(1 if failed else 0)


def heads(rounds: int) -> None:
    """Every head on the GPU against the plain model on the CPU: the largest difference, at a scale of 1."""
    config = BigBirdConfig(vocab_size=512, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=256, num_random_blocks=2)  # fmt: skip
    ids = torch.randint(7, 512, (2, 1500), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 500:] = 0
    wrong = []
    for name, head in CLASSES.items():
        torch.manual_seed(0)
        model = head(config.replace(is_decoder=name == "BigBirdForCausalLM")).eval()
        choices = name == "BigBirdForMultipleChoice"
        given = (ids[None], mask[None]) if choices else (ids, mask)
        with torch.inference_mode():
            expected = model(given[0], attention_mask=given[1], return_dict=False)[0]
            model.cuda()
            for dtype, limit in (("float32", 5e-3), ("bfloat16", 8e-2)):
                fast = prepare(model, dtype)
                got = fast(given[0].cuda(), attention_mask=given[1].cuda(), return_dict=False)[0].float().cpu()
                shown = mask.bool() if got.shape[:2] == mask.shape else torch.ones_like(got, dtype=torch.bool)
                shown = shown & (expected < 1e5) & (expected > -1e5) if shown.shape == expected.shape else shown
                error = float((got[shown] - expected[shown]).abs().max() / expected[shown].abs().max())
                print(f"{name:34s} {dtype:9s} error {error:.1e}", flush=True)
                if not error < limit:
                    wrong.append(f"{name} in {dtype}: {error:.1e}, expected less than {limit:g}")
    if wrong:
        raise AssertionError("; ".join(wrong))


def memory(rounds: int) -> None:
    """What a batch takes beside what `activation_bytes` says, and the batch that free memory allows."""
    config = BigBirdConfig()
    model = prepare(BigBirdModel(config).cuda(), "bfloat16")
    warm_up(model)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _encode(model, [4096] * 16)()
    took = torch.cuda.max_memory_allocated() - before
    said = TOKENS * activation_bytes(config, "cuda", torch.bfloat16)
    print(f"memory of {TOKENS} tokens: {took / 2**30:.2f} GiB, said {said / 2**30:.2f} GiB; "
          f"tokens of a batch by default: {default_max_tokens_per_batch(model)}")  # fmt: skip


def attention_kernels(rounds: int) -> None:
    """Rows read in full: FlexAttention's tiles against flash attention of variable lengths, where torch has it."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        print("torch.nn.attention.varlen is not in this torch: not compared")
        return
    from torch.nn.attention.varlen import varlen_attn

    from bigbird.attention.flex import FlexAttention
    from bigbird.attention.plan import AttentionPlan
    from bigbird.attention.tiles import layout

    config = BigBirdConfig()
    for name, lengths in (("512", (512,) * 128), ("16 to 700", tuple(_draw.randint(16, 700) for _ in range(180)))):
        starts, num_tokens = layout(config, lengths)
        flex = FlexAttention(AttentionPlan(config, lengths, False, starts))
        states = torch.randn(num_tokens, 3, 12, 64, device="cuda", dtype=torch.bfloat16)
        query, key, value = states.unbind(1)
        longest = max(lengths)
        ends = torch.tensor([*starts, sum(lengths)], device="cuda", dtype=torch.int32)
        with torch.inference_mode():
            runs = {
                "flex": _timed(lambda f=flex, s=(query, key, value): f(0, *s)),
                "varlen": _timed(lambda s=(query, key, value), e=ends, n=longest: varlen_attn(*s, e, e, n, n)),
            }
            for label, seconds in in_turns(runs, rounds).items():
                print(f"attention alone, rows of {name:9s} {label:8s} {seconds * 1e3:7.2f} ms a layer")


def rates(rounds: int) -> None:
    """Tokens/s and share of the matrix rate by length; ours, ours with SDPA, and the peers."""
    config = BigBirdConfig()
    rate = matrix_rate(config, torch.bfloat16, "cuda")
    print(f"matrix rate {rate / 1e12:.0f} TFLOP/s in bfloat16")
    ours = prepare(BigBirdModel(config).cuda(), "bfloat16")
    warm_up(ours)
    peers = importlib.util.find_spec("transformers") is not None
    for name, lengths in [(str(n), [n] * (TOKENS // n)) for n in LENGTHS] + [("mixed", MIXED)]:
        runs = {"ours": _encode(ours, lengths), "ours, read in full by SDPA": _sdpa(ours, lengths)}
        if peers:
            runs |= {f"transformers, {kind}": _theirs(kind, lengths) for kind in ("block_sparse", "original_full")}
            runs["transformers, ModernBERT-base"] = _modernbert(lengths)
        for label, seconds in in_turns(runs, rounds).items():
            share = encoder_flops(config, lengths) / seconds / rate
            print(f"{name:>6s} tokens  {label:32s} {sum(lengths) / seconds:12.0f} tokens/s  {share:.2f}", flush=True)


def end_to_end(rounds: int) -> None:
    """Texts to vectors through a predictor: tokenization, packing, the model, and back."""
    tokenizer = BigBirdTokenizer.from_pretrained(Path(__file__).parent.parent / "checkpoints" / "fill-mask")
    model = prepare(BigBirdModel(BigBirdConfig(vocab_size=len(tokenizer))).cuda(), "bfloat16")
    warm_up(model)
    predictor = FeatureExtractionPredictor(tokenizer, model.config, model)
    text = Path(argparse.__file__).read_text()
    texts = [text[start : start + 3 * length] for start, length in zip(range(0, 60_000, 1000), MIXED, strict=False)] * 8
    prepared = predictor.preprocess(texts)
    tokens = sum(len(row) for item in prepared for row in item.rows)
    runs = {
        "whole predictor": _timed(lambda: predictor(texts)),
        "forward alone": _timed(lambda: predictor.forward(prepared)),
    }
    for label, seconds in in_turns(runs, rounds).items():
        print(f"predictor, {label:16s} {tokens / seconds:12.0f} tokens/s")


def training(rounds: int) -> None:
    """A step of masked-LM training at 4,096 tokens, by plain PyTorch under autograd."""
    model = BigBirdForMaskedLM(BigBirdConfig()).cuda().train()
    ids = torch.randint(7, 50_000, (4, 4096), device="cuda")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        model.zero_grad()

    for seconds in in_turns({"step": _timed(step)}, rounds).values():
        print(f"training step, 4 rows of 4,096: {ids.numel() / seconds:.0f} tokens/s")


def decoding(rounds: int) -> None:
    """Not offered on a GPU: it has to say so."""
    try:
        Engine(BigBirdForCausalLM(BigBirdConfig(is_decoder=True, num_hidden_layers=1)).cuda())
    except InputError as error:
        print(f"decoding is refused: {error}")
    else:
        raise AssertionError("decoding on a GPU is neither fast nor refused")


def _timed(run: Callable[[], Any]) -> Callable[[], None]:
    def timed() -> None:
        run()
        torch.cuda.synchronize()

    return timed


def _encode(model: Any, lengths: list[int]) -> Callable[[], None]:
    rows = [Row(np.full(length, 7, dtype=np.int32)) for length in sorted(lengths, reverse=True)]

    @torch.inference_mode()
    def run() -> None:
        model.encode(pack_rows(rows, model))
        torch.cuda.synchronize()

    return run


class _Sdpa:
    """Every row read in full by torch's own attention, a row at a time: what our model has without its attention."""

    def __init__(self, plan: Any, attended: None = None, *, dropout: float = 0.0) -> None:
        self.plan = plan

    def __call__(self, layer: int, *states: torch.Tensor) -> torch.Tensor:
        attend = torch.nn.functional.scaled_dot_product_attention
        context = torch.zeros_like(states[0], memory_format=torch.contiguous_format)
        for start, length in zip(self.plan.starts, self.plan.lengths, strict=True):
            row = (of[start : start + length].transpose(0, 1)[None] for of in states)
            context[start : start + length] = attend(*row)[0].transpose(0, 1)
        return context


def _sdpa(model: Any, lengths: list[int]) -> Callable[[], None]:
    encode = _encode(model, lengths)

    def run() -> None:
        kept, model.attention = model.attention, _Sdpa
        try:
            encode()
        finally:
            model.attention = kept

    return run


def _padded(model: torch.nn.Module, lengths: list[int]) -> Callable[[], None]:
    ids = torch.full((len(lengths), max(lengths)), 7, device="cuda")
    mask = (torch.arange(max(lengths), device="cuda") < torch.tensor(lengths, device="cuda")[:, None]).long()

    @torch.inference_mode()
    def run() -> None:
        for start in range(0, len(lengths), 8):
            model(ids[start : start + 8], attention_mask=mask[start : start + 8])
        torch.cuda.synchronize()

    return run


def _theirs(kind: str, lengths: list[int]) -> Callable[[], None]:
    import transformers

    config = transformers.BigBirdConfig(attention_type=kind)
    return _padded(transformers.BigBirdModel(config).cuda().bfloat16().eval(), lengths)


def _modernbert(lengths: list[int]) -> Callable[[], None]:
    """Its base size with random weights, by the attention that transformers chooses here."""
    import transformers

    return _padded(transformers.ModernBertModel(transformers.ModernBertConfig()).cuda().bfloat16().eval(), lengths)


if __name__ == "__main__":
    main()
