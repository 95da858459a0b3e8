"""Replay random records with every array between two pages that must not be touched: a stray access kills the process.

Run by ``test_check.py`` in a process of its own: ``python guarded_pages.py SEED COUNT``.
"""

import ctypes
import mmap
import sys

import numpy as np
from pictures import noise, random_side, tidy_effects, tidy_record

from ffdr.augment.check import OK, check_mix
from ffdr.augment.picture import ImagePart
from ffdr.augment.replay import mix_into, replay_view, scratch_bytes
from ffdr.augment.view import MIX_DTYPE, VIEW_DTYPE, blank_effects

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Fenced:
    """Room for up to ``most`` bytes; ``take`` gives arrays that begin or end right at a forbidden page."""

    def __init__(self, most):
        self.pages = (most + PAGE - 1) // PAGE
        self.memory = mmap.mmap(-1, (self.pages + 2) * PAGE)
        self.bytes = np.frombuffer(self.memory, np.uint8)
        for page in (0, self.pages + 1):
            address = self.bytes.ctypes.data + page * PAGE
            assert LIBC.mprotect(address, PAGE, 0) == 0  # neither read nor write

    def take(self, count, at_end):
        begin = (self.pages + 1) * PAGE - count if at_end else PAGE
        return self.bytes[begin : begin + count]


def main(seed, count):
    rng = np.random.default_rng(seed)
    sides = 70
    source, target, other = (Fenced(3 * sides * sides) for _ in range(3))
    room = Fenced(scratch_bytes(sides, sides, sides, sides))
    views, mixes = np.zeros((1, 2), VIEW_DTYPE), np.zeros(1, MIX_DTYPE)
    effects = blank_effects(1)[0, 0]
    for trial in range(count):
        at_end = bool(trial % 2)
        tidy_record(rng, views)
        tidy_effects(rng, effects)
        width, height = random_side(rng, sides), random_side(rng, sides)
        size = random_side(rng, sides), random_side(rng, sides)
        pixels = source.take(3 * width * height, at_end).reshape(height, width, 3)
        pixels[...] = noise(rng, height, width)
        out = target.take(3 * size[0] * size[1], at_end).reshape(*size, 3)
        partner = other.take(3 * size[0] * size[1], at_end).reshape(*size, 3)
        scratch = room.take(scratch_bytes(width, height, *size), at_end)
        replay_view(ImagePart(pixels, 0, 0, width, height), views[0, 0], effects, out, scratch, 0)
        mixes[0] = np.frombuffer(rng.bytes(14), MIX_DTYPE)[0]
        mixes["partner"] = 1
        if check_mix(mixes[0], 2) == OK:
            mix_into(out, partner, mixes[0])
    print("survived", count)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
