"""`Python`: lists of plain data, as MessagePack where that can hold them, else as pickles.

>>> from partd import Dict
>>> p = Python(Dict())
>>> p.append({'x': [1, 2]})
>>> p.append({'x': ['three', {4, 5}]})
>>> p.get('x')
[1, 2, 'three', {4, 5}]

MessagePack needs the package `msgpack`, and makes lists of tuples. As with every pickle, read only
stores that you trust.
"""

import pickle
from functools import partial

try:
    import msgpack
except ImportError:
    msgpack = None

from .encode import Encode
from .pickle import concat

__all__ = ["Python", "concat", "dumps", "loads"]


def dumps(x):
    """Encodes plain data as MessagePack, and anything else as a pickle.

    >>> loads(dumps([1, 'two', b'three']))
    [1, 'two', b'three']
    """
    if msgpack is not None:
        try:
            return msgpack.packb(x, use_bin_type=True)
        except Exception:
            # Not plain data.
            pass
    return pickle.dumps(x, protocol=pickle.HIGHEST_PROTOCOL)


def loads(x):
    """Decodes what `dumps` made."""
    if msgpack is not None:
        try:
            return msgpack.unpackb(x, raw=False, strict_map_key=False)
        except Exception:
            # A pickle; if it is not, that error tells more.
            pass
    return pickle.loads(x)


Python = partial(Encode, dumps, loads, concat)
