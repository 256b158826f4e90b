"""`Key`: a stored key that no string, `bytes` or tuple of them stands for."""

from typing import Any

from . import _core

__all__ = ["Key"]


class Key(bytes):
    """A key as the bytes under which a store keeps it.

    In this package an integer in a key is its text: `('job', 7)` and `('job', '7')` are one key.
    Programs in Rust can also write tuples with typed integers, which are other keys, and bytes that
    encode no tuple. `keys()` returns such a key as a `Key`, and every method of a `File` takes it
    back as the same key. `Key.of` makes the key of a tuple with typed integers:

    >>> from partd import File, Key
    >>> p = File()
    >>> p.append({Key.of('job', 7): b'typed', ('job', 7): b'text'})
    >>> p.get([Key.of('job', 7), ('job', '7')])
    [b'typed', b'text']
    """

    __slots__ = ()

    @classmethod
    def of(cls, *parts: Any) -> "Key":
        """Returns the key of a tuple whose integers are typed, as a program in Rust writes it."""
        return cls(_core.encode_typed_key(parts))

    def __repr__(self) -> str:
        return f"Key({bytes(self)!r})"

    __str__ = __repr__
