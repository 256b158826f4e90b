"""Writes tests/golden/encode: values stored by the Python partd, for tests/encodings/golden.rs.

    "$(tests/python/venv.sh target/python)" tests/python/make_golden.py

Each file is the stored value of one key, byte for byte. versions.txt lists the versions that wrote
them. The values in arrow/ are written by tests/encodings/typed.rs instead.
"""
import pathlib
import pickle
import shutil
import sys
from importlib.metadata import version

import blosc
import cramjam
import numpy as np
import partd
from partd.utils import frame

from values import ARRAYS, BYTES, LISTS, SETS, TWICE

# The destructor calls a method that partd.Dict does not have.
del partd.Numpy.__del__

out = pathlib.Path(__file__).parent.parent / "golden" / "encode"
for written in ["zlib", "bz2", "snappy", "blosc", "lz4", "zstd", "pickle", "msgpack", "numpy"]:
    shutil.rmtree(out / written, ignore_errors=True)


def save(name, data):
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def stored(layer, values, key="x"):
    """The bytes that a partd layer stores for values that are appended one by one."""
    store = partd.Dict()
    p = layer(store)
    for value in values:
        p.append({"x": value})
    return store.get(key)


for name, layer in [
    ("zlib", partd.ZLib),
    ("bz2", partd.BZ2),
    ("snappy", partd.Snappy),
    ("blosc", partd.Blosc),
]:
    save(f"{name}/bytes", stored(layer, BYTES))

# Kinds of frames that the Python partd's defaults do not write.
for cname in ["blosclz", "lz4", "lz4hc", "zlib", "zstd"]:
    for shuffle, how in [(blosc.NOSHUFFLE, "no"), (blosc.SHUFFLE, "byte"), (blosc.BITSHUFFLE, "bit")]:
        frames = [blosc.compress(v, typesize=4, shuffle=shuffle, cname=cname) for v in BYTES]
        save(f"blosc/{cname}-{how}-shuffle", b"".join(map(frame, frames)))

# The Python partd lacks these codecs; cramjam, which python-snappy uses, has them.
save("lz4/bytes", b"".join(frame(bytes(cramjam.lz4.compress_block(v, store_size=True))) for v in BYTES))
save("zstd/bytes", b"".join(frame(bytes(cramjam.zstd.compress(v))) for v in BYTES))

for name, lists in LISTS.items():
    save(f"pickle/{name}", stored(partd.Pickle, lists))
    save(f"msgpack/{name}", stored(partd.Python, lists))
    for protocol in range(6):
        # Protocols 0 to 2 pickle bytes as function calls, which the layer refuses.
        if name != "bytes" or protocol >= 3:
            frames = [pickle.dumps(v, protocol=protocol) for v in lists]
            save(f"pickle/{name}-protocol-{protocol}", b"".join(map(frame, frames)))
save("pickle/sets", stored(partd.Pickle, SETS))
save("pickle/sets-protocol-2", b"".join(frame(pickle.dumps(v, protocol=2)) for v in SETS))
save("pickle/twice", stored(partd.Pickle, TWICE))
# MessagePack has no sets: the layer falls back to pickle.
save("msgpack/sets", stored(partd.Python, SETS))

for name, array in ARRAYS.items():
    save(f"numpy/{name}", stored(partd.Numpy, [array, array[::-1]]))
    save(f"numpy/{name}.dtype", stored(partd.Numpy, [array], "x.dtype"))
for name, array in [
    ("big-endian", np.array([1, 2, -3], ">i4")),
    ("object", np.array(["a", None], "O")),
    ("strings", np.array(["a", "bc"])),
]:
    save(f"numpy/{name}", stored(partd.Numpy, [array]))
    save(f"numpy/{name}.dtype", stored(partd.Numpy, [array], "x.dtype"))

packages = ["partd", "python-snappy", "cramjam", "blosc", "msgpack", "numpy"]
lines = [f"Python {sys.version.split()[0]}"] + [f"{name} {version(name)}" for name in packages]
lines.append(f"c-blosc {blosc.__blosclib_version__ if hasattr(blosc, '__blosclib_version__') else blosc.blosclib_version}")
save("versions.txt", ("\n".join(lines) + "\n").encode())
print(f"wrote {sum(1 for p in out.rglob('*') if p.is_file())} files to {out}")
