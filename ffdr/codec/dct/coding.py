"""The coding that all coefficient images of a file share: three codebooks and the sets of quantisation tables.

Stored, little endian::

    uint16 first_with_high  entries of ``low`` from this one on are followed by a ``high`` byte
    uint8  quants           number of sets of quantisation tables, Q
    uint8  reserved         0
    uint8  low[256][4]      types of groups 0 to 3
    uint8  high[256][4]     types of groups 4 to 7
    uint8  chroma[256][8]   types of all groups
    uint16 quant[Q][3][64]  tables of Y, Cb and Cr, natural order

What a group of coefficients demands of its type are two *levels*: how far its values reach below zero, and how far
above. A type serves the group if both its own levels are at least as high. One byte per group, the levels of a block or
of a codebook entry are two 64-bit words, which are compared in a few instructions.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ffdr.codec.dct.format import (
    BIASES,
    CHROMA_GROUPS,
    COEFFICIENT_BITS,
    ENTRIES,
    GROUPS,
    HIGH_GROUPS,
    LOW_GROUPS,
    MAX_QUANTS,
    TABLE_SHAPE,
    WIDTHS,
)
from ffdr.jit.kernel import inlined_kernel

LARGEST = int(np.flatnonzero(WIDTHS == COEFFICIENT_BITS)[0])
"""The type that serves every group."""
HIGH_BYTE = int(np.flatnonzero(WIDTHS == 1)[0])
"""To a codebook, the ``high`` byte is a fifth group of ``low``: of this type, which takes one byte, or of type 0."""

# Types reach 0, 1, 2, 4, ... 512, 2048 below zero and 0, 1, 2, 3, 7, ... 511, 2047 above it. The ranks of these numbers
# are the levels. (Types 12 and 13, of one and two bits and biased by one, hold 0 to 1 and -1 to 2.)
_SPANS = (1 << WIDTHS.astype(np.int64)) >> 1
LOWEST = BIASES - _SPANS
HIGHEST = np.maximum(BIASES + _SPANS - 1, 0)
TYPE_BELOW = np.unique(-LOWEST, return_inverse=True)[1].astype(np.uint8)
"""(14,) level of a type's lowest value."""
TYPE_ABOVE = np.unique(HIGHEST, return_inverse=True)[1].astype(np.uint8)
"""(14,) level of a type's highest value."""
BELOW = np.searchsorted(np.unique(-LOWEST), np.arange((1 << COEFFICIENT_BITS - 1) + 1)).astype(np.uint8)
"""(2049,) level of a group whose lowest value is −i."""
ABOVE = np.searchsorted(np.unique(HIGHEST), np.arange(1 << COEFFICIENT_BITS - 1)).astype(np.uint8)
"""(2048,) level of a group whose highest value is i."""

_HEADER = struct.Struct("<HBB")
_LANES = np.where(GROUPS < 0, 0, GROUPS).astype(np.int64)
_USED = (GROUPS >= 0).astype(np.int64)
"""The lane that stays 0 reads the DC, times 0."""


@inlined_kernel
def block_levels(block: np.ndarray) -> tuple[int, int]:
    """The levels of the groups of a block, (64,) int16 in [-2048, 2047]: below zero and above it, each as ``word``."""
    below, above = np.uint64(0), np.uint64(0)
    for group in range(CHROMA_GROUPS):
        least, most = np.int64(0), np.int64(0)
        for lane in range(8):
            value = block[_LANES[group, lane]] * _USED[group, lane]
            least, most = min(least, value), max(most, value)
        below |= np.uint64(BELOW[-least]) << np.uint64(8 * group)
        above |= np.uint64(ABOVE[most]) << np.uint64(8 * group)
    return below, above


@inlined_kernel
def serves(entry: int, demand: int) -> bool:
    """Whether every level of the word ``entry`` is at least as high as in ``demand``; levels are below 128."""
    # Byte by byte, (128 + e) - d keeps bit 7 where e >= d, and never borrows from the byte above.
    tops = np.uint64(0x8080808080808080)
    return ((np.uint64(entry) | tops) - np.uint64(demand)) & tops == tops


class Book(NamedTuple):
    """A codebook of G groups, ready for kernels."""

    types: np.ndarray
    """(256, G) uint8"""
    bytes: np.ndarray
    """(256,) uint8 payload of an entry"""
    order: np.ndarray
    """(256,) uint8 entries from the cheapest on, the lower number first"""
    below: np.ndarray
    """(256,) uint64 levels of the entries in that order, one byte per group, group 0 in the lowest"""
    above: np.ndarray
    """(256,) uint64"""


class Books(NamedTuple):
    """The three codebooks; ``low`` has the ``high`` byte as its fifth group, which its ``bytes`` leave out."""

    low: Book
    high: Book
    chroma: Book


