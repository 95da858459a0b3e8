"""Files of views with effects that no policy has drawn: every kind, every value that is allowed."""

import numpy as np

from ffdr.augment.view import (
    EFFECT_DTYPE,
    LARGEST_VALUES,
    MOST_EFFECTS,
    SMALLEST_VALUES,
    VERTICAL_FLIP,
    record_dtype,
)
from ffdr.beton.header import ReinforcedHeader
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.write.reinforced import ReinforcedWriter


def random_effects(rng, shape):
    """(*shape, 8): 0 to 8 effects each, of any kind and value."""
    kinds = rng.integers(1, len(SMALLEST_VALUES), (*shape, MOST_EFFECTS))
    kinds[np.arange(MOST_EFFECTS) >= rng.integers(0, MOST_EFFECTS + 1, (*shape, 1))] = 0
    effects = np.empty(kinds.shape, EFFECT_DTYPE)
    low, high = np.array(SMALLEST_VALUES)[kinds], np.array(LARGEST_VALUES)[kinds]
    effects["kind"], effects["value"] = kinds, rng.integers(low, high + 1)
    return effects


def with_effects(plain, images, out, seed=0):
    """A reinforced beton as ``plain``, with effects, and with vertical flips of half of the views."""
    rng, source, images = np.random.default_rng(seed), ReinforcedBeton.open(plain), ImageBeton.open(images)
    header = ReinforcedHeader(**{**vars(source.header), "effects": True})
    index = np.arange(len(images))
    old = np.stack([source.views(i) for i in index])
    views = np.zeros(old.shape, record_dtype(header.mixes, True))
    for name in views.dtype.names:
        if name.endswith("_effects"):
            views[name] = random_effects(rng, old.shape)
        else:
            views[name] = old[name] if header.mixes else old
    views["first"]["flags"] |= np.where(rng.random(old.shape) < 0.5, VERTICAL_FLIP, 0).astype(np.uint8)
    ids, log_probs = (np.stack(part) for part in zip(*map(source.logits, index), strict=True))
    with ReinforcedWriter(out, header, images) as writer:
        writer.put(index, views, ids, log_probs)
        writer.finish()
    return out
