"""Writes fuzz/seeds: small seed corpora made from the golden files of the format and the encodings,
and a few hand-made ones for the targets with structured inputs.

    python3 fuzz/make_seeds.py
"""
import pathlib
import shutil
import struct

root = pathlib.Path(__file__).parent


def seeds_of(target):
    """Creates the empty seed folder of a target."""
    seeds = root / "seeds" / target
    shutil.rmtree(seeds, ignore_errors=True)
    seeds.mkdir(parents=True)
    return seeds


# The encodings. The first byte is 1 for a stored value and 0 for the body of a frame.
golden = root.parent / "tests" / "golden" / "encode"
MAX_BYTES = 3000

for layer in ["zlib", "snappy", "lz4", "bz2", "blosc", "zstd", "pickle", "msgpack", "numpy", "arrow"]:
    seeds = seeds_of(f"encode_{layer}")
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

# The format: whole segments, and the part of the control file that is parsed.
golden = root.parent / "format" / "golden" / "v1"
segments = {path.stem: path.read_bytes() for path in sorted(golden.glob("*.seg"))}
control = (golden / "control").read_bytes()
for target in ["format_scan", "format_scan_fixed"]:
    seeds = seeds_of(target)
    for name, segment in segments.items():
        (seeds / name).write_bytes(segment)
    if target == "format_scan":
        (seeds / "control").write_bytes(control[:256])

# Whole stores, see src/hostile.rs: the bits of the first byte, the words of the control file (up to
# the second slot), and segments of equal length.
MENDED, CONTROL, SAME_BOOT, OPEN = 1, 2, 16, 32
words = control[: 1024 + 128]
stores = {name: [segment] for name, segment in segments.items()}
stores["three"] = [segments["chain"], segments["kinds"], segments["output"]]
stores["two"] = [segments["chain"], segments["nothing"]]
stores["none"] = []
for target in ["inspect", "open_hostile"]:
    seeds = seeds_of(target)
    for name, parts in stores.items():
        length = max(map(len, parts), default=0)
        body = b"".join(part.ljust(length, b"\0") for part in parts)
        count = len(parts) << 2
        (seeds / f"{name}-bare").write_bytes(bytes([MENDED | count]) + body)
        (seeds / f"{name}-closed").write_bytes(
            bytes([MENDED | CONTROL | SAME_BOOT | count]) + words + body
        )
        (seeds / f"{name}-killed").write_bytes(
            bytes([MENDED | CONTROL | SAME_BOOT | OPEN | count]) + words + body
        )
        (seeds / f"{name}-cut").write_bytes(bytes([MENDED | CONTROL | OPEN | count]) + words + body)
    (seeds / "raw").write_bytes(bytes([CONTROL | 1 << 2]) + words + segments["kinds"])


# The encoding that `arbitrary` reads: a byte says whether a list continues or an option is present;
# the top of a 32-bit number selects a variant.
def a_list(items):
    return b"".join(b"\1" + item for item in items) + b"\0"


def an_option(value):
    return b"\0" if value is None else b"\1" + value


