"""Small helpers of the other modules: frames, and nested lists and keys."""

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
    """Whether a call without arguments raises an exception of the given type.

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
    """A path for temporary use; whatever is there afterwards is removed.

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
    """The bytes behind their length, which takes 8 bytes.

    >>> frame(b'Hello')
    b'\\x05\\x00\\x00\\x00\\x00\\x00\\x00\\x00Hello'
    """
    return _core.frame(bytes)


def framesplit(bytes):
    """Iterates over the bodies of frames that follow each other.

    >>> data = frame(b'Hello') + frame(b'World')
    >>> list(framesplit(data))
    [b'Hello', b'World']

    A frame that is cut raises `struct.error` if its length is, and `ValueError` if its body is.
    """
    at, end = 0, len(bytes)
    while at < end:
        (length,) = struct.unpack("<Q", bytes[at : at + 8])
        at += 8
        if length > end - at:
            raise ValueError(
                f"a frame at byte {at - 8} has {length} bytes by its own account, "
                f"and {end - at} follow"
            )
        yield bytes[at : at + length]
        at += length


def partition_all(n, bytes):
    """Iterates over blocks of n bytes; the last one holds what is left.

    >>> list(partition_all(2, b'Hello'))
    [b'He', b'll', b'o']
    """
    if len(bytes) < n:
        yield bytes
        return
    for start in range(0, len(bytes), n):
        yield bytes[start : start + n]


def nested_get(ind, coll, lazy=False):
    """What the collection holds under each index of a nested list.

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
    """Iterates over the items of nested lists; tuples are items.

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
    """The key with a text behind it; behind the last part of a tuple.

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
    """The key as a tuple, with another part or other parts behind it.

    >>> extend('x', '.dtype')
    ('x', '.dtype')
    >>> extend(('a', 'b', 'c'), '.dtype')
    ('a', 'b', 'c', '.dtype')
    """
    head = key if isinstance(key, tuple) else (key,)
    if not isinstance(term, tuple):
        term = (term if isinstance(term, str) else str(term),)
    return head + term
