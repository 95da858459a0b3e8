"""``ffdr pack``: images and their reinforcement become one self-contained file. ``ffdr split``: the reverse."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ffdr.beton.manifest import manifest_path
from ffdr.beton.read import ImageBeton, ReinforcedBeton, open_both
from ffdr.config.files import PackOptions, SplitOptions
from ffdr.util.errors import UserError
from ffdr.write import closing, parts
from ffdr.write.copy import (
    Copy,
    ImageSamples,
    ReinforcedSamples,
    contents,
)
from ffdr.write.receipt import Work


def pack(options: PackOptions, progress: bool = True) -> Path:
    """Write a packed beton, with a manifest like that of the images beside it.

    A killed run is resumed, and what is there already is not made again. Stock FFCV reads its images like those of any
    beton, when its Loader is given ``custom_fields`` of it.

    Returns:
        The path of the packed beton.

    Raises:
        UserError: files that don't fit together or are damaged; no room on the disk; a file of other work that is
            there already, and ``overwrite`` is false.
    """
    images = ImageBeton.open(options.images)
    reinforced = ReinforcedBeton.open(options.reinforced, images)
    out = Path(options.out)
    check_place(out, images, (images.path, reinforced.path))
    every = np.arange(len(images))
    samples = (ImageSamples(images, every), ReinforcedSamples(reinforced, every, reinforced.header))
    sources = {"images": contents(images), "reinforced": contents(reinforced)}
    copy = Copy(Work(out, "pack", options.overwrite, sources=sources), samples, images.manifest)
    copy.run("pack", progress)
    if progress:
        closing.announce([out], out, out, done=[out] if copy.is_there else [])
    return out


def split(options: SplitOptions, progress: bool = True) -> tuple[Path, ...]:
    """Take a packed beton apart; a killed run is resumed, and what is there already is not made again.

    What comes out equals what was packed, byte for byte, manifest included, if ffdr wrote it. Images that stock FFCV
    wrote come out as ffdr would have written them: in their order, with origins and checksums, without other fields.

    Returns:
        The paths written: images, reinforced, or both.

    Raises:
        UserError: the file is not a packed beton, or is damaged; no room on the disk; a file of other work that is
            there already, and ``overwrite`` is false.
    """
    images, reinforced = open_both(Path(options.file))
    if images is None or reinforced is None:
        raise UserError(f"{options.file}: holds {'no views' if images else 'no images'}, so it is not a packed beton")
    outs = [Path(name) for name in (options.images, options.reinforced) if name]
    if options.images:
        check_place(outs[0], images, (images.path, *outs[1:]))
    if options.reinforced:
        check_place(outs[-1], None, (images.path, *outs[:-1]))
    every, copies = np.arange(len(images)), {}

    def work(out: Path, part: str) -> Work:
        return Work(out, "split", options.overwrite, {"part": part}, {"file": contents(images)})

    if options.images:
        # The writer leaves room in its tables for images that it then has to skip.
        slots = len(images) + len((images.manifest or {}).get("skipped", ()))
        copies["images"] = Copy(work(outs[0], "images"), [ImageSamples(images, every)], images.manifest, slots)
    if options.reinforced:
        views = ReinforcedSamples(reinforced, every, reinforced.header)
        copies["reinforced"] = Copy(work(outs[-1], "reinforced"), [views])
    for part, copy in copies.items():  # only once it is known that nothing is in the way of either
        copy.run(f"split {part}", progress)
    if progress:
        paths = {part: copy.out for part, copy in copies.items()}
        closing.announce(outs, **paths, done=[copy.out for copy in copies.values() if copy.is_there])
    return tuple(outs)


def check_place(out: Path, images: ImageBeton | None, others: Iterable[Path]) -> None:
    """Refuse an output that would replace one of the ``others``, or its manifest, or be taken for another beton's.

    images: those that the output holds, if it does.
    """
    parts.check_out(out, others, has_manifest=images is not None)
    if images is not None and images.manifest is None and manifest_path(out).exists():
        raise UserError(f"{manifest_path(out)}: is another beton's manifest, and {images.path} has none; remove it")
