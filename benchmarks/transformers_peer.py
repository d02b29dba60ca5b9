"""A transformers encoder in a process of its own. Reads a line of JSON, {"rows": [lengths], "batch": n,
"attention": ..., "memory": bool}, answers with the seconds the rows took (or the peak memory, in bytes).

Runs in any environment with torch and transformers; knows nothing of this project.
"""

import json
import resource
import sys
import time

import torch
import transformers


def main() -> None:
    layers, threads, dtype = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    for line in sys.stdin:
        request = json.loads(line)
        config = transformers.BigBirdConfig(
            num_hidden_layers=layers, attention_type=request.get("attention", "block_sparse")
        )
        torch.manual_seed(0)
        model = transformers.BigBirdModel(config).eval()
        if dtype == "bfloat16":
            model = model.to(torch.bfloat16)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        lengths = request["rows"]
        began = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "autocast"):
            for start in range(0, len(lengths), request.get("batch", 1)):
                rows = lengths[start : start + request.get("batch", 1)]
                ids = torch.full((len(rows), max(rows)), 7)
                mask = (torch.arange(max(rows)) < torch.tensor(rows)[:, None]).long()
                model(ids, attention_mask=mask)
        took = time.perf_counter() - began
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        print(json.dumps(peak if request.get("memory") else took), flush=True)


if __name__ == "__main__":
    main()
