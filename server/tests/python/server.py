"""Runs the unchanged server of Python's partd. Argument: the directory of its files. It prints its
address and serves until its standard input ends."""

import sys

import partd
from partd.zmq import Server

assert partd.__version__ == "1.4.2", partd.__version__
server = Server(partd.Buffer(partd.Dict(), partd.File(sys.argv[1])), hostname="127.0.0.1")
print(server.address.decode(), flush=True)
sys.stdin.read()
if server.status != "closed":
    server.close()
print("closed", flush=True)
