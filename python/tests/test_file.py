"""`File` in one process: keys, atomicity, the directory, the files that show keys, views."""

import gc
import os
import pickle
import shutil
import threading

import numpy as np
import partd
import pytest
from partd import File, Key, Scoped, _core

KEYS = [
    "x", "", "a/b", "../x", "/abs", "Foo!", "Foo", "a\0b", "a\0\1b", "control", "store.lock", ".lock",
    "ü☃", "\udcff", "x" * 500, ("a", "b"), ("a/b", "c"), ("a", ""), ("a\0", "b"), ("a", "\0b"),
    (("a", "b"), "c"), ("a", ("b", "c")), ("a", "b", "c"), (("a",), "b"), tuple("abcdefghijkl"),
    (("a", "b"),), (("a",),),
]  # fmt: skip


def test_keys_are_distinct_and_come_back_unchanged(path):
    p = File(path)
    p.append({key: repr(key).encode() for key in KEYS})
    assert p.get(KEYS) == [repr(key).encode() for key in KEYS]
    assert sorted(map(repr, p.keys())) == sorted(map(repr, KEYS))
    assert sorted(os.listdir(os.path.dirname(path))) == ["store"]


def test_equivalent_keys_are_one_key(path):
    p = File(path)
    p.append({1: b"1", "1": b"2", b"1": b"3", ("1",): b"4"})
    p.append({np.int64(1): b"5"})
    assert p.get(1) == b"12345"
    p.append({("a", 1): b"1", ("a", "1"): b"2", (b"a", b"1"): b"3"})
    assert p.get(("a", "1")) == b"123"
    assert p.get([True, None, 1.5]) == [b"", b"", b""]


def test_tuples_are_encoded_like_those_of_the_engine():
    for a, b in [("a", "b"), ("", ""), ("a\0", "\0b"), ("a\0\1", "b"), ("ü", "☃")]:
        assert _core.encode_key((a, b)) == _core.engine_tuple_key(a, b)
        assert _core.decode_key(_core.encode_key((a, b))) == (a, b)
    for raw in [b"\0", b"a\0", b"\0\0", b"\0\3", b"\0\3a", b"a\0\2b", b"\xff\xfe"]:
        assert _core.decode_key(raw) == raw, "bytes that encode no key stay bytes"
    with pytest.raises(ValueError, match="empty tuple"):
        _core.encode_key(())
    deep = "x"
    for _ in range(1000):
        deep = (deep, "y")
    with pytest.raises(ValueError, match="nest"):
        _core.encode_key(deep)


def test_keys_that_no_string_or_tuple_stands_for_come_back_as_keys(path):
    p = File(path)
    typed = Key.of("job", 7, ("a", -1))
    assert typed == b"job\0\1\0\2\x21\7\0\1\0\3a\0\1\0\2\x1f\xfe\0\0"
    invalid = Key(b"a\0\2b")
    p.append({typed: b"1", ("job", 7): b"2", invalid: b"3", b"a\0\2b!": b"4", (("a", "b"),): b"5"})
    keys = p.keys()
    assert [key for key in keys if isinstance(key, Key)] == [invalid, typed]
    assert sorted(p.get(keys)) == [b"1", b"2", b"3", b"4", b"5"]
    assert p.get([typed, ("job", "7"), invalid, (("a", "b"),)]) == [b"1", b"2", b"3", b"5"]
    assert p.get(("a", "b")) == b""
    assert pickle.loads(pickle.dumps(typed)) == typed
    p.delete(keys)
    assert p.keys() == []
    for bad in [2**128, -(2**127) - 1, True]:
        with pytest.raises(ValueError, match="integer"):
            Key.of("job", bad)
    assert Key.of(2**128 - 1) > Key.of(-(2**127))


def test_a_scope_includes_its_typed_keys(path):
    p = File(path)
    p.append({Key.of("job", 7): b"1", ("job", "x"): b"2", Key.of("jobs", 7): b"3"})
    job = Scoped(p, "job")
    job.append({(("a", "b"),): b"4"})
    assert sorted(job.get(job.keys())) == [b"1", b"2", b"4"]
    assert job.get(Key.of(7)) == b"1"
    job.drop()
    assert p.keys() == [Key.of("jobs", 7)]


def test_a_bad_value_is_a_type_error_and_nothing_is_written(path):
    p = File(path)
    for bad in ["text", None, 1, [b"x"]]:
        with pytest.raises(TypeError, match="bytes-like object is required"):
            p.append({"a": b"1", "b": bad})
    with pytest.raises(BufferError):
        p.append({"a": np.arange(6).reshape(2, 3).T})
    assert p.keys() == []


