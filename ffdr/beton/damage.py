"""Which byte of damaged data was changed, as far as a CRC-32 can tell.

CRC-32 is linear: how two checksums of equally long data differ depends on nothing but which bits of the data differ.
A change of one byte leaves one of 255 patterns in the checksum, which every byte behind it then shifts on. Shifting
back from the end until such a pattern appears finds the place, without knowing the original.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

SEARCHED = 1 << 20
"""Longest data that is searched, in bytes: at this length, larger damage is taken for one byte once in 16 times."""

# What a change of the last byte, by each pattern of bits, leaves in the checksum. The top bytes are all different.
_STEP = [zlib.crc32(bytes([bits])) ^ zlib.crc32(b"\0") for bits in range(256)]
_BY_TOP = {pattern >> 24: bits for bits, pattern in enumerate(_STEP)}


def changed_byte(found: int, stored: int, size: int, most: int = SEARCHED) -> int | None:
    """Position of the only changed byte in ``size`` bytes, from their checksum now and before; None if no single one
    explains both, or there are more than ``most`` bytes."""
    if size > most or found == stored:
        return None
    difference = found ^ stored
    for position in range(size - 1, -1, -1):
        bits = _BY_TOP[difference >> 24]
        difference ^= _STEP[bits]
        if difference == 0:
            return position
        difference = difference << 8 | bits
    return None


def place_of_damage(found: int, stored: int, parts: Sequence[tuple[str, int, int]], most: int = SEARCHED) -> str:
    """In which of the ``parts`` (name, first byte in the file, bytes), checksummed in this order, the damage lies.

    Names all of them where it can't be told, or where the stored checksum itself may be what was damaged. ``most``:
    bytes of the longest data that are searched.
    """
    at = changed_byte(found, stored, sum(size for _, _, size in parts), most)
    if at is not None:
        for name, start, size in parts:
            if at < size:
                return f"{name} (byte {start + at} of the file)"
            at -= size
    differing = [byte for byte in (found ^ stored).to_bytes(4, "little") if byte]
    return "checksum" if len(differing) == 1 else " or ".join(name for name, _, _ in parts)
