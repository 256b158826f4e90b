"""`PandasBlocks` and `PandasColumns`: data frames.

>>> import pandas as pd
>>> from partd import Dict
>>> p = PandasBlocks(Dict())
>>> p.append({'x': pd.DataFrame({'a': [1, 2]})})
>>> p.append({'x': pd.DataFrame({'a': [3]}, index=[2])})
>>> p.get('x')
   a
0  1
1  2
2  3

`PandasBlocks` stores frames whole; dask shuffles through it. `PandasColumns` has a key for each
column, and can read single columns:

>>> p = PandasColumns(Dict())
>>> p.append({'x': pd.DataFrame({'a': [1, 2], 'b': [3, 4]})})
>>> p.get('x', columns=['b'])
   b
0  3
1  4

Both read what partd 1 wrote. Some parts of frames are pickles, and unpickling can run any code:
read only stores that you trust.
"""

import pickle
from functools import partial

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray
from pandas.api.types import is_extension_array_dtype, union_categoricals

from . import _blocks, _core
from . import numpy as pnp
from .core import Interface
from .encode import Encode
from .utils import extend, frame, framesplit, suffix

__all__ = [
    "PandasBlocks",
    "PandasColumns",
    "block_from_header_bytes",
    "block_to_header_bytes",
    "deserialize",
    "dumps",
    "index_from_header_bytes",
    "index_to_header_bytes",
    "is_extension_array",
    "join",
    "serialize",
]

dumps = partial(pickle.dumps, protocol=pickle.HIGHEST_PROTOCOL)


def is_extension_array(x):
    """Returns whether `x` is an extension array of pandas and not a numpy array."""
    return isinstance(x, ExtensionArray)


def serialize(df):
    """Encodes a data frame as bytes.

    >>> df = pd.DataFrame({'a': [1, 2]})
    >>> deserialize(serialize(df)).equals(df)
    True
    """
    return _blocks.encode_frames([df], prefix=False)[0]


def deserialize(bytes):
    """Decodes a data frame from bytes of this package or of partd 1."""
    if _blocks.is_piece(bytes):
        piece = _blocks.Piece(bytes)
        return _blocks.decode_pieces(_blocks.schema_of(piece.header), [piece])
    return _deserialize_1(bytes)


def join(dfs):
    """Concatenates data frames in order. Returns an empty frame if there are none.

    Unordered categories that differ are merged:

    >>> a, b = (pd.DataFrame({'x': pd.Categorical([x])}) for x in 'ab')
    >>> list(join([a, b]).x.cat.categories)
    ['a', 'b']
    """
    if not dfs:
        return pd.DataFrame()
    joined = pd.concat(dfs)
    if len(dfs) > 1 and joined.columns.is_unique:
        for name in joined.columns:
            parts = [df[name] for df in dfs if name in df.columns]
            is_lost = not isinstance(joined[name].dtype, pd.CategoricalDtype)
            if is_lost and len(parts) == len(dfs) and _are_unitable(parts):
                united = union_categoricals([part.array for part in parts])
                joined[name] = pd.Series(united, index=joined.index)
    return joined


def _are_unitable(parts):
    dtypes = [part.dtype for part in parts]
    return all(
        isinstance(dtype, pd.CategoricalDtype)
        and not dtype.ordered
        and dtype.categories.dtype == dtypes[0].categories.dtype
        for dtype in dtypes
    )


class _ManyFrames:
    """Encodes and decodes many frames at once; `Encode` uses it in place of its functions."""

    counterparts = (deserialize, join)

    @staticmethod
    def encode_many(values):
        return _blocks.encode_frames(values, prefix=True)

    @staticmethod
    def decode_many(chunks):
        return [_decode_chunk(chunk) for chunk in chunks]


def _decode_chunk(chunk):
    """Decodes all pieces of a key to one data frame."""
    frames, run, schema, header = [], [], None, None
    for body in framesplit(memoryview(chunk)):
        if not _blocks.is_piece(body):
            run, schema, header = _close_run(frames, run, schema), None, None
            frames.append(_deserialize_1(bytes(body)))
            continue
        piece = _blocks.Piece(body)
        if piece.header != header:
            found = _blocks.schema_of(piece.header)
            if schema is not None and not found.is_like(schema):
                run, schema = _close_run(frames, run, schema), None
            schema, header = schema or found, piece.header
        run.append(piece)
    _close_run(frames, run, schema)
    return frames[0] if len(frames) == 1 else join(frames)


