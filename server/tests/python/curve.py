"""Runs libzmq's CURVE, from pyzmq, against a server of this crate: the old protocol, encrypted.

Arguments: the address, the server's public key, the client's public and secret keys.
"""

import sys

import zmq

assert zmq.has("curve")
address, server, public, secret = sys.argv[1:]
socket = zmq.Context().socket(zmq.DEALER)
socket.curve_serverkey = server.encode()
socket.curve_publickey, socket.curve_secretkey = public.encode(), secret.encode()
socket.rcvtimeo = 60_000
socket.connect(address)


def ask(*frames):
    socket.send_multipart(frames)
    return socket.recv_multipart()


big = bytes(range(256)) * 8000
assert ask(b"syn") == [b"ack"]
assert ask(b"append", b"x", b"Hello ", b"big", big) == [b"ack"]
assert ask(b"append", b"x", b"world!", b"empty", b"") == [b"ack"]
assert ask(b"get", b"x", b"big", b"empty") == [b"Hello world!", big, b""]
assert socket.recv_multipart() == [b"ack"]
print("done")
