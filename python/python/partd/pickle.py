"""`Pickle`: lists of any objects, stored as pickles.

>>> from partd import Dict
>>> p = Pickle(Dict())
>>> p.append({'x': ['Hello', 'World!'], 'y': [1, 2, 3]})
>>> p.append({'x': ['Alice', 'Bob!'], 'y': [4, 5, 6]})
>>> p.get(['x', 'y'])
[['Hello', 'World!', 'Alice', 'Bob!'], [1, 2, 3, 4, 5, 6]]

Unpickling can run any code: read only stores that you trust.
"""

import pickle
from functools import partial
from itertools import chain
from pickle import loads

from .encode import Encode

__all__ = ["Pickle", "concat", "dumps", "loads"]

dumps = partial(pickle.dumps, protocol=pickle.HIGHEST_PROTOCOL)


def concat(lists):
    """Joins lists into one.

    >>> concat([[1, 2], [3]])
    [1, 2, 3]
    """
    return list(chain.from_iterable(lists))


Pickle = partial(Encode, dumps, loads, concat)
