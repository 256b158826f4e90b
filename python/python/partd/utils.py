"""Helpers of the other modules: frames, nested lists, and keys."""

import os
import shutil
import struct
import tempfile
from contextlib import contextmanager

from . import _core

__all__ = [
    "extend",
    "flatten",
    "frame",
    "framesplit",
    "nested_get",
    "partition_all",
    "raises",
    "suffix",
    "tmpfile",
]


def raises(exc, lamda):
    """Returns whether a call without arguments raises an exception of the given type.

    >>> raises(ZeroDivisionError, lambda: 1 / 0)
    True
    >>> raises(ZeroDivisionError, lambda: 1 / 1)
    False
    """
    try:
        lamda()
    except exc:
        return True
    return False


@contextmanager
def tmpfile(extension=""):
    """Yields an unused path, and afterwards removes the file or directory at it.

    >>> with tmpfile('.txt') as path:
    ...     os.path.exists(path), path.endswith('.txt')
    (False, True)
    """
    handle, path = tempfile.mkstemp("." + extension.lstrip("."))
    os.close(handle)
    os.remove(path)
    try:
        yield path
    finally:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.remove(path)


def frame(bytes):
    """Returns the bytes preceded by their length, in 8 bytes.

    >>> frame(b'Hello')
    b'\\x05\\x00\\x00\\x00\\x00\\x00\\x00\\x00Hello'
    """
    return _core.frame(bytes)


def framesplit(bytes):
    """Iterates over the bodies of consecutive frames.

    >>> data = frame(b'Hello') + frame(b'World')
    >>> list(framesplit(data))
    [b'Hello', b'World']

    Raises `struct.error` if the length of the last frame is incomplete, and `ValueError` if its
    body is.
    """
    at, end = 0, len(bytes)
    while at < end:
        (length,) = struct.unpack("<Q", bytes[at : at + 8])
        at += 8
        if length > end - at:
            raise ValueError(
                f"the frame at byte {at - 8} should have {length} bytes, but {end - at} are left"
            )
        yield bytes[at : at + length]
        at += length


def partition_all(n, bytes):
    """Iterates over blocks of n bytes; the last block may be shorter.

    >>> list(partition_all(2, b'Hello'))
    [b'He', b'll', b'o']
    """
    if len(bytes) < n:
        yield bytes
        return
    for start in range(0, len(bytes), n):
        yield bytes[start : start + n]


def nested_get(ind, coll, lazy=False):
    """Looks up each index of a nested list in a collection.

    >>> nested_get(1, 'abc')
    'b'
    >>> nested_get([1, 0], 'abc')
    ['b', 'a']
    >>> nested_get([[1, 0], [0, 1]], 'abc')
    [['b', 'a'], ['a', 'b']]
    """
    if not isinstance(ind, list):
        return coll[ind]
    found = (nested_get(i, coll, lazy=lazy) for i in ind)
    return found if lazy else list(found)


def flatten(seq):
    """Iterates over the items of nested lists; tuples count as items.

    >>> list(flatten([1]))
    [1]
    >>> list(flatten([[1, 2], [1, 2]]))
    [1, 2, 1, 2]
    >>> list(flatten([[[1], [2]], [[1], [2]]]))
    [1, 2, 1, 2]
    >>> list(flatten(((1, 2), (1, 2))))
    [(1, 2), (1, 2)]
    >>> list(flatten((1, 2, [3, 4])))
    [1, 2, 3, 4]
    """
    for item in seq:
        if isinstance(item, list):
            yield from flatten(item)
        else:
            yield item


def suffix(key, term):
    """Appends text to a key, or to the last part of a tuple.

    >>> suffix('x', '.dtype')
    'x.dtype'
    >>> suffix(('a', 'b', 'c'), '.dtype')
    ('a', 'b', 'c.dtype')
    """
    if isinstance(key, str):
        return key + term
    if isinstance(key, tuple):
        return (*key[:-1], suffix(key[-1], term))
    if isinstance(key, bytes):
        return key + term.encode()
    return str(key) + term


def extend(key, term):
    """Returns the key as a tuple, with one part or a tuple of parts appended.

    >>> extend('x', '.dtype')
    ('x', '.dtype')
    >>> extend(('a', 'b', 'c'), '.dtype')
    ('a', 'b', 'c', '.dtype')
    """
    head = key if isinstance(key, tuple) else (key,)
    if not isinstance(term, tuple):
        term = (term if isinstance(term, str) else str(term),)
    return head + term
