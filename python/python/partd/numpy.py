"""`Numpy`: one-dimensional arrays, stored as their raw elements.

>>> import numpy as np
>>> from partd import Dict
>>> p = Numpy(Dict())
>>> p.append({'x': np.array([1, 2, 3])})
>>> p.append({'x': np.array([4, 5])})
>>> p.get('x')
array([1, 2, 3, 4, 5])

For each key, the key with the suffix `.dtype` holds the type of its elements. Arrays of objects are
stored as MessagePack if possible, else as pickles.
"""

import ast
import pickle

import numpy as np

try:
    import msgpack
except ImportError:
    msgpack = None

from . import _core
from .core import Interface
from .encode import store_of
from .file import File  # noqa: F401 (imported from here by others)
from .utils import frame, framesplit, suffix

__all__ = [
    "Numpy",
    "compress",
    "compress_bytes",
    "compress_text",
    "decompress",
    "decompress_bytes",
    "decompress_text",
    "deserialize",
    "parse_dtype",
    "serialize",
    "serialize_dtype",
]


def serialize_dtype(dt):
    """Encodes the type of elements as bytes.

    >>> serialize_dtype(np.dtype('i4'))
    b'<i4'
    >>> serialize_dtype(np.dtype('M8[us]'))
    b'<M8[us]'
    >>> serialize_dtype(np.dtype([('a', 'i4')]))
    b"[('a', '<i4')]"
    """
    # `str` of a structured type does not contain its fields.
    return (repr(dt.descr) if dt.names else dt.str).encode()


def parse_dtype(s):
    """Decodes the type of elements from bytes.

    >>> parse_dtype(b'i4')
    dtype('int32')
    >>> parse_dtype(b"[('a', 'i4')]")
    dtype([('a', '<i4')])
    """
    text = bytes(s).decode()
    if text.startswith("["):
        return np.dtype(ast.literal_eval(text))
    if not text:
        raise TypeError("data type '' not understood: the key is missing")
    return np.dtype(text)


class Numpy(Interface):
    """A store of one-dimensional numpy arrays; see the module documentation."""

    def __init__(self, partd=None):
        self.partd = store_of(partd)
        self._dtypes = {}
        Interface.__init__(self)

    def __getstate__(self):
        return {"partd": self.partd}

    def __setstate__(self, state):
        Interface.__setstate__(self, state)
        self._dtypes = {}

    def append(self, data, **kwargs):
        """Appends the arrays of a mapping. All arrays of a key must have the same dtype."""
        for key, array in data.items():
            self.claim_dtype(key, serialize_dtype(array.dtype))
        self.partd.append({key: serialize(array) for key, array in data.items()}, **kwargs)

    def append_durable(self, data, **kwargs):
        """Appends like `append`. The data is on stable storage when it returns."""
        self.append(data, **kwargs)
        self.sync()

    def claim_dtype(self, key, dtype):
        """Stores the type of a key's elements; raises `TypeError` if the key has another type."""
        name = suffix(key, ".dtype")
        self.partd.iset(name, dtype)
        stored = self._dtypes.get(key)
        if stored is None:
            stored = self._dtypes[key] = bytes(self.partd.get(name, lock=False))
        if stored != dtype:
            raise TypeError(
                f"the key {key!r} holds elements of type {_name(stored)}, not {_name(dtype)}; "
                "convert them, or use another key"
            )

    def _get(self, keys, **kwargs):
        values = self.partd._get(keys, **kwargs)
        dtypes = self.partd._get([suffix(key, ".dtype") for key in keys], lock=False)
        return [deserialize(v, parse_dtype(d)) for v, d in zip(values, dtypes, strict=True)]

    def _pop(self, keys, **kwargs):
        dtypes = self.partd.get([suffix(key, ".dtype") for key in keys], **kwargs)
        dtypes = [parse_dtype(dtype) for dtype in dtypes]
        values = self.partd.pop(list(keys), **kwargs)
        self.partd.delete([suffix(key, ".dtype") for key in keys], **kwargs)
        self._forget_dtypes(keys)
        return [deserialize(v, d) for v, d in zip(values, dtypes, strict=True)]

    def delete(self, keys, **kwargs):
        """Removes a key or a list of keys, with the types of their elements."""
        keys = keys if isinstance(keys, list) else [keys]
        self.partd.delete([*keys, *(suffix(key, ".dtype") for key in keys)], **kwargs)
        self._forget_dtypes(keys)

    def _forget_dtypes(self, keys):
        for key in keys:
            self._dtypes.pop(key, None)

    def _iset(self, key, value, **kwargs):
        return self.partd.iset(key, value, **kwargs)

    def keys(self):
        """Returns every key that holds an array, as a list."""
        names = self.partd.keys()
        known = {key if isinstance(key, tuple) else str(key) for key in names}
        return [key for key in names if suffix(key, ".dtype") in known]

    def sync(self):
        """Syncs everything that was written before to stable storage."""
        return self.partd.sync()

    def drop(self):
        """Removes every key."""
        self._iset_seen.clear()
        self._dtypes.clear()
        return self.partd.drop()

    @property
    def lock(self):
        """The lock of the store below."""
        return self.partd.lock

    def __exit__(self, *args):
        self.drop()
        self.partd.__exit__(*args)


