"""`Interface`, the base of every store and layer, and how keys become file names."""

import os
import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from .utils import flatten, nested_get  # noqa: F401 (imported from here by others)

__all__ = ["Interface", "escape_filename", "filename", "token", "valid_chars"]

valid_chars = "-_.() " + string.ascii_letters + string.digits + os.path.sep


def escape_filename(fn):
    """The text without what should not stand in a file's name.

    >>> escape_filename('Foo!bar?')
    'Foobar'
    """
    return "".join(filter(valid_chars.__contains__, fn))


def token(key):
    """The key as a text; the parts of a tuple as those of a path.

    >>> token('hello')
    'hello'
    >>> token(('hello', 'world'))
    'hello/world'
    """
    if isinstance(key, str):
        return key
    if isinstance(key, tuple):
        return os.path.join(*map(token, key))
    return str(key)


def filename(path, key):
    """The name that partd 1 gave the file of a key.

    >>> filename('dir', ('a', 'b'))
    'dir/a/b'
    """
    return os.path.join(path, escape_filename(token(key)))


class Interface:
    """What stores and layers have in common.

    A subclass brings `append(data, **kwargs)`, `_get(keys, **kwargs)`, `_iset(key, value)`,
    `_delete(keys)` and `drop()`, and has a `lock`; it gets one key, lists and nested lists of keys,
    `iset` and `pop` from here.

    >>> class Upper(Interface):
    ...     def __init__(self):
    ...         self.data, self.lock = {}, Lock()
    ...         Interface.__init__(self)
    ...     def append(self, data, **kwargs):
    ...         for key, value in data.items():
    ...             self.data[key] = self.data.get(key, b'') + value.upper()
    ...     def _get(self, keys, **kwargs):
    ...         return [self.data.get(key, b'') for key in keys]
    ...     def _delete(self, keys, **kwargs):
    ...         for key in keys:
    ...             self.data.pop(key, None)
    >>> from threading import Lock
    >>> p = Upper()
    >>> p.append({'x': b'Hello', 'y': b'!'})
    >>> p.get(['x', ['y', 'x']])
    [b'HELLO', [b'!', b'HELLO']]
    >>> p.pop('x'), p.get('x')
    (b'HELLO', b'')
    """

    if TYPE_CHECKING:
        # What subclasses bring.
        lock: Any

        def append(self, data: Mapping[Any, Any], **kwargs: Any) -> None: ...
        def _get(self, keys: Any, **kwargs: Any) -> list[Any]: ...
        def _iset(self, key: Any, value: Any, **kwargs: Any) -> None: ...
        def _delete(self, keys: Any, **kwargs: Any) -> None: ...
        def drop(self) -> None: ...
        def keys(self) -> list[Any]: ...
        def sync(self) -> None: ...

    def __init__(self) -> None:
        self._iset_seen: set[Any] = set()

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._iset_seen = set()

    def iset(self, key: Any, value: Any, **kwargs: Any) -> None:
        """Sets a key once: later calls do nothing, until the key is deleted."""
        if key in self._iset_seen:
            return
        self._iset(key, value, **kwargs)
        self._iset_seen.add(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, type: Any, value: Any, traceback: Any) -> None:
        self.drop()

    def iget(self, key: Any) -> Any:
        """The value of one key, without asking for the lock."""
        return self._get([key], lock=False)[0]

    def get(self, keys: Any, **kwargs: Any) -> Any:
        """The value of a key, or the values of a list of keys, which may be nested."""
        return self._nested(self._get, keys, kwargs)

    def pop(self, keys: Any, **kwargs: Any) -> Any:
        """Gets keys as `get` does, and deletes them, as one step."""
        return self._nested(self._pop, keys, kwargs)

    def delete(self, keys: Any, **kwargs: Any) -> None:
        """Removes a key, or a list of keys; missing ones are fine."""
        if not isinstance(keys, list):
            keys = [keys]
        self._delete(keys, **kwargs)
        self._forget_sets(keys)

    def append_durable(self, data: Mapping[Any, Any], **kwargs: Any) -> None:
        """Appends, and is on stable storage when it returns."""
        self.append(data, fsync=True, **kwargs)

    def _nested(self, call, keys, kwargs):
        if not isinstance(keys, list):
            return call([keys], **kwargs)[0]
        if not any(isinstance(key, list) for key in keys):
            return call(keys, **kwargs)
        flat = list(flatten(keys))
        # By position: keys need not be hashable, and one may be asked for twice.
        values = iter(call(flat, **kwargs))
        return _refold(keys, values)

    def _pop(self, keys, lock=True):
        if lock:
            with self.lock:
                return self._pop(keys, lock=False)
        values = self._get(keys, lock=False)
        self._delete(keys, lock=False)
        self._forget_sets(keys)
        return values

    def _forget_sets(self, keys):
        seen = self._iset_seen
        if seen:
            seen.difference_update(keys)


def _refold(keys, values):
    return [_refold(key, values) if isinstance(key, list) else next(values) for key in keys]
