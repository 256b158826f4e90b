"""`File`: a store on disk, a segment log in a directory.

>>> from partd import File
>>> p = File()                               # temporary; File('path/of/a/directory') stays
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

    Any number of threads and processes can use a directory at the same time. An append is applied
    whole or not at all, and a completed append survives the death of any process. A power cut
    leaves the store in its state at or after the last `append_durable`, `append(…, fsync=True)` or
    `sync`.

    Without a path the store is temporary: it is a new directory in `dir`, or in the directory for
    temporary files. It is removed with the object or, once it was pickled, with the last process
    that uses it.

    A key is a string, `bytes` (the same key as the text that they encode), or a tuple of those,
    which differs from every string. Anything else counts as its `str()`, so `1` and `'1'` are one
    key.
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
        # From now on other processes may use the store; the last one removes it.
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

        If the store is small, this shows its keys as files in the directory, as partd 1 did. The
        files are copies: changing them does not change the store.
        """
        self._shown.show_all()
        return self._path

    def filename(self, key: Any) -> str:
        """Writes a file with a copy of a key's bytes and returns its path; see `path`."""
        shown = self._shown.show(key)
        return os.path.join(self._path, os.path.relpath(shown, self._log.path))

    def append(
        self, data: Mapping[Any, Any], lock: bool = True, fsync: bool = False, **kwargs: Any
    ) -> None:
        """Appends the values of a mapping of keys to bytes: all of them or none.

        With `fsync`, all of it is on stable storage when this returns, with at most one sync. A
        temporary store ignores `fsync`, because no process will open it after a power cut.
        """
        self._append(data, lock, fsync and not self._is_temporary())

    def append_durable(self, data: Mapping[Any, Any], lock: bool = True, **kwargs: Any) -> None:
        """Appends like `append`. The data is on stable storage when it returns."""
        self._append(data, lock, True)

    def _append(self, data, lock, durable):
        if not self._log.append(data, durable, lock):
            with self._asked_for_lock():
                self._log.append(data, durable)
        if self._shown:
            self._shown.refresh(data)

    def _append_pieces(self, data):
        """Appends a list of pieces to each key. A `Buffer` calls this.

        Returns the keys whose pieces are stored, and the exception that the others met, or None.
        """
        result = self._log.append_pieces(data, True)
        if result is None:
            with self._asked_for_lock():
                result = self._log.append_pieces(data)
        stored, error = result
        try:
            if self._shown:
                self._shown.refresh(stored)
        except OSError as refused:
            # The pieces are stored, so the caller must not append them again.
            error = error or refused
        return stored, error

    def _is_temporary(self):
        if not self._explicitly_given_path or self._path in cleanup_files:
            return True
        return self._path.endswith(_owners.SUFFIX) and _owners.is_claimed(self._log.path)

    def _asked_for_lock(self, lock=True):
        """Returns the lock if it was ever used and this thread does not hold it, else a dummy."""
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
        """Sets a key once: the first call of any process since the last delete wins."""
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
        """Returns every key, as a list of strings and tuples of strings.

        >>> with File() as p:
        ...     p.append({('a', 1): b'', 'b': b'', 3: b''})
        ...     p.keys()
        ['3', ('a', '1'), 'b']
        """
        return self._log.keys()

    def view(self, key: Any) -> memoryview:
        """Returns the value of a key as a read-only `memoryview`.

        This makes no copy if the value is in one piece. The bytes stay valid as long as the view,
        whatever is appended, deleted or compacted. Several appends to a key leave its value in
        several pieces: `chunks` returns them, and `compact` joins them.

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
        """Returns the pieces of a key's value as `memoryview`s, without a copy.

        >>> with File() as p:
        ...     p.append({'x': b'Hello '})
        ...     p.append({'x': b'world!'})
        ...     [bytes(chunk) for chunk in p.chunks('x')]
        [b'Hello ', b'world!']
        """
        return [memoryview(chunk) for chunk in self._log.chunks(key)]

    def sync(self) -> None:
        """Syncs everything that any process has written before to stable storage."""
        self._log.sync()

    def compact(self) -> dict[str, int]:
        """Joins the pieces of each value and frees dead space; returns counts of the work done."""
        return self._log.compact()

    def stats(self) -> dict[str, int]:
        """Returns a dictionary of counts of what the store holds.

        >>> with File() as p:
        ...     p.append({'x': b'12345'})
        ...     p.stats()['live_bytes']
        5
        """
        return self._log.stats()

    def verify(self) -> dict[str, int]:
        """Checks every checksum and returns counts; raises `DamageError` if a checksum differs."""
        return self._log.verify()

    def drop(self) -> None:
        """Removes every key. The store stays usable, even if its directory was removed."""
        self._iset_seen.clear()
        self._shown.clear()
        try:
            self._log.clear()
        except FileNotFoundError:
            os.mkdir(self._log.path)

    def _remove(self):
        _owners.disclaim(self._log.path)
        # Remove the directory while the store is open: closing the store might compact it first.
        shutil.rmtree(self._log.path, ignore_errors=True)
        self._log.close()
        if os.path.isdir(self._log.path):
            # A thread of the store, which has ended now, may have created a file in the meantime.
            shutil.rmtree(self._log.path)
        with suppress(ValueError):
            cleanup_files.remove(self._path)

    def __exit__(self, *args: Any) -> None:
        self._iset_seen.clear()
        self._remove()

    def __del__(self):
        # An object whose construction failed has no `_log`. A pickled store has other owners.
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
    """Closes the stores, so that the next process does not have to recover them."""
    for file in list(_files):
        file._log.close()
    _core.close_idle()
