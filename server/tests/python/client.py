"""Runs the unchanged client of Python's partd against a server of this crate.

Arguments: the address, and the function to run. Each step asserts what Python's server would do.
"""

import sys

import partd.zmq
from partd.pickle import Pickle
from partd.zmq import Client

assert partd.__version__ == "1.4.2", partd.__version__


def everything(address):
    with Client(address) as p:
        p.append({"x": b"Hello ", "y": b"123"})
        p.append({"x": b"world!", ("a", "b", 1): b"tuple"})
        assert p.get("x") == b"Hello world!"
        assert p.get(["y", "x"]) == [b"123", b"Hello world!"]
        assert p.get(("a", "b", 1)) == b"tuple"
        assert p.get(["missing", "x"]) == [b"", b"Hello world!"]
        p.append({})
        p.iset("once", b"1")
        p.iset("once", b"2")
        assert p.get("once") == b"1"
        p.delete(["x", ("a", "b", 1)])
        assert p.get(["x", "y", ("a", "b", 1)]) == [b"", b"123", b""]
        big = bytes(range(256)) * 20000
        for _ in range(5):
            p.append({"big": big, b"\x00\xff": b"\x00"})
        assert p.get("big") == big * 5
        assert p.get(b"\x00\xff") == b"\x00" * 5
        many = {f"key {i}": str(i).encode() for i in range(5000)}
        p.append(many)
        assert p.get(list(many)) == list(many.values())
        p.drop()
        assert p.get(["y", "big"]) == [b"", b""]
        typed = Pickle(p)
        typed.append({"list": [1, 2]})
        typed.append({"list": ["three"]})
        assert typed.get("list") == [1, 2, "three"]


def append(address, name, count):
    p = Client(address)
    for i in range(int(count)):
        p.append({name: b"%d," % i, "all": b"."})
    # The answer to this get arrives after the acknowledgements of all appends.
    p.get(name)
    p.close()


def close(address):
    p = Client(address)
    p.append({"last": b"1"})
    p.close_server()
    # close() waits only a millisecond for unsent messages.
    assert p.socket.recv_multipart() == [b"ack"]
    p.close()


{"everything": everything, "append": append, "close": close}[sys.argv[2]](
    sys.argv[1], *sys.argv[3:]
)
print("done")
