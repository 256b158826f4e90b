"""`Server` and `Client`: share one store among processes over ZeroMQ.

>>> from partd import Dict, Pickle
>>> with Server(Dict(), hostname='localhost') as server:
...     client = Client(server.address)
...     p = Pickle(client)
...     p.append({'x': [1, 2]})
...     p.append({'x': [3]})
...     p.get('x'), client.close()
([1, 2, 3], None)

The protocol is that of partd 1, so its clients and servers work with these, and so do those of the
Rust crate `partd-server`. The protocol of partd 1 has no errors. A client whose greeting contains
`partd-python/2` gets error messages; any other client gets no answer after an error, and the server
logs the error. There is no authentication and no encryption: bind a server only to addresses that
only trusted processes can reach.
"""

import logging
import socket
from contextlib import contextmanager, suppress
from threading import Lock, RLock, Thread, get_ident

import zmq

from . import core
from ._key import Key
from .buffer import Buffer, keys_to_flush
from .core import Interface
from .dict import Dict
from .file import File

__all__ = [
    "Buffer",
    "Client",
    "Dict",
    "File",
    "NotALock",
    "Server",
    "core",
    "deserialize_key",
    "keys_to_flush",
    "logerrors",
    "serialize_key",
    "tuple_sep",
]

logger = logging.getLogger(__name__)

tuple_sep = b"-|-"
# A client adds this to its greeting, and the server to its answer, if they support error messages.
# `partd/2` is another extension, of the crate partd-server: naming it would claim support for its
# messages.
EXTENSION = b"partd-python/2"
POLL_MS = 50


@contextmanager
def logerrors():
    """Logs an exception and raises it again."""
    try:
        yield
    except Exception as error:
        logger.exception(error)
        raise


def serialize_key(key):
    """Encodes a key for the wire.

    >>> serialize_key('x')
    b'x'
    >>> serialize_key(('a', 'b', 1))
    b'a-|-b-|-1'
    """
    if isinstance(key, Key):
        raise ValueError(f"{key!r} cannot be sent: the wire has strings and tuples of strings only")
    if isinstance(key, tuple):
        return tuple_sep.join(map(serialize_key, key))
    if isinstance(key, bytes):
        return key
    return str(key).encode("utf-8", "surrogatepass")


def deserialize_key(text):
    """Decodes a key from the wire.

    >>> deserialize_key(b'x')
    b'x'
    >>> deserialize_key(b'a-|-b-|-1')
    (b'a', b'b', b'1')
    """
    return tuple(text.split(tuple_sep)) if tuple_sep in text else text


def _key_of(text):
    """Returns the store's key for a key on the wire: as text, so that a `Dict` has one for it."""
    key = deserialize_key(text)
    return tuple(map(_text, key)) if isinstance(key, tuple) else _text(key)


def _text(raw):
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw


