"""A photo corpus made on the spot, for measuring: ImageNet-like images out of the sample photographs of scikit-learn
and scikit-image (those in its package: nothing is downloaded), their betons, and reinforcements without a teacher."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_images

from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.policy import Policy
from ffdr.beton.header import ReinforcedHeader, effects_of
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import Records, stored_records
from ffdr.config.files import WriteOptions
from ffdr.util.workers import start_context
from ffdr.write.images import write_images
from ffdr.write.reinforced import ReinforcedWriter

CLASSES = 10
TOPK = 10
"""Entries of a made-up teacher per view; never more than there are classes."""
SIZES = ((500, 375), (375, 500), (500, 333), (333, 500), (500, 400), (400, 400))
"""Widths and heights: ImageNet's most frequent, and some others."""
SHARES = (0.55, 0.12, 0.18, 0.04, 0.07, 0.04)
"""How frequent each of them is."""


def make_photos(folder: Path, count: int, seed: int = 0, width: int = 0, height: int = 0) -> Path:
    """Write ``count`` JPEGs (quality 95) into ``folder``/class_xx: random windows of real photographs.

    Every window is cut at a random scale and place, mirrored at random, and resized to width × height pixels (0: one of
    ``SIZES`` at random), so no two are alike but all have a photograph's statistics.
    """
    rng = np.random.default_rng(seed)
    photos = _sample_photos()
    for number in range(count):
        _save_photo(folder / f"class_{number % CLASSES:02d}" / f"{number:06d}.jpg", photos, rng, (width, height))
    return folder


def make_photos_at_once(folder: Path, count: int, processes: int, classes: int, size: tuple[int, int]) -> Path:
    """The same in several processes; each photograph has a seed of its own, so their number changes none."""
    save = partial(_save_seeded, folder, classes, size)
    if processes == 1:
        save(range(count))
        return folder
    portions = [range(first, count, processes) for first in range(processes)]
    with ProcessPoolExecutor(processes, start_context()) as pool:
        list(pool.map(save, portions))
    return folder


def repeat_photos(folder: Path, copies: int) -> None:
    """Let every photograph stand ``copies`` times in its folder, by hard links: longer epochs at no cost."""
    for path in sorted(folder.rglob("*.jpg")):
        for copy in range(1, copies):
            os.link(path, path.with_name(f"{path.stem}_{copy}.jpg"))


def _save_seeded(folder: Path, classes: int, size: tuple[int, int], numbers: range) -> None:
    photos = _sample_photos()
    for number in numbers:
        path = folder / f"class_{number % classes:02d}" / f"{number:06d}.jpg"
        _save_photo(path, photos, np.random.default_rng((1, number)), size)


def _save_photo(path: Path, photos: list[Image.Image], rng: np.random.Generator, size: tuple[int, int]) -> None:
    """size: width and height; zeros: one of ``SIZES``."""
    if not size[0]:
        size = SIZES[rng.choice(len(SIZES), p=SHARES)]
    window = _random_window(photos[rng.integers(len(photos))], size, rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    window.save(path, quality=95)


def _sample_photos() -> list[Image.Image]:
    """Colour photographs: a temple, a flower; a portrait, a cat, a cup, a rocket, a motorcycle."""
    samples = skimage.data
    pixels = [*load_sample_images().images, samples.astronaut(), samples.cat(), samples.coffee(), samples.rocket()]
    pixels.append(samples.stereo_motorcycle()[0])
    return [Image.fromarray(photo) for photo in pixels]


def _random_window(photo: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    share = rng.uniform(0.5, 1.0)
    w, h = share * photo.width, share * photo.width * size[1] / size[0]
    if h > photo.height:
        w, h = w * photo.height / h, float(photo.height)
    x, y = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
    window = photo.resize(size, Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    return window.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else window


def write_photos(photos: Path, out: Path, mode: str = "jpg", processes: int = 0) -> Path:
    """The image beton of such a folder. processes: that write; 0: one per core."""
    options = WriteOptions("imagefolder", str(photos), "", str(out), mode, workers=processes, overwrite=True)
    return write_images(options, progress=False)


def reinforce_untaught(beton: Path, out: Path, policy: Policy, views: int, seed: int = 0) -> Path:
    """A reinforced beton without a teacher: drawn views, made-up top-k. What labels say does not change the time."""
    images = ImageBeton.open(beton)
    count, index = len(images), np.arange(len(images))
    header = ReinforcedHeader(
        views=views,
        topk=min(TOPK, images.num_classes),
        num_classes=images.num_classes,
        num_images=count,
        fingerprint=images.fingerprint,
        mixes=policy.mixes,
        policy=policy.settings(),
        teachers=("made-up",),
        resolution=0,
        seed=seed,
        effects=effects_of(policy),
    )
    records = np.empty((count, views), header.record_dtype)
    for k in range(views):
        drawn = Records.blank(count)
        draw_batch(pack_policy(policy), np.uint64(seed), np.full_like(index, k), index, images.original_sizes, *drawn)
        records[:, k] = stored_records(drawn, header.record_dtype)
    rng = np.random.default_rng(seed)
    topk = header.topk
    probs = -np.sort(-rng.dirichlet(np.ones(topk), (count, views)))
    ids = np.argsort(rng.random((count, views, images.num_classes)))[..., :topk].astype(np.uint16)
    with ReinforcedWriter(out, header, images) as writer:
        writer.put(
            index,
            records,
            ids,
            np.log(np.maximum(probs, 1e-4)).astype(np.float16),
        )
        writer.finish()
    return out
