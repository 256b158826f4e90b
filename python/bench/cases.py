"""Runs one case of the benchmark for one side, and prints its rate and a digest as JSON.

    cases.py old|new CASE quick|full

The side only selects how a data frame is split or shuffled. The caller determines which partd is
imported.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

SIDE, CASE, SIZE = sys.argv[1:] if len(sys.argv) == 4 else ("new", "", "quick")
QUICK = SIZE == "quick"


def blocks(count, size):
    """Makes values that compress to about half, and are the same in every process."""
    source = random.Random(1)
    text = b"".join(b"%d,%d,EWR\n" % (i, i * i % 97) for i in range(size // 4))
    return {
        f"key-{i}": (text[i : i + size // 2] + source.randbytes(size))[:size] for i in range(count)
    }


def timed(call, times):
    """Returns calls per second, from the median duration, which single slow calls do not change."""
    durations = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        durations.append(time.perf_counter() - began)
    return 1 / sorted(durations)[len(durations) // 2]


def digest(values):
    found = hashlib.sha256()
    for value in values:
        found.update(value)
    return found.hexdigest()[:16]


def append(fsync=False):
    import partd

    data = blocks(64, 4096)
    if fsync:
        times = 5 if QUICK else 200
    else:
        times = 100 if QUICK else 400
    with tempfile.TemporaryDirectory() as directory:
        p = partd.File(os.path.join(directory, "store"))
        p.append(data)
        rate = timed(lambda: p.append(data, fsync=fsync), times)
        return rate, digest(p.get(list(data)))


def get(keys, size):
    import partd

    data = blocks(keys, size // 16)
    with tempfile.TemporaryDirectory() as directory:
        p = partd.File(os.path.join(directory, "store"))
        for _ in range(16):
            p.append(data)
        names = list(data)
        names = names if keys > 1 else names[0]
        p.get(names)
        rate = timed(lambda: p.get(names), 10 if QUICK else 60)
        return rate, digest(p.get(list(data)))


def buffer():
    import partd

    data = blocks(64, 4096)
    with tempfile.TemporaryDirectory() as directory:
        p = partd.Buffer(
            partd.Dict(), partd.File(os.path.join(directory, "store")), available_memory=16e6
        )
        group, times = 50, 4 if QUICK else 20

        def appends():
            for _ in range(group):
                p.append(data)

        # Every sixth append or so moves keys to disk. A group has several of these, and the median
        # of the groups leaves out those that wait for the disk.
        rate = group * timed(appends, times)
        # partd 1 returns new bytes before old ones, but here every append to a key is the same.
        return rate, digest(p.get(list(data)))


def compressed(name):
    import partd

    data = blocks(64, 16384)
    with tempfile.TemporaryDirectory() as directory:
        p = getattr(partd, name)(partd.File(os.path.join(directory, "store")))

        def both():
            p.append(data)
            p.get(list(data))
            p.delete(list(data))

        both()
        rate = timed(both, 3 if QUICK else 15)
        p.append(data)
        return rate, digest(p.get(list(data)))


def frame(scheduler, method="disk", rows=2_000_000, parts=16, out=64, keeps_pool=False):
    """Times one shuffle, after a small one, because dask imports modules on first use."""
    rows = rows // 20 if QUICK else rows
    with contextlib.ExitStack() as stack:
        settings = {}
        if keeps_pool:
            # By default, each run of dask starts new processes.
            context = multiprocessing.get_context("spawn")
            settings["pool"] = stack.enter_context(ProcessPoolExecutor(2, mp_context=context))
        shuffle(scheduler, method, 1000, 2, 2, settings)
        return shuffle(scheduler, method, rows, parts, out, settings)


def shuffle(scheduler, method, rows, parts, out, settings):
    import dask
    import dask.dataframe as dd
    import numpy as np
    import pandas as pd

    source = np.random.default_rng(1)
    names = np.array(["alpha", "beta", "gamma", "a longer name", "e"])
    pdf = pd.DataFrame({
        "id": source.integers(0, 1 << 40, rows), "x": source.random(rows), "name": names[source.integers(0, 5, rows)],
    })  # fmt: skip
    # Make the partitions in advance, so that the time does not include it.
    pieces = [pdf.iloc[i * rows // parts : (i + 1) * rows // parts] for i in range(parts)]
    df = dd.from_delayed(
        [dask.delayed(piece) for piece in pieces], meta=pdf.iloc[:0], verify_meta=False
    )
    shuffled = df.shuffle("id", npartitions=out, shuffle_method=method)
    counts = shuffled.map_partitions(
        lambda d: pd.DataFrame({"n": [len(d)], "id": [d.id.sum()]}), meta={"n": int, "id": int}
    )
    with dask.config.set(scheduler=scheduler, num_workers=2, **settings):
        began = time.perf_counter()
        got = counts.compute()
        rate = 1 / (time.perf_counter() - began)
    return rate, f"{got.n.sum()} {got.id.sum()} {sorted(got.n)[:3]}"


def enabled(method="disk"):
    if method == "disk" and SIDE == "new":
        import partd.dask

        partd.dask.enable()
    return frame("threads", method)


def bag():
    grouped(100, 2, 2)
    return grouped(10_000 if QUICK else 200_000, 16, 64)


def grouped(count, parts, out):
    import dask
    import dask.bag as db

    numbers = db.from_sequence(range(count), npartitions=parts)
    groups = numbers.groupby(lambda x: x % 1000, npartitions=out, shuffle="disk").map(
        lambda g: (g[0], len(g[1]))
    )
    with dask.config.set(scheduler="sync"):
        began = time.perf_counter()
        got = groups.compute()
        rate = 1 / (time.perf_counter() - began)
    return rate, str(sorted(got)[::100])


CALLS = {
    "append": append,
    "append_fsync": lambda: append(fsync=True),
    "get": lambda: get(1, 16 * 4096),
    "get_many": lambda: get(64, 16 * 4096),
    "get_large": lambda: get(1, 1 << 20),
    "buffer": buffer,
    "zlib": lambda: compressed("ZLib"),
    "snappy": lambda: compressed("Snappy"),
    "blosc": lambda: compressed("Blosc"),
    "frame_threads": lambda: frame("threads"),
    "frame_processes": lambda: frame("processes"),
    "frame_pool": lambda: frame("processes", keeps_pool=True),
    "bag": bag,
    "timeseries": lambda: frame("threads", rows=2_592_000, parts=100, out=100),
    "frame_enabled": enabled,
    "frame_tasks": lambda: enabled("tasks" if SIDE == "old" else "disk"),
}

if __name__ == "__main__":
    rate, result = CALLS[CASE]()
    print(json.dumps({"rate": rate, "digest": result}))
