"""Stock FFCV as a peer: its own writer, its own decoder.

Writing is a program of its own (``python -m ffdr.bench.loading.stock FOLDER OUT``): FFCV's writer forks workers, which
a process that runs threads must not do.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder

from ffdr.augment.policy import Policy

QUALITY = 90
_LIMIT = 3600
"""Seconds; the stock writer waits for ever when a worker dies."""


def write_stock(photos: Path, out: Path) -> Path:
    """Write an ImageFolder as stock FFCV does: JPEG by OpenCV's defaults, quality 90; fields image and label."""
    command = [sys.executable, "-m", "ffdr.bench.loading.stock", str(photos), str(out)]
    subprocess.run(command, check=True, timeout=_LIMIT, capture_output=True)
    return out


def stock_loader(beton: Path, batch_size: int, resolution: int, policy: Policy) -> Loader:
    """RandomResizedCrop and flip, one thread, random order; uint8 (B, H, W, 3) in FFCV's own buffers, and labels.

    FFCV compiles at the first pass, for the number of threads that the last Loader of the process asked for: make that
    pass before another Loader is made.
    """
    crop = RandomResizedCropRGBImageDecoder((resolution, resolution), policy.scale, policy.ratio)
    return Loader(
        str(beton),
        batch_size=batch_size,
        num_workers=1,
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=0,
        drop_last=True,
        pipelines={
            "image": [crop, RandomHorizontalFlip(policy.flip), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
            "origin": None,
        },
    )


def _write(photos: str, out: str) -> None:
    folder = ImageFolder(photos, transform=np.asarray)
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=QUALITY), "label": IntField()}
    DatasetWriter(out, fields, num_workers=1).from_indexed_dataset(folder)


if __name__ == "__main__":
    _write(*sys.argv[1:])
