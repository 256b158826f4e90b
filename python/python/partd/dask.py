"""Optional help for dask: a faster split of data frames in its shuffle on disk.

dask shuffles through partd without this module. Its way of splitting a frame into groups, `groupby`
and `get_group`, is then a third of the time. After

>>> import partd.dask
>>> partd.dask.enable()

a frame is sorted by its group once, its groups are cut out of the sorted columns, and all of them go
into one append. The results are the same. Each process that runs tasks needs the call: with worker
processes, put it into their start, as `partd.distributed` does.

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
    """Cuts a data frame into its groups, by one stable sort.

    `groups` is a series of integers: the group of each row. Returns a dictionary of data frames,
    those that `df.groupby(groups)` has, in the order of the groups.

    >>> import pandas as pd
    >>> df = pd.DataFrame({'x': [1, 2, 3]})
    >>> split_sorted(df, pd.Series([5, 4, 5]))[5].x.tolist()
    [1, 3]
    """
    taken, bounds = _sorted(df, groups.to_numpy())
    return {name: taken.iloc[start:end] for name, (start, end) in bounds.items()}


def _sorted(df, groups):
    """The frame sorted by groups, and the range of rows of each group."""
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
    """What dask's disk shuffle does with a partition of a frame."""
    from dask.dataframe.shuffle import ensure_cleanup_on_exception

    groups = None
    if isinstance(df, pd.DataFrame) and not isinstance(col, list) and col in df.columns:
        column = df[col]
        if column.ndim == 1 and column.dtype.kind in "iu" and isinstance(column.dtype, np.dtype):
            groups = column.to_numpy()
    if groups is None:
        # Names, dates, missing values: that is for `groupby` to decide.
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
    """Makes dask's disk shuffle split frames by a sort, in this process."""
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
    """Whether `enable` was called, and not undone."""
    return _original is not None
