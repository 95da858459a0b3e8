"""The published way of replaying reinforced data, as a peer: one pickle an image, Pillow and torchvision.

The files are an archive of apple/ml-dr's format (``ffdr export``): for each image of a torchvision ``ImageFolder`` one
pickle of all its views, of which every access reads all and uses one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from ffdr.augment.view import OPS


def replay(image: Image.Image, parameters: Sequence[Any], resolution: int) -> torch.Tensor:
    """One view, uint8 (3, resolution, resolution), by torchvision on the PIL image.

    parameters: what the format stores of random_resized_crop, random_horizontal_flip, rand_augment and random_erase.
    """
    crop, flip, operations, erased = parameters
    image = F.resized_crop(image, *crop, [resolution, resolution], InterpolationMode.BILINEAR)
    if flip:
        image = F.hflip(image)
    for operation, magnitude in operations or ():
        image = _apply_op(image, OPS[operation], magnitude, InterpolationMode.NEAREST, None)
    pixels = F.pil_to_tensor(image)
    if erased is not None and erased[0] >= 0:
        top, left, height, width = erased
        pixels[:, top : top + height, left : left + width] = 0
    return pixels


class PublishedDataset(Dataset):
    """An ImageFolder and the folder of its archive; each access shows one of the image's views at random.

    Yields (uint8 (3, resolution, resolution), probabilities (T,), class ids (T,), label).
    """

    def __init__(self, photos: Path, archive: Path, resolution: int) -> None:
        self.images, self.archive, self.resolution = ImageFolder(str(photos)), archive, resolution

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        image, label = self.images[i]
        index, samples = torch.load(self.archive / f"{i}.pth.tar", weights_only=False)
        assert index == i, "the archive is not of these images"
        sample = samples[torch.randint(len(samples), ())]
        probs, ids = sample["prob"]
        return replay(image, sample["params"], self.resolution), torch.tensor(probs), torch.tensor(ids), label
