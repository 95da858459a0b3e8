"""A photo corpus made on the spot, for measuring: ImageNet-like images out of scikit-learn's sample photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

CLASSES = 10


def make_photos(folder: Path, count: int, seed: int = 0, width: int = 500, height: int = 375) -> Path:
    """Write ``count`` JPEGs (quality 95) into ``folder``/class_xx: random windows of real photographs.

    Every window is cut at a random scale and place, mirrored at random, and resized to width × height pixels, so no
    two are alike but all have a photograph's statistics.
    """
    rng = np.random.default_rng(seed)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(count):
        photo = photos[rng.integers(len(photos))]
        share = rng.uniform(0.5, 1.0)
        w, h = share * photo.width, share * photo.width * height / width
        if h > photo.height:
            w, h = w * photo.height / h, float(photo.height)
        x, y = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
        window = photo.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
        if rng.random() < 0.5:
            window = window.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path = folder / f"class_{number % CLASSES:02d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        window.save(path, quality=95)
    return folder
