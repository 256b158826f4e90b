"""Tracks which processes own a temporary store, so that the last one removes it.

A process that pickles or unpickles a temporary store holds a shared `flock` on the file `.owner` in
the store's directory until it ends. A process that can lock the file exclusively is the last owner,
and removes the directory. It does so when it ends. If the owners were killed, another process
removes the directory when it makes its first temporary store in the same place.

A worker of multiprocessing may end before another process has unpickled the store that it sent.
Such a worker leaves the store to the receivers, and a sweep ignores a store that was pickled a
short time ago.
"""

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
import threading
import time

OWNER_FILE = ".owner"
SUFFIX = ".partd"
# How long a pickle may be in transit, while no process owns the store.
SWEEP_AFTER_SECONDS = 60

# Directories to remove at the end of this process, unless other processes own them.
cleanup_files: list[str] = []

_guard = threading.Lock()
# The descriptors of the owner files that this process holds, by directory.
_claims: dict[str, int] = {}
# The directories in `_claims` that this process has pickled.
_given: set[str] = set()
_swept: set[str] = set()
_is_registered = False


def claim(path):
    """Makes this process one of the owners of a temporary store, which must be open."""
    with _guard:
        if path in _claims:
            return
        marker = os.path.join(path, OWNER_FILE)
        draft = f"{marker}-{os.getpid()}-{threading.get_ident()}"
        try:
            descriptor = os.open(marker, os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except FileNotFoundError:
            # Lock the file before it gets its name, so that a sweep never finds it unlocked.
            descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.rename(draft, marker)
        _claims[path] = descriptor
    _register()


def give(path):
    """Claims a store that is about to be pickled."""
    claim(path)
    _given.add(path)
    os.utime(os.path.join(path, OWNER_FILE))


def is_claimed(path):
    """Returns whether a store is temporary and was pickled, by this process or another."""
    return path in _claims or os.path.exists(os.path.join(path, OWNER_FILE))


def disclaim(path):
    """Gives up this process's ownership of a directory that is removed, or about to be."""
    with _guard:
        descriptor = _claims.pop(path, None)
        _given.discard(path)
    if descriptor is not None:
        os.close(descriptor)


def _remove_if_last(path):
    """Removes a directory, unless another process owns it too."""
    disclaim(path)
    marker = os.path.join(path, OWNER_FILE)
    try:
        descriptor = os.open(marker, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        shutil.rmtree(path, ignore_errors=True)
        return True
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Since the file was opened, another process may have replaced it.
        if os.path.samestat(os.fstat(descriptor), os.stat(marker)):
            shutil.rmtree(path, ignore_errors=True)
            return True
    except OSError:
        # Another process owns the directory, or has removed it.
        pass
    finally:
        os.close(descriptor)
    return False


def sweep(directory=None, older_than=SWEEP_AFTER_SECONDS):
    """Removes the temporary stores in a directory that no running process owns.

    Returns their paths. The default is the directory for temporary files. Stores that were pickled
    in the last `older_than` seconds stay, because a process may be about to unpickle them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     sweep(empty)
    []
    """
    directory = directory or tempfile.gettempdir()
    swept = []
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if not name.endswith(SUFFIX) or path in _claims:
            continue
        try:
            age = time.time() - os.stat(os.path.join(path, OWNER_FILE)).st_mtime
        except OSError:
            continue
        if age >= older_than and _remove_if_last(path):
            swept.append(path)
    return swept


def sweep_once(directory):
    """Sweeps a directory unless this process has done so before. Ignores errors."""
    directory = directory or tempfile.gettempdir()
    with _guard:
        if directory in _swept:
            return
        _swept.add(directory)
    try:
        sweep(directory)
    except OSError:
        pass


def cleanup():
    """Removes the temporary stores of this process that no other process owns."""
    multiprocessing = sys.modules.get("multiprocessing")
    is_worker = multiprocessing is not None and multiprocessing.parent_process() is not None
    for path in dict.fromkeys([*cleanup_files, *_claims]):
        if not (is_worker and path in _given):
            _remove_if_last(path)


def _register():
    """Registers `cleanup` with multiprocessing, whose children do not run `atexit` functions."""
    global _is_registered
    util = sys.modules.get("multiprocessing.util")
    if util is None or _is_registered:
        return
    _is_registered = True
    util.Finalize(None, cleanup, exitpriority=0)
    util.register_after_fork(_claims_of_child, _ClaimsOfChild.renew)


class _ClaimsOfChild:
    """The object that multiprocessing passes to its callback after a fork."""

    def renew(self):
        # multiprocessing has dropped the finalizers of the parent.
        global _is_registered
        _is_registered = False
        _register()


_claims_of_child = _ClaimsOfChild()


def _after_fork_in_child():
    # An inherited descriptor shares its lock with the parent, so the child takes its own locks.
    global _guard, _is_registered
    _guard = threading.Lock()
    _is_registered = False
    inherited = dict(_claims)
    _claims.clear()
    _given.clear()
    # The child must not remove directories that only the parent uses.
    cleanup_files.clear()
    for path, descriptor in inherited.items():
        try:
            claim(path)
        except OSError:
            pass
        os.close(descriptor)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(cleanup)
