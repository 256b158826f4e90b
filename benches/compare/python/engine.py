"""The Python partd as an engine of the comparison: one run, reported as the Rust engines report it.

    engine.py file|buffer DIR POOL VALUE KEYS BATCHES CALL THREADS
    engine.py version

Prints the seconds of the appends and of the reads, then the length and the CRC-32 of each value. A
batch is cut from the pool within the time of the appends, as in Rust; here each cut is a copy, which
`Dict` then keeps instead of making one. An append has one value for each key, whatever CALL says, and
reads use one thread, because of the interpreter's lock.
"""

import importlib.metadata
import platform
import sys
import time
import zlib

import partd

MEMORY_BYTES = 200_000_000


def main(which, directory, pool, value, keys, batches):
    with open(pool, "rb") as file:
        pool = file.read()
    names = [f"part-{key:07}" for key in range(keys)]
    store = partd.File(directory)
    if which == "buffer":
        store = partd.Buffer(partd.Dict(), store, available_memory=MEMORY_BYTES)

    before = time.perf_counter()
    for batch in range(batches):
        pieces = {}
        for key, name in enumerate(names):
            start = (batch * 7919 + key * 104_729) % (len(pool) - value)
            pieces[name] = pool[start : start + value]
        store.append(pieces)
    appended = time.perf_counter() - before

    before = time.perf_counter()
    if which == "buffer":
        # Otherwise `Buffer` returns what it still holds before the older bytes on disk.
        store.flush()
    values = store.get(names)
    read = time.perf_counter() - before

    print(appended, read)
    for value in values:
        print(len(value), zlib.crc32(value))


if __name__ == "__main__":
    if sys.argv[1:] == ["version"]:
        print(f"{platform.python_version()}, partd {importlib.metadata.version('partd')}")
    else:
        which, directory, pool, *numbers = sys.argv[1:]
        main(which, directory, pool, *map(int, numbers[:3]))
