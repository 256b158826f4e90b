"""Many processes that use one store: fork, spawn, kills, pickles, owners, and Ctrl-C."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import partd
import pytest
from partd import File

SECONDS = 180  # the timeout; generous, because the machine may be busy


def run(code, *args, **env):
    """Runs Python code in a new process and returns its output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    return done.stdout


def append_some(p, name, count):
    for i in range(count):
        p.append({"all": f"{name}:{i};".encode(), name: b"x"})
    return p.get(name)


def append_and_check_rayon(p, name):
    value = os.urandom(3 << 20)
    p.append({name: value, "all": b"z" * 1000})
    assert p.get(name) == value
    z = partd.ZLib(p)
    z.append({name + "z": value[: 1 << 20]})
    assert z.get(name + "z") == value[: 1 << 20]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_append_in_order_and_lose_nothing(path, method):
    p = File(path)
    p.append({"all": b""})
    context = multiprocessing.get_context(method)
    children = [context.Process(target=append_some, args=(p, f"p{i}", 200)) for i in range(4)]
    [child.start() for child in children]
    [child.join(SECONDS) for child in children]
    assert [child.exitcode for child in children] == [0] * 4
    entries = p.get("all").decode().split(";")[:-1]
    assert len(entries) == 800
    for i in range(4):
        own = [entry for entry in entries if entry.startswith(f"p{i}:")]
        assert own == [f"p{i}:{n}" for n in range(200)]
        assert p.get(f"p{i}") == b"x" * 200


def test_a_forked_child_reopens_the_store_and_reads_in_parallel(path):
    p = File(path)
    append_and_check_rayon(p, "parent")  # starts the threads of the parent's pool
    context = multiprocessing.get_context("fork")
    child = context.Process(target=append_and_check_rayon, args=(p, "child"))
    child.start()
    child.join(SECONDS)
    assert child.exitcode == 0
    assert len(p.get("child")) == 3 << 20
    append_and_check_rayon(p, "again")


def test_a_bare_fork_with_running_threads_works(path):
    p = File(path)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            p.append({"t": b"x"})
            p.get("t")

    threads = [threading.Thread(target=work) for _ in range(3)]
    [thread.start() for thread in threads]
    try:
        for i in range(5):
            child = os.fork()
            if child == 0:
                try:
                    p.append({"c": b"y"})
                    os._exit(0 if p.get("c") == b"y" * (i + 1) else 1)
                except BaseException:
                    os._exit(2)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        [thread.join() for thread in threads]
    assert p.get("c") == b"y" * 5


def test_appends_of_a_killed_process_survive(path):
    code = """
        import os, signal, sys, partd
        p = partd.File(sys.argv[1])
        for i in range(100):
            p.append({"x": b"%d;" % i})
        print(i, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), path], stdout=subprocess.PIPE, check=False
    )
    assert child.returncode == -signal.SIGKILL
    assert File(path).get("x") == b"".join(b"%d;" % i for i in range(100))


def test_a_temporary_store_is_removed_with_its_last_process(tmp_path):
    code = """
        import pickle, subprocess, sys, os
        from partd import File
        if len(sys.argv) == 2:
            p = File(dir=sys.argv[1])
            p.append({"x": b"1"})
            text = pickle.dumps(p).hex()
            child = subprocess.Popen([sys.executable, "-c", open("/proc/self/cmdline").read().split("\\0")[2],
                                      sys.argv[1], text], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert child.stdout.readline() == b"ready\\n"
            print(child.pid, flush=True)
            os._exit  # not called: this process ends normally, and the child keeps running
        else:
            p = pickle.loads(bytes.fromhex(sys.argv[2]))
            print("ready", flush=True)
            sys.stdin.read()
            assert p.get("x") == b"1"
    """
    run(code, str(tmp_path))
    deadline = time.monotonic() + SECONDS
    while os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert os.listdir(tmp_path) == []


def test_a_temporary_store_of_killed_processes_is_swept_but_not_one_in_use(tmp_path):
    code = """
        import os, pickle, signal, sys, partd
        p = partd.File(dir=sys.argv[1])
        p.append({"x": b"1"})
        pickle.dumps(p)
        print(p.path, flush=True)
        if sys.argv[2] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    alive = subprocess.Popen(
        [*command, "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    kept = alive.stdout.readline().strip()
    dead = subprocess.run([*command, "die"], capture_output=True, text=True, check=False)
    assert dead.returncode == -signal.SIGKILL
    assert partd.file.sweep(tmp_path) == [], "it was pickled a moment ago"
    assert partd.file.sweep(tmp_path, older_than=0) == [dead.stdout.strip()]
    assert os.listdir(tmp_path) == [os.path.basename(kept)]
    alive.stdin.close()
    assert alive.wait(SECONDS) == 0
    assert os.listdir(tmp_path) == []


def make_temporary(directory):
    p = File(dir=directory)
    p.append({"x": b"1"})
    return p


def get_x(p):
    return p.get("x")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_can_use_a_store_that_a_worker_made(tmp_path, method):
    # dask's bags do this with processes: a task makes the store, and other tasks unpickle it.
    with multiprocessing.get_context(method).Pool(2, maxtasksperchild=1) as pool:
        p = pool.apply(make_temporary, (str(tmp_path),))
        assert pool.map(get_x, [p] * 4, chunksize=1) == [b"1"] * 4
    assert p.get("x") == b"1"
    p.__exit__()
    assert os.listdir(tmp_path) == []


def test_the_lock_excludes_other_processes(path):
    p = File(path)
    p.append({"n": b""})
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=count_under_lock, args=(p,)) for _ in range(2)]
    [child.start() for child in children]
    [child.join(SECONDS) for child in children]
    assert p.get("n") == b"100"


def count_under_lock(p):
    for _ in range(50):
        with p.lock:
            n = int(p.get("n", lock=False) or b"0")
            p.delete("n", lock=False)
            p.append({"n": b"%d" % (n + 1)}, lock=False)


def test_a_signal_interrupts_a_long_call(path):
    code = """
        import os, signal, sys, threading, time, partd
        # A shell that starts a program in the background makes it ignore SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        p = partd.File(sys.argv[1])
        block = bytes(64 << 20)
        for _ in range(4):
            p.append({"x": block})
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            while True:
                p.get("x")
        except KeyboardInterrupt:
            print("interrupted", len(p.get("x")) == 4 << 26)
    """
    assert run(code, path) == "interrupted True\n"


def test_an_import_loads_no_extras_and_creates_no_files(tmp_path):
    code = "import partd, sys; print(partd.__version__); assert 'distributed' not in sys.modules"
    assert run(code, TMPDIR=str(tmp_path)) == "2.0.0\n"
    assert os.listdir(tmp_path) == []


def test_a_pickle_is_small_and_loads_quickly(path):
    p = File(path)
    p.append({"x": b"1"})
    text = pickle.dumps(p)
    assert len(text) < 200
    began = time.perf_counter()
    for _ in range(200):
        assert pickle.loads(text).get("x") == b"1"
    # Each takes about 30 microseconds; opening the store would take a millisecond.
    assert time.perf_counter() - began < 1
    assert tempfile.gettempdir() not in os.path.dirname(partd.__file__)
