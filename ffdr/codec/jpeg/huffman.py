"""Optimal Huffman codes for an image (ITU-T T.81, annex K.2), with the choices that libjpeg makes."""

from __future__ import annotations

import numpy as np

from ffdr.jit.kernel import kernel

SYMBOLS = 256
LONGEST = 16
_RESERVED = SYMBOLS
"""A symbol that never comes and gets the longest code, so that no code is all ones."""
_UNLIMITED = SYMBOLS + 1


@kernel
def _rarest(frequency: np.ndarray, other: int) -> int:
    """The rarest symbol of those that come, but ``other``; of several the highest; −1 if there is none."""
    best = np.int64(-1)
    for symbol in range(len(frequency)):
        if frequency[symbol] > 0 and symbol != other and (best < 0 or frequency[symbol] <= frequency[best]):
            best = symbol
    return best


@kernel
def _code_lengths(frequency: np.ndarray) -> np.ndarray:
    """Huffman's algorithm: the length of each symbol's code, (257,) int64; figure K.1. Changes ``frequency``."""
    length = np.zeros(len(frequency), np.int64)
    link = np.full(len(frequency), -1, np.int64)
    while True:
        first = _rarest(frequency, -1)
        second = _rarest(frequency, first)
        if second < 0:
            return length
        frequency[first] += frequency[second]
        frequency[second] = 0
        at = first
        while link[at] >= 0:
            length[at] += 1
            at = link[at]
        length[at] += 1
        link[at] = second
        at = second
        while at >= 0:
            length[at] += 1
            at = link[at]


@kernel
def _limit(counts: np.ndarray) -> None:
    """Make codes longer than 16 bits shorter at the expense of others; ``counts`` by length; figure K.3."""
    for length in range(len(counts) - 1, LONGEST, -1):
        while counts[length] > 0:
            shorter = length - 2
            while counts[shorter] == 0:
                shorter -= 1
            counts[length] -= 2
            counts[length - 1] += 1
            counts[shorter + 1] += 2
            counts[shorter] -= 1


@kernel
def optimal_code(frequency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The code that makes symbols as frequent as these shortest.

    Args:
        frequency: (256,) int64, how often each symbol comes; at least one does.

    Returns:
        counts: (16,) uint8, codes of each length from 1 on.
        symbols: (n,) uint8, those that come, in the order of their codes.
    """
    extended = np.ones(SYMBOLS + 1, np.int64)
    extended[:SYMBOLS] = frequency
    length = _code_lengths(extended)
    counts = np.zeros(_UNLIMITED + 1, np.int64)
    for symbol in range(len(length)):
        if length[symbol] > 0:
            counts[length[symbol]] += 1
    _limit(counts)
    longest = LONGEST
    while counts[longest] == 0:
        longest -= 1
    counts[longest] -= 1  # the reserved symbol's
    order = np.argsort(length[:_RESERVED], kind="mergesort")
    symbols = order[length[order] > 0].astype(np.uint8)
    return counts[1 : LONGEST + 1].astype(np.uint8), symbols


@kernel
def codes_of(counts: np.ndarray, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(code, length) of each symbol, both (256,) int64, from what ``optimal_code`` returns; length 0: it has none."""
    codes, lengths = np.zeros(SYMBOLS, np.int64), np.zeros(SYMBOLS, np.int64)
    code, done = np.int64(0), np.int64(0)
    for length in range(1, LONGEST + 1):
        for _ in range(counts[length - 1]):
            codes[symbols[done]], lengths[symbols[done]] = code, length
            code, done = code + 1, done + 1
        code <<= 1
    return codes, lengths
