"""The service measured: its overhead, long among short, three times too much, peers, a batch, scaling, chaos, a soak.

    python -m benchmarks.serving                                        # all of them, about a quarter of an hour
    python -m benchmarks.serving overhead mixed overload --size base --seconds 30
    python -m benchmarks.serving soak --seconds 1200

Everything runs on one machine, clients beside servers, on random weights of the size asked for; every scenario
starts warm. Ends with a table for RESULTS.md; the load of the machine is printed, because it decides what times mean.
"""

import argparse
import os
import platform
import sys
import time
from datetime import date

import ray

from benchmarks.serving_parts.batch import batch
from benchmarks.serving_parts.bench import SIZES, Bench, Row
from benchmarks.serving_parts.failures import chaos, scaling, soak
from benchmarks.serving_parts.steady import mixed, overhead, overload, peers

SCENARIOS = {one.__name__: one for one in (overhead, mixed, overload, peers, batch, scaling, chaos, soak)}

# Of one measurement, where --seconds does not say otherwise.
SECONDS = dict.fromkeys(SCENARIOS, 15.0) | {"scaling": 40.0, "chaos": 120.0, "soak": 180.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of a model (default: %(default)s)")
    defaults = ", ".join(f"{name} {seconds:g}" for name, seconds in SECONDS.items())
    parser.add_argument("--seconds", type=float, help=f"of each measurement (default: {defaults})")
    parser.add_argument("--ingress", choices=("serve", "haproxy"), default="serve", help="as of bigbird-serve")
    options = parser.parse_args()
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    print(f"{date.today()}  {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
          f"ray {ray.__version__}, size {options.size}, {options.threads} threads, "
          f"ingress {options.ingress}")  # fmt: skip
    bench = Bench(
        options.size, options.threads, options.ingress, takes_jobs="batch" in (options.scenarios or SCENARIOS)
    )
    table: list[tuple[str, Row]] = []
    try:
        for name in options.scenarios or SCENARIOS:
            print(f"{name}: {(SCENARIOS[name].__doc__ or '').strip()}", flush=True)
            bench.seconds = options.seconds or SECONDS[name]
            started = time.perf_counter()
            rows = SCENARIOS[name](bench)
            table += [(name, row) for row in rows]
            for what, figure in rows:
                print(f"  {what:36} {figure}")
            print(f"  ({time.perf_counter() - started:.0f} s, load {os.getloadavg()[0]:.1f})", flush=True)
    finally:
        bench.close()
        print(f"\n| {options.size} | what | measured |\n|---|---|---|")
        for name, (what, figure) in table:
            print(f"| {name} | {what} | {figure} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
