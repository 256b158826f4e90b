"""Encodes data frames as pieces of bytes, and decodes all pieces of a key to one data frame.

A piece has this layout:

    magic (8 bytes), header length, buffer count (4 bytes each), rows (8 bytes),
    header, length of each buffer (8 bytes each), buffers

The header is a pickle of the frame's schema. All pieces of an append with the same schema share one
header, which reading parses once. The buffers are the raw elements of each block of columns, one
Arrow record batch for all Arrow columns, and pickles of all other values. So reading concatenates
buffers per block, and makes one data frame per key instead of one per piece.
"""

import pickle
import struct
from functools import lru_cache

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

try:
    import pyarrow as pa
except ImportError:
    pa = None

MAGIC = b"partd-f\x02"
_HEAD = struct.Struct("<8sIIQ")
# The kinds of dtype that are stored as the bytes of their elements.
_RAW_KINDS = frozenset("biufcmMSUV")
_MASKED = (pd.arrays.IntegerArray, pd.arrays.FloatingArray, pd.arrays.BooleanArray)
_DATETIMES = (pd.arrays.DatetimeArray, pd.arrays.TimedeltaArray)

try:
    from pandas.api.internals import create_dataframe_from_blocks
except ImportError:  # pandas 2
    from pandas.core.internals.api import make_block
    from pandas.core.internals.managers import create_block_manager_from_blocks

    def create_dataframe_from_blocks(blocks, index, columns):
        axes = [columns, index]
        blocks = [make_block(values, placement) for values, placement in blocks]
        return pd.DataFrame._from_mgr(create_block_manager_from_blocks(blocks, axes), axes=axes)


def encode_frames(frames, prefix):
    """Encodes data frames as pieces; with `prefix`, each is preceded by its length."""
    headers = _Headers()
    return [_encode(frame, headers, prefix) for frame in frames]


def encode_slices(frame, bounds):
    """Encodes ranges of rows of one frame as pieces, each preceded by its length.

    The result is that of `encode_frames` for the slices, which are never made.
    """
    blocks = [(block, *_sliceable(block.values)) for block in frame._mgr.blocks]
    index_kind, index = _sliceable_index(frame.index)
    arrow = [values for _, kind, values in blocks if kind == "arrow"]
    kinds = [kind for _, kind, _ in blocks]
    header = _header(frame.columns, frame.index, index_kind, kinds, frame._mgr.blocks, arrow)
    pieces = []
    for start, end in bounds:
        buffers, batch = [], []
        for _, kind, values in blocks:
            if kind == "arrow":
                batch.append(values.slice(start, end - start))
            elif kind == "pickle":
                part = values[..., start:end] if values.ndim > 1 else values[start:end]
                buffers.append([pickle.dumps(part, protocol=5)])
            else:
                buffers += ([row[start:end] for row in rows] for rows in values)
        if index_kind == "raw":
            buffers.append([index[start:end]])
        else:
            buffers.append([pickle.dumps(index[start:end], protocol=5)])
        if batch:
            buffers.append([_record_batch(batch)])
        pieces.append(_piece(header, buffers, end - start, prefix=True))
    return pieces


def _sliceable(values):
    """Returns the kind of a block's values, and the values in a form that is quick to slice."""
    kind = _kind_of(values)
    if kind == "arrow":
        return kind, _one_chunk(values._pa_array)
    if kind == "pickle":
        return kind, values
    return kind, [
        [_bytes_of(row) for row in np.atleast_2d(array)] for array in _arrays_of(kind, values)
    ]


def _sliceable_index(index):
    kind = _index_kind_of(index)
    return kind, _bytes_of(index.values) if kind == "raw" else index


def _bytes_of(row):
    """Returns a row with the same bytes and a dtype that the buffer protocol supports."""
    row = np.ascontiguousarray(row)
    return (
        row.view("i8")
        if row.dtype.kind in "mM"
        else row.view(f"V{row.itemsize}")
        if row.dtype.kind in "USV"
        else row
    )


def _encode(frame, headers, prefix):
    blocks = frame._mgr.blocks
    index = frame.index
    kinds, buffers, arrow = [], [], []
    for block in blocks:
        values = block.values
        kind = _kind_of(values)
        kinds.append(kind)
        if kind == "arrow":
            arrow.append(_one_chunk(values._pa_array))
        elif kind == "pickle":
            buffers.append((pickle.dumps(values, protocol=5),))
        else:
            buffers += [(_raw(array),) for array in _arrays_of(kind, values)]
    index_kind = _index_kind_of(index)
    is_raw = index_kind == "raw"
    buffers.append((_raw(index.values) if is_raw else pickle.dumps(index, protocol=5),))
    if arrow:
        buffers.append((_record_batch(arrow),))
    header = headers.of(frame.columns, index, index_kind, kinds, blocks, arrow)
    return _piece(header, buffers, len(index), prefix)


