"""Typed values and compression: lists, arrays, Arrow tables, scopes, `Dict` and `Buffer`."""

import os
import pickle
import resource
import threading
import zlib
from random import Random

import numpy as np
import pandas as pd
import partd
import pytest
from partd import (
    BZ2,
    LZ4,
    Blosc,
    Buffer,
    Dict,
    Encode,
    File,
    Numpy,
    Pickle,
    Python,
    Scoped,
    Snappy,
    ZLib,
    Zstd,
)

VALUES = [b"", b"x", b"text " * 1000, os.urandom(70_000)]
LAYERS = {"ZLib": ZLib, "BZ2": BZ2, "Snappy": Snappy, "Blosc": Blosc, "LZ4": LZ4, "Zstd": Zstd}


@pytest.mark.parametrize("name", LAYERS)
def test_compressed_values_come_back_from_every_store(name, tmp_path):
    for store in [Dict(), File(tmp_path / "s"), Buffer(Dict(), File(tmp_path / "b"), 1000)]:
        p = LAYERS[name](store)
        p.append({i: value for i, value in enumerate(VALUES)})
        p.append({i: value[::-1] for i, value in enumerate(VALUES)})
        assert p.get(list(range(4))) == [value + value[::-1] for value in VALUES]
        assert pickle.loads(pickle.dumps(p.get([0, "missing"]))) == [b"", b""]
        assert p.pop([2]) == [VALUES[2] + VALUES[2][::-1]] and p.get(2) == b""
        p.append({"m": memoryview(b"abc"), "a": bytearray(b"abc")})
        assert p.get(["m", "a"]) == [b"abc", b"abc"]
        assert isinstance(p, Encode) and LAYERS[name].func is Encode


@pytest.mark.parametrize("name", ["ZLib", "BZ2", "Snappy", "Blosc"])
def test_compressed_values_are_exchanged_with_partd_1(name, partd1):
    old_layer = getattr(partd1, name, None)
    assert old_layer is not None, "partd 1 needs python-snappy and blosc"
    old, new = old_layer(partd1.Dict()), LAYERS[name](Dict())
    old.append({i: value for i, value in enumerate(VALUES) if value})
    new.append({i: value for i, value in enumerate(VALUES) if value})
    crossed_old, crossed_new = old_layer(partd1.Dict()), LAYERS[name](Dict())
    for i in (1, 2, 3):
        crossed_new.partd.append({i: old.partd.get(i)})
        crossed_old.partd.append({i: new.partd.get(i)})
    assert crossed_new.get([1, 2, 3]) == crossed_old.get([1, 2, 3]) == VALUES[1:]


def test_a_damaged_frame_is_an_error_of_the_right_type_that_names_its_key():
    p = ZLib(Dict())
    p.append({"good": b"1", "bad": b"2"})
    p.partd.append({"bad": b"\x03" + bytes(7) + b"abc"})
    with pytest.raises(partd.DamageError) as caught:
        p.get(["good", "bad"])
    assert "'bad'" in caught.value.__notes__[0] and isinstance(caught.value, ValueError)
    with pytest.raises(partd.DamageError):
        p.pop("bad")
    assert p.get("good") == b"1" and p.partd.get("bad") != b""
    with pytest.raises(zlib.error):
        partd.compressed.zlib_decompress(b"abc")
    for cut in [b"1234567", b"\xff" * 8 + b"x"]:
        p.partd.delete("bad")
        p.partd.append({"bad": cut})
        with pytest.raises(partd.DamageError):
            p.get("bad")


def test_lists_of_anything(tmp_path):
    for layer in (Pickle, Python):
        p = layer(str(tmp_path / layer.args[2].__module__ / layer.args[0].__class__.__name__))
        p.append({"x": [1, "a", None, b"y"], "y": []})
        p.append({"x": [{1: [2]}, {3}]})
        assert p.get("x") == [1, "a", None, b"y", {1: [2]}, {3}]
        assert p.get(["y", "z"]) == [[], []]
        assert p.pop("x")[0] == 1 and p.get("x") == []
        p.iset("s", [1])
        p.iset("s", [2])
        assert p.get("s") == [1]
        p.drop()
        p.iset("s", [3])
        assert p.get("s") == [3]


