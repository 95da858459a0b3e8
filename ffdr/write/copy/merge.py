"""``ffdr pack``: images and their reinforcement become one self-contained file. ``ffdr split``: the reverse."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ffdr.beton.read import ImageBeton, ReinforcedBeton, open_both
from ffdr.config.files import PackOptions, SplitOptions
from ffdr.util.errors import UserError
from ffdr.write.copy.copying import Copy, ImageSamples, ReinforcedSamples, contents
from ffdr.write.parts import check_place, slots_of
from ffdr.write.receipt import Work
from ffdr.write.resumable import run_all


def pack(options: PackOptions, progress: bool = True) -> Path:
    """Write a merged beton, with a manifest like that of the images beside it.

    A killed run is resumed, and what is there already is not made again. Stock FFCV reads its images like those of any
    beton, when its Loader is given ``custom_fields`` of it.

    Returns:
        The path of the merged beton.

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
    run_all([copy], progress, out, out)
    return out


def split(options: SplitOptions, progress: bool = True) -> tuple[Path, ...]:
    """Take a merged beton apart; a killed run is resumed, and what is there already is not made again.

    What comes out equals what was merged, byte for byte, manifest included, if ffdr wrote it. Images that stock FFCV
    wrote come out as ffdr would have written them: in their order, with origins and checksums, without other fields.

    Returns:
        The paths written: images, reinforced, or both.

    Raises:
        UserError: the file is not a merged beton, or is damaged; no room on the disk; a file of other work that is
            there already, and ``overwrite`` is false.
    """
    images, reinforced = open_both(Path(options.file))
    if images is None or reinforced is None:
        raise UserError(f"{options.file}: holds {'no views' if images else 'no images'}, so it is not a merged beton")
    outs = [Path(name) for name in (options.images, options.reinforced) if name]
    if options.images:
        check_place(outs[0], images, (images.path, *outs[1:]))
    if options.reinforced:
        check_place(outs[-1], None, (images.path, *outs[:-1]))
    every, sources = np.arange(len(images)), {"file": contents(images)}

    def work(out: Path, part: str) -> Work:
        return Work(out, "split", options.overwrite, {"part": part}, sources)

    copies: list[Copy] = []
    if options.images:
        samples = [ImageSamples(images, every)]
        copies.append(Copy(work(outs[0], "images"), samples, images.manifest, slots_of(images)))
    if options.reinforced:
        views = ReinforcedSamples(reinforced, every, reinforced.header)
        copies.append(Copy(work(outs[-1], "reinforced"), [views]))
    # Only now, when it is known that nothing is in the way of either.
    run_all(copies, progress, outs[0] if options.images else None, outs[-1] if options.reinforced else None)
    return tuple(outs)
