"""The memory a process keeps: no fresh pages for a batch like the last."""

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bigbird.linear import memory
from bigbird.linear.packed import PackedLinear

SCRIPT = """
import json, resource, torch
from concurrent.futures import ThreadPoolExecutor
from bigbird import BigBirdConfig, BigBirdModel, prepare_for_inference
from bigbird.linear import memory
from bigbird.packing import pack

torch.set_num_threads(1)
thread = ThreadPoolExecutor(1)
thread.submit(torch.ones, 1000).result()  # it has a heap of its own already
config = BigBirdConfig(
    vocab_size=200, hidden_size=256, num_attention_heads=2, num_hidden_layers=1, intermediate_size=16, block_size=16
)
model = prepare_for_inference(BigBirdModel(config, add_pooling_layer=False), "float32")
usage = lambda: resource.getrusage(resource.RUSAGE_SELF)

def faults():
    with torch.inference_mode():
        before = usage().ru_minflt
        model.encode(pack([[7] * 4096] * 4))  # more than one heap of a thread holds
        return usage().ru_minflt - before

least = lambda run: min(run() for batch in range(6))
found = {"faults": least(faults), "faults_on_a_thread": least(lambda: thread.submit(faults).result())}
print(json.dumps({"keeps": memory.keep_freed_memory(), **found}))
"""


OF_PRODUCTS = """
import ctypes, json, torch
from bigbird import BigBirdConfig, BigBirdModel, prepare_for_inference

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
config = BigBirdConfig(vocab_size=20, hidden_size=16, num_attention_heads=1, num_hidden_layers=1, intermediate_size=16)
prepare_for_inference(BigBirdModel(config), "auto")  # tries products before it makes the model's
weight = torch.randn(256, 256)

def after(numbers):
    with torch.inference_mode():
        for rows in numbers:
            torch.ops.mkldnn._linear_pointwise(torch.ones(rows, 256), weight, None, "none", [], "")
    return libc.mallinfo2().uordblks

first = after(range(1, 301))
print(json.dumps({"grown": after(range(301, 701)) - first}))
"""


def measured(script: str = SCRIPT, **environment: str) -> dict[str, float]:
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, float] = json.loads(ran.stdout)
    print(environment, answer)  # for benchmarks/RESULTS.md
    return answer


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_process_takes_no_fresh_pages_for_a_batch_like_the_last_on_any_of_its_threads():
    kept = measured()
    if not kept["keeps"]:
        pytest.skip("this C library has no mallopt")
    left_alone = measured(MALLOC_TRIM_THRESHOLD_="131072")
    assert not left_alone["keeps"]
    for thread in ("faults", "faults_on_a_thread"):
        assert left_alone[thread] > 20 * kept[thread]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc of 2.33 or later tells what is in use")
def test_products_of_ever_new_numbers_of_rows_take_no_more_memory():
    left_alone = measured(OF_PRODUCTS, ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024", LRU_CACHE_CAPACITY="1024")
    assert left_alone["grown"] > 10 * max(1, measured(OF_PRODUCTS)["grown"])


LARGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
AT_ONCE = LARGE.exists() and tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 1)


@pytest.mark.skipif(not AT_ONCE or "[never]" in LARGE.read_text(), reason="no large pages at once here")
def test_weights_lie_on_large_pages_and_keep_their_values():
    weight = torch.randn(2048, 1024)
    moved = memory.on_large_pages(weight.clone())
    assert torch.equal(moved, weight)
    linear = PackedLinear(torch.nn.Linear(1024, 2048), num_rows=16)
    for start in (moved.data_ptr(), torch.ops.mkldnn.data_ptr(linear.weight)):
        assert large_page_kib(start + memory.LARGE_PAGE) >= memory.LARGE_PAGE // 1024


def large_page_kib(address: int) -> int:
    """KiB on large pages of the mapping that holds an address, from /proc/self/smaps."""
    holds = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            holds = int(span[1], 16) <= address < int(span[2], 16)
        elif holds and line.startswith("AnonHugePages:"):
            return int(line.split()[1])
    raise AssertionError("no mapping holds the address")
