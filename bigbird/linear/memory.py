"""How the memory of a prepared model lies: freed memory stays with the process, weights lie on large pages.

glibc gives blocks of some MiB back to the kernel at once, and a fresh page costs as much as a part of the product that
is written to it: at 4,096 tokens a layer of base size takes 6,000 pages in bfloat16 and 12,000 in float32, each time.
Threads other than the first have heaps of LARGEST_THREAD_BLOCK at most, which the kernel gets back once they are empty,
and a larger block is mapped anew each time: so query, key and value of an encoder are apart, unless it is in int8.
A product of few rows reads its weights as fast as memory gives them; on pages of 4 KiB it waits for their addresses.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

LARGEST_KEPT_BLOCK = 2**28
KEPT_BYTES = 2**29
"""Freed memory beyond so much, at the end of the heap, still goes back to the kernel."""

LARGEST_THREAD_BLOCK = 2**26
"""glibc's HEAP_MAX_SIZE. With so much padding an empty heap is kept, since its thread is about to want it again."""

LARGE_PAGE = 2**21

_KEPT_PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
"""oneDNN and PyTorch each keep the code of so many products, 1,024 if nothing is set before the first. One with a new
number of rows takes some hundred KiB, and rows of many lengths have ever new numbers."""

_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # Linux's mman.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_SETTINGS = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
)


@lru_cache
def keep_freed_memory() -> bool:
    """For this process and all its threads, from now on: blocks up to LARGEST_KEPT_BLOCK stay with it when they are
    freed; of threads other than the first, blocks up to LARGEST_THREAD_BLOCK. Products' code is kept for fewer lengths.

    Whether it did: not where the allocator is set by the environment already, nor without glibc.
    """
    for name, count in _KEPT_PRODUCTS.items():
        os.environ.setdefault(name, count)
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    settings = {_MMAP_THRESHOLD: LARGEST_KEPT_BLOCK, _TRIM_THRESHOLD: KEPT_BYTES, _TOP_PAD: LARGEST_THREAD_BLOCK}
    return all(mallopt(name, value) for name, value in settings.items())


def on_large_pages(weight: Tensor) -> Tensor:
    """The same tensor, plain or packed by oneDNN, its memory moved to pages of LARGE_PAGE bytes where Linux has them.

    At its ends they hold what else lies there. Tensors smaller than half a page stay where they are.
    """
    if not sys.platform.startswith("linux") or weight.device.type != "cpu":
        return weight
    packed = weight.is_mkldnn
    start = torch.ops.mkldnn.data_ptr(weight) if packed else weight.data_ptr()
    num_bytes = torch.ops.mkldnn._nbytes(weight) if packed else weight.nbytes
    if num_bytes < LARGE_PAGE // 2:
        return weight
    begin = start // LARGE_PAGE * LARGE_PAGE
    length = -(-(start + num_bytes) // LARGE_PAGE) * LARGE_PAGE - begin
    for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):  # the second, of Linux 6.1, at once; else the kernel does in time
        _madvise()(begin, length, advice)  # a kernel without large pages refuses, and nothing is lost
    return weight


@lru_cache
def _madvise() -> Callable[[int, int, int], int]:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    found: Callable[[int, int, int], int] = madvise
    return found
