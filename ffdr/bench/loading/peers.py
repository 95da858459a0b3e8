"""Other pipelines that make the same kind of batch from the same pixels, in one thread: torchvision, the published way,
DALI. Each function returns what reads a whole epoch: uint8 images of one size, not normalised, and labels."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from ffdr.augment.policy import Policy
from ffdr.bench.published import PublishedDataset

Pass = Callable[[], object]
"""Reads an epoch."""


def torchvision_pass(photos: Path, batch_size: int, resolution: int, policy: Policy) -> Pass:
    """torchvision's own transforms on PIL images; those after the crop as far as the policy has them."""
    steps = [transforms.RandomResizedCrop(resolution, policy.scale, policy.ratio)]
    steps.append(transforms.RandomHorizontalFlip(policy.flip))
    if policy.randaugment:
        steps.append(transforms.RandAugment(policy.ops, policy.magnitude, policy.bins))
    steps.append(transforms.PILToTensor())
    if policy.erase:
        steps.append(transforms.RandomErasing(policy.erase, policy.erase_scale, policy.erase_ratio))
    return _data_loader_pass(ImageFolder(str(photos), transforms.Compose(steps)), batch_size)


def published_pass(photos: Path, folder: Path, batch_size: int, resolution: int) -> Pass:
    """One pickle an image (``published.py``)."""
    return _data_loader_pass(PublishedDataset(photos, folder, resolution), batch_size)


def _data_loader_pass(dataset: Dataset, batch_size: int) -> Pass:
    loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True, num_workers=0)
    return lambda: _exhaust(loader)


def _exhaust(loader: DataLoader) -> None:
    for _ in loader:
        pass


def has_dali() -> bool:
    """Whether NVIDIA DALI is installed."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def dali_pass(photos: Path, batch_size: int, resolution: int, policy: Policy) -> Pass:
    """DALI on one CPU thread: cropped decoding, antialiased resize, flip."""
    from nvidia.dali import fn, pipeline_def

    # Nothing ahead of time: DALI would go on decoding on the core while the next pipeline is timed.
    at_once = {"exec_dynamic": False, "exec_async": False, "exec_pipelined": False, "prefetch_queue_depth": 1}

    @pipeline_def(batch_size=batch_size, num_threads=1, device_id=None, seed=0, **at_once)
    def crops() -> tuple:
        files, labels = fn.readers.file(file_root=str(photos), random_shuffle=True)
        images = fn.decoders.image_random_crop(
            files, device="cpu", random_area=list(policy.scale), random_aspect_ratio=list(policy.ratio)
        )
        images = fn.resize(images, device="cpu", size=[resolution, resolution])
        return fn.flip(images, horizontal=fn.random.coin_flip(probability=policy.flip)), labels

    pipeline = crops()
    pipeline.build()
    batches = len(ImageFolder(str(photos))) // batch_size

    def run() -> None:
        for _ in range(batches):
            pipeline.run()

    return run
