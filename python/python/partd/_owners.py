"""Whose temporary stores are: cleaned up when their last process ends, swept when it was killed.

Every process that makes a temporary store and lets it be pickled, or unpickles it, holds a shared
`flock` on the file `.owner` in its directory until it ends. A process that can take that lock alone
is the last one, and removes the directory: at its own end, or when it makes its first temporary
store beside one whose processes were killed.

A worker of multiprocessing may end while the pickle that it gave away is on its way: it leaves the
store to those who get it, and a sweep leaves one alone that was pickled a moment ago.
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
# A pickle may be on its way for this long, with nobody who holds the store.
SWEEP_AFTER_SECONDS = 60

# Directories to remove at the end of this process; those of others are spared.
cleanup_files: list[str] = []

_guard = threading.Lock()
# The descriptors of the owner files that this process holds, by directory.
_claims: dict[str, int] = {}
# Those of them that this process has pickled.
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
            # Locked before it has its name: a sweep never finds it free.
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
    """Whether a store is a temporary one that was pickled, by this process or another."""
    return path in _claims or os.path.exists(os.path.join(path, OWNER_FILE))


def disclaim(path):
    """Ends the ownership of this process; the directory is gone, or about to be."""
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
        # Somebody may have removed it, and another one have come, since the file was opened.
        if os.path.samestat(os.fstat(descriptor), os.stat(marker)):
            shutil.rmtree(path, ignore_errors=True)
            return True
    except OSError:
        # It is in use, or gone.
        pass
    finally:
        os.close(descriptor)
    return False


def sweep(directory=None, older_than=SWEEP_AFTER_SECONDS):
    """Removes the temporary stores in a directory that no living process owns.

    Returns their paths. The directory is the one for temporary files, unless another is given.
    Those that were pickled in the last `older_than` seconds are left alone: somebody may be about
    to unpickle them.

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
    """Sweeps a directory if this process has not done so yet; errors do not matter."""
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
    """Children of multiprocessing do not run `atexit`, but have finalizers of their own."""
    global _is_registered
    util = sys.modules.get("multiprocessing.util")
    if util is None or _is_registered:
        return
    _is_registered = True
    util.Finalize(None, cleanup, exitpriority=0)
    util.register_after_fork(_claims_of_child, _ClaimsOfChild.renew)


class _ClaimsOfChild:
    """Stands for the claims where multiprocessing calls back after a fork."""

    def renew(self):
        # The finalizers of the parent were dropped.
        global _is_registered
        _is_registered = False
        _register()


_claims_of_child = _ClaimsOfChild()


def _after_fork_in_child():
    # A descriptor shares its lock with the parent's: the child takes locks of its own.
    global _guard, _is_registered
    _guard = threading.Lock()
    _is_registered = False
    inherited = dict(_claims)
    _claims.clear()
    _given.clear()
    # Directories that the parent alone uses are not the child's to remove.
    cleanup_files.clear()
    for path, descriptor in inherited.items():
        try:
            claim(path)
        except OSError:
            pass
        os.close(descriptor)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(cleanup)
