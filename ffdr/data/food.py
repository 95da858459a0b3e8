"""Food-101 from the files that torchvision downloads (``root/food-101``)."""

from __future__ import annotations

import os
from pathlib import Path

from ffdr.data.files import damage_named, need_files
from ffdr.data.source import FileSource
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_json

FOLDER = "food-101"


def open_split(path: Path, split: str) -> FileSource:
    """A split of Food-101: train (75,750 images) or test (25,250), in torchvision's order."""
    folder = need_files(path, FOLDER, (f"meta/{split}.json", "images"), "Food-101", "Food101")
    file = folder / "meta" / f"{split}.json"
    with damage_named(file, "not a list of images per class", (ValueError, AttributeError, TypeError)):
        images = read_json(file)
        names = [f"images/{image}.jpg" for members in images.values() for image in members]
        classes = sorted(images)
        number_of = {name: number for number, name in enumerate(classes)}
        labels = [number_of[name] for name, members in images.items() for _ in members]
        if b"\0" in os.fsencode("".join(names)):  # it also refuses halves of characters
            raise ValueError("a null character")
    if any(".." in Path(name).parts for name in names):
        raise UserError(f"write.path: {file}: an image lies outside of the dataset's folder")
    if not names:
        raise UserError(f"write.path: {file}: no images")
    return FileSource(folder, names, labels, classes)
