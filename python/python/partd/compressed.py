"""Layers that compress: `ZLib`, `BZ2`, `Snappy`, `Blosc`, `LZ4` and `Zstd`.

The codecs are built in and need no other package. They work on many keys in parallel, and do not
block other Python threads. The layers that partd 1 also has read what it wrote, and it reads what
they write.

>>> from partd import Dict
>>> p = ZLib(Dict())
>>> p.append({'x': b'Hello ', 'y': b'123'})
>>> p.append({'x': b'world!'})
>>> p.get('x')
b'Hello world!'
"""

import zlib
from functools import partial

from . import _core
from .encode import Encode

__all__ = ["BZ2", "LZ4", "Blosc", "Snappy", "ZLib", "Zstd", "bytes_concat"]


def bytes_concat(L):
    """Joins a list of bytes.

    >>> bytes_concat([b'Hello ', b'world!'])
    b'Hello world!'
    """
    return b"".join(L)


class _ManyValues:
    """Encodes and decodes many values at once; `Encode` uses it in place of its functions."""

    def __init__(self, codec, counterparts):
        self.counterparts = counterparts
        self.encode_many = codec.encode_many
        self.decode_many = codec.decode_many


_zlib = _core.Codec("zlib")
_bz2 = _core.Codec("bz2")
_snappy = _core.Codec("snappy")
_blosc = _core.Codec("blosc")
_lz4 = _core.Codec("lz4")
_zstd = _core.Codec("zstd")


# These are functions instead of methods, because a layer pickles its functions by name.
def zlib_compress(data):
    """Compresses with zlib, at level 6."""
    return _zlib.compress(data)


def zlib_decompress(data):
    """Decompresses zlib data."""
    try:
        return _zlib.decompress(data)
    except _core.DamageError as error:
        raise zlib.error(str(error)) from error


def bz2_compress(data):
    """Compresses with bzip2, at level 9."""
    return _bz2.compress(data)


def bz2_decompress(data):
    """Decompresses bzip2 data."""
    return _bz2.decompress(data)


def snappy_compress(data):
    """Compresses with snappy, in the raw format without a container."""
    return _snappy.compress(data)


def snappy_decompress(data):
    """Decompresses raw snappy data."""
    return _snappy.decompress(data)


def blosc_compress(data):
    """Compresses with blosc: blosclz at level 9, elements of 8 bytes."""
    return _blosc.compress(data)


def blosc_decompress(data):
    """Decompresses blosc data, with any inner codec except snappy."""
    return _blosc.decompress(data)


def lz4_compress(data):
    """Compresses with LZ4: the length as 4 bytes little-endian, then a block."""
    return _lz4.compress(data)


def lz4_decompress(data):
    """Decompresses data of `lz4_compress`."""
    return _lz4.decompress(data)


def zstd_compress(data):
    """Compresses with Zstandard, at level 3."""
    return _zstd.compress(data)


def zstd_decompress(data):
    """Decompresses Zstandard frames."""
    return _zstd.decompress(data)


def _layer(codec, compress, decompress):
    compress._partd_codec = _ManyValues(codec, (decompress, bytes_concat))
    return partial(Encode, compress, decompress, bytes_concat)


Snappy = _layer(_snappy, snappy_compress, snappy_decompress)
ZLib = _layer(_zlib, zlib_compress, zlib_decompress)
BZ2 = _layer(_bz2, bz2_compress, bz2_decompress)
Blosc = _layer(_blosc, blosc_compress, blosc_decompress)
LZ4 = _layer(_lz4, lz4_compress, lz4_decompress)
Zstd = _layer(_zstd, zstd_compress, zstd_decompress)