@dataclass(frozen=True, eq=False)
class Coding:
    """Codebooks and quantisation tables. All arrays are checked, so an instance is always valid.

    Raises:
        ValueError: an array of the wrong type or size, an unknown type, a codebook that can't hold every block, a
            divisor of 0.
    """

    low: np.ndarray
    """(256, 4) uint8 types of groups 0 to 3"""
    first_with_high: int
    """0 to 255: this entry of ``low`` and those behind it are followed by a ``high`` byte"""
    high: np.ndarray
    """(256, 4) uint8 types of groups 4 to 7"""
    chroma: np.ndarray
    """(256, 8) uint8"""
    quant: np.ndarray
    """(Q, 3, 64) uint16, Q at most 255"""

    def __post_init__(self) -> None:
        groups = {"low": LOW_GROUPS, "high": HIGH_GROUPS, "chroma": CHROMA_GROUPS}
        for name, count in groups.items():
            _check_array(name, getattr(self, name), np.uint8, (ENTRIES, count))
        _check_array("quant", self.quant, np.uint16, (len(self.quant), *TABLE_SHAPE))
        if len(self.quant) > MAX_QUANTS:
            raise ValueError(f"coding: {len(self.quant)} sets of quantisation tables, at most {MAX_QUANTS} can be")
        if not self.quant.all():
            raise ValueError(f"coding: quantisation set {np.argwhere(self.quant == 0)[0, 0]} holds a divisor of 0")
        if not 0 <= self.first_with_high < ENTRIES:
            raise ValueError(f"coding: first_with_high is {self.first_with_high}, can be 0 to {ENTRIES - 1}")
        for name in groups:
            _check_types(name, getattr(self, name), self.first_with_high if name == "low" else 0)

    def pack(self) -> bytes:
        """The bytes that ``unpack`` takes."""
        header = _HEADER.pack(self.first_with_high, len(self.quant), 0)
        arrays = (self.low, self.high, self.chroma, self.quant.astype("<u2"))
        return header + b"".join(array.tobytes() for array in arrays)

    @staticmethod
    def unpack(data: bytes | np.ndarray) -> Coding:
        """The coding in ``data``, a copy.

        Raises:
            ValueError: ``data`` is no coding.
        """
        data = bytes(data)
        sizes = [ENTRIES * groups for groups in (LOW_GROUPS, HIGH_GROUPS, CHROMA_GROUPS)]
        books = _HEADER.size + sum(sizes)
        if len(data) < books:
            raise ValueError(f"coding: {len(data)} bytes, needs at least {books}")
        first_with_high, quants, reserved = _HEADER.unpack_from(data)
        size = books + quants * 2 * TABLE_SHAPE[0] * TABLE_SHAPE[1]
        if len(data) != size:
            raise ValueError(f"coding: {len(data)} bytes, but {quants} sets of quantisation tables make it {size}")
        if reserved:
            raise ValueError(f"coding: its reserved byte is {reserved}, must be 0")
        low, high, chroma = np.split(np.frombuffer(data, np.uint8)[_HEADER.size : books], np.cumsum(sizes)[:-1])
        quant = np.frombuffer(data, "<u2", offset=books).reshape(-1, *TABLE_SHAPE).astype(np.uint16)
        low, high = low.reshape(-1, LOW_GROUPS), high.reshape(-1, HIGH_GROUPS)
        return Coding(low.copy(), first_with_high, high.copy(), chroma.reshape(-1, CHROMA_GROUPS).copy(), quant)

    @cached_property
    def books(self) -> Books:
        """What kernels need of the codebooks."""
        high_byte = np.where(np.arange(ENTRIES) < self.first_with_high, 0, HIGH_BYTE).astype(np.uint8)
        low = _book(np.column_stack([self.low, high_byte]))
        return Books(low._replace(bytes=payload(self.low)), _book(self.high), _book(self.chroma))


def payload(types: np.ndarray) -> np.ndarray:
    """(n,) uint8 bytes that groups of these (n, G) types take: as many as bits per value."""
    return WIDTHS[types].sum(axis=1, dtype=np.uint8)


def word(levels: np.ndarray) -> np.ndarray:
    """(n,) uint64 of (n, G) levels, G at most 8: one byte per group, group 0 in the lowest."""
    bytes_ = np.zeros((len(levels), 8), np.uint8)
    bytes_[:, : levels.shape[1]] = levels
    return bytes_.view("<u8")[:, 0].astype(np.uint64)


def _book(types: np.ndarray) -> Book:
    cost = payload(types)
    order = np.argsort(cost, kind="stable").astype(np.uint8)
    return Book(types, cost, order, word(TYPE_BELOW[types[order]]), word(TYPE_ABOVE[types[order]]))


def _check_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        found = f"{array.dtype} {array.shape}"
        raise ValueError(f"coding: {name} is {found}, must be {np.dtype(dtype)} {shape}")


def _check_types(name: str, types: np.ndarray, first: int) -> None:
    """Every type known, and one entry from ``first`` on that serves every block."""
    if types.max() >= len(WIDTHS):
        raise ValueError(f"coding: {name} has type {types.max()}, the last is {len(WIDTHS) - 1}")
    if not (types[first:] == LARGEST).all(axis=1).any():
        raise ValueError(f"coding: {name} has no entry for any block whatever (type {LARGEST} for all groups)")
