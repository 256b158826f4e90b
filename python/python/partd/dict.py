"""`Dict`: a store in memory."""

from collections.abc import Mapping
from threading import Lock
from typing import Any

from .core import Interface

__all__ = ["Dict"]


def as_value(value):
    """Returns the value itself if it is `bytes`, or a copy of another bytes-like object."""
    if type(value) is bytes:
        return value
    try:
        return memoryview(value).tobytes()
    except TypeError:
        name = type(value).__name__
        raise TypeError(f"a bytes-like object is required, not '{name}'") from None


class Dict(Interface):
    """A store in memory. It keeps references to appended `bytes` and does not copy them.

    >>> p = Dict()
    >>> p.append({'x': b'Hello ', 'y': b'123'})
    >>> p.append({'x': b'world!'})
    >>> p.get('x')
    b'Hello world!'

    `data` is a plain dictionary of lists of `bytes`. As in any dictionary, `1` and `'1'` are two
    keys; in a `File` they are one.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.data: dict[Any, list[bytes]] = {}
        # Guards `data` even if a caller passes `lock=False`.
        self._mutex = Lock()
        Interface.__init__(self)

    def __getstate__(self):
        with self._mutex:
            return {"data": {key: list(parts) for key, parts in self.data.items()}}

    def __setstate__(self, state):
        Dict.__init__(self)
        self.data = state["data"]

    def append(self, data: Mapping[Any, Any], lock: bool = True, **kwargs: Any) -> None:
        """Appends the values of a mapping of keys to bytes: all of them or none."""
        if lock:
            with self.lock:
                return self.append(data, lock=False)
        self._append([(key, as_value(value)) for key, value in data.items()])

    def _append(self, items):
        with self._mutex:
            stored = self.data
            for key, value in items:
                parts = stored.get(key)
                if parts is None:
                    stored[key] = [value]
                else:
                    parts.append(value)

    def _get(self, keys, lock=True, **kwargs):
        assert isinstance(keys, (list, tuple, set))
        if lock:
            with self.lock:
                return self._get(keys, lock=False)
        with self._mutex:
            stored = self.data
            return [_joined(stored.get(key, ())) for key in keys]

    def _iset(self, key, value, lock=True):
        if lock:
            with self.lock:
                return self._iset(key, value, lock=False)
        value = as_value(value)
        with self._mutex:
            self.data[key] = [value]

    def _delete(self, keys, lock=True):
        if lock:
            with self.lock:
                return self._delete(keys, lock=False)
        with self._mutex:
            for key in keys:
                self.data.pop(key, None)

    def _pop(self, keys, lock=True):
        if lock:
            with self.lock:
                return self._pop(keys, lock=False)
        with self._mutex:
            values = [_joined(self.data.pop(key, ())) for key in keys]
        self._forget_sets(keys)
        return values

    def keys(self) -> list[Any]:
        """Returns every key, as a list."""
        with self._mutex:
            return list(self.data)

    def sync(self) -> None:
        """Does nothing, as a store in memory has no stable storage."""

    def drop(self) -> None:
        """Removes every key."""
        with self._mutex:
            self._iset_seen.clear()
            self.data.clear()

    def __exit__(self, *args: Any) -> None:
        self.drop()


def _joined(parts):
    return parts[0] if len(parts) == 1 else b"".join(parts)