def test_joining_many_lists_is_linear():
    p = Pickle(Dict())
    for _ in range(5000):
        p.append({"x": [1] * 20})
    assert len(p.get("x")) == 100_000


def test_arrays_keep_their_type_and_refuse_another():
    p = Numpy(Dict())
    for array in [np.arange(3), np.arange(3.0), np.array(["2020"], "M8[s]"), np.zeros(2, [("a", "i4"), ("b", "f8")]),
                  np.array(["a", None, [1]], "O"), np.array(["ab", "c"]), np.array([b"x"]), np.arange(3, dtype=">i2")]:  # fmt: skip
        p.append({"x": array})
        p.append({"x": array[::-1]})
        got = p.get("x")
        assert got.dtype == array.dtype and got.tolist() == [*array.tolist(), *array[::-1].tolist()]
        with pytest.raises(TypeError, match="holds elements"):
            p.append({"x": np.array([True])})
        assert p.pop("x").dtype == array.dtype
        assert p.partd.keys() == []
    with pytest.raises(TypeError):
        p.get("missing")
    p.append({"x": np.arange(2)})
    p.delete("x")
    assert p.partd.keys() == []
    for hostile in [b"[__import__('os').system('false')]", b"[(", b"nothing"]:
        with pytest.raises((ValueError, TypeError, SyntaxError)):
            partd.numpy.parse_dtype(hostile)


def test_arrow_tables_are_concatenated(tmp_path):
    pa = pytest.importorskip("pyarrow")
    p = partd.Arrow(File(tmp_path / "s"))
    batch = pa.record_batch({"a": [1, 2], "s": ["x", None]})
    p.append({"k": batch})
    p.append({"k": pa.Table.from_batches([batch])})
    assert p.get("k").to_pydict() == {"a": [1, 2, 1, 2], "s": ["x", None] * 2}
    assert p.get("missing").num_columns == 0


def test_a_buffer_returns_bytes_in_order_and_counts_what_it_holds(tmp_path):
    p = Buffer(Dict(), File(tmp_path / "s"), available_memory=100)
    expected = {}
    for i in range(500):
        key, value = i % 7, b"%d;" % i * (i % 5)
        p.append({key: value})
        expected[key] = expected.get(key, b"") + value
        assert (
            p.memory_usage
            == sum(p.lengths.values())
            == sum(map(len, p.fast.get(list(range(7)))))
            <= 100
        )
    assert p.get(list(expected)) == list(expected.values())
    q = pickle.loads(pickle.dumps(p))
    assert p.fast.data == {} and q.get(3) == expected[3]
    q.append({3: b"+"})
    q.flush()
    assert p.get(3) == expected[3] + b"+"
    assert p.pop([3, 4]) == [expected[3] + b"+", expected[4]] and p.get(3) == b""
    p.append({"s": b"replaced"})
    p.iset("s", b"1")
    p.iset("s", b"2")
    p.append({"s": b"+"})
    assert p.get("s") == b"1+"
    p.delete("s")
    p.iset("s", b"3")
    assert p.get("s") == b"3"
    p.drop()
    assert (p.memory_usage, p.keys()) == (0, [])


def test_a_buffer_with_a_failing_slow_store_loses_nothing(tmp_path):
    p = Buffer(Dict(), File(tmp_path / "s"), available_memory=10)
    p.append({"x": b"12345"})
    p.slow.__exit__()
    with pytest.raises(FileNotFoundError):
        p.append({"x": b"6789abc"})
    os.mkdir(tmp_path / "s")
    p.flush()
    assert p.get("x") == b"123456789abc"