class Server:
    """Serves a store to clients.

    `bind` is an address such as `tcp://*:9000` or `ipc:///path/of/a/socket`. Without it, the server
    uses any free TCP port. `address` is the address for clients. The server holds the store's lock.
    """

    def __init__(self, partd=None, bind=None, start=True, block=False, hostname=None):
        self.partd = Buffer(Dict(), File()) if partd is None else partd
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        try:
            self.address = self._bind(bind, hostname)
        except BaseException:
            self.context.destroy(0)
            raise
        self.status = "created"
        self._listen_thread = None
        self._extended = set()
        self._lock = Lock()
        self._socket_lock = RLock()
        self._lock_owner = None
        self._commands = {
            b"append": self._on_append,
            b"iset": self._on_iset,
            b"get": self._on_get,
            b"delete": self._on_delete,
            b"drop": self._on_drop,
            b"pop": self._on_pop,
            b"keys": self._on_keys,
            b"sync": self._on_sync,
        }
        self.partd.lock.acquire()
        if start:
            self.start()
        if block:
            self.block()

    def _bind(self, bind, hostname):
        if isinstance(bind, bytes):
            bind = bind.decode()
        if bind is not None and not bind.startswith("tcp://"):
            self.socket.bind(bind)
            return bind.encode()
        if bind is None:
            port = self.socket.bind_to_random_port("tcp://*")
        else:
            self.socket.bind(bind)
            port = int(
                self.socket.getsockopt(zmq.LAST_ENDPOINT).decode().rsplit(":", 1)[1].rstrip("\0/")
            )
        return f"tcp://{hostname or socket.gethostname()}:{port}".encode()

    def start(self):
        """Starts listening in a thread. Does nothing if the server is listening already."""
        if self.status != "run":
            self.status = "run"
            self._listen_thread = Thread(target=self.listen, name="partd-server", daemon=True)
            self._listen_thread.start()

    def block(self):
        """Waits until the server is closed, by `close` or by a client."""
        if self._listen_thread is not None:
            self._listen_thread.join()

    def listen(self):
        """Answers clients until the server is closed. A faulty message does not end it."""
        while self.status != "closed":
            try:
                if not self.socket.poll(POLL_MS):
                    continue
                with self._socket_lock:
                    message = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                continue
            except zmq.ZMQError:
                if self.status != "closed":
                    logger.exception("the server can no longer receive messages")
                break
            if len(message) >= 2:
                self._answer(*message[:2], message[2:])

    def _answer(self, client, command, payload):
        try:
            if command == b"syn":
                self._greet(client, payload)
            elif command == b"close":
                self.ack(client)
                self.status = "closed"
            elif command in self._commands:
                answer = self._commands[command](payload)
                if answer:
                    self.send_to_client(client, answer)
                self.ack(client)
            else:
                raise ValueError(f"unknown command {command[:40]!r}")
        except Exception as error:
            logger.exception("a client's command failed")
            self._refuse(client, error)

    def _greet(self, client, payload):
        if payload[:1] == [EXTENSION]:
            self._extended.add(client)
            self.send_to_client(client, [b"ack", EXTENSION])
        else:
            self.ack(client)

    def _refuse(self, client, error):
        """Sends an error to a client, if the client supports error messages."""
        if client in self._extended:
            kind = type(error).__name__.encode()
            with suppress(zmq.ZMQError):
                self.send_to_client(client, [b"error", kind, str(error).encode()])

    def _on_append(self, payload):
        keys = map(_key_of, payload[::2])
        data = {}
        for key, value in zip(keys, payload[1::2], strict=True):
            data[key] = data[key] + value if key in data else value
        self.append(data)

    def _on_iset(self, payload):
        if len(payload) != 2:
            raise ValueError(f"iset needs a key and a value, not {len(payload)} frames")
        self.partd.iset(_key_of(payload[0]), payload[1], lock=False)

    def _on_get(self, payload):
        return self.get(list(map(_key_of, payload)))

    def _on_pop(self, payload):
        return self.partd.pop(list(map(_key_of, payload)), lock=False)

    def _on_delete(self, payload):
        self.partd.delete(list(map(_key_of, payload)), lock=False)

    def _on_drop(self, payload):
        self.drop()

    def _on_keys(self, payload):
        return [serialize_key(key) for key in self.partd.keys()]

    def _on_sync(self, payload):
        self.partd.sync()

    def send_to_client(self, address, result):
        """Sends a message of one or several frames to a client."""
        frames = result if isinstance(result, list) else [result]
        with self._socket_lock:
            self.socket.send_multipart([address, *frames])

    def ack(self, address, flow_control=True):
        """Acknowledges a command of a client."""
        self.send_to_client(address, b"ack")

    def append(self, data):
        """Appends to the store without taking its lock, which the server holds."""
        with self._lock:
            self.partd.append(data, lock=False)

    def get(self, keys):
        """Gets from the store without taking its lock, which the server holds."""
        with self._lock:
            return self.partd.get(keys, lock=False)

    def drop(self):
        """Removes every key."""
        with self._lock:
            self.partd.drop()

    def close(self):
        """Stops listening, and releases the store's lock."""
        if self._lock_owner == "released":
            return
        self._lock_owner = "released"
        self.status = "closed"
        thread = self._listen_thread
        if thread is not None and thread.ident != get_ident():
            thread.join()
        with suppress(zmq.ZMQError):
            self.socket.close(1000)
        with suppress(zmq.ZMQError):
            self.context.destroy(1000)
        self.partd.lock.release()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *args):
        self.close()
        self.partd.__exit__(*args)


class RemoteError(Exception):
    """The server failed to carry out a command. The text is the server's."""