class _Headers:
    """The headers of the frames of one append: one per schema."""

    def __init__(self):
        self._columns = None
        self._last = ()
        self._header = None
        self._headers = {}

    def of(self, columns, index, index_kind, kinds, blocks, arrow):
        """Returns the header of a frame."""
        index_spec = (index.dtype, index.name) if index_kind == "raw" else None
        # The frames outlive this object, so the identity of categories is enough to compare them.
        of_blocks = [
            (kind, id(block.dtype) if kind == "codes" else block.dtype, block.mgr_locs)
            for kind, block in zip(kinds, blocks, strict=True)
        ]
        last = (index_spec, of_blocks, [array.type for array in arrow], columns.names)
        # Frames that were split from one frame share their names and the placement of each block.
        if columns.is_(self._columns) and last == self._last:
            return self._header
        try:
            names = tuple(columns)
            schema = (
                names,
                tuple(map(type, names)) if columns.dtype == object else columns.dtype,
                tuple(columns.names),
                index_spec,
                tuple((kind, dtype, at.as_array.tobytes()) for kind, dtype, at in of_blocks),
                tuple(last[2]),
            )
            header = self._headers.get(schema)
        except TypeError:  # an unhashable name
            schema = header = None
        if header is None:
            header = _header(columns, index, index_kind, kinds, blocks, arrow)
            if schema is not None:
                self._headers[schema] = header
        self._columns, self._last, self._header = columns, last, header
        return header


def _piece(header, buffers, rows, prefix):
    sizes = [_size(parts[0]) if len(parts) == 1 else sum(map(_size, parts)) for parts in buffers]
    count = len(sizes)
    head = _HEAD.pack(MAGIC, len(header), count, rows)
    lengths = struct.pack(f"<{count}Q", *sizes)
    parts = [head, header, lengths]
    if prefix:
        total = len(head) + len(header) + len(lengths) + sum(sizes)
        parts.insert(0, struct.pack("<Q", total))
    for buffer in buffers:
        parts += buffer
    return b"".join(parts)


def _size(part):
    return part.nbytes if isinstance(part, np.ndarray) else len(part)


def _kind_of(values):
    """Returns how a block's values are encoded."""
    if isinstance(values, np.ndarray):
        return "raw" if values.dtype.kind in _RAW_KINDS else "pickle"
    if isinstance(values, _DATETIMES):
        return "times"
    if isinstance(values, pd.Categorical):
        return "codes"
    if isinstance(values, _MASKED):
        return "masked"
    if pa is not None and hasattr(values, "_pa_array") and _is_plain(values._pa_array.type):
        return "arrow"
    return "pickle"


def _arrays_of(kind, values):
    """Returns the numpy arrays that hold a block's values."""
    if kind == "raw":
        return (values,)
    if kind == "times":
        return (values._ndarray,)
    if kind == "codes":
        return (values.codes,)
    return (values._data, values._mask)


def _index_kind_of(index):
    is_plain = type(index) is pd.Index and isinstance(index.dtype, np.dtype)
    return "raw" if is_plain and index.dtype.kind in "biufc" else "pickle"


def _raw(array):
    """Returns the elements of an array as a buffer."""
    if array.size == 0:
        return b""
    return _bytes_of(array.reshape(-1))


def _one_chunk(chunked):
    return chunked.chunk(0) if chunked.num_chunks == 1 else _combined(chunked)


def _combined(chunked):
    combined = chunked.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _record_batch(arrays):
    return pa.RecordBatch.from_arrays(arrays, list(map(str, range(len(arrays))))).serialize()


@lru_cache(maxsize=256)
def _is_plain(kind):
    """Returns whether an Arrow type, with its fields, has no dictionary and no extension type."""
    if pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        return False
    return all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))


def _header(columns, index, index_kind, kinds, blocks, arrow):
    specs = []
    for kind, block in zip(kinds, blocks, strict=True):
        is_raw = kind not in ("arrow", "pickle")
        element = _arrays_of(kind, block.values)[0].dtype if is_raw else None
        dtype = None if kind == "pickle" else block.dtype
        specs.append((kind, np.asarray(block.mgr_locs.as_array), element, dtype))
    schema = None
    if arrow:
        schema = pa.schema([(str(i), array.type) for i, array in enumerate(arrow)])
        schema = schema.serialize().to_pybytes()
    index_spec = (index_kind, index.dtype, index.name) if index_kind == "raw" else (index_kind,)
    return pickle.dumps((columns, index_spec, specs, schema), protocol=5)