def test_a_flush_of_which_a_part_fails_keeps_what_the_slow_store_has_not(tmp_path):
    slow = File(tmp_path / "s")
    slow.append({0: b"makes the first segment"})
    # A batch has at most 8 of them.
    values = {key: bytes([key]) * (1 << 20) for key in range(1, 25)}
    p = Buffer(Dict(), slow, available_memory=1e9)
    p.append(values)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The segment has room for some of the values, and another one cannot be made.
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="RLIMIT_FSIZE"):
            p.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = len(p.fast.data)
    assert 0 < kept < 24 and p.memory_usage == kept << 20
    assert p.get(list(values)) == list(values.values())
    p.flush()
    assert p.fast.data == {} and p.memory_usage == 0
    assert p.get(list(values)) == list(values.values())


def test_a_flush_keeps_the_order_of_pieces_of_any_length(tmp_path):
    random = Random(1)
    p = Buffer(Dict(), File(tmp_path / "s"), available_memory=300_000)
    expected = {}
    for _ in range(300):
        for key, longest in [("short", 50), ("mixed", 20_000), ("long", 9000), ("empty", 0)]:
            value = random.randbytes(random.randrange(longest + 1))
            p.append({key: value})
            expected[key] = expected.get(key, b"") + value
    p.flush()
    assert p.get(list(expected)) == list(expected.values())
    assert sorted(p.slow.keys()) == sorted(expected)


def test_threads_can_share_every_store(tmp_path):
    for p in [
        Dict(),
        File(tmp_path / "f"),
        Buffer(Dict(), File(tmp_path / "s"), 500),
        ZLib(File(tmp_path / "z")),
    ]:

        def work(n, p=p):
            for i in range(100):
                p.append({"all": b"%d:%d;" % (n, i), n: b"x"})
                assert p.get(n) == b"x" * (i + 1)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        entries = p.get("all").split(b";")[:-1]
        assert len(entries) == 400
        for n in range(4):
            own = [entry for entry in entries if entry.startswith(b"%d:" % n)]
            assert own == [b"%d:%d" % (n, i) for i in range(100)]


def test_scopes_are_separate_and_nest(tmp_path):
    store = File(tmp_path / "s")
    jobs = [Pickle(Scoped(Scoped(store, "job"), i)) for i in range(3)]
    for i, p in enumerate(jobs):
        p.append({"x": [i], ("t", 1): [i]})
    jobs[0].drop()
    assert [p.get("x") for p in jobs] == [[], [1], [2]]
    assert jobs[1].keys() == [("t", "1"), "x"] and len(store.keys()) == 4
    q = pickle.loads(pickle.dumps(jobs[2]))
    assert q.pop(("t", 1)) == [2]


def test_stores_are_truthy_and_layers_accept_paths(tmp_path):
    assert all(
        [Dict(), File(tmp_path / "a"), Buffer(Dict(), Dict()), Pickle(Dict()), Numpy(Dict())]
    )
    assert Pickle(tmp_path / "p").partd.path == str(tmp_path / "p")
    assert isinstance(ZLib().partd, File)


@pytest.mark.parametrize(
    ("layer", "value"),
    [
        (partd.Numpy, np.array([1])),
        (partd.PandasColumns, pd.DataFrame({"a": [1]})),
        (partd.PandasBlocks, pd.DataFrame({"a": [1]})),
        (partd.Pickle, [1]),
        (partd.ZLib, b"1"),
    ],
)
def test_a_durable_append_leaves_nothing_in_a_buffer(layer, value, tmp_path):
    slow = File(tmp_path / "s")
    p = layer(Buffer(Dict(), slow))
    p.append_durable({"x": value})
    assert len(p.get("x")) == 1
    assert sum(len(part) for part in slow.get(slow.keys())) > 0
    buffer = p.partd if isinstance(p.partd, Buffer) else p.partd.partd
    assert buffer.fast.keys() == [] and buffer.memory_usage == 0
