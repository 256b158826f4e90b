"""An optional speed-up for dask: splits data frames faster in its shuffle on disk.

dask shuffles through partd without this module as well. It then spends a third of the time
splitting frames into groups, with `groupby` and `get_group`. After

>>> import partd.dask
>>> partd.dask.enable()

a frame is sorted by group once, its groups are slices of the sorted columns, and one append writes
all of them. The results are the same. Each process that runs tasks must make the call; worker
processes should make it when they start, as `partd.distributed` does.

>>> partd.dask.disable()
"""

from functools import wraps

import numpy as np
import pandas as pd

from . import _blocks
from .encode import Encode
from .pandas import serialize

__all__ = ["disable", "enable", "is_enabled", "split_sorted"]

_original = None


def split_sorted(df, groups):
    """Splits a data frame into groups with one stable sort.

    `groups` is a series of integers: the group of each row. Returns a dictionary from each group to
    its data frame, as `df.groupby(groups)` would make them, in the order of the groups.

    >>> import pandas as pd
    >>> df = pd.DataFrame({'x': [1, 2, 3]})
    >>> split_sorted(df, pd.Series([5, 4, 5]))[5].x.tolist()
    [1, 3]
    """
    taken, bounds = _sorted(df, groups.to_numpy())
    return {name: taken.iloc[start:end] for name, (start, end) in bounds.items()}


def _sorted(df, groups):
    """Returns the frame sorted by group, and the range of rows of each group."""
    if groups.dtype.kind not in "iu":
        raise TypeError(f"groups must be integers, not {groups.dtype}")
    if not len(groups):
        return df, {}
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])).tolist()
    bounds = zip(starts, [*starts[1:], len(groups)], strict=True)
    return df.take(order), dict(zip(ordered[starts].tolist(), bounds, strict=True))


def _shuffle_group(df, col, _filter, p):
    """Splits and appends a partition of a frame; replaces the function of dask's disk shuffle."""
    from dask.dataframe.shuffle import ensure_cleanup_on_exception

    groups = None
    if isinstance(df, pd.DataFrame) and not isinstance(col, list) and col in df.columns:
        column = df[col]
        if column.ndim == 1 and column.dtype.kind in "iu" and isinstance(column.dtype, np.dtype):
            groups = column.to_numpy()
    if groups is None:
        # `groupby` handles names, dates and missing values.
        return _original(df, col, _filter, p)
    with ensure_cleanup_on_exception(p):
        wanted = set(_filter)
        taken, bounds = _sorted(df, groups)
        bounds = {group: rows for group, rows in bounds.items() if group in wanted}
        if isinstance(p, Encode) and p.encode is serialize and p._codec is not None:
            pieces = _blocks.encode_slices(taken, bounds.values())
            p.partd.append(dict(zip(bounds, pieces, strict=True)), fsync=True)
        else:
            p.append({g: taken.iloc[start:end] for g, (start, end) in bounds.items()}, fsync=True)


def enable():
    """Makes dask's disk shuffle split frames with a sort, in this process."""
    from dask.dataframe.dask_expr import _shuffle

    global _original
    if _original is None:
        _original = _shuffle.DiskShuffle._shuffle_group
        _shuffle.DiskShuffle._shuffle_group = staticmethod(wraps(_original)(_shuffle_group))


def disable():
    """Undoes `enable`."""
    from dask.dataframe.dask_expr import _shuffle

    global _original
    if _original is not None:
        _shuffle.DiskShuffle._shuffle_group = staticmethod(_original)
        _original = None


def is_enabled():
    """Returns whether `enable` is in effect."""
    return _original is not None
