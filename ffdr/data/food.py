"""Food-101 from the files that torchvision downloads (``root/food-101``)."""

from __future__ import annotations

import json
from pathlib import Path

from ffdr.data.source import FileSource, check_split, need_files
from ffdr.errors import UserError

FOLDER = "food-101"


def open_split(path: Path, split: str) -> FileSource:
    """A split of Food-101: train (75,750 images) or test (25,250), in torchvision's order."""
    check_split("food101", split, ("train", "test"))
    need_files(path, (f"{FOLDER}/meta/{split}.json", f"{FOLDER}/images"), "Food-101", "Food101")
    file = path / FOLDER / "meta" / f"{split}.json"
    try:
        images = json.loads(file.read_bytes())
        names = [f"images/{image}.jpg" for members in images.values() for image in members]
        classes = sorted(images)
        labels = [classes.index(name) for name, members in images.items() for _ in members]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"write.path: {file}: not a list of images a class: {error}") from None
    if any(".." in Path(name).parts for name in names):
        raise UserError(f"write.path: {file}: an image lies outside of the dataset's folder")
    if not names:
        raise UserError(f"write.path: {file}: no images")
    return FileSource(path / FOLDER, names, labels, classes)
