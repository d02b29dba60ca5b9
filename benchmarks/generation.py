"""Decoding, ours beside transformers, in one run and in turns: one stream, many streams, and the first token.

    python -m benchmarks.generation --threads 2 --dtype float32 bfloat16 int8

One stream is also decoded through the documented interface, `model(ids, past_key_values=...)`. Beside int8, their side
runs in float32. Prompt lookup is `benchmarks.prompt_lookup`'s.

Both sides have the same random weights of base size (or of the size asked for) and must generate the same tokens in
float32. Times are of this machine as it is: the best of the rounds is reported beside the median, and a large
distance between the two means that something else ran; `--clock processor --threads 1` helps then. The floor of a
step is the bytes of the weights it reads, divided by the rate at which this machine reads memory, measured here with
the same number of threads.
"""

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch

from bigbird import BigBirdConfig, BigBirdForCausalLM
from bigbird.generation.engine import Engine
from bigbird.generation.generate import GenerationOptions, generate
from bigbird.inference import prepare_for_inference
from bigbird.linear.memory import on_large_pages

NEVER = 10**6  # an end-of-sequence token outside of the vocabulary
PARTS = ["single", "many", "first"]
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
clock = CLOCKS["wall"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    best_s: float
    median_s: float


def in_turns(rounds: int, contenders: dict[str, Callable[[], float]]) -> dict[str, Timing]:
    """Run all contenders in turn, `rounds` times. Each returns the seconds that count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(contender())
    return {name: Timing(best_s=min(all_s), median_s=statistics.median(all_s)) for name, all_s in seconds.items()}


def timed(call: Callable[[], Any]) -> float:
    start = clock()
    call()
    return clock() - start


def read_bandwidth(num_bytes: int = 1 << 29) -> float:
    """Bytes a second, of summing a float32 tensor far larger than any cache, on large pages; the best of ten."""
    block = on_large_pages(torch.ones(num_bytes // 4))
    return num_bytes / min(timed(block.sum) for _ in range(10))


def models(arguments: argparse.Namespace, dtype: str) -> tuple[Any, Any, int]:
    """transformers' model, ours prepared, and the bytes of weights that a step reads."""
    import transformers

    transformers.logging.set_verbosity_error()
    settings = {
        "num_hidden_layers": arguments.layers,
        "hidden_size": arguments.hidden_size,
        "num_attention_heads": arguments.hidden_size // 64,
        "intermediate_size": 4 * arguments.hidden_size,
        "vocab_size": arguments.vocab_size,
        "attention_type": "original_full",
        "is_decoder": True,
        "initializer_range": 0.1,
    }
    torch.manual_seed(0)
    plain = BigBirdForCausalLM(BigBirdConfig(**settings)).eval()
    theirs = transformers.BigBirdForCausalLM(transformers.BigBirdConfig(**settings)).eval()
    theirs.load_state_dict(plain.state_dict(), strict=False)
    theirs.tie_weights()
    # The decoder's matrix is the word embeddings; of positions and token types a step reads a row each.
    step_bytes = sum(
        p.numel() for n, p in plain.named_parameters() if "position_emb" not in n and "token_type" not in n
    )
    step_bytes *= {"bfloat16": 2, "int8": 1}.get(dtype, 4)
    ours = prepare_for_inference(plain, dtype=dtype)
    return theirs if dtype == "int8" else theirs.to(getattr(torch, dtype)), ours, step_bytes


def their_generate(theirs: Any, prompts: list[list[int]], new_tokens: int) -> torch.Tensor:
    """(prompts, new_tokens): left-padded, greedy."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        output = theirs.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=NEVER,
            pad_token_id=0,
        )
    return output[:, width:]


def single_stream(theirs: Any, ours: Any, arguments: argparse.Namespace, dtype: str) -> list[list[str]]:
    """Milliseconds a token of one stream, the prompt's own time taken off."""
    prompt = random_prompt(random.Random(1), 32, arguments.vocab_size)
    few, many = 1, 1 + arguments.new_tokens

    def ours_tokens(count: int) -> list[int]:
        options = GenerationOptions(max_new_tokens=count, eos_token_ids=())
        return list(generate(ours, None, [prompt], options)[0].token_ids)

    if dtype == "float32":
        assert ours_tokens(many) == their_generate(theirs, [prompt], many)[0].tolist(), "tokens differ"

    @torch.inference_mode()
    def documented(count: int) -> list[int]:
        ids, past, tokens = torch.tensor([prompt]), None, []
        for _ in range(count):
            output = ours(ids, past_key_values=past, use_cache=True)
            past, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)
            tokens.append(int(ids))
        return tokens

    if dtype == "float32":
        assert documented(many) == ours_tokens(many), "tokens differ"

    def step(run: Callable[[int], Any]) -> float:
        return (timed(lambda: run(many)) - timed(lambda: run(few))) / (many - few)

    timings = in_turns(
        arguments.rounds,
        {
            "transformers": lambda: step(lambda count: their_generate(theirs, [prompt], count)),
            "ours, past_key_values": lambda: step(documented),
            "ours, generate": lambda: step(ours_tokens),
        },
    )
    theirs_s = timings["transformers"]
    return [
        [f"one stream, {name}", *milliseconds(timing), f"{theirs_s.best_s / timing.best_s:.1f}x"]
        for name, timing in timings.items()
    ]


