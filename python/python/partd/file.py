"""`File`: the store on disk, a segment log in a directory.

>>> from partd import File
>>> p = File()                               # a temporary one; File('path/of/a/directory') stays
>>> p.append({'x': b'Hello ', 'y': b'123'})
>>> p.append({'x': b'world!', 'y': b'456'})
>>> p.get('x')
b'Hello world!'
>>> p.get(['y', 'x'])
[b'123456', b'Hello world!']
>>> p.drop()
>>> p.get('x')
b''
"""

import atexit
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from . import _core, _owners
from ._lock import StoreLock
from ._owners import cleanup, cleanup_files, sweep
from ._shown import ShownKeys
from .core import Interface, escape_filename, filename, token, valid_chars

__all__ = [
    "File",
    "cleanup",
    "cleanup_files",
    "escape_filename",
    "filename",
    "sweep",
    "token",
    "valid_chars",
]


class File(Interface):
    """A store on disk.

    Any number of threads and processes use a directory at once. An append is there whole or not at
    all, and nothing that it wrote is lost when a process is killed; a power cut leaves the store as
    it was at or after the last `append_durable`, `append(…, fsync=True)` or `sync`.

    Without a path the store is temporary: in a new directory in `dir`, or where temporary files go.
    It is removed with the object; once it was pickled, with the last process that uses it.

    A key is a string, `bytes` (the same key as the text they encode), or a tuple of those, which is
    no string's key; anything else is its `str()`, so `1` and `'1'` are one key.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, dir: str | os.PathLike[str] | None = None
    ) -> None:
        self._explicitly_given_path = bool(path)
        if not path:
            _owners.sweep_once(dir)
            path = tempfile.mkdtemp(suffix=_owners.SUFFIX, dir=dir)
            cleanup_files.append(path)
        self._begin(path)
        if not self._explicitly_given_path:
            self._log.open()
        Interface.__init__(self)

    def _begin(self, path):
        path = os.fspath(path)
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        self._path = path
        with suppress(OSError):
            os.makedirs(path, exist_ok=True)
        self._log = _core.Log(path)
        self.lock = StoreLock(self._log)
        self._shown = ShownKeys(self._log)
        _files.add(self)

    def __getstate__(self):
        path = self._log.path
        # From now on others may use it; who is last removes it.
        if not self._explicitly_given_path or path in cleanup_files:
            with suppress(OSError):
                self._log.open()
                _owners.give(path)
        return {"path": path}

    def __setstate__(self, state):
        self._explicitly_given_path = True
        self._begin(state["path"])
        self._iset_seen = set()
        if self._log.path.endswith(_owners.SUFFIX) and _owners.is_claimed(self._log.path):
            with suppress(OSError):
                _owners.claim(self._log.path)

    def __repr__(self):
        return f"File({self._path!r})"

    @property
    def path(self) -> str:
        """The directory, as it was given.

        While the store is small, its keys are shown there as files, as partd 1 kept them. They are
        copies: nothing that is done to them changes the store.
        """
        self._shown.show_all()
        return self._path

    def filename(self, key: Any) -> str:
        """The path of a file that holds the bytes of a key. A copy: see `path`."""
        shown = self._shown.show(key)
        return os.path.join(self._path, os.path.relpath(shown, self._log.path))

    def append(
        self, data: Mapping[Any, Any], lock: bool = True, fsync: bool = False, **kwargs: Any
    ) -> None:
        """Appends the values of a mapping of keys to bytes, all or nothing.

        With `fsync`, all of it is on stable storage when this returns, by at most one sync; not so
        if the store is temporary, since nobody will look for it after a power cut.
        """
        self._append(data, lock, fsync and not self._is_temporary())

    def append_durable(self, data: Mapping[Any, Any], lock: bool = True, **kwargs: Any) -> None:
        """Appends, and is on stable storage when it returns."""
        self._append(data, lock, True)

    def _append(self, data, lock, durable):
        if not self._log.append(data, durable, lock):
            with self._asked_for_lock():
                self._log.append(data, durable)
        if self._shown:
            self._shown.refresh(data)

    def _append_pieces(self, data):
        """Appends to each key a list of pieces; for a `Buffer`, which has them."""
        if not self._log.append_pieces(data, True):
            with self._asked_for_lock():
                self._log.append_pieces(data)
        if self._shown:
            self._shown.refresh(data)

    def _is_temporary(self):
        if not self._explicitly_given_path or self._path in cleanup_files:
            return True
        return self._path.endswith(_owners.SUFFIX) and _owners.is_claimed(self._log.path)

    def _asked_for_lock(self, lock=True):
        """The lock, if anyone has ever used it; a thread that holds it goes on."""
        if lock and self._log.has_lock_file() and not self.lock.is_held_by_this_thread():
            return self.lock
        return _NOT_NEEDED

    def _get(self, keys, lock=True, **kwargs):
        assert isinstance(keys, (list, tuple, set))
        values = self._log.get(keys, lock)
        if values is None:
            with self._asked_for_lock():
                return self._log.get(keys)
        return values

    def iset(self, key: Any, value: Any, **kwargs: Any) -> None:
        """Sets a key once: the first call since the last delete wins, of whatever process."""
        if key in self._iset_seen and self._log.lens([key]) != [None]:
            return
        self._iset(key, value, **kwargs)
        self._iset_seen.add(key)

    def _iset(self, key, value, lock=True):
        with self._asked_for_lock(lock):
            self._log.iset(key, value)
        self._shown.refresh([key])

    def _delete(self, keys, lock=True):
        with self._asked_for_lock(lock):
            self._log.delete(keys)
        self._shown.refresh(keys)

    def _pop(self, keys, lock=True):
        with self._asked_for_lock(lock):
            values = self._log.pop(keys)
        self._forget_sets(keys)
        self._shown.refresh(keys)
        return values

    def keys(self) -> list[Any]:
        """Every key, as a list: strings and tuples of strings.

        >>> with File() as p:
        ...     p.append({('a', 1): b'', 'b': b'', 3: b''})
        ...     p.keys()
        ['3', ('a', '1'), 'b']
        """
        return self._log.keys()

    def view(self, key: Any) -> memoryview:
        """The value of a key as a read-only `memoryview`, without a copy where it is in one piece.

        It keeps the bytes alive, whatever is appended, deleted or compacted meanwhile. A value that
        was appended to several times lies in several pieces: `chunks` has them, and `compact` joins
        them.

        >>> with File() as p:
        ...     p.append({'x': b'Hello'})
        ...     p.view('x')[1:3].tobytes()
        b'el'
        """
        chunks = self._log.chunks(key)
        if len(chunks) == 1:
            return memoryview(chunks[0])
        return memoryview(b"".join(chunks))

    def chunks(self, key: Any) -> list[memoryview]:
        """The pieces of a key's value as `memoryview`s, without a copy.

        >>> with File() as p:
        ...     p.append({'x': b'Hello '})
        ...     p.append({'x': b'world!'})
        ...     [bytes(chunk) for chunk in p.chunks('x')]
        [b'Hello ', b'world!']
        """
        return [memoryview(chunk) for chunk in self._log.chunks(key)]

    def sync(self) -> None:
        """Brings to stable storage all that was written before, by any process."""
        self._log.sync()

    def compact(self) -> dict[str, int]:
        """Joins the pieces of each value, frees what is dead; returns counts of what was done."""
        return self._log.compact()

    def stats(self) -> dict[str, int]:
        """Counts what the store holds, as a dictionary.

        >>> with File() as p:
        ...     p.append({'x': b'12345'})
        ...     p.stats()['live_bytes']
        5
        """
        return self._log.stats()

    def verify(self) -> dict[str, int]:
        """Compares every checksum; raises `DamageError` where one differs."""
        return self._log.verify()

    def drop(self) -> None:
        """Removes every key. The store stays usable, also where its directory was removed."""
        self._iset_seen.clear()
        self._shown.clear()
        try:
            self._log.clear()
        except FileNotFoundError:
            os.mkdir(self._log.path)

    def _remove(self):
        _owners.disclaim(self._log.path)
        # While the store is open: closed, it might compact first.
        shutil.rmtree(self._log.path, ignore_errors=True)
        self._log.close()
        if os.path.isdir(self._log.path):
            # A thread of the store may have made a file meanwhile; that one is gone now.
            shutil.rmtree(self._log.path)
        with suppress(ValueError):
            cleanup_files.remove(self._path)

    def __exit__(self, *args: Any) -> None:
        self._iset_seen.clear()
        self._remove()

    def __del__(self):
        # An object whose construction failed has no log; a pickled store belongs to others too.
        log = getattr(self, "_log", None)
        if log is None or self._explicitly_given_path:
            return
        if not _owners.is_claimed(log.path):
            self._remove()


class _NotNeeded:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: Any) -> None:
        pass


_NOT_NEEDED = _NotNeeded()
_files: weakref.WeakSet[File] = weakref.WeakSet()


@atexit.register
def _close():
    """Closes the stores, so that the next process need not recover them."""
    for file in list(_files):
        file._log.close()
    _core.close_idle()
