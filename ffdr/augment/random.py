"""Random numbers that are pure functions of their keys: Philox4x32-10, and Beta variates built on it.

A counter-based generator (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) has no
state. The key is the 64-bit seed; the counter says which number is meant: its place ``n``, its ``stream``, the epoch
and the image. Any thread can ask for any number in any order.
"""

from __future__ import annotations

import math

import numpy as np

from ffdr.jit.kernel import inlined_kernel, kernel

# Streams: what a number is for. Numbers of different streams are independent.
VIEW = 0
"""Parameters of an image's view."""
PARTNER_VIEW = 1
"""Parameters of the view of the image it is mixed with."""
MIX = 2
"""Whether and with whom an image is mixed."""
MIXUP_WEIGHT = 3
"""The Beta variate of mixup."""
CUTMIX_SHARE = 4
"""The Beta variate of cutmix."""
PICK = 5
"""The order in which an image's stored views are used."""
ORDER = 6
"""The order of the images in an epoch."""
SHARE = 7
"""Whether an image shows a stored view."""

_ROUNDS = 10
_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)  # golden ratio
_WEYL_1 = np.uint64(0xBB67AE85)  # sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_11 = np.uint64(11)
_TO_UNIT = 2.0**-53


@inlined_kernel
def philox(
    key: np.uint64, c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """One block of Philox4x32-10: a 64-bit key and four 32-bit counters to four 32-bit words (held in uint64)."""
    k0 = np.uint64(key) & _LOW
    k1 = np.uint64(key) >> _32
    x0 = np.uint64(c0) & _LOW
    x1 = np.uint64(c1) & _LOW
    x2 = np.uint64(c2) & _LOW
    x3 = np.uint64(c3) & _LOW
    for _ in range(_ROUNDS):
        product0 = _MULTIPLIER_0 * x0
        product1 = _MULTIPLIER_1 * x2
        x0 = (product1 >> _32) ^ x1 ^ k0
        x1 = product1 & _LOW
        x2 = (product0 >> _32) ^ x3 ^ k1
        x3 = product0 & _LOW
        k0 = (k0 + _WEYL_0) & _LOW
        k1 = (k1 + _WEYL_1) & _LOW
    return x0, x1, x2, x3


@kernel
def uniform(seed: np.uint64, stream: int, epoch: int, image: int, n: int) -> float:
    """Number ``n`` of a stream, float64 in [0, 1) with 53 random bits.

    ``seed`` counts modulo 2**64; stream, epoch, image and n modulo 2**32.
    """
    w0, w1, _, _ = philox(np.uint64(seed), np.uint64(n), np.uint64(stream), np.uint64(epoch), np.uint64(image))
    return np.float64(((w0 << _32) | w1) >> _11) * _TO_UNIT


@kernel
def below(number: float, count: int) -> int:
    """A number in [0, 1) as an integer in [0, count)."""
    return min(np.int64(number * count), np.int64(count) - 1)


@kernel
def _log_gamma_variate(alpha: float, seed: np.uint64, stream: int, epoch: int, image: int, n: int) -> tuple[float, int]:
    """Logarithm of a Gamma(alpha, 1) variate, and the next unused place of the stream.

    Marsaglia & Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000); shapes below 1 through
    Gamma(a) = Gamma(a + 1) * U**(1/a). In logarithms, because for small shapes the variate itself underflows.
    """
    boost = 0.0
    if alpha < 1.0:
        boost = math.log(1.0 - uniform(seed, stream, epoch, image, n)) / alpha
        n += 1
        alpha += 1.0
    d = alpha - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        radius = math.sqrt(-2.0 * math.log(1.0 - uniform(seed, stream, epoch, image, n)))
        normal = radius * math.cos(2.0 * math.pi * uniform(seed, stream, epoch, image, n + 1))  # Box-Muller
        u = 1.0 - uniform(seed, stream, epoch, image, n + 2)
        n += 3
        v = (1.0 + c * normal) ** 3
        if v > 0.0 and math.log(u) < 0.5 * normal * normal + d - d * v + d * math.log(v):
            return math.log(d) + math.log(v) + boost, n


@kernel
def beta(alpha: float, seed: np.uint64, stream: int, epoch: int, image: int) -> float:
    """A Beta(alpha, alpha) variate in [0, 1]; alpha > 0. It may use any number of places of its stream."""
    first, n = _log_gamma_variate(alpha, seed, np.int64(stream), epoch, image, np.int64(0))
    second, n = _log_gamma_variate(alpha, seed, np.int64(stream), epoch, image, n)
    # x / (x + y) of the two variates x = exp(first), y = exp(second), without overflow.
    if first >= second:
        return 1.0 / (1.0 + math.exp(second - first))
    share = math.exp(first - second)
    return share / (1.0 + share)
