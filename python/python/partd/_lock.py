"""The lock of a store on disk, between threads and between processes, as in partd 1.

It consists of an exclusive `flock` on the file `.lock` in the directory, and a lock between the
threads of this process. A single call of a `File` does not need it, because each call is one atomic
step of the engine. It is for code that holds the lock over several calls. Calls with `lock=True`,
the default, wait until the lock is free. They first check whether `.lock` exists, so they pay
almost nothing if nobody uses the lock.
"""

import fcntl
import os
import threading
import time

# Wait this long after creating the file: other calls may have started before it existed.
SETTLE_SECONDS = 0.02

_held: dict[str, "_Holder"] = {}
_guard = threading.Lock()


def _after_fork_in_child():
    # No thread of the child holds a lock. Close the descriptors, which share the parent's flocks.
    global _guard
    _guard = threading.Lock()
    for lock in _held.values():
        os.close(lock.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


class _Holder:
    """The thread of this process that holds the lock of one directory."""

    def __init__(self):
        self.descriptor = -1
        self.thread = threading.get_ident()
        self.released = threading.Event()


class StoreLock:
    """The lock of a store on disk. It is not re-entrant, but the holder can call the store.

    >>> from partd import File
    >>> with File() as p:
    ...     with p.lock:
    ...         p.append({'x': b'123'}, lock=False)
    ...         p.get('x', lock=False)
    b'123'
    """

    def __init__(self, log):
        self._log = log
        self._key = None

    def acquire(self):
        """Waits until the lock is free, and takes it."""
        self._log.open()
        path = os.path.join(self._log.path, ".lock")
        holder = self._wait_for_threads(path)
        try:
            self._wait_for_processes(holder, path)
        except BaseException:
            self._let_go(holder, path)
            raise
        self._key = path

    def release(self):
        """Releases the lock."""
        path = self._key or os.path.join(self._log.path, ".lock")
        with _guard:
            holder = _held.get(path)
        if holder is None:
            raise RuntimeError(f"cannot release the lock of {self._log.path}: it is not held")
        self._let_go(holder, path)

    def is_held_by_this_thread(self):
        """Returns whether the calling thread holds the lock."""
        holder = _held.get(os.path.join(self._log.path, ".lock"))
        return holder is not None and holder.thread == threading.get_ident()

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *args):
        self.release()

    @staticmethod
    def _wait_for_threads(path):
        mine = _Holder()
        while True:
            with _guard:
                holder = _held.setdefault(path, mine)
            if holder is mine:
                return mine
            holder.released.wait()

    @staticmethod
    def _wait_for_processes(holder, path):
        try:
            holder.descriptor = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
            )
            is_new = True
        except FileExistsError:
            holder.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            is_new = False
        fcntl.flock(holder.descriptor, fcntl.LOCK_EX)
        if is_new:
            time.sleep(SETTLE_SECONDS)

    @staticmethod
    def _let_go(holder, path):
        with _guard:
            if _held.get(path) is holder:
                del _held[path]
        if holder.descriptor >= 0:
            os.close(holder.descriptor)
        holder.released.set()