def _close_run(frames, run, schema):
    if run:
        frames.append(_blocks.decode_pieces(schema, run))
    return []


serialize._partd_codec = _ManyFrames  # type: ignore[attr-defined]
PandasBlocks = partial(Encode, serialize, deserialize, join)


# The format of partd 1: a frame with pickled headers, then a frame for each axis and block.


def _deserialize_1(bytes):
    parts = list(framesplit(bytes))
    headers = pickle.loads(parts[0])
    columns, index = (
        index_from_header_bytes(header, part)
        for header, part in zip(headers[:2], parts[1:3], strict=True)
    )
    blocks = [
        block_from_header_bytes(header, part, create_block=False)
        for header, part in zip(headers[2:], parts[3:], strict=True)
    ]
    return _blocks.create_dataframe_from_blocks(blocks, index, columns)


def _decompress_1(data, dtype):
    """Undoes partd 1's compression, which depended on the installed packages."""
    codecs = (
        (pnp.decompress_text, pnp.decompress_bytes) if dtype == "O" else (pnp.decompress_bytes,)
    )
    for decompress in codecs:
        try:
            return decompress(data)
        except _core.DamageError:
            continue
    return data


def index_to_header_bytes(ind):
    """Encodes an index as a header and bytes, in the format of partd 1."""
    has_own_pickle = isinstance(ind, (pd.DatetimeIndex, pd.MultiIndex, pd.RangeIndex))
    if has_own_pickle or (
        is_extension_array_dtype(ind) and not isinstance(ind, pd.CategoricalIndex)
    ):
        return None, dumps(ind)
    categories, values = None, ind.values
    if isinstance(ind, pd.CategoricalIndex):
        return None, dumps(ind)
    attributes = {name: getattr(ind, name, None) for name in ind._attributes}
    header = (type(ind), attributes, values.dtype, categories)
    return header, pnp.compress(pnp.serialize(values), values.dtype)


def index_from_header_bytes(header, bytes):
    """Decodes an index from a header and bytes in the format of partd 1."""
    if header is None:
        return pickle.loads(bytes)
    kind, attributes, dtype, categories = header
    data = pnp.deserialize(_decompress_1(bytes, dtype), dtype, copy=True)
    if dtype == "O" and any(isinstance(label, list) for label in data):
        # These were tuples: MessagePack turned them into lists, which cannot be labels.
        labels = [tuple(label) if isinstance(label, list) else label for label in data]
        data = np.fromiter(labels, dtype=object, count=len(labels))
    if categories:
        data = pd.Categorical.from_codes(data, categories[1], ordered=categories[0])
    return kind.__new__(kind, data=data, **attributes)


def block_to_header_bytes(block):
    """Encodes a block of columns as a header and bytes, in the format of partd 1."""
    values = block.values
    if isinstance(values, pd.Categorical):
        extension = ("categorical_type", (values.ordered, values.categories))
        values = values.codes
    elif is_extension_array(values):
        extension = ("other", ())
    else:
        extension = ("numpy_type", ())
    header = (block.mgr_locs.as_array, values.dtype, values.shape, extension)
    if extension[0] == "other":
        return header, dumps(values)
    return header, pnp.compress(pnp.serialize(values), values.dtype)


def block_from_header_bytes(header, bytes, create_block=False):
    """Decodes a block of columns in the format of partd 1.

    Returns its values and placement, or, with `create_block`, a block of pandas 2.
    """
    placement, dtype, shape, (kind, details) = header
    if kind == "other":
        values = pickle.loads(bytes)
    else:
        values = pnp.deserialize(_decompress_1(bytes, dtype), dtype, copy=True).reshape(shape)
    if kind == "categorical_type":
        values = pd.Categorical.from_codes(values, details[1], ordered=details[0])
    elif kind == "datetime64_tz_type":
        values = pd.DatetimeIndex(values).tz_localize("utc").tz_convert(details[0])
    if create_block:
        return _blocks.make_block(values, placement=placement)
    return values, placement


# The stored dtype of extension-array columns. Each append to them is a frame with a pickled array.
_EXTENSION = b"pandas"