class Client(Interface):
    """A store that forwards its calls to a server. Threads can share it.

    With `timeout`, in seconds, a call raises `TimeoutError` if the server does not answer in time.
    """

    def __init__(self, address=None, create_server=False, timeout=None, **kwargs):
        if address is None:
            raise TypeError("a Client needs the address of a server, such as Server().address")
        if create_server:
            raise NotImplementedError(
                "a Client does not create a server; start a Server and pass its address"
            )
        self.address = address
        self.timeout = timeout
        self.lock = NotALock()
        self._mutex = Lock()
        self._is_extended = False
        self._outstanding = 0
        self._closed = False
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(address.decode() if isinstance(address, bytes) else address)
        self._send([b"syn", EXTENSION])
        Interface.__init__(self)

    def __getstate__(self):
        return {"address": self.address}

    def __setstate__(self, state):
        self.__init__(state["address"])

    def send(self, command, payload, recv=False, ack_required=True):
        """Sends a command; with `recv`, waits for the answer and returns its frames.

        Unless `ack_required` is false, first waits until all earlier commands are acknowledged.
        """
        with self._mutex:
            if ack_required:
                self._settle()
            self._send([command, *payload])
            if recv:
                return self._receive()
            return None

    def _send(self, frames):
        self.socket.send_multipart(frames)
        self._outstanding += 1

    def _settle(self):
        """Waits until the server has acknowledged everything that was sent."""
        while self._outstanding:
            message = self._receive()
            if message[0] != b"ack":
                raise RemoteError(f"the server answered {message[0][:40]!r} instead of an ack")
            if message[1:] == [EXTENSION]:
                self._is_extended = True
            self._outstanding -= 1

    def _receive(self):
        timeout = None if self.timeout is None else int(self.timeout * 1000)
        if not self.socket.poll(timeout):
            raise TimeoutError(
                f"the server at {self.address!r} did not answer within {self.timeout} s"
            )
        message = self.socket.recv_multipart()
        if message[0] == b"error" and len(message) == 3 and self._is_extended:
            self._outstanding -= 1
            raise RemoteError(f"{message[1].decode()}: {message[2].decode()}")
        return message

    def _get(self, keys, lock=None, **kwargs):
        # A server does not answer a get without keys.
        return self.send(b"get", list(map(serialize_key, keys)), recv=True) if keys else []

    def _pop(self, keys, lock=None, **kwargs):
        if not keys:
            return []
        self._forget_sets(keys)
        with self._mutex:
            self._settle()
        if self._is_extended:
            return self.send(b"pop", list(map(serialize_key, keys)), recv=True)
        values = self._get(keys)
        self._delete(keys)
        return values

    def append(self, data, lock=None, **kwargs):
        """Appends the values of a mapping of keys to bytes."""
        payload = []
        for key, value in data.items():
            payload += (serialize_key(key), value)
        self.send(b"append", payload)

    def _delete(self, keys, lock=None):
        self.send(b"delete", list(map(serialize_key, keys)))

    def _iset(self, key, value, lock=None):
        self.send(b"iset", [serialize_key(key), value])

    def keys(self):
        """Returns every key, as a list of strings and tuples of strings.

        Raises `NotImplementedError` if the server has only the protocol of partd 1.
        """
        with self._mutex:
            self._settle()
        if not self._is_extended:
            raise NotImplementedError("a server with the protocol of partd 1 cannot list its keys")
        # An empty message cannot be sent: if there are no keys, the server sends only the ack.
        keys = self.send(b"keys", [], recv=True)
        if keys == [b"ack"]:
            self._outstanding -= 1
            return []
        return [_key_of(key) for key in keys]

    def sync(self):
        """Waits until everything that was sent before is on the server's stable storage.

        With a server that has only the protocol of partd 1, waits only until it has carried out
        everything.
        """
        with self._mutex:
            self._settle()
            if self._is_extended:
                self._send([b"sync"])
                self._settle()

    def append_durable(self, data, **kwargs):
        """Appends like `append`. The data is on the server's stable storage when it returns.

        Raises `NotImplementedError` if the server has only the protocol of partd 1.
        """
        with self._mutex:
            self._settle()
        if not self._is_extended:
            raise NotImplementedError(
                "a server with the protocol of partd 1 has no durable appends"
            )
        self.append(data)
        self.sync()

    def drop(self):
        """Removes every key, and waits for the acknowledgement."""
        self._iset_seen.clear()
        self.send(b"drop", [])
        with self._mutex:
            self._settle()

    def close_server(self):
        """Asks the server to stop."""
        self.send(b"close", [])

    def close(self):
        """Closes the connection, after waiting up to a second for unsent messages."""
        if self._closed:
            return
        self._closed = True
        with suppress(zmq.ZMQError):
            self.socket.close(1000)
        with suppress(zmq.ZMQError):
            self.context.destroy(1000)

    def __exit__(self, type, value, traceback):
        self.drop()
        self.close()

    def __del__(self):
        if not getattr(self, "_closed", True):
            self.close()


class NotALock:
    """A lock that does nothing. The server carries out one command at a time."""

    def acquire(self):
        """Does nothing."""

    def release(self):
        """Does nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass
