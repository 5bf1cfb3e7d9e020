"""The tokens of a batch as bytes: their keys, and a checksum of whose they were when they were chosen.

Keys are ascending, so gaps are kept in place of keys: one or two bytes each where the audience is
most of the table. The checksum is what tells later that a phone has changed hands.
"""

from __future__ import annotations

import itertools
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from operator import sub
from typing import Any

#: A token's primary key, and the checksum of its user.
Chosen = tuple[int, int]

_VERSION = b"1"
_HEAD = struct.Struct(">cIq")
_WIDTHS = (("B", 1 << 8), ("H", 1 << 16), ("I", 1 << 32), ("Q", 1 << 64))


class UnknownPacking(ValueError):
    """Packed by newer code than this."""


def owner_checksum(user_id: Any) -> int:
    """Return 32 bits of a user's key; 0 for nobody."""
    return 0 if user_id is None else zlib.crc32(str(user_id).encode())


def pack(chosen: Iterable[Chosen]) -> bytes:
    """Return tokens as bytes, in the order of their keys. Raises ValueError for a key that comes twice."""
    pairs = sorted(chosen)
    if not pairs:
        return b""
    pks = [pk for pk, _ in pairs]
    gaps = list(map(sub, pks[1:], pks))
    if min(gaps, default=1) < 1:
        raise ValueError("A key comes twice.")
    widest = max(gaps, default=1)
    code = next(code for code, most in _WIDTHS if widest < most)
    owners = [owner for _, owner in pairs]
    return b"".join(
        (_VERSION, _HEAD.pack(code.encode(), len(pks), pks[0]), _big(code, gaps), _big("I", owners))
    )


def unpack(data: bytes | memoryview) -> list[Chosen]:
    """Return what ``pack`` was given, sorted. Raises UnknownPacking."""
    data = bytes(data)
    if not data:
        return []
    if data[:1] != _VERSION:
        raise UnknownPacking("a batch was packed by newer code")
    raw, count, first = _HEAD.unpack_from(data, 1)
    start = 1 + _HEAD.size
    code = raw.decode()
    middle = start + (count - 1) * array(code).itemsize
    gaps = _from_big(code, data[start:middle])
    pks = itertools.accumulate(gaps, initial=first)
    return list(zip(pks, _from_big("I", data[middle:]), strict=True))


def _big(code: str, values: Sequence[int]) -> bytes:
    packed = array(code, values)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def _from_big(code: str, data: bytes) -> array[int]:
    packed: array[int] = array(code)
    packed.frombytes(data)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed
