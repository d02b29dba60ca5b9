"""One training step of a token classifier of base size, in a process of its own, ours or transformers'.

Arguments: side, layers, threads, dropout (of states and of attention weights), "float32" or "bfloat16" (by autocast).
Reads a line of JSON, {"rows": count, "length": tokens, "want": "wall" | "processor" | "memory"}, answers with the
seconds of forward, backward and AdamW over the rows, or with the peak memory above the start, in bytes. `transformers`
runs in any environment with torch and transformers and imports nothing of this project.
"""

import json
import resource
import sys
import time
from typing import Any

import torch


def build(side: str, layers: int, dropout: float) -> tuple[Any, Any]:
    """The model in training mode, and its configuration."""
    if side == "ours":
        from bigbird import BigBirdConfig, BigBirdForTokenClassification
    else:
        import transformers
        from transformers import BigBirdConfig, BigBirdForTokenClassification

        transformers.logging.set_verbosity_error()
    config = BigBirdConfig(num_hidden_layers=layers, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return BigBirdForTokenClassification(config).train(), config


def main() -> None:
    side, layers, threads, dropout, dtype = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:6]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model, config = build(side, layers, float(dropout))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    for line in sys.stdin:
        request = json.loads(line)
        ids = torch.randint(100, config.vocab_size, (request["rows"], request["length"]))
        wall, processor = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(ids, labels=ids % 2).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        answers = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        answers["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        print(json.dumps(answers[request["want"]]), flush=True)


if __name__ == "__main__":
    main()