def test_every_kind_of_buffer_is_a_value(path):
    p = File(path)
    array = np.arange(3, dtype="i4")
    frozen = array.copy()
    frozen.setflags(write=False)
    for value in [b"ab", bytearray(b"ab"), memoryview(b"ab"), array, frozen, np.zeros(0), b""]:
        p.append({"k": value})
        assert p.pop("k") == bytes(value)


def test_unknown_arguments_are_ignored_or_refused_as_in_partd_1(path):
    p = File(path)
    p.append({"x": b"1"}, anything=1)
    p.get("x", anything=1)
    for call in [lambda: p.delete("x", anything=1), lambda: p.iset("x", b"", anything=1)]:
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError, match="int"):
        File(5)
    assert p.get([]) == []
    assert p.get([["x"], [], [["x"]]]) == [[b"1"], [], [[b"1"]]]


def test_the_first_set_since_the_last_delete_wins(path):
    p, q = File(path), File(path)
    p.append({"x": b"replaced"})
    p.iset("x", b"1")
    q.iset("x", b"2")
    assert p.get("x") == b"1"
    q.delete("x")
    p.iset("x", b"3")
    assert q.get("x") == b"3"
    p.drop()
    p.iset("x", b"4")
    assert p.get("x") == b"4"


def test_pop_returns_nested_values_and_removes_the_keys(path):
    p = File(path)
    p.append({"x": b"1", "y": b"2"})
    assert p.pop(["x", ["y", "z"]]) == [b"1", [b"2", b""]]
    assert p.keys() == []


def test_a_view_needs_no_copy_and_outlives_everything(path):
    p = File(path)
    value = os.urandom(1 << 20)
    p.append({"x": value})
    view = p.view("x")
    with pytest.raises(TypeError):
        view[0] = 1
    p.append({"x": b"more"})
    assert [len(chunk) for chunk in p.chunks("x")] == [1 << 20, 4]
    assert bytes(p.view("x")) == value + b"more"
    p.delete("x")
    p.compact()
    shutil.rmtree(path)
    del p
    gc.collect()
    _core.close_idle()
    assert view == value and bytes(np.frombuffer(view, "u1")[:10]) == value[:10]
    assert len(File(path).view("missing")) == 0


def test_a_removed_or_replaced_directory_is_noticed(path):
    p = File(path)
    p.append({"x": b"1"})
    shutil.rmtree(path)
    for call in [lambda: p.append({"x": b"2"}), lambda: p.get("x"), lambda: p.keys()]:
        with pytest.raises(FileNotFoundError):
            call()
    os.mkdir(path)
    assert p.get("x") == b""
    p.append({"x": b"3"})
    q = File(path)
    assert q.get("x") == b"3"
    shutil.rmtree(path)
    q.drop()
    p.append({"x": b"4"})
    assert q.get("x") == b"4"


def test_two_directories_that_swap_paths_stay_two_stores(tmp_path):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    p, q = File(a), File(b)
    p.append({"x": b"a"})
    q.append({"x": b"b"})
    os.rename(a, tmp_path / "c")
    os.rename(b, a)
    os.rename(tmp_path / "c", b)
    assert (p.get("x"), q.get("x")) == (b"b", b"a")


def test_a_path_that_is_not_a_store_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"jpeg")
    with pytest.raises(partd.StoreError, match="holds other files"):
        File(tmp_path).append({"x": b""})
    with pytest.raises(NotADirectoryError):
        File(tmp_path / "photo.jpg").append({"x": b""})
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_damage_is_an_error_that_names_the_file(path):
    p = File(path)
    p.append({"x": b"A" * 5000, "y": b"B" * 10})
    p.sync()
    p._log.close()
    segment = os.path.join(path, "0000000000000001.seg")
    with open(segment, "r+b") as file:
        file.seek(open(segment, "rb").read().index(b"A" * 100) + 50)
        file.write(b"X")
    with pytest.raises(partd.DamageError, match=r"0000000000000001\.seg"):
        File(path).get("x")
    assert File(path).get("y") == b"B" * 10
    with pytest.raises(partd.DamageError):
        p.verify()


