"""`Buffer`: a fast store, usually in memory, in front of a slower one."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import accumulate
from operator import itemgetter
from threading import Lock, RLock
from typing import Any

from .core import Interface
from .dict import Dict, as_value
from .file import File

__all__ = ["Buffer", "keys_to_flush", "zero"]

# Moving keys to the slow store frees at least this share of the memory.
FREED_SHARE = 0.25


def zero():
    """Returns the length of a missing key. It is a function because lambdas cannot be pickled."""
    return 0


class Buffer(Interface):
    """A store that collects appends in `fast`, and moves the largest keys to `slow`.

    It moves keys when `fast` holds more than `available_memory` bytes of values.

    >>> from partd import Dict
    >>> p = Buffer(Dict(), Dict(), available_memory=10)
    >>> p.append({'x': b'Hello ', 'y': b'abc'})
    >>> p.append({'x': b'world!', 'y': b'def'})
    >>> p.fast.get(['x', 'y']), p.slow.get(['x', 'y'])
    ([b'', b'abcdef'], [b'Hello world!', b''])
    >>> p.get(['x', 'y'])
    [b'Hello world!', b'abcdef']

    Pickling a buffer first moves everything to `slow`, so that a copy in another process has the
    same values if the processes share `slow`.
    """

    def __init__(self, fast: Interface, slow: Interface, available_memory: float = 1e9) -> None:
        self.lock = Lock()
        self.fast = fast
        self.slow = slow
        self.available_memory = available_memory
        self.lengths: defaultdict[Any, int] = defaultdict(zero)
        self.memory_usage = 0
        self._mutex = RLock()
        Interface.__init__(self)

    def __getstate__(self):
        self.flush()
        return {
            "fast": self.fast,
            "slow": self.slow,
            "memory_usage": self.memory_usage,
            "lengths": self.lengths,
            "available_memory": self.available_memory,
        }

    def __setstate__(self, state):
        Interface.__setstate__(self, state)
        self.lock = Lock()
        self._mutex = RLock()

    def append(self, data: Mapping[Any, Any], lock: bool = True, **kwargs: Any) -> None:
        """Appends the values of a mapping of keys to bytes."""
        if lock:
            with self.lock:
                return self.append(data, lock=False, **kwargs)
        items = [
            (key, value if type(value) is bytes else as_value(value)) for key, value in data.items()
        ]
        with self._mutex:
            if type(self.fast) is Dict:
                self.fast._append(items)
            else:
                self.fast.append(dict(items), lock=False, **kwargs)
            lengths = self.lengths
            added = 0
            for key, value in items:
                length = len(value)
                lengths[key] += length
                added += length
            self.memory_usage += added
            if self.memory_usage > self.available_memory:
                self._flush(self._heaviest())

    def append_durable(self, data: Mapping[Any, Any], lock: bool = True, **kwargs: Any) -> None:
        """Flushes the buffer, then appends to `slow` with its `append_durable`."""
        with self._mutex:
            self._flush(list(self.lengths))
            self.slow.append_durable(data, lock=lock, **kwargs)

    def _get(self, keys, lock=True, **kwargs):
        if lock:
            with self.lock:
                return self._get(keys, lock=False, **kwargs)
        with self._mutex:
            old = self.slow.get(list(keys), lock=False)
            new = self.fast.get(list(keys), lock=False)
        return [b + a if a else b for b, a in zip(old, new, strict=True)]

    def _iset(self, key, value, lock=True):
        # `slow` decides whether the key was set before, so it must have the key.
        if lock:
            with self.lock:
                return self._iset(key, value, lock=False)
        with self._mutex:
            if key in self.lengths:
                self._flush([key])
            self.slow.iset(key, value, lock=False)

    def _delete(self, keys, lock=True):
        if lock:
            with self.lock:
                return self._delete(keys, lock=False)
        with self._mutex:
            self.slow.delete(keys, lock=False)
            self.fast.delete(keys, lock=False)
            self._uncount(keys)

    def _pop(self, keys, lock=True):
        if lock:
            with self.lock:
                return self._pop(keys, lock=False)
        with self._mutex:
            old = self.slow.pop(list(keys), lock=False)
            new = self.fast.pop(list(keys), lock=False)
            self._uncount(keys)
            self._forget_sets(keys)
        return [b + a if a else b for b, a in zip(old, new, strict=True)]

    def keys(self) -> list[Any]:
        """Returns every key, as a list."""
        with self._mutex:
            return list(dict.fromkeys([*self.slow.keys(), *self.fast.keys()]))

    def sync(self) -> None:
        """Moves everything to `slow`, and syncs `slow` to stable storage."""
        self.flush()
        self.slow.sync()

    def drop(self) -> None:
        """Removes every key from both stores."""
        with self._mutex:
            self._iset_seen.clear()
            self.fast.drop()
            self.slow.drop()
            self.lengths.clear()
            self.memory_usage = 0

    def __exit__(self, *args: Any) -> None:
        self.drop()

    def flush(self, keys: Iterable[Any] | None = None, block: bool | None = None) -> None:
        """Moves the given keys from `fast` to `slow`, or all keys.

        `block` is ignored: everything is moved when this returns.
        """
        with self._mutex:
            self._flush(list(self.lengths) if keys is None else list(keys))

    def _flush(self, keys):
        if not keys:
            return
        error = None
        if type(self.fast) is Dict and type(self.slow) is File:
            stored = self.fast.data
            pieces = {key: stored[key] for key in keys if key in stored}
            moved, error = self.slow._append_pieces(pieces)
            if error is not None:
                failed = pieces.keys() - set(moved)
                keys = [key for key in keys if key not in failed]
        else:
            values = self.fast.get(keys, lock=False)
            self.slow.append(dict(zip(keys, values, strict=True)), lock=False)
        # Delete only after `slow` has the bytes: if it fails, they are still in `fast`.
        self.fast.delete(keys, lock=False)
        self._uncount(keys)
        if error is not None:
            raise error

    def _uncount(self, keys):
        for key in keys:
            self.memory_usage -= self.lengths.pop(key, 0)

    def _heaviest(self):
        """Returns the longest keys, as few as must be moved."""
        excess = self.memory_usage - self.available_memory * (1 - FREED_SHARE)
        keys = []
        for key, length in sorted(self.lengths.items(), key=itemgetter(1), reverse=True):
            keys.append(key)
            excess -= length
            if excess <= 0:
                break
        return keys


def keys_to_flush(lengths, fraction=0.1, maxcount=100000):
    """Returns the longest keys: about a fraction of all bytes, but at most half of the keys.

    >>> lengths = {'a': 20, 'b': 10, 'c': 15, 'd': 15,
    ...            'e': 10, 'f': 25, 'g': 5}
    >>> keys_to_flush(lengths, 0.5)
    ['f', 'a']
    """
    longest = sorted(lengths.items(), key=itemgetter(1), reverse=True)
    longest = longest[: max(len(lengths) // 2, 1)]
    sums = list(accumulate(length for _, length in longest))
    enough = bisect(sums, sum(lengths.values()) * fraction)
    keys = [key for key, _ in longest[: min(maxcount, max(1, enough))]]
    assert keys, "there are no keys to flush"
    return keys
