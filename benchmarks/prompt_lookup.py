"""Prompt lookup decoding on real code: the shipped model goes on with the library's own files, with drafts and without.

    python -m benchmarks.prompt_lookup --threads 2

All must give the same tokens. Milliseconds a token are those of decoding, without the prompt's own; processor time
of one thread (`--threads 1`) is what a machine that others use as well still measures.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from bigbird import BigBirdTokenizer, load_model, prepare_for_inference
from bigbird.generation.engine import Engine
from bigbird.generation.generate import GenerationOptions, encode_prompt
from bigbird.generation.request import Request

CHECKPOINT = "checkpoints/text-generation"
FILES = ("bigbird/config.py", "bigbird/packing.py", "bigbird/errors.py", "bigbird/outputs.py")
NEW_TOKENS = 128
DRAFTED = (0, 4, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prompt lookup decoding on real code.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    model, tokenizer = prepare_for_inference(load_model(CHECKPOINT)), BigBirdTokenizer.from_pretrained(CHECKPOINT)
    prompts = [encode_prompt(tokenizer, Path(file).read_text())[:1500] for file in FILES]
    seconds: dict[int, list[float]] = {drafted: [] for drafted in DRAFTED}
    texts: dict[int, list[list[int]]] = {}
    num_steps: dict[int, int] = {}
    for _ in range(arguments.rounds):
        for drafted in DRAFTED:
            options = GenerationOptions(max_new_tokens=NEW_TOKENS, eos_token_ids=(), prompt_lookup_num_tokens=drafted)
            spent, num_steps[drafted], texts[drafted] = 0.0, 0, []
            for prompt in prompts:
                engine, request = Engine(model, prefill_tokens=2048), Request(model, None, prompt, options)
                engine.add(request)
                engine.step()
                began = clock()
                while engine.has_work:
                    engine.step()
                spent += clock() - began
                num_steps[drafted] += engine.stats.num_steps - 1
                texts[drafted].append(request.token_ids)
            seconds[drafted].append(spent / ((NEW_TOKENS - 1) * len(prompts)))
    assert all(texts[drafted] == texts[0] for drafted in DRAFTED), "tokens differ"
    print("| tokens drafted | tokens a step | ms a token, best | median | against none |\n|---|---|---|---|---|")
    for drafted in DRAFTED:
        best, median = min(seconds[drafted]), statistics.median(seconds[drafted])
        a_step = (NEW_TOKENS - 1) * len(prompts) / num_steps[drafted]
        against = min(seconds[0]) / best
        print(f"| {drafted} | {a_step:.2f} | {best * 1e3:.2f} | {median * 1e3:.2f} | {against:.2f}x |")


if __name__ == "__main__":
    main()
