"""Which of an image's K stored views an epoch uses: a random permutation per image and cycle, walked in O(1).

The permutation is a swap-or-not shuffle (Hoang, Morris, Rogaway: "An enciphering scheme based on a card shuffle",
CRYPTO 2012): each round pairs every position x with (key - x) mod K and swaps the pair or not by a keyed coin. It
works for any K and needs no memory: a position is followed through the rounds.
"""

from __future__ import annotations

import numpy as np
from numba import types

from ffdr.augment.random import PICK, philox
from ffdr.augment.types import INDEX
from ffdr.jit.arguments import ADDRESS, array_of
from ffdr.jit.kernel import inlined_kernel
from ffdr.jit.unit import unit

_ROUNDS = 32
"""Rounds of the shuffle. The distance of one position from uniform is about 2**-(rounds / 2)."""

_32 = np.uint64(32)
_ZERO, _ONE = np.uint64(0), np.uint64(1)


@inlined_kernel
def _coin(word: np.uint64) -> np.uint64:
    """One well mixed bit of a 64-bit word (Steele et al. 2014, the finaliser of SplitMix64)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (word >> np.uint64(40)) & _ONE


@inlined_kernel
def _shuffled(x: np.uint64, round_: int, seed: np.uint64, cycle: np.uint64, image: int, count: np.uint64) -> np.uint64:
    """Where one round of the shuffle puts position x. Neither divides nor branches, so that loops over images become
    SIMD code."""
    w0, w1, w2, _ = philox(np.uint64(seed), np.uint64(round_), np.uint64(PICK), cycle, np.uint64(image))
    shift = (w0 * count) >> _32  # uniform in [0, K)
    partner = min(shift - x, shift - x + count)  # (shift - x) mod K: the other one wrapped around below 0
    larger = max(x, partner)  # both members of a pair must see the same coin
    coin = _coin(((w1 << _32) | w2) ^ (larger * np.uint64(0x9E3779B97F4A7C15)))
    return x ^ ((x ^ partner) & (_ZERO - coin))


@unit(types.void, ADDRESS, INDEX, INDEX, types.int64, array_of(types.uint64, 1))
def pick_views(seed: np.uint64, epochs: np.ndarray, images: np.ndarray, K: int, picked: np.ndarray) -> None:
    """Index in [0, K) of the view that each of ``images`` shows in the epoch beside it: into picked, (B,) uint64.

    Within each cycle of K epochs every view comes exactly once, in an order of its own for every image, cycle and
    seed. A pure function of (seed, epoch, image, K). epochs, images: (B,) int64.
    """
    count = np.uint64(K)
    cycles = np.empty(len(images), np.uint64)  # divided once, because no SIMD instruction divides
    for i in range(len(images)):
        cycles[i] = np.uint64(epochs[i]) // count
        picked[i] = np.uint64(epochs[i]) - cycles[i] * count
    for round_ in range(_ROUNDS):
        for i in range(len(images)):
            picked[i] = _shuffled(picked[i], round_, seed, cycles[i], images[i], count)