def many_streams(theirs: Any, ours: Any, arguments: argparse.Namespace) -> list[list[str]]:
    """Tokens a second of requests of 16 to 256 prompt tokens that arrive over time, all generating equally many."""
    chance = random.Random(2)
    count = arguments.requests
    prompts = [random_prompt(chance, chance.randint(16, 256), arguments.vocab_size) for _ in range(count)]
    arrivals_s = [0.0]
    while len(arrivals_s) < count:
        arrivals_s.append(arrivals_s[-1] + chance.expovariate(1 / arguments.gap_s))
    some = prompts[: arguments.one_by_one]
    options = GenerationOptions(max_new_tokens=arguments.new_tokens, eos_token_ids=())

    def engine() -> float:
        served = Engine(ours, max_streams=count, max_cache_tokens=count * 512)
        begin, start = clock(), time.perf_counter()
        waiting = list(zip(arrivals_s, prompts, strict=True))
        while waiting or served.has_work:
            now_s = time.perf_counter() - start
            while waiting and waiting[0][0] <= now_s:
                served.submit(waiting.pop(0)[1], options)
            if served.has_work:
                served.step()
            else:
                time.sleep(max(waiting[0][0] - now_s, 0))
        return (clock() - begin) / (count * arguments.new_tokens)

    def one_by_one() -> float:
        seconds = timed(lambda: [their_generate(theirs, [prompt], arguments.new_tokens) for prompt in some])
        return seconds / (len(some) * arguments.new_tokens)

    def ours_one_by_one() -> float:
        seconds = timed(lambda: [generate(ours, None, [prompt], options) for prompt in some])
        return seconds / (len(some) * arguments.new_tokens)

    def static_batch() -> float:
        return timed(lambda: their_generate(theirs, prompts, arguments.new_tokens)) / (count * arguments.new_tokens)

    timings = in_turns(
        arguments.rounds,
        {
            f"transformers one by one ({len(some)} of {count})": one_by_one,
            f"transformers, one batch of {count}": static_batch,
            f"ours one by one ({len(some)} of {count})": ours_one_by_one,
            f"our engine, {count} over {arrivals_s[-1]:.1f} s": engine,
        },
    )
    base = next(iter(timings.values()))
    return [
        [name, f"{1 / timing.best_s:.0f} tokens/s", f"{1 / timing.median_s:.0f}", f"{base.best_s / timing.best_s:.1f}x"]
        for name, timing in timings.items()
    ]


def first_token(ours: Any, arguments: argparse.Namespace) -> list[list[str]]:
    """Time to the first token of a short prompt, alone and while a long one is being read, and the time of a chunk."""
    chance = random.Random(3)
    short = random_prompt(chance, 32, arguments.vocab_size)
    long = random_prompt(chance, 4000, arguments.vocab_size)
    options = GenerationOptions(max_new_tokens=1)

    def until_answered(engine: Engine, request: int) -> None:
        while all(event.request_id != request for event in engine.step()):
            pass

    def alone() -> float:
        engine = Engine(ours)
        return timed(lambda: until_answered(engine, engine.submit(short, options)))

    def with_long_prompt() -> Engine:
        engine = Engine(ours)
        engine.submit(long, options)
        for _ in range(4):
            engine.step()
        return engine

    def chunk() -> float:
        return timed(with_long_prompt().step)

    def beside() -> float:
        # The worst moment to arrive is the beginning of a chunk: the step under way has to end first.
        engine = with_long_prompt()

        def arrive() -> None:
            engine.step()
            until_answered(engine, engine.submit(short, options))

        return timed(arrive)

    timings = in_turns(arguments.rounds, {"alone": alone, "one chunk": chunk, "beside a long prompt": beside})
    bound = 2 * timings["alone"].best_s + timings["one chunk"].best_s
    rows = [[f"first token, {name}", *milliseconds(timing), ""] for name, timing in timings.items()]
    rows.append(["its bound, twice alone and a chunk", f"{bound * 1e3:.0f} ms", "", ""])
    return rows


def random_prompt(chance: random.Random, length: int, vocab_size: int) -> list[int]:
    return [chance.randrange(5, vocab_size) for _ in range(length)]


def milliseconds(timing: Timing) -> tuple[str, str]:
    return f"{timing.best_s * 1e3:.1f} ms", f"{timing.median_s * 1e3:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Decoding, ours beside transformers.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16", "int8"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--one-by-one", type=int, default=3, help="requests timed for transformers one by one")
    parser.add_argument("--gap-s", type=float, default=0.02, help="mean time between arrivals")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--vocab-size", type=int, default=50358)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor time, with one thread, on a machine others use too"
    )
    arguments = parser.parse_args()
    global clock
    clock = CLOCKS[arguments.clock]
    torch.set_num_threads(arguments.threads)
    bandwidth = read_bandwidth()
    processor = f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    print(
        f"{date.today()}, {processor}, {arguments.threads} threads, {arguments.clock} time, torch {torch.__version__}"
    )
    print(f"memory read at {bandwidth / 1e9:.1f} GB/s\n")
    for dtype in arguments.dtype:
        theirs, ours, step_bytes = models(arguments, dtype)
        rows = []
        if "single" in arguments.only:
            rows += single_stream(theirs, ours, arguments, dtype)
        rows.append(["floor of a step, its weights read once", f"{step_bytes / bandwidth * 1e3:.1f} ms", "", ""])
        if "many" in arguments.only:
            rows += many_streams(theirs, ours, arguments)
        if "first" in arguments.only:
            rows += first_token(ours, arguments)
        print(f"| {dtype} | best | median | against transformers |\n|---|---|---|---|")
        for row in rows:
            print("| " + " | ".join(row) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