def _name(dtype):
    """Returns the name of a type of elements, for an error."""
    try:
        return str(parse_dtype(dtype))
    except (TypeError, ValueError):
        return dtype.decode(errors="replace")


def serialize(x):
    """Encodes the elements of an array as bytes."""
    if x.dtype != "O":
        return x.tobytes()
    items = x.flatten().tolist()
    if msgpack is not None:
        try:
            # `strict_types` refuses tuples, which MessagePack would turn into lists.
            return frame(msgpack.packb(items, use_bin_type=True, strict_types=True))
        except Exception:
            # MessagePack cannot hold these items.
            pass
    return frame(pickle.dumps(items, protocol=pickle.HIGHEST_PROTOCOL))


def deserialize(bytes, dtype, copy=False):
    """Decodes an array. An array of plain elements is read-only, unless `copy` is true."""
    if dtype != "O":
        array = np.frombuffer(bytes, dtype)
        return array.copy() if copy else array
    blocks = [_objects(body) for body in framesplit(bytes)]
    array = np.empty(sum(map(len, blocks)), dtype="O")
    start = 0
    for block in blocks:
        array[start : start + len(block)] = block
        start += len(block)
    return array


def _objects(body):
    if msgpack is not None:
        try:
            return msgpack.unpackb(body, raw=False, strict_map_key=False)
        except Exception:
            # The body is a pickle.
            pass
    return pickle.loads(body)


_text = _core.Codec("snappy")
_codecs: dict[int, _core.Codec] = {}


def compress_text(bytes):
    """Compresses text with snappy."""
    return _text.compress(bytes)


def decompress_text(bytes):
    """Decompresses text with snappy."""
    return _text.decompress(bytes)


def compress_bytes(bytes, itemsize):
    """Compresses elements of `itemsize` bytes each with blosc."""
    itemsize = itemsize if 0 < itemsize < 256 else 1
    codec = _codecs.get(itemsize)
    if codec is None:
        codec = _codecs[itemsize] = _core.Codec("blosc", element_bytes=itemsize)
    return codec.compress(bytes)


def decompress_bytes(bytes):
    """Decompresses elements with blosc."""
    return _codecs.setdefault(8, _core.Codec("blosc")).decompress(bytes)


def compress(bytes, dtype):
    """Compresses the serialized elements of an array."""
    return compress_text(bytes) if dtype == "O" else compress_bytes(bytes, dtype.itemsize)


def decompress(bytes, dtype):
    """Decompresses the serialized elements of an array."""
    return decompress_text(bytes) if dtype == "O" else decompress_bytes(bytes)
