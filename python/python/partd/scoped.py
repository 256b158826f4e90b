"""`Scoped`: a part of a store with keys of its own, for example those of one job."""

from collections.abc import Mapping
from typing import Any

from . import _core
from ._key import Key
from .core import Interface
from .utils import extend

__all__ = ["Scoped"]


class Scoped(Interface):
    """A part of a store: every key is stored as a tuple that begins with the scope.

    >>> from partd import Dict
    >>> store = Dict()
    >>> a, b = Scoped(store, 'a'), Scoped(store, 'b')
    >>> a.append({'x': b'1'})
    >>> b.append({'x': b'2', ('y', 'z'): b'3'})
    >>> a.get('x'), b.get('x')
    (b'1', b'2')
    >>> store.keys(), b.keys()
    ([('a', 'x'), ('b', 'x'), ('b', 'y', 'z')], ['x', ('y', 'z')])
    >>> b.drop()
    >>> store.keys()
    [('a', 'x')]
    """

    def __init__(self, partd: Interface, scope: Any) -> None:
        self.partd = partd
        self.scope = scope if isinstance(scope, tuple) else (scope,)
        Interface.__init__(self)

    def __getstate__(self):
        return {"partd": self.partd, "scope": self.scope}

    @property
    def lock(self) -> Any:
        """The lock of the whole store."""
        return self.partd.lock

    def _scoped(self, keys):
        return [self._inside(key) for key in keys]

    def _inside(self, key):
        if isinstance(key, Key):
            return Key(self._prefix() + key)
        return extend(self.scope, key if isinstance(key, tuple) else (key,))

    def _prefix(self):
        """Returns the bytes with which the store's keys of this scope begin."""
        return _core.encode_key(self.scope) + b"\0\1"

    def append(self, data: Mapping[Any, Any], **kwargs: Any) -> None:
        """Appends the values of a mapping."""
        data = dict(data.items())
        self.partd.append(dict(zip(self._scoped(data), data.values(), strict=True)), **kwargs)

    def append_durable(self, data: Mapping[Any, Any], **kwargs: Any) -> None:
        """Appends like `append`. The data is on stable storage when it returns."""
        data = dict(data.items())
        scoped = dict(zip(self._scoped(data), data.values(), strict=True))
        self.partd.append_durable(scoped, **kwargs)

    def _get(self, keys, **kwargs):
        return self.partd.get(self._scoped(keys), **kwargs)

    def _pop(self, keys, **kwargs):
        self._forget_sets(keys)
        return self.partd.pop(self._scoped(keys), **kwargs)

    def _delete(self, keys, **kwargs):
        return self.partd.delete(self._scoped(keys), **kwargs)

    def _iset(self, key, value, **kwargs):
        return self.partd.iset(self._scoped([key])[0], value, **kwargs)

    def keys(self) -> list[Any]:
        """Returns the keys of the scope, as a list."""
        head = tuple(map(str, self.scope))
        prefix = self._prefix()
        keys: list[Any] = []
        for key in self.partd.keys():
            if isinstance(key, Key):
                if key.startswith(prefix):
                    keys.append(Key(key[len(prefix) :]))
            elif isinstance(key, tuple) and len(key) > len(head):
                if tuple(map(str, key[: len(head)])) == head:
                    rest = key[len(head) :]
                    is_plain = len(rest) == 1 and not isinstance(rest[0], tuple)
                    keys.append(rest[0] if is_plain else rest)
        return keys

    def sync(self) -> None:
        """Syncs the whole store to stable storage."""
        return self.partd.sync()

    def drop(self) -> None:
        """Removes the keys of the scope; the others stay."""
        self._iset_seen.clear()
        self.partd.delete(self._scoped(self.keys()))
