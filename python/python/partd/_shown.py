"""Files that show single keys, for code that reads the directory of a store.

partd 1 kept each key in a file, and some code opens those files. This module writes copies: of a
key when code asks for its file name, and of all keys when code asks for the path of a small store.
It then updates the copies when this process changes their keys.
"""

import os
import re
import shutil
import zlib

from .core import escape_filename, token

# A store above these limits does not show its keys when code asks for its path.
MAX_KEYS = 256
MAX_BYTES = 1 << 20

# The engine's files: `control`, `reserve`, `tmp-output`, `0000000000000001.seg` …
_ENGINE = re.compile(
    r"^(control.*|reserve|tmp-.*|.*\.torn.*|.*\.lock|.*\.seg.*|.*\.tmp|partd-.*|\.lock|\.owner.*)$"
)


def relative_name(key):
    """Returns the name of a key's file, relative to the store.

    It is partd 1's name, unless that is a name of the engine's files or outside of the store.

    >>> relative_name('x'), relative_name(('a', 'b'))
    ('x', 'a/b')
    >>> relative_name('control'), relative_name('../x')
    ('key-control', 'key-..%2Fx')
    """
    parts = _parts(key)
    plain = escape_filename(token(key))
    if plain == os.path.join(*parts) and plain and not any(_is_special(part) for part in parts):
        return plain
    return os.path.join(*(_escaped(part) for part in parts))


def _parts(key):
    return [token(part) for part in key] if isinstance(key, tuple) else [token(key)]


def _is_special(part):
    return not part or os.sep in part or set(part) == {"."} or bool(_ENGINE.match(part))


def _escaped(part):
    safe = "".join(
        char if char.isalnum() or char in "-_.() " else f"%{ord(char):02X}" for char in part
    )
    # A file name may have at most 255 bytes.
    if len(safe.encode()) > 200:
        safe = f"{safe[:100]}-{zlib.crc32(part.encode('utf-8', 'surrogatepass')):08x}"
    return f"key-{safe}"


class ShownKeys:
    """The files that show keys of one store."""

    def __init__(self, log):
        self._log = log
        self._names = {}

    def __bool__(self):
        return bool(self._names)

    def show(self, key):
        """Writes the file of a key and returns its path. Writes no file if the key is missing."""
        path = os.path.join(self._log.path, relative_name(key))
        try:
            (length,) = self._log.lens([key])
        except FileNotFoundError:
            return path
        if length is not None:
            self._write(key, path)
            self._names[key] = path
        elif self._has_keys_below(key):
            self._make_room_for_folder(path)
            os.makedirs(path, exist_ok=True)
            self._names.setdefault(key, path)
        else:
            self._remove(path)
        return path

    def show_all(self):
        """Writes the files of all keys, if the store is small."""
        try:
            counts = self._log.stats()
            if counts["keys"] > MAX_KEYS or counts["live_bytes"] > MAX_BYTES:
                return
            for key in self._log.keys():
                self.show(key)
        except (OSError, ValueError):
            # The caller asked only for the path.
            pass

    def refresh(self, keys):
        """Updates the files that show these keys."""
        for key in keys:
            if key in self._names:
                self.show(key)

    def clear(self):
        """Removes the files."""
        for path in self._names.values():
            self._remove(path)
        self._names.clear()

    def _has_keys_below(self, key):
        head = tuple(map(token, key)) if isinstance(key, tuple) else (token(key),)
        tuples = (other for other in self._log.keys() if isinstance(other, tuple))
        return any(tuple(map(token, other[: len(head)])) == head for other in tuples)

    def _write(self, key, path):
        folder = os.path.dirname(path)
        if folder != self._log.path:
            self._make_room_for_folder(folder)
            os.makedirs(folder, exist_ok=True)
        if os.path.isdir(path):
            return
        (value,) = self._log.get([key])
        draft = f"{path}.tmp"
        with open(draft, "wb") as file:
            file.write(value)
        os.replace(draft, path)

    def _make_room_for_folder(self, folder):
        while len(folder) > len(self._log.path):
            if os.path.isfile(folder):
                os.remove(folder)
            folder = os.path.dirname(folder)

    @staticmethod
    def _remove(path):
        try:
            os.remove(path)
        except IsADirectoryError:
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass
