"""The line with which a verb ends that makes betons: what was made, how big it is, and the command that comes next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ffdr.beton.read import ImageBeton, ReinforcedBeton, open_both
from ffdr.util.text import byte_size, command, ending, say

_TRAIN = ("train", "")
"""Splits that are learned from; the empty one is a whole folder of images."""


def announce(
    made: Sequence[Path], images: Path | None = None, reinforced: Path | None = None, done: Collection[Path] = ()
) -> None:
    """Print it.

    Args:
        made: what the verb was asked for.
        images, reinforced: betons that the next command is about; with both, they fit together.
        done: which of ``made`` were there already.
    """
    say(ending([(path, _description(path), path in done) for path in made], _next_command(images, reinforced)))


def _description(path: Path) -> str:
    """What a beton holds, and its size."""
    images, reinforced = open_both(path)
    held = f"{len(images):,} images of {images.num_classes:,} classes" if images else ""
    if reinforced:
        views = f"{reinforced.header.views:,} views"
        held = f"{held} with {views} each" if images else f"{views} of each of {len(reinforced):,} images"
    return f"{held}, {byte_size(path.stat().st_size)}"


def _next_command(images: Path | None, reinforced: Path | None) -> str:
    """What is done with such files; words in capitals are to be filled in."""
    if images is None:
        return command("inspect", reinforced)
    if reinforced is None:
        return _for_images(images)
    side = ReinforcedBeton.open(reinforced).header.resolution
    return command(
        "train",
        "--task=dr",
        f"--data.train={images}",
        *([f"--data.reinforced={reinforced}"] if reinforced != images else []),
        "--model.name=MODEL",
        *([f"--resolution={side}"] if side else []),
        "--out=RUN",
    )


def _for_images(path: Path) -> str:
    images = ImageBeton.open(path)
    if (images.manifest or {}).get("split", "train") not in _TRAIN:
        return command("eval", "--checkpoint=CHECKPOINT", f"--data={path}")
    out = path.with_name(f"{path.stem}+{path.suffix}")
    return command("reinforce", f"--images={path}", f"--out={out}", "--teacher.models=NAME:CHECKPOINT")
