"""FKD's files once more, from their description: made as its generator makes them, with torchvision's own draws, and
replayed and recovered as its trainer does. Shares no code with ffdr."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

CLASSES = 12
SIZES = [(61, 83), (100, 75), (500, 333), (33, 32)]
FORMS = ["full", "hard", "smoothing", "marginal_k5", "marginal_k10"]


def make_pictures(folder, per_class=2, classes=CLASSES):
    """Smooth coloured pictures of many sizes, in files of several endings."""
    rng = np.random.default_rng(3)
    endings = [".JPEG", ".png", ".jpg"]
    for number in range(classes * per_class):
        width, height = SIZES[number % len(SIZES)]
        coarse = rng.integers(0, 256, (6, 7, 3), np.uint8)
        place = folder / f"n{number // per_class:08}"
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(place / f"{place.name}_{number}{endings[number % 3]}")
    return folder


def quantised(probs, form):
    """A generator's label of (K, C) probabilities."""
    if form == "full":
        return probs
    if form == "hard":
        return probs.argmax(1)
    if form == "smoothing":
        value, index = probs.max(1)
        return torch.stack([index.to(probs.dtype), value], 1)
    value, index = probs.topk(int(form.partition("_k")[2]), 1)
    return torch.stack([index.to(probs.dtype), value], 1)


def recovered(labels, form, classes, rule):
    """(K, C) as the trainer fills it up: each crop by the formulas of the paper's appendix, in float64."""
    dense = np.zeros((len(labels), classes))
    for row, label in zip(dense, np.asarray(labels, np.float64), strict=True):
        if form == "full":
            row[:] = label
        elif form == "hard":
            row[int(label)] = 1
        elif form == "smoothing":
            row[:] = (1 - label[1]) / (classes - 1)
            row[int(label[0])] = label[1]
        else:
            ids, values = label[0].astype(int), label[1]
            if rule == "renormalise":
                row[ids] = values / values.sum()
            else:
                row[:] = (1 - values.sum()) / (classes - len(ids))
                row[ids] = values
    return dense


def content_of(picture, crops, form, half=False, classes=CLASSES):
    """Boxes (K, 4) in pixels, and coords, flips, labels as the generator has them before it saves them."""
    boxes = [RandomResizedCrop.get_params(picture, (0.08, 0.936), (3 / 4, 4 / 3)) for _ in range(crops)]
    width, height = picture.size
    coords = [torch.FloatTensor((i / height, j / width, h / height, w / width)) for i, j, h, w in boxes]
    flips = [bool(torch.rand(1) < 0.5) for _ in range(crops)]
    labels = quantised(torch.softmax(torch.randn(crops, classes) * 3, 1), form)
    # A batch of two images, of which this one is the second: what is saved is not contiguous.
    stacked = torch.stack([torch.stack([torch.zeros(4), one]) for one in coords]).permute(1, 0, 2)[1].numpy()
    flipped = torch.stack([torch.tensor([False, one]) for one in flips]).permute(1, 0)[1].numpy()
    if half:
        return np.array(boxes), [np.float16(stacked), flipped, np.float16(labels.numpy())]
    return np.array(boxes), [stacked, flipped, labels.numpy()]


def make(folder, form, crops=3, half=False, classes=CLASSES, seed=0):
    """Of each picture: boxes and contents, by path below ``folder``."""
    torch.manual_seed(seed)
    found = {}
    for path in sorted(folder.glob("*/*")):
        with Image.open(path) as picture:
            found[path.relative_to(folder).as_posix()] = content_of(picture, crops, form, half, classes)
    return found


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def as_tensors(content):
    return [torch.from_numpy(part) for part in content]


def files_of(made):
    """Bytes by name, as the generator saves them."""
    return {f"imagenet/train/{path.partition('.')[0]}.tar": saved(content) for path, (_, content) in made.items()}


def write_folder(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(path, files, order=None, below="", form=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=form) as tar:
        for name in order or files:
            member = tarfile.TarInfo(f"{below}{name}")
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return path


def replayed(picture, coords, flip, side):
    """The trainer's view: PIL rounds the box to whole pixels."""
    width, height = picture.size
    i, j, h, w = (float(part) for part in coords)
    view = F.resized_crop(picture, i * height, j * width, h * height, w * width, [side, side])
    return np.asarray(F.hflip(view) if flip else view)
