"""`Interface`, the base class of every store and layer, and partd 1's names of key files."""

import os
import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from .utils import flatten, nested_get  # noqa: F401 (imported from here by others)

__all__ = ["Interface", "escape_filename", "filename", "token", "valid_chars"]

valid_chars = "-_.() " + string.ascii_letters + string.digits + os.path.sep


def escape_filename(fn):
    """Removes the characters that partd 1 does not allow in a file name.

    >>> escape_filename('Foo!bar?')
    'Foobar'
    """
    return "".join(filter(valid_chars.__contains__, fn))


def token(key):
    """Returns the key as text, and a tuple as a path of its parts.

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
    """Returns the name of a key's file in partd 1.

    >>> filename('dir', ('a', 'b'))
    'dir/a/b'
    """
    return os.path.join(path, escape_filename(token(key)))


class Interface:
    """The base class of stores and layers.

    A subclass provides `append(data, **kwargs)`, `_get(keys, **kwargs)`, `_iset(key, value)`,
    `_delete(keys)`, `drop()` and a `lock`. This class adds `iset`, `pop`, and calls with single
    keys, lists and nested lists of keys.

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
        # Provided by subclasses.
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
        """Sets a key once. Later calls do nothing until the key is deleted."""
        if key in self._iset_seen:
            return
        self._iset(key, value, **kwargs)
        self._iset_seen.add(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, type: Any, value: Any, traceback: Any) -> None:
        self.drop()

    def iget(self, key: Any) -> Any:
        """Returns the value of one key, without the lock."""
        return self._get([key], lock=False)[0]

    def get(self, keys: Any, **kwargs: Any) -> Any:
        """Returns the value of a key, or the values of a list of keys, which may be nested."""
        return self._nested(self._get, keys, kwargs)

    def pop(self, keys: Any, **kwargs: Any) -> Any:
        """Gets keys like `get` and deletes them, in one step."""
        return self._nested(self._pop, keys, kwargs)

    def delete(self, keys: Any, **kwargs: Any) -> None:
        """Removes a key or a list of keys. Missing keys are ignored."""
        if not isinstance(keys, list):
            keys = [keys]
        self._delete(keys, **kwargs)
        self._forget_sets(keys)

    def append_durable(self, data: Mapping[Any, Any], **kwargs: Any) -> None:
        """Appends like `append`. The data is on stable storage when it returns."""
        self.append(data, fsync=True, **kwargs)

    def _nested(self, call, keys, kwargs):
        if not isinstance(keys, list):
            return call([keys], **kwargs)[0]
        if not any(isinstance(key, list) for key in keys):
            return call(keys, **kwargs)
        flat = list(flatten(keys))
        # Assign values by position: keys may be unhashable, and may occur more than once.
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
