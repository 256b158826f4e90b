"""Writes fuzz/seeds/encode_*: small seed corpora, from the golden values in tests/golden/encode.

    python3 fuzz/make_seeds.py

The first byte of a seed is 1 before a stored value, 0 before the body of its first frame.
"""
import pathlib
import shutil
import struct

root = pathlib.Path(__file__).parent
golden = root.parent / "tests" / "golden" / "encode"
MAX_BYTES = 3000

for layer in ["zlib", "snappy", "lz4", "bz2", "blosc", "zstd", "pickle", "msgpack", "numpy", "arrow"]:
    seeds = root / "seeds" / f"encode_{layer}"
    shutil.rmtree(seeds, ignore_errors=True)
    seeds.mkdir(parents=True)
    for path in sorted((golden / layer).iterdir()):
        value = path.read_bytes()
        if layer == "numpy":
            if path.suffix != ".dtype":
                dtype = path.with_name(path.name + ".dtype").read_bytes()
                (seeds / path.name).write_bytes(dtype + b"\n" + value)
            continue
        frames, at = [], 0
        while at < len(value):
            (length,) = struct.unpack_from("<Q", value, at)
            frames.append(value[at + 8 : at + 8 + length])
            at += 8 + length
        if len(value) < MAX_BYTES:
            (seeds / path.name).write_bytes(b"\x01" + value)
        for i, body in enumerate(frames):
            if len(body) < MAX_BYTES and not (i > 1 and "protocol" in path.name):
                (seeds / f"{path.name}-{i}").write_bytes(b"\x00" + body)
print(f"wrote {sum(1 for path in (root / 'seeds').rglob('*') if path.is_file())} seeds")
