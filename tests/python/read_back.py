"""Reads values written by Rust with the Python partd; tests/encodings/python_interop.rs runs it.

The given directory has one file per layer and key, as make_golden.py writes them. Prints the number
of values read; fails at the first wrong one.
"""
import pathlib
import sys

import blosc
import cramjam
import numpy as np
import partd
from partd.utils import framesplit

from values import ARRAYS, BYTES, LISTS, SETS

# The destructor calls a method that partd.Dict does not have.
del partd.Numpy.__del__

dir = pathlib.Path(sys.argv[1])
count = 0


def check(name, got, expected):
    global count
    same = np.array_equal(got, expected) if isinstance(expected, np.ndarray) else got == expected
    assert same, f"{name}: {got!r:.200} is not {expected!r:.200}"
    count += 1


def read(layer, name, sides=()):
    """The value that a partd layer finds in the bytes of a file."""
    store = partd.Dict()
    for side in ("", *sides):
        store.append({"x" + side: (dir / (name + side)).read_bytes()})
    return layer(store).get("x")


for name, layer in [
    ("zlib", partd.ZLib),
    ("bz2", partd.BZ2),
    ("snappy", partd.Snappy),
    ("blosc", partd.Blosc),
]:
    check(name, read(layer, f"{name}/bytes"), b"".join(BYTES))
for cname in ["blosclz", "lz4", "lz4hc", "zlib", "zstd"]:
    check(cname, read(partd.Blosc, f"blosc/{cname}"), b"".join(BYTES))
lz4 = [bytes(cramjam.lz4.decompress_block(f)) for f in framesplit((dir / "lz4/bytes").read_bytes())]
check("lz4", lz4, BYTES)
zstd = [bytes(cramjam.zstd.decompress(f)) for f in framesplit((dir / "zstd/bytes").read_bytes())]
check("zstd", zstd, BYTES)


def plain(value):
    """Converts tuples to lists: MessagePack has only arrays."""
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


for name, lists in LISTS.items():
    expected = sum(lists, [])
    check(f"pickle/{name}", read(partd.Pickle, f"pickle/{name}"), expected)
    check(f"msgpack/{name}", read(partd.Python, f"msgpack/{name}"), plain(expected))
# Rust pickles sets as lists.
check("pickle/sets", list(map(set, read(partd.Pickle, "pickle/sets"))), sum(SETS, []))

for name, array in ARRAYS.items():
    got = read(partd.Numpy, f"numpy/{name}", [".dtype"])
    assert got.dtype == array.dtype, f"{name}: dtype {got.dtype}"
    check(name, got, np.concatenate([array, array[::-1]]))

print(f"Python read {count} values")
