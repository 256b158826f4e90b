"""Descriptors, mappings, threads, directories, memory and references do not grow."""

import gc
import os
import platform
import subprocess
import sys
import threading
import time

import partd
import pytest
from partd import Buffer, Dict, File, ZLib, _core


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def mappings():
    return open("/proc/self/maps").read().count(".seg")


def resident_kib():
    return int(open("/proc/self/statm").read().split()[1]) * 4


def settle():
    gc.collect()
    _core.close_idle()


def test_a_thousand_stores_opened_and_dropped_leave_nothing_behind(tmp_path):
    settle()
    before = descriptors(), mappings(), threading.active_count(), _core.open_stores()
    for i in range(500):
        p = File(dir=tmp_path)
        p.append({"x": b"1"})
        del p
        with File(tmp_path / f"s{i % 3}") as p:
            p.append({"x": b"1"})
            p.get("x")
    settle()
    assert (descriptors(), mappings(), threading.active_count(), _core.open_stores()) == before
    assert os.listdir(tmp_path) == []


def test_idle_stores_close_by_themselves(tmp_path):
    settle()
    before = descriptors()
    for i in range(20):
        File(tmp_path / str(i)).append({"x": b"1"})
    gc.collect()
    assert _core.open_stores() == 20
    deadline = time.monotonic() + 30
    while descriptors() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (_core.open_stores(), descriptors()) == (0, before)
    assert [File(tmp_path / str(i)).get("x") for i in range(20)] == [b"1"] * 20


@pytest.mark.parametrize("kind", ["File", "Dict", "Buffer", "ZLib"])
def test_references_and_memory_do_not_grow_over_many_calls(tmp_path, kind):
    p = {
        "File": lambda: File(tmp_path / "s"),
        "Dict": Dict,
        "Buffer": lambda: Buffer(Dict(), File(tmp_path / "s"), 10_000),
        "ZLib": lambda: ZLib(File(tmp_path / "s")),
    }[kind]()
    value, key = os.urandom(300), "a key of some length"
    calls = int(os.environ.get("PARTD_CALLS", 10_000))

    def work(n):
        for i in range(n):
            p.append({key: value, ("t", i % 10): value})
            p.get([key, ("t", 1)])
            if i % 20 == 0:
                p.delete([key, *(("t", j) for j in range(10))])
            try:
                p.append({key: "bad"})
            except (TypeError, AttributeError):
                pass
        p.drop()
        gc.collect()

    work(calls // 5)
    references = sys.getrefcount(value), sys.getrefcount(key)
    memory, files = resident_kib(), descriptors()
    work(calls)
    assert (sys.getrefcount(value), sys.getrefcount(key)) == references
    assert descriptors() <= files + 2
    # Written data is in mapped segments, which count as resident.
    if kind == "Dict":
        assert resident_kib() < memory + 4096


def test_errors_leak_no_references(tmp_path):
    p = File(tmp_path / "s")
    value = os.urandom(100)
    before = sys.getrefcount(value)
    for _ in range(1000):
        for call in [
            lambda: p.append({"a": value, "b": None}),
            lambda: p.append({(): value}),
            lambda: p.get([()]),
            lambda: partd.compressed.zlib_decompress(value),
            lambda: list(partd.utils.framesplit(value)),
        ]:
            with pytest.raises(Exception):  # noqa: B017
                call()
    gc.collect()
    assert sys.getrefcount(value) == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_a_get_of_many_keys_uses_the_memory_that_an_earlier_one_has_freed(tmp_path):
    code = """if True:
        import resource, sys
        import partd
        p = partd.File(sys.argv[1])
        p.append({f"key-{i}": bytes(65536) for i in range(64)})
        faults = []
        for _ in range(20):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            values = p.get([f"key-{i}" for i in range(64)])
            del values
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        print(sorted(faults)[10])
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # New memory for the values has 1,024 pages.
    assert int(done.stdout) < 256
