"""The encoder on a GPU, base size, bfloat16: tokens/s and share of the measured matrix rate.

    python -m benchmarks.gpu [--rounds 10]

Ours (FlexAttention), ours with dense attention, and transformers sparse and full, where it is installed; rows of one
length filling 65,536 tokens, and mixed lengths. Needs no Ray.
"""

import argparse
import importlib.util
import random

import torch

from benchmarks.measure import encoder_flops, in_turns, matrix_rate
from bigbird import BigBirdConfig, BigBirdModel, prepare_for_inference
from bigbird.packing import pack

TOKENS = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: torch sees no CUDA device here")
    config = BigBirdConfig()
    loaded = BigBirdModel(config).cuda()
    models = {"ours": prepare_for_inference(loaded, "bfloat16")}
    full = BigBirdModel(config.replace(attention_type="original_full")).cuda()
    models["ours, dense"] = prepare_for_inference(full, "bfloat16")
    rate = matrix_rate(config, torch.bfloat16, "cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, matrix rate {rate / 1e12:.0f} TFLOP/s")
    draw = random.Random(0)
    mixed = [min(4096, int(draw.lognormvariate(6.5, 1.0)) + 16) for _ in range(60)]
    for name, rows in [(str(length), [length] * (TOKENS // length)) for length in (512, 1024, 2048, 4096)] + [
        ("mixed", mixed)
    ]:
        packed = pack([[7] * length for length in rows], device="cuda")
        runs = {label: (lambda model=model, packed=packed: _ours(model, packed)) for label, model in models.items()}
        if importlib.util.find_spec("transformers") is not None:
            for kind in ("block_sparse", "original_full"):
                runs[f"transformers, {kind}"] = _theirs(kind, rows)
        for label, seconds in in_turns(runs, options.rounds).items():
            share = encoder_flops(config, rows) / seconds / rate
            print(
                f"{name:>6s} tokens  {label:30s} {sum(rows) / seconds:12.0f} tokens/s  {share:.2f} of the matrix rate"
            )


def _ours(model: BigBirdModel, packed) -> None:
    with torch.inference_mode():
        model.encode(packed)
    torch.cuda.synchronize()


def _theirs(kind: str, rows: list[int]):
    import transformers

    model = transformers.BigBirdModel(transformers.BigBirdConfig(attention_type=kind)).cuda().bfloat16().eval()
    ids = torch.full((len(rows), max(rows)), 7, device="cuda")
    mask = (torch.arange(max(rows), device="cuda") < torch.tensor(rows, device="cuda")[:, None]).long()

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(rows), 8):
                model(ids[start : start + 8], attention_mask=mask[start : start + 8])
        torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    main()
