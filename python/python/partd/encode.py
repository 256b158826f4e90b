"""`Encode`: a layer that encodes values as bytes for the store below, and decodes them."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from .core import Interface
from .file import File
from .utils import frame, framesplit

__all__ = ["Encode"]


def store_of(partd):
    """Returns the given store, a `File` at the given path, or a temporary `File`."""
    if not partd or isinstance(partd, (str, os.PathLike)):
        return File(partd)
    return partd


class Encode(Interface):
    """A store of values that three functions encode, decode and join.

    `encode` takes a value and returns bytes, and `decode` does the reverse. `join` takes the list
    of all values that were appended to a key, and returns one value.

    >>> from partd import Dict
    >>> p = Encode(str.encode, bytes.decode, ' '.join, Dict())
    >>> p.append({'x': 'Hello'})
    >>> p.append({'x': 'world!'})
    >>> p.get('x')
    'Hello world!'

    Each value is stored as a frame: the length of its bytes, then the bytes. `partd` is the store
    below or the path of a `File`. The default is a temporary `File`.
    """

    def __init__(
        self,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        join: Callable[[list[Any]], Any],
        partd: Any = None,
    ) -> None:
        self.partd = store_of(partd)
        self.encode = encode
        self.decode = decode
        self.join = join
        Interface.__init__(self)

    def __getstate__(self):
        return self.__dict__

    __setstate__ = Interface.__setstate__

    @property
    def _codec(self):
        """The object that does the work of the three functions for many values at once, or None."""
        codec = getattr(self.encode, "_partd_codec", None)
        fits = codec is not None and (self.decode, self.join) == codec.counterparts
        return codec if fits else None

    def append(self, data: Mapping[Any, Any], **kwargs: Any) -> None:
        """Appends the values of a mapping."""
        items = dict(data.items())
        self.partd.append(dict(zip(items, self._frames(items.values()), strict=True)), **kwargs)

    def append_durable(self, data: Mapping[Any, Any], **kwargs: Any) -> None:
        """Appends like `append`. The data is on stable storage when it returns."""
        items = dict(data.items())
        frames = dict(zip(items, self._frames(items.values()), strict=True))
        self.partd.append_durable(frames, **kwargs)

    def _frames(self, values):
        codec = self._codec
        if codec is not None:
            return codec.encode_many(list(values))
        encode = self.encode
        return [frame(encode(value)) for value in values]

    def _values(self, keys, chunks):
        codec = self._codec
        try:
            if codec is not None:
                return codec.decode_many(chunks)
            decode, join = self.decode, self.join
            return [join([decode(part) for part in framesplit(chunk)]) for chunk in chunks]
        except Exception as error:
            self._name_key(keys, chunks, error)
            raise

    def _name_key(self, keys, chunks, error):
        """Adds a note to an error that says which of the keys it is about."""
        for key, chunk in zip(keys, chunks, strict=True):
            if len(keys) > 1:
                try:
                    self._values([key], [chunk])
                except Exception:
                    pass
                else:
                    continue
            error.add_note(f"while decoding the value of key {key!r}, {len(chunk)} bytes")
            return

    def _get(self, keys, **kwargs):
        keys = list(keys)
        return self._values(keys, self.partd._get(keys, **kwargs))

    def _pop(self, keys, **kwargs):
        keys = list(keys)
        # Decode first, so that damage is an error before anything is removed.
        self._values(keys, self.partd.get(keys, **kwargs))
        chunks = self.partd.pop(keys, **kwargs)
        self._forget_sets(keys)
        try:
            return self._values(keys, chunks)
        except Exception:
            # Another process appended damaged bytes in the meantime. Put all values back.
            self.partd.append({k: c for k, c in zip(keys, chunks, strict=True) if c})
            raise

    def delete(self, keys: Any, **kwargs: Any) -> None:
        """Removes a key or a list of keys. Missing keys are ignored."""
        self._forget_sets(keys if isinstance(keys, list) else [keys])
        return self.partd.delete(keys, **kwargs)

    def _iset(self, key, value, **kwargs):
        return self.partd.iset(key, self._frames([value])[0], **kwargs)

    def keys(self) -> list[Any]:
        """Returns every key, as a list."""
        return self.partd.keys()

    def sync(self) -> None:
        """Syncs everything that was written before to stable storage."""
        return self.partd.sync()

    def flush(self, *args: Any, **kwargs: Any) -> None:
        """Flushes the store below, if it is a `Buffer`."""
        return self.partd.flush(*args, **kwargs)

    def drop(self) -> None:
        """Removes every key."""
        self._iset_seen.clear()
        return self.partd.drop()

    @property
    def lock(self) -> Any:
        """The lock of the store below."""
        return self.partd.lock

    def __exit__(self, *args: Any) -> None:
        self.drop()
        self.partd.__exit__(*args)