def variant(number, of, *fields):
    return struct.pack("<I", -(-(number << 32) // of)) + b"".join(fields)


def u8(number):
    return bytes([number])


def value(length, fill=7):
    """A value of `length` bytes, below 300; see `Value` in src/ops.rs."""
    return struct.pack("<H", length * 8) + u8(fill)


LONG = struct.pack("<H", 60_007) + u8(3)  # 67,507 bytes
assert 60_007 % 8 == 7
OPS = "Write Repeat Pop Read Verify Sync Compact Reopen Kill ReadOnly KillAll PowerCut SpoilControl"


def op(name, *fields):
    names = OPS.split()
    return variant(names.index(name), len(names), *fields)


def write(handle, changes, durable=False, fuse=None):
    fuse = an_option(None if fuse is None else u8(fuse))
    return op("Write", u8(handle), a_list(changes), u8(durable), fuse)


def append(key, what):
    return variant(0, 4, u8(key), what)


def set_once(key, what):
    return variant(1, 4, u8(key), what)


def delete(key):
    return variant(2, 4, u8(key))


CLEAR = variant(3, 4)
NO = an_option(None)
some = [append(1, value(5)), append(2, value(200)), set_once(3, value(0))]
compact = op("Compact", u8(0), NO)
sync = op("Sync", u8(0), NO)
read = op("Read", u8(1), a_list([u8(1), u8(2), u8(10)]))
reopen = op("Reopen", u8(0), NO)
lists = {
    "append-and-read": [write(0, some), write(1, some), read, op("Verify", u8(2))],
    "every-kind": [write(0, some), write(0, [delete(2), append(2, value(9))]), write(1, [CLEAR])],
    "repeat": [op("Repeat", u8(0), u8(4), value(30), u8(15)), reopen, read],
    "pop": [write(0, some), op("Pop", u8(1), u8(1), u8(2), NO), read],
    "long": [write(0, [append(5, LONG)]), sync, write(0, some), op("PowerCut", u8(3)), read],
    "compact": [write(0, some), reopen, write(0, [delete(1)]), reopen, sync, compact, read],
    "compact-and-die": [
        write(0, some),
        reopen,
        write(0, some),
        reopen,
        write(0, some),
        op("Compact", u8(0), an_option(struct.pack("<H", 40))),
        op("PowerCut", u8(0)),
        compact,
    ],
    "die": [
        write(0, some, fuse=12),
        write(1, some, durable=True),
        op("Kill", u8(1)),
        write(2, some, fuse=3),
        op("KillAll"),
        op("ReadOnly"),
    ],
    "power-cut": [write(0, some, durable=True), write(0, some), op("PowerCut", u8(0)), read],
    "spoil": [write(0, some), op("SpoilControl", u8(0), b"\0\0"), read, op("ReadOnly")],
}
seeds = seeds_of("store_ops")
for name, ops in lists.items():
    (seeds / name).write_bytes(a_list(ops))

# Two tuples and a plain key, see fuzz_targets/key.rs.
def some_bytes(part):
    return a_list(u8(byte) for byte in part)


shapes = {
    "two": (0, [b"a", b"b"]),
    "three": (1, [b"", b"\0", b"\0\xff"]),
    "first": (3, [b"a", b"b", b"c"]),
    "second": (4, [b"a", b"b", b"c", b"\0\1"]),
    "deep": (6, [b"a", b"b", b"c", b"\0\3", b""]),
    "single": (7, [b"a\0", b"\0\0"]),
}
seeds = seeds_of("key")
for name, (number, parts) in shapes.items():
    one = variant(number, 9, *map(some_bytes, parts))
    other = variant(number, 9, *map(some_bytes, parts[::-1]))
    (seeds / name).write_bytes(one + other + some_bytes(b"plain"))

# The server's protocols, see server/WIRE.md. For the decoders, the bytes follow the length of a
# piece; for a session, they follow the prefix of the session and the length of a piece.
def message(*frames):
    out = b""
    for i, frame in enumerate(frames):
        more = i + 1 < len(frames)
        short = bytes([more, len(frame)]) if len(frame) < 256 else None
        out += (short or bytes([more | 2]) + struct.pack(">Q", len(frame))) + frame
    return out


def request(opcode, number, body=b"", oldest=None):
    return message(bytes([opcode]) + struct.pack(">QQ", number, oldest or number) + body)


def wire_key(key):
    return struct.pack(">I", len(key)) + key


def wire_keys(*keys):
    return struct.pack(">I", len(keys)) + b"".join(map(wire_key, keys))


def wire_value(value):
    return struct.pack(">Q", len(value)) + value


def wire_write(durable, *ops):
    return bytes([durable]) + struct.pack(">I", len(ops)) + b"".join(ops)


an_append = b"\1" + wire_key(b"x") + wire_value(b"value")
a_set = b"\2" + wire_key(b"once") + wire_value(b"")
requests = b"".join(
    [
        request(1, 1, wire_write(0, an_append, a_set, b"\3" + wire_key(b"gone"))),
        request(1, 2, wire_write(1, b"\4", b"\1" + wire_key(b"x") + wire_value(b"y" * 300))),
        request(2, 3, wire_keys(b"x", b"missing")),
        request(3, 4, wire_keys(b"x")),
        request(4, 5, wire_keys(b"once")),
        request(5, 6, wire_keys(b"once")),
        request(6, 7, wire_key(b"")),
        request(7, 8, wire_key(b"on")),
        request(8, 9),
        request(9, 10, b"\1"),
        request(10, 11),
        request(11, 12),
    ]
)
a_durable_write = wire_write(1, an_append)
durable = b"".join(request(1, number, a_durable_write, oldest=1) for number in [1000, 1001, 1000, 3])
commands = b"".join(
    [
        message(b"syn"),
        message(b"append", b"x", b"1", b"a-|-b", b"2"),
        message(b"iset", b"k", b"v"),
        message(b"get", b"x", b"k", b"a-|-b"),
        message(b"get"),
        message(b"delete", b"x"),
        message(b"drop"),
        message(b"close"),
    ]
)
answers = b"".join(
    [
        message(b"\x80" + bytes(24)),
        message(b"\x81" + bytes(8) + wire_value(b"part")[:10]),
        message(b"\x82" + bytes(8) + wire_value(b"") + wire_value(b"x")),
        message(b"\xff" + bytes(8) + b"\0\7\1full"),
        message(b""),
    ]
)
syn = message(b"syn", b"partd/2", b"session=" + b"0" * 32)
limits = [b"message-bytes", b"value-bytes", b"key-bytes", b"keys", b"server", b"resumed", b"window"]
welcome = message(b"ack", b"partd/2", b"records=1", *(name + b"=1" for name in limits))
ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
hello = bytes([255, 0, 0, 0, 0, 0, 0, 0, 1, 127, 3, 1]) + b"NULL" + bytes(48)
hello += bytes([4, len(ready)]) + ready
seeds = seeds_of("server_decode")
(seeds / "commands").write_bytes(b"\xff" + commands)
(seeds / "requests").write_bytes(b"\xff" + requests)
(seeds / "answers").write_bytes(b"\x01" + answers)
(seeds / "negotiation").write_bytes(b"\x10" + syn + welcome)
seeds = seeds_of("server_session")
(seeds / "commands").write_bytes(b"\1\xff" + commands)
(seeds / "commands-in-pieces").write_bytes(b"\1\0" + commands)
large = message(b"append", b"big", b"b" * 33000) + message(b"get", b"big")
(seeds / "large").write_bytes(b"\1\xff" + large)
(seeds / "requests").write_bytes(b"\2\xff" + requests)
(seeds / "requests-in-pieces").write_bytes(b"\2\1" + requests)
(seeds / "durable").write_bytes(b"\2\xff" + durable)
(seeds / "from-the-start").write_bytes(b"\0\xff" + hello + syn + requests)

print(f"wrote {sum(1 for path in (root / 'seeds').rglob('*') if path.is_file())} seeds")