def test_damage_in_any_part_of_a_large_get_is_an_error(path):
    # Values in one piece and in many, shorter and longer than what a thread copies at a time.
    lengths = {"short": 4096, "long": 600_000, "many": 64 * 4096, "rest": 3 << 20}
    data = {key: os.urandom(length) for key, length in lengths.items()}
    p = File(path)
    for at in range(0, lengths["many"], 4096):
        p.append({"many": data["many"][at : at + 4096]})
    p.append({key: data[key] for key in ("short", "long", "rest")})
    keys = list(data)
    assert p.get(keys) == list(data.values())
    [segment] = [name for name in os.listdir(path) if name.endswith(".seg")]
    with open(os.path.join(path, segment), "r+b") as file:
        stored = file.read()
        for key, at in [("short", 7), ("long", 400_000), ("many", 70_000), ("rest", 2_000_000)]:
            place = stored.index(data[key][at : at + 32])
            os.pwrite(file.fileno(), bytes([stored[place] ^ 1]), place)
            for read in (keys, [key], key):
                with pytest.raises(partd.DamageError, match=segment):
                    p.get(read)
            os.pwrite(file.fileno(), stored[place : place + 1], place)
    assert p.get(keys) == list(data.values())


def test_key_files_show_values_and_follow_changes_of_this_process(path):
    p = File(path)
    p.append({"x": b"1", ("d", "e"): b"2", "control": b"3", "../up": b"4"})
    for key in p.keys():
        assert open(p.filename(key), "rb").read() == p.get(key)
        assert os.path.realpath(p.filename(key)).startswith(os.path.realpath(path))
    shown = p.filename("x")
    p.append({"x": b"+"})
    assert open(shown, "rb").read() == b"1+"
    p.delete("x")
    assert not os.path.exists(shown) and not os.path.exists(p.filename("x"))
    assert os.path.isdir(p.filename("d"))
    p.append({"d": b"a file and a folder"})
    assert p.get(["d", ("d", "e")]) == [b"a file and a folder", b"2"]
    p.filename("d"), p.filename(("d", "e"))
    assert p.get(["control", "../up"]) == [b"3", b"4"]
    p.drop()
    assert not os.path.exists(os.path.join(path, "control-key"))
    assert File(path).keys() == []


def test_asking_for_the_path_of_a_large_store_creates_no_files(path):
    p = File(path)
    p.append({i: b"" for i in range(1000)})
    assert p.path == path and len(os.listdir(path)) < 10


def test_temporary_stores_are_removed_with_their_object_and_others_stay(tmp_path):
    p = File(dir=tmp_path)
    p.append({"x": b"1"})
    assert len(os.listdir(tmp_path)) == 1
    del p
    gc.collect()
    assert os.listdir(tmp_path) == []
    with File(tmp_path / "s") as p:
        p.append({"x": b"1"})
    assert os.listdir(tmp_path) == []
    p = File(tmp_path / "s")
    p.append({"x": b"1"})
    del p
    gc.collect()
    assert File(tmp_path / "s").get("x") == b"1"


def test_pickling_a_temporary_store_keeps_it_for_the_copy(tmp_path):
    p = File(dir=tmp_path)
    p.append({"x": b"1"})
    q = pickle.loads(pickle.dumps(p))
    del p
    gc.collect()
    assert q.get("x") == b"1"
    q.__exit__()
    assert os.listdir(tmp_path) == []


def test_the_lock_excludes_other_calls_that_use_it(path):
    p, q = File(path), File(path)
    order = []
    with p.lock:
        thread = threading.Thread(target=lambda: (q.append({"x": b"2"}), order.append("append")))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        q.append({"x": b"1"}, lock=False)
        p.append({"x": b"+"})  # this thread holds the lock
        order.append("release")
    thread.join()
    assert order == ["release", "append"] and p.get("x") == b"1+2"
    p.lock.acquire()
    p.lock.release()
    with pytest.raises(RuntimeError):
        p.lock.release()


def test_a_durable_append_syncs_once_and_a_temporary_store_never_syncs(path, monkeypatch):
    durable = []
    p, q = File(path), File()
    for file in (p, q):
        log = file._log
        monkeypatch.setattr(
            file, "_log", type("Spy", (), {
                "append": lambda self, data, d=False, u=False, log=log: durable.append(d) or log.append(data, d, u),
                "__getattr__": lambda self, name, log=log: getattr(log, name),
            })(),
        )  # fmt: skip
    p.append({i: b"" for i in range(64)}, fsync=True)
    p.append({"x": b""})
    p.append_durable({"x": b""})
    q.append({"x": b""}, fsync=True)
    assert durable == [True, False, True, False]
