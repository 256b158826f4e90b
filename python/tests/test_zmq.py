"""`Server` and `Client`: partd 1 on either side, errors, hostile messages, many clients."""

import pickle
import threading
import time

import partd
import pytest
from partd import Buffer, Client, Dict, File, Pickle, Server, Snappy
from partd.zmq import NotALock, RemoteError, deserialize_key, serialize_key

zmq = pytest.importorskip("zmq")


@pytest.fixture
def server(path):
    with Server(Buffer(Dict(), File(path)), hostname="localhost") as server:
        yield server


def connect(server, **kwargs):
    return Client(server.address, timeout=10, **kwargs)


def test_every_command_works_and_layers_compose_on_a_client(server):
    p = connect(server)
    p.append({"x": b"1", ("t", 1): b"2"})
    p.append({"x": memoryview(b"3"), b"x": b"4"})
    assert p.get(["x", ("t", "1"), "missing", []]) == [b"134", b"2", b"", []]
    assert p.get([]) == [] and p.get("x") == b"134"
    p.iset("s", b"1")
    p.iset("s", b"2")
    assert sorted(map(str, p.keys())) == ["('t', '1')", "s", "x"]
    assert p.pop(["x", "s"]) == [b"134", b"1"] and p.get("x") == b""
    p.append_durable({"x": b"5"})
    assert pickle.loads(pickle.dumps(p)).get("x") == b"5"
    p.drop()
    assert p.keys() == []
    q = Pickle(Snappy(p))
    q.append({"x": [1]})
    q.append({"x": [2]})
    assert q.get("x") == [1, 2]
    with p.lock:
        assert isinstance(p.lock, NotALock)
    p.close()
    p.close()


def test_keys_on_the_wire():
    for key in ["x", "ü", "\udcff", ("a", "b"), ("a", b"b", 1), b"raw", 5]:
        wire = serialize_key(key)
        assert serialize_key(deserialize_key(wire)) == wire


@pytest.mark.parametrize("sides", ["client of partd 1", "server of partd 1"])
def test_partd_1_as_client_or_as_server(sides, partd1, tmp_path):
    client_of, server_of = (partd1, partd) if sides.startswith("client") else (partd, partd1)
    with server_of.Server(server_of.Dict(), hostname="localhost") as server:
        p = client_of.Client(server.address)
        p.append({"x": b"1", ("a", "b"): b"2"})
        p.append({"x": b"3"})
        assert p.get(["x", ("a", "b")]) == [b"13", b"2"]
        p.iset("s", b"4")
        p.delete("x")
        assert p.get(["x", "s"]) == [b"", b"4"]
        if client_of is partd:
            assert p.pop("s") == b"4" and p.get("s") == b""
            with pytest.raises(NotImplementedError):
                p.keys()
        p.drop()
        assert p.get(("a", "b")) == b""
        p.close()


def test_the_extension_of_the_crate_partd_server_is_not_promised(server):
    """Its client falls back to the protocol of partd 1 if the answer is `ack` alone, and its server
    refuses a greeting that names its extension without a session."""
    context = zmq.Context()
    raw = context.socket(zmq.DEALER)
    raw.connect(server.address.decode())
    raw.send_multipart([b"syn", b"partd/2", b"session=" + b"0" * 32])
    assert raw.poll(10_000) and raw.recv_multipart() == [b"ack"]
    raw.send_multipart([b"append", b"x", b"1"])
    assert raw.poll(10_000) and raw.recv_multipart() == [b"ack"]

    other = context.socket(zmq.ROUTER)
    port = other.bind_to_random_port("tcp://127.0.0.1")
    p = Client(f"tcp://127.0.0.1:{port}", timeout=10)
    assert other.poll(10_000)
    peer, *greeting = other.recv_multipart()
    assert greeting[0] == b"syn" and b"partd/2" not in greeting
    other.send_multipart([peer, b"ack"])
    p.append({"x": b"1"})
    assert other.poll(10_000) and other.recv_multipart()[1:] == [b"append", b"x", b"1"]
    with pytest.raises(NotImplementedError):
        other.send_multipart([peer, b"ack"])
        p.keys()
    with pytest.raises(NotImplementedError):
        p.append_durable({"x": b"2"})
    assert not other.poll(100)
    p.close()
    context.destroy(0)


def test_an_error_of_the_store_reaches_the_client_and_the_server_keeps_serving(server):
    p = connect(server)
    p.append({"x": b"1"})
    for bad in [[b"unknown"], [b"iset", b"only a key"], [b"append", b"only a key"], [b"", b""]]:
        p.send(bad[0], bad[1:])
        with pytest.raises(RemoteError):
            p.get("x")
        assert p.get("x") == b"1"
    server.partd.slow.__exit__()
    with pytest.raises(RemoteError, match="FileNotFoundError"):
        p.get("x")
    assert server.status == "run" and server._listen_thread.is_alive()


def test_hostile_messages_do_not_end_the_server(server):
    context = zmq.Context()
    raw = context.socket(zmq.DEALER)
    raw.connect(server.address.decode())
    for message in [
        [b""],
        [b"get"],
        [b"syn"] * 50,
        [b"x" * 100_000],
        [b"\xff" * 9, b"\0"],
        [b"iset"] * 9,
        [b"append", b""],
    ]:
        raw.send_multipart(message)
    p = connect(server)
    p.append({"x": b"1"})
    assert p.get("x") == b"1"
    context.destroy(0)


def test_an_unanswered_call_times_out():
    context = zmq.Context()
    silent = context.socket(zmq.ROUTER)
    port = silent.bind_to_random_port("tcp://127.0.0.1")
    p = Client(f"tcp://127.0.0.1:{port}", timeout=0.1)
    with pytest.raises(TimeoutError):
        p.get("x")
    p.close()
    context.destroy(0)


def test_many_clients_append_in_order_and_nothing_is_lost(server):
    def work(n):
        p = connect(server)
        for i in range(100):
            p.append({"all": b"%d:%d;" % (n, i)})
        p.get("all")
        p.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    entries = server.get(["all"])[0].split(b";")[:-1]
    for n in range(4):
        assert [e for e in entries if e.startswith(b"%d:" % n)] == [
            b"%d:%d" % (n, i) for i in range(100)
        ]


def test_addresses_and_shutdown(tmp_path):
    with Server(Dict(), bind=f"ipc://{tmp_path}/socket") as server:
        p = connect(server)
        p.append({"x": b"1"})
        assert p.get("x") == b"1"
        p.close_server()
        deadline = time.monotonic() + 10
        while server.status != "closed" and time.monotonic() < deadline:
            time.sleep(0.01)
        server.block()
        p.close()
    server.close()
    with Server(Dict(), bind="tcp://127.0.0.1:*", hostname="127.0.0.1", start=False) as server:
        assert connect(server).get("x") == b""
    for bad in [lambda: Client(), lambda: Server(Dict(), bind="tcp://nowhere.invalid:1")]:
        with pytest.raises(Exception):  # noqa: B017
            bad()
    threads = [t for t in threading.enumerate() if t.name == "partd-server"]
    assert threads == []
    store = Dict()
    Server(store, hostname="localhost").close()
    assert store.lock.acquire(timeout=1)
    assert partd.Server is Server