class PandasColumns(Interface):
    """A store of data frames with a key for each column; see the module documentation.

    Column names become parts of keys, so they must differ as text.
    """

    def __init__(self, partd=None):
        self.partd = pnp.Numpy(partd)
        Interface.__init__(self)

    def append(self, data, **kwargs):
        """Appends the data frames of a mapping."""
        values = {}
        for key, df in data.items():
            names = [extend(key, column) for column in df.columns]
            if len(set(names)) < len(names):
                raise ValueError(
                    f"the columns of key {key!r} have names that are equal as text; "
                    "rename them, or use PandasBlocks"
                )
            self.iset(extend(key, ".columns"), dumps(list(df.columns)))
            self.iset(extend(key, ".index-name"), dumps(df.index.name))
            for i, name in enumerate(names):
                values[name] = df.iloc[:, i].array
            values[extend(key, ".index")] = df.index.array
        self.partd.partd.append(
            {name: self._encoded(name, v) for name, v in values.items()}, **kwargs
        )

    def append_durable(self, data, **kwargs):
        """Appends like `append`. The data is on stable storage when it returns."""
        self.append(data, **kwargs)
        self.sync()

    def _encoded(self, name, values):
        if type(values) is not pd.arrays.NumpyExtensionArray:
            self.partd.claim_dtype(name, _EXTENSION)
            return frame(dumps(values))
        array = values.to_numpy()
        self.partd.claim_dtype(name, pnp.serialize_dtype(array.dtype))
        return pnp.serialize(array)

    def _get(self, keys, columns=None, **kwargs):
        store = self.partd.partd
        if columns is None:
            lists = store.get([extend(key, ".columns") for key in keys], **kwargs)
            lists = [pickle.loads(columns) for columns in lists]
        else:
            lists = [columns] * len(keys)
        index_names = store.get([extend(key, ".index-name") for key in keys], **kwargs)
        names = []
        for key, columns in zip(keys, lists, strict=True):
            names += [extend(key, ".index"), *(extend(key, column) for column in columns)]
        values = store.get(names, **kwargs)
        dtypes = store.get([suffix(name, ".dtype") for name in names], lock=False)
        arrays = map(_decoded, values, dtypes)
        frames = []
        for name, columns in zip(index_names, lists, strict=True):
            # Pass the types explicitly, so that pandas does not infer others.
            values = next(arrays)
            index = pd.Index(values, dtype=values.dtype, name=pickle.loads(name))
            parts = {}
            for i in range(len(columns)):
                values = next(arrays)
                parts[i] = pd.Series(values, dtype=values.dtype, index=index, copy=False)
            df = pd.DataFrame(parts, index=index)
            df.columns = pd.Index(columns)
            frames.append(df)
        return frames

    def delete(self, keys, **kwargs):
        """Removes a key or a list of keys, with their columns, indexes and names."""
        keys = keys if isinstance(keys, list) else [keys]
        store = self.partd.partd
        for key, columns in zip(
            keys, store.get([extend(k, ".columns") for k in keys]), strict=True
        ):
            if columns:
                names = [".index", *pickle.loads(columns)]
                self.partd.delete([extend(key, name) for name in names], **kwargs)
            store.delete([extend(key, ".columns"), extend(key, ".index-name")], **kwargs)
            self._forget_sets([extend(key, ".columns"), extend(key, ".index-name")])

    def _pop(self, keys, **kwargs):
        frames = self._get(keys, **kwargs)
        self.delete(list(keys))
        return frames

    def __getstate__(self):
        return {"partd": self.partd}

    def _iset(self, key, value, **kwargs):
        return self.partd._iset(key, value, **kwargs)

    def keys(self):
        """Returns every key that holds a data frame, as a list."""
        names = [name for name in self.partd.partd.keys() if isinstance(name, tuple)]
        heads = [name[:-1] for name in names if name[-1] == ".columns"]
        return [head if len(head) > 1 else head[0] for head in heads]

    def sync(self):
        """Syncs everything that was written before to stable storage."""
        return self.partd.sync()

    def drop(self):
        """Removes every key."""
        self._iset_seen.clear()
        return self.partd.drop()

    @property
    def lock(self):
        """The lock of the store below."""
        return self.partd.partd.lock

    def __exit__(self, *args):
        self.drop()
        self.partd.__exit__(*args)


def _decoded(value, dtype):
    if dtype != _EXTENSION:
        array = pnp.deserialize(value, pnp.parse_dtype(dtype))
        return array if array.dtype == "O" else np.array(array)
    arrays = [pickle.loads(part) for part in framesplit(value)]
    return arrays[0] if len(arrays) == 1 else pd.concat([pd.Series(a) for a in arrays]).array
