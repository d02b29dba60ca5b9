"""Go on with a prompt, and see the text appear token by token.

python examples/generate.py "def read_lines(path):"
python examples/generate.py --temperature 0.8 --seed 1 --max-new-tokens 200 "class Cache:"
"""

import argparse
import time
from pathlib import Path

from bigbird import BigBirdForCausalLM, BigBirdTokenizer, prepare_for_inference
from bigbird.errors import BigBirdError
from bigbird.generation.generate import GenerationOptions, stream

SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "text-generation"


def main() -> None:
    parser = argparse.ArgumentParser(description="Go on with a prompt.")
    parser.add_argument("prompt", nargs="?", default="def read_lines(path):\n")
    parser.add_argument("--model", default=str(SHIPPED), help="a directory or hub id; the shipped one by default")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "int8"])
    parser.add_argument("--max-new-tokens", type=int, default=120)
    parser.add_argument("--temperature", type=float, default=0.7, help="0 always takes the most likely token")
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--repetition-penalty", type=float, default=1.1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        tokenizer = BigBirdTokenizer.from_pretrained(arguments.model)
        model = prepare_for_inference(BigBirdForCausalLM.from_pretrained(arguments.model), dtype=arguments.dtype)
        options = GenerationOptions(
            max_new_tokens=arguments.max_new_tokens,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            repetition_penalty=arguments.repetition_penalty,
            seed=arguments.seed,
        )
        chunks = stream(model, tokenizer, arguments.prompt, options)
    except BigBirdError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    print(arguments.prompt, end="", flush=True)
    start = time.perf_counter()
    num_tokens = 0
    for chunk in chunks:
        print(chunk.text, end="", flush=True)
        num_tokens += 1
    print(f"\n\n{num_tokens} tokens, {num_tokens / (time.perf_counter() - start):.0f} a second")


if __name__ == "__main__":
    main()
