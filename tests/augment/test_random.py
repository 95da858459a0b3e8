"""The generator is Philox4x32-10, its numbers depend on nothing but their key, and Beta variates are Beta."""

import numpy as np
import pytest
from scipy import stats

from ffdr.augment.random import beta, philox, uniform
from ffdr.jit.kernel import kernel

# Known answers of the Random123 library (Salmon et al.), philox4x32 with 10 rounds: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@kernel
def _betas(alpha, seed, out):
    for image in range(out.size):
        out[image] = beta(alpha, seed, 3, 0, image)


@kernel
def _uniforms(seed, out):
    for n in range(out.size):
        out[n] = uniform(seed, 1, 2, 3, n)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter, key, words):
    low, high = (int(word, 16) for word in key.split())
    got = philox(np.uint64(low | high << 32), *(np.uint64(int(word, 16)) for word in counter.split()))
    assert [f"{int(word):08x}" for word in got] == words.split()


def test_a_uniform_is_the_upper_53_bits_of_its_block():
    seed = 0x1234_5678_9ABC_DEF0
    w0, w1, _, _ = (int(word) for word in philox(np.uint64(seed), 7, 1, 2, 3))
    assert uniform(np.uint64(seed), 1, 2, 3, 7) == ((w0 << 32 | w1) >> 11) / 2**53


def test_every_part_of_the_key_counts():
    base = (np.uint64(5), 1, 2, 3, 4)
    values = {uniform(*base)}
    for place in range(5):
        changed = list(base)
        changed[place] = changed[place] + type(changed[place])(1)
        values.add(uniform(*changed))
    values.add(uniform(np.uint64(5 + 2**32), 1, 2, 3, 4))
    assert len(values) == 7


def test_uniforms_are_uniform():
    numbers = np.empty(20000)
    _uniforms(np.uint64(11), numbers)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0, 100.0])
def test_beta_variates_follow_beta(alpha):
    numbers = np.empty(4000)
    _betas(alpha, np.uint64(2), numbers)
    assert np.isfinite(numbers).all()
    assert numbers.min() >= 0
    assert numbers.max() <= 1
    assert abs(numbers.mean() - 0.5) < 5 * np.sqrt(0.25 / (2 * alpha + 1) / numbers.size)
    assert abs(numbers.var() - 0.25 / (2 * alpha + 1)) < 0.1 * 0.25 / (2 * alpha + 1)
    # Shapes near 0 pile up at the ends, where a float64 cannot tell 1 - x from 1: compare away from them.
    middle = numbers[(numbers > 1e-9) & (numbers < 1 - 1e-9)]
    lower, upper = stats.beta.cdf([1e-9, 1 - 1e-9], alpha, alpha)
    spread = (stats.beta.cdf(middle, alpha, alpha) - lower) / (upper - lower)
    assert stats.kstest(spread, "uniform").pvalue > 1e-3


def test_beta_survives_tiny_shapes():
    numbers = np.empty(500)
    _betas(1e-4, np.uint64(2), numbers)
    assert np.isfinite(numbers).all()
    assert 0.4 < (numbers > 0.5).mean() < 0.6
