"""Prints the table of the README's Speed section: compares this package with partd 1.4.2.

    python/bench/run [--rounds N] [--cases NAME…] [--quick]

Both sides run each case in turn, each time in a new process. The table shows the median rates,
their ratio, and the lowest and highest ratio of all rounds. Both sides read back what they wrote,
and must read the same.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent

# name: (description, target, unit)
CASES = {
    "append": ("`File.append`, 64 keys × 4 KiB", 10, "calls/s"),
    "append_fsync": ("the same with `fsync=True`", 50, "calls/s"),
    "get": ("`File.get` of one key, appended to 16 times", 1.0, "calls/s"),
    "get_many": ("`File.get` of all 64 keys", 1.5, "calls/s"),
    "get_large": ("`File.get` of one key of 1 MiB", 1.0, "calls/s"),
    "buffer": ("`Buffer(Dict, File)`, 64 keys × 4 KiB, 16 MB of memory", 2, "calls/s"),
    "zlib": ("`ZLib(File)`, append and get of 64 keys × 16 KiB", 1.5, "calls/s"),
    "snappy": ("`Snappy(File)`, the same", 1.5, "calls/s"),
    "blosc": ("`Blosc(File)`, the same", 1.5, "calls/s"),
    "frame_threads": ("dask: 2 M rows to 64 partitions on disk, threads", 1.6, "runs/s"),
    "frame_processes": ("the same, processes", 2.5, "runs/s"),
    "frame_pool": ("the same, processes that already run", 2.5, "runs/s"),
    "bag": ("dask: `Bag.groupby` of 200,000 numbers, 16 to 64 partitions", 3, "runs/s"),
    "timeseries": ("dask: 100 partitions, 10,000 shards, threads", 2, "runs/s"),
    "frame_enabled": ("2 M rows, threads, with `partd.dask.enable()`", 2.5, "runs/s"),
    "frame_tasks": (
        "dask's shuffle by tasks (in the first column), and `partd.dask.enable()`",
        1.0,
        "runs/s",
    ),
}


def measure(side, case, environment, quick):
    """Runs one side in a new process; returns its rate and a digest of what it read."""
    command = [sys.executable, str(HERE / "cases.py"), side, case, "quick" if quick else "full"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}, {side}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--quick", action="store_true", help="use small sizes")
    parser.add_argument(
        "--upstream", required=True, help="the directory with partd 1.4.2 as `partd`"
    )
    arguments = parser.parse_args()
    new = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    old = {**new, "PYTHONPATH": arguments.upstream}
    print("| case | partd 1.4.2 | 2.0.0 | ratio | lowest to highest | target |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    for case in arguments.cases:
        what, target, unit = CASES[case]
        rates, ratios = {"old": [], "new": []}, []
        for turn in range(arguments.rounds):
            sides = ["old", "new"] if turn % 2 == 0 else ["new", "old"]
            found = {}
            for side in sides:
                # In the comparison with tasks, both sides use this package.
                is_old = side == "old" and case != "frame_tasks"
                found[side] = measure(side, case, old if is_old else new, arguments.quick)
                rates[side].append(found[side]["rate"])
            if found["old"]["digest"] != found["new"]["digest"]:
                raise SystemExit(f"{case}: the sides read different values")
            ratios.append(found["new"]["rate"] / found["old"]["rate"])
        before, after = (statistics.median(rates[side]) for side in ("old", "new"))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        unit = "" if before >= 100 else unit
        print(
            f"| {what} | {before:,.4g} {unit} | {after:,.4g} | **{after / before:.2f}** | {spread} | {target} |",
            flush=True,
        )


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - began:.0f} s", file=sys.stderr)
