"""An appendable key-value byte store: append bytes to keys, get them back whole.

>>> import partd
>>> p = partd.File()
>>> p.append({'x': b'Hello ', 'y': b'123'})
>>> p.append({'x': b'world!', 'y': b'456'})
>>> p.get('x')
b'Hello world!'
>>> p.get(['y', 'x'])
[b'123456', b'Hello world!']

The stores are `File`, on disk; `Dict`, in memory; `Buffer`, which puts one in front of another; and
`Client`, which uses the store of a `Server`. Layers over a store compress (`ZLib`, `BZ2`, `Snappy`,
`Blosc`, `LZ4`, `Zstd`) or hold typed values (`Pickle`, `Python`, `Numpy`, `PandasBlocks`,
`PandasColumns`, `Arrow`). They nest:

>>> p = partd.Pickle(partd.BZ2(partd.Dict()))
>>> p.append({'x': [1, 2]})
>>> p.append({'x': [3]})
>>> p.get('x')
[1, 2, 3]
"""

from contextlib import suppress

from ._core import DamageError, StoreError
from ._key import Key
from .buffer import Buffer
from .compressed import BZ2, LZ4, Blosc, Snappy, ZLib, Zstd
from .core import Interface
from .dict import Dict
from .encode import Encode
from .file import File
from .pickle import Pickle
from .python import Python
from .scoped import Scoped

# As in partd 1, names that need a missing package are missing as well.
with suppress(ImportError):
    from .numpy import Numpy
with suppress(ImportError):
    from .pandas import PandasBlocks, PandasColumns
with suppress(ImportError):
    from .arrow import Arrow
with suppress(ImportError):
    from .zmq import Client, Server

__version__ = "2.0.0"
