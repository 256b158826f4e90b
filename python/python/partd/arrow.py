"""`Arrow`: record batches and tables, stored as Arrow streams.

>>> import pyarrow as pa
>>> from partd import Dict
>>> p = Arrow(Dict())
>>> p.append({'x': pa.record_batch({'a': [1, 2]})})
>>> p.append({'x': pa.record_batch({'a': [3]})})
>>> p.get('x').column('a').to_pylist()
[1, 2, 3]

`get` returns a table. The streams are those of the Rust crate's `Arrow`. All values of a key must
have the same schema.
"""

from functools import partial

import pyarrow as pa

from .encode import Encode

__all__ = ["Arrow", "dumps", "join", "loads"]


def dumps(batch):
    """Encodes a record batch or a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write(batch)
    return sink.getvalue()


def loads(stream):
    """Decodes an Arrow stream to a table."""
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        return reader.read_all()


def join(tables):
    """Concatenates tables. Returns a table without columns if there are none."""
    return pa.concat_tables(tables) if tables else pa.table({})


Arrow = partial(Encode, dumps, loads, join)
