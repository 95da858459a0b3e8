"""``ffdr subset``: fewer images, views or teacher entries out of a full file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.beton import layout
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_same_images, open_both
from ffdr.config.files import SubsetOptions
from ffdr.util.errors import UserError
from ffdr.util.text import brief
from ffdr.write.copy.copying import Copy, ImageSamples, ReinforcedSamples, Samples, contents
from ffdr.write.parts import check_place
from ffdr.write.receipt import Work
from ffdr.write.resumable import run_all


def subset(options: SubsetOptions, progress: bool = True) -> Path:
    """Write a file of the same kind that holds less; a killed run is resumed, and what is there is not made again.

    Images are taken in the order of ``indices``, so that image betons and reinforced betons cut with the same indices
    fit together. Of an image's views the first ones stay, of a view's entries the best ones, as they are stored.
    Partners of mixed views are numbered anew.

    Returns:
        The path of the new file.

    Raises:
        UserError: a choice that the file does not offer; a view mixed with an image that is not chosen; damage; no
            room on the disk; a file of other work that is there already, and ``overwrite`` is false.
    """
    path, out = Path(options.file), Path(options.out)
    images, reinforced = open_both(path)
    held = reinforced if images is None else images
    assert held is not None  # no beton holds neither
    full, others = images, [path]
    if options.images:
        if images is not None or reinforced is None:
            raise UserError(f"subset.images: {path} holds the images itself; leave it out")
        full = ImageBeton.open(options.images)
        check_same_images(path, reinforced.header, full)
        others.append(full.path)
    if full is None and options.indices:
        raise UserError("subset.images: to take images out of a reinforced beton, give the image beton it was made of")
    index = parse_indices(options.indices, len(held))
    check_place(out, images, others)
    samples: list[Samples] = [] if images is None else [ImageSamples(images, index)]
    if reinforced is not None:
        samples.append(_fewer_views(options, reinforced, full, index))
    elif options.views or options.topk:
        raise UserError(f"subset.views, subset.topk: {path} is an image beton and has none")
    chosen = {key: getattr(options, key) for key in ("indices", "views", "topk")}
    work = Work(out, "subset", options.overwrite, chosen, {"file": contents(held)})
    copy = Copy(work, samples, None if images is None else _manifest(images, index))
    # A reinforcement that still has all of its images fits the beton that was given for them.
    fitting = Path(options.images) if options.images and not options.indices else None
    run_all([copy], progress, out if images else fitting, out if reinforced else None)
    return out


def parse_indices(text: str, count: int) -> np.ndarray:
    """The images that ``0:1000,5000`` names, in this order: (M,) int64; all of them for an empty text.

    Raises:
        UserError: no such image, no image at all, or one twice.
    """
    if not text:
        return np.arange(count)
    ranges, named = [], 0
    for word in text.split(","):
        start, colon, end = word.strip().partition(":")
        if not all(re.fullmatch("[0-9]{1,20}", number) for number in ((start, end) if colon else (start,))):
            raise UserError(f"subset.indices: {brief(word)} is neither a number nor a range such as 0:1000")
        first, last = int(start), int(end) if colon else int(start) + 1
        if not first < last <= count:
            raise UserError(f"subset.indices: {brief(word)} is no range of images; there are {count}, counted from 0")
        ranges.append(np.arange(first, last))
        named += last - first
        if named > count:
            break  # some image is named twice: enough to find one
    index = np.concatenate(ranges)
    numbers, times = np.unique(index, return_counts=True)
    if times.max() > 1:
        raise UserError(f"subset.indices: image {numbers[np.argmax(times > 1)]} is named twice")
    return index


def _fewer_views(
    options: SubsetOptions, reinforced: ReinforcedBeton, images: ImageBeton | None, index: np.ndarray
) -> ReinforcedSamples:
    header = reinforced.header
    for name, stored in (("views", header.views), ("topk", header.topk)):
        if getattr(options, name) > stored:
            raise UserError(f"subset.{name}: {getattr(options, name)} is more than the {stored} of {reinforced.path}")
    header = replace(header, views=options.views or header.views, topk=options.topk or header.topk)
    if images is not None:
        fingerprint = layout.fingerprint(images.origins[index], images.labels[index])
        header = replace(header, num_images=len(index), fingerprint=fingerprint)
    return ReinforcedSamples(reinforced, index, header)


def _manifest(images: ImageBeton, index: np.ndarray) -> dict[str, Any] | None:
    """The manifest of some of the images. Mean and deviation stay those of all, so that models see the same input."""
    if images.manifest is None:
        return None
    # How many coefficients were kept is not known image by image.
    kept = {key: value for key, value in images.manifest.items() if key != "coefficients"}
    return kept | {
        "num_images": len(index),
        "fingerprint": layout.fingerprint(images.origins[index], images.labels[index]),
        "images_per_class": np.bincount(images.labels[index], minlength=images.num_classes).tolist(),
        "jpeg_images": int((images.modes[index] == layout.JPG).sum()),
        "image_bytes": int(images.data_size[index].sum()),
        "skipped": [],
    }
