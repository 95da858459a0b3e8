"""LitData as a peer: chunks by its own ``optimize``, read by its own loader in this process.

Writing is a program of its own (``python -m ffdr.bench.loading.chunks FOLDER OUT``): LitData starts workers that import
the program anew.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ffdr.augment.policy import Policy

_LIMIT = 3600
"""Seconds."""


def has_litdata() -> bool:
    """Whether LitData is installed."""
    return find_spec("litdata") is not None


def write_chunks(photos: Path, out: Path) -> Path:
    """Write an ImageFolder of JPEGs as LitData's chunks, which hold the very files."""
    command = [sys.executable, "-m", "ffdr.bench.loading.chunks", str(photos), str(out)]
    subprocess.run(command, check=True, timeout=_LIMIT, capture_output=True)
    return out


def chunk_loader(chunks: Path, batch_size: int, resolution: int, policy: Policy) -> Iterable:
    """Random crops and flips by torchvision's transforms of the tensors that LitData decodes: uint8 (B, 3, H, W) and
    labels, in random order; the last batch, which LitData can't leave out, may be incomplete."""
    from litdata import StreamingDataLoader, StreamingDataset

    crop = v2.RandomResizedCrop(resolution, policy.scale, policy.ratio, antialias=True)
    steps = v2.Compose([crop, v2.RandomHorizontalFlip(policy.flip)])

    def view(sample: dict) -> tuple[torch.Tensor, int]:
        return steps(sample["image"]), sample["label"]

    dataset = StreamingDataset(str(chunks), shuffle=True, transform=view)
    return StreamingDataLoader(dataset, batch_size=batch_size, num_workers=0)


def _write(photos: str, out: str) -> None:
    from litdata import optimize

    samples = ImageFolder(photos).samples
    optimize(_sample, samples, out, chunk_bytes="64MB", num_workers=1, keep_data_ordered=True, verbose=False)


def _sample(entry: tuple[str, int]) -> dict:
    """LitData stores the bytes of an opened JPEG as they are."""
    path, label = entry
    return {"image": Image.open(path), "label": label}


if __name__ == "__main__":
    _write(*sys.argv[1:])
