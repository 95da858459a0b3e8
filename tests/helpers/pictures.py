"""Small made-up pictures for the tests: noise, and something like a photograph."""

import numpy as np
from PIL import Image

from ffdr.augment.view import CENTER, PLACED, box_to_fractions, plain_view


def noise(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def photo(rng, height, width):
    """Smooth shapes with a little noise; its channels do not use the whole range."""
    coarse = rng.integers(20, 230, (max(2, height // 9), max(2, width // 9), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-3, 4, smooth.shape), 12, 245).astype(np.uint8)


def random_side(rng, longest):
    return int(np.exp(rng.uniform(0, np.log(longest))))


def cropped(x, y, w, h, width, height, **fields):
    """A view of the pixel box (x, y, w, h), other fields as given."""
    view = plain_view()
    view["crop_x"], view["crop_w"] = box_to_fractions(x, w, width)
    view["crop_y"], view["crop_h"] = box_to_fractions(y, h, height)
    for name, value in fields.items():
        view[name] = value
    return view


def random_crop(rng, width, height, **fields):
    w, h = int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))
    x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return cropped(x, y, w, h, width, height, **fields)


def tidy_record(rng, views):
    """Overwrite ``views[0, 0]`` with random fields of which most are valid, and many at their limits."""
    view = views[0, 0]
    view["flags"] = rng.choice([0, 1, 4, 5, 2, 3, 10, 11]) | rng.choice([0, 16])
    view["bins"] = rng.integers(2, 256)
    for op, level in (("op0", "level0"), ("op1", "level1")):
        view[op] = rng.integers(0, 14)
        top = min(int(view["bins"]) - 1, 127)
        view[level] = rng.integers(-top, top + 1)
    for start, size in (("crop_x", "crop_w"), ("crop_y", "crop_h"), ("erase_x", "erase_w"), ("erase_y", "erase_h")):
        edges = np.sort(rng.choice([0, 1, 2, 32767, 65534, 65535, *rng.integers(0, 65536, 4)], 2))
        view[start], view[size] = edges[0], edges[1] - edges[0] + rng.integers(0, 2)
    if view["flags"] & (CENTER | PLACED) == CENTER:
        view["pad"] = 0


def tidy_effects(rng, effects):
    """Overwrite ``effects`` with random ones that are nearly all valid, and many at their limits."""
    count = rng.integers(0, len(effects) + 1)
    effects["kind"] = rng.integers(1, 8, len(effects))
    for effect in effects:
        ends = {4: (-32767, 0, 32767), 5: (0,), 6: (1, 600, 32767), 7: (0, 128, 255)}
        effect["value"] = rng.choice(ends.get(int(effect["kind"]), (0, 8192, 32767, rng.integers(0, 32768))))
    effects[count:] = 0
