"""Painted images and a model that reads its answers off them, so that every score is known beforehand.

The colour of the left half is the class that the model finds most probable, that of the right half the second one. A
red frame swaps the two: it tells whether the model was shown the image's edge.
"""

import json

import numpy as np
import torch
from PIL import Image, ImageOps

from ffdr.models.build import ModelInfo

SIDE = 40
FIRST, SECOND = 10.0, 6.0
"""Logits of the two classes; all others have next to 0, the lower numbers a little more."""
RED = (255, 0, 0)


def paint(path, first, second=None, frame=0):
    """Write an image (lossless, whatever its name ends in) that makes the reader answer with these classes."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    halves = (slice(0, SIDE // 2), slice(SIDE // 2, SIDE))
    for columns, number in zip(halves, (first, first if second is None else second), strict=True):
        pixels[:, columns] = (8 * (number // 32) + 4, 8 * (number % 32) + 4, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if frame:
        image = ImageOps.expand(image.crop((frame, frame, SIDE - frame, SIDE - frame)), frame, RED)
    image.save(path, format="PNG")


def write_mappings(folder, objects):
    """ObjectNet's four files. objects: {folder: class numbers}. Lines are in another order than classes, as there."""
    folder.mkdir(parents=True)
    order = np.random.default_rng(0).permutation(1000)
    line_of_class = {int(number): line for line, number in enumerate(order)}
    labels = {name: name.replace("_", " ").title() for name in objects} | {"unshared": "Unshared"}
    contents = {
        "folder_to_objectnet_label.json": json.dumps(labels),
        "objectnet_to_imagenet_1k.json": json.dumps(
            {labels[name]: "; ".join(f"class {n}, or so" for n in numbers) for name, numbers in objects.items()}
        ),
        "imagenet_to_label_2012_v2": "".join(f"class {number}, or so\n" for number in order),
        "pytorch_to_imagenet_2012_id.json": json.dumps({str(n): line for n, line in line_of_class.items()}),
    }
    for name, text in contents.items():
        (folder / name).write_text(text)


class Reader(torch.nn.Module):
    """Answers with the classes that ``paint`` put into an image."""

    def __init__(self, info, num_classes=1000):
        super().__init__()
        self.num_classes = num_classes
        self.weight = torch.nn.Parameter(torch.zeros(7))
        self.scale = torch.tensor(info.std).view(1, 3, 1, 1) * 255
        self.shift = torch.tensor(info.mean).view(1, 3, 1, 1) * 255

    def forward(self, images):
        levels = images * self.scale + self.shift
        side = images.shape[3]
        rows = slice(side // 4, 3 * side // 4)
        colours = [levels[:, :2, rows, x - 2 : x + 2].mean((2, 3)) // 8 for x in (side // 4, 3 * side // 4)]
        numbers = [(32 * c[:, 0] + c[:, 1]).long().clamp(max=self.num_classes - 1) for c in colours]
        framed = (levels[:, 0, side // 2, 0] > 200) & (levels[:, 1, side // 2, 0] < 60)
        logits = torch.arange(self.num_classes).repeat(len(images), 1) * -1e-6
        everyone = torch.arange(len(images))
        logits[everyone, torch.where(framed, numbers[0], numbers[1])] = SECOND
        logits[everyone, torch.where(framed, numbers[1], numbers[0])] = FIRST
        return logits


def reader_info(num_classes=1000, center=0.875, resolution=28, classes=""):
    return ModelInfo(
        "test_vit", num_classes, resolution, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), center, classes=classes
    )
