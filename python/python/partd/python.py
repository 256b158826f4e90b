"""`Python`: lists of plain data, stored as MessagePack if possible, else as pickles.

>>> from partd import Dict
>>> p = Python(Dict())
>>> p.append({'x': [1, 2]})
>>> p.append({'x': ['three', {4, 5}]})
>>> p.get('x')
[1, 2, 'three', {4, 5}]

MessagePack needs the package `msgpack`, and turns tuples into lists. Unpickling can run any code:
read only stores that you trust.
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
            # MessagePack cannot hold this value.
            pass
    return pickle.dumps(x, protocol=pickle.HIGHEST_PROTOCOL)


def loads(x):
    """Decodes the result of `dumps`."""
    if msgpack is not None:
        try:
            return msgpack.unpackb(x, raw=False, strict_map_key=False)
        except Exception:
            # The value should be a pickle. If it is not, the error of `pickle` is the clearer one.
            pass
    return pickle.loads(x)


Python = partial(Encode, dumps, loads, concat)