class Schema:
    """The schema of a data frame, parsed from the header of a piece."""

    def __init__(self, header):
        self.columns, self.index, self.blocks, schema = pickle.loads(header)
        self.arrow = pa.ipc.read_schema(pa.py_buffer(schema)) if schema is not None else None

    def is_like(self, other):
        """Returns whether pieces of both schemas can be concatenated buffer by buffer."""
        return (
            self.index == other.index
            and self.columns.identical(other.columns)
            and len(self.blocks) == len(other.blocks)
            and self.arrow == other.arrow
            and all(
                a[0] == b[0]
                and np.array_equal(a[1], b[1])
                and a[2] == b[2]
                and _same_dtype(a[3], b[3])
                for a, b in zip(self.blocks, other.blocks, strict=True)
            )
        )


def _same_dtype(a, b):
    if isinstance(a, pd.CategoricalDtype) and isinstance(b, pd.CategoricalDtype):
        # pandas' equality ignores the order of the categories, on which the codes depend.
        return a.ordered == b.ordered and a.categories.identical(b.categories)
    return a == b


class Piece:
    """One piece, split into its buffers but not decoded."""

    __slots__ = ("buffers", "header", "rows")

    def __init__(self, body):
        if len(body) < _HEAD.size:
            raise ValueError(
                f"the piece of a data frame has {len(body)} bytes, but its head needs {_HEAD.size}"
            )
        _, header_length, count, self.rows = _HEAD.unpack_from(body)
        at = _HEAD.size + header_length
        if at + 8 * count > len(body):
            raise ValueError("the piece of a data frame ends within its header")
        self.header = bytes(body[_HEAD.size : at])
        lengths = struct.unpack_from(f"<{count}Q", body, at)
        at += 8 * count
        if at + sum(lengths) != len(body):
            raise ValueError(
                f"the piece of a data frame has {len(body)} bytes instead of {at + sum(lengths)}"
            )
        self.buffers = []
        for length in lengths:
            self.buffers.append(body[at : at + length])
            at += length


def is_piece(body):
    """Returns whether bytes are a piece, and not a frame that partd 1 wrote."""
    return body[:8] == MAGIC


_schemas: dict[bytes, Schema] = {}


def schema_of(header):
    """Returns the schema of a header, from a cache of at most 64 schemas."""
    schema = _schemas.get(header)
    if schema is None:
        if len(_schemas) >= 64:
            _schemas.clear()
        schema = _schemas[header] = Schema(header)
    return schema


def decode_pieces(schema, pieces):
    """Decodes pieces with the same schema to one data frame, in order."""
    buffers = zip(*(piece.buffers for piece in pieces), strict=True)
    blocks, arrow = [], []
    for kind, placement, element, dtype in schema.blocks:
        if kind == "arrow":
            arrow.append((len(arrow), placement, dtype))
            continue
        values = _decode_values(kind, len(placement), element, dtype, buffers)
        blocks.append((values, placement))
    index = _decode_index(schema.index, next(buffers))
    if arrow:
        batches = [pa.ipc.read_record_batch(pa.py_buffer(b), schema.arrow) for b in next(buffers)]
        table = pa.Table.from_batches(batches, schema.arrow)
        for i, placement, dtype in arrow:
            column = table.column(i)
            if column.num_chunks != 1:
                column = pa.chunked_array([_combined(column)], column.type)
            blocks.append((dtype.__from_arrow__(column), placement))
    return create_dataframe_from_blocks(blocks, index, schema.columns)


def _decode_values(kind, count, element, dtype, buffers):
    parts = next(buffers)
    if kind == "raw":
        return _joined(parts, element, count)
    if kind == "times":
        return _times(_joined(parts, element, count), dtype)
    if kind == "codes":
        codes = _joined(parts, element)
        return pd.Categorical.from_codes(codes, dtype=dtype, validate=False)
    if kind == "masked":
        data, mask = _joined(parts, element), _joined(next(buffers), np.dtype(bool))
        return dtype.construct_array_type()(data, mask)
    values = [pickle.loads(part) for part in parts]
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], ExtensionArray):
        # A block of periods has two dimensions, although it has one column.
        axis = {"axis": 1} if values[0].ndim == 2 else {}
        return type(values[0])._concat_same_type(values, **axis)
    return np.concatenate(values, axis=values[0].ndim - 1)


def _joined(parts, element, count=None):
    """Concatenates raw buffers to a new array: of one dimension, or of `count` rows."""
    arrays = [np.frombuffer(part, element) for part in parts]
    if count is None:
        return np.concatenate(arrays)
    return np.concatenate([array.reshape(count, -1) for array in arrays], axis=1)


def _times(values, dtype):
    zone = getattr(dtype, "tz", None)
    if zone is None:
        return values
    flat = pd.DatetimeIndex(values.reshape(-1)).tz_localize("UTC").tz_convert(zone)
    return flat.array.reshape(values.shape)


def _decode_index(spec, parts):
    if spec[0] == "raw":
        _, dtype, name = spec
        return pd.Index(_joined(parts, dtype), name=name, copy=False)
    indexes = [pickle.loads(part) for part in parts]
    return indexes[0] if len(indexes) == 1 else indexes[0].append(indexes[1:])
