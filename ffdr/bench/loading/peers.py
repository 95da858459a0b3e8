"""Other pipelines that make the same kind of batch from the same pixels, in one thread: torchvision, the published way,
DALI, SPDL. Each ``…_pass`` returns what reads a whole epoch: uint8 images of one size, not normalised, and labels.

The published way of replaying reinforced data: an archive of apple/ml-dr's format (``ffdr export``) holds for each
image of a torchvision ``ImageFolder`` one pickle of all its views, of which every access reads all and uses one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from ffdr.augment.policy import Policy
from ffdr.augment.view import OPS

EpochPass = Callable[[], object]
"""Reads an epoch."""


def torchvision_pass(photos: Path, batch_size: int, resolution: int, policy: Policy) -> EpochPass:
    """torchvision's own transforms on PIL images; those after the crop as far as the policy has them."""
    steps = [transforms.RandomResizedCrop(resolution, policy.scale, policy.ratio)]
    steps.append(transforms.RandomHorizontalFlip(policy.flip))
    if policy.randaugment:
        steps.append(transforms.RandAugment(policy.ops, policy.magnitude, policy.bins))
    steps.append(transforms.PILToTensor())
    if policy.erase:
        steps.append(transforms.RandomErasing(policy.erase, policy.erase_scale, policy.erase_ratio))
    return _data_loader_pass(ImageFolder(str(photos), transforms.Compose(steps)), batch_size)


def published_pass(photos: Path, folder: Path, batch_size: int, resolution: int) -> EpochPass:
    """One pickle per image."""
    return _data_loader_pass(PublishedDataset(photos, folder, resolution), batch_size)


def _data_loader_pass(dataset: Dataset, batch_size: int) -> EpochPass:
    return partial(exhaust, DataLoader(dataset, batch_size, shuffle=True, drop_last=True, num_workers=0))


def exhaust(batches: Iterable) -> None:
    """Read them all."""
    for _ in batches:
        pass


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


def has_dali() -> bool:
    """Whether NVIDIA DALI is installed."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def dali_pass(photos: Path, batch_size: int, resolution: int, policy: Policy) -> EpochPass:
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


def has_spdl() -> bool:
    """Whether SPDL is installed, with the FFmpeg that it needs."""
    if find_spec("spdl") is None:
        return False
    from spdl.io.utils import get_ffmpeg_versions

    try:
        get_ffmpeg_versions()
    except RuntimeError:
        return False
    return True


def spdl_pass(photos: Path, batch_size: int, resolution: int, policy: Policy) -> EpochPass:
    """SPDL on one thread: reading, decoding, cropping, antialiased resize and flip of a batch at a time."""
    from spdl.pipeline import PipelineBuilder

    samples = ImageFolder(str(photos)).samples
    batches = len(samples) // batch_size

    def run() -> None:
        order = random.sample(samples, len(samples))
        chosen = [order[i * batch_size : (i + 1) * batch_size] for i in range(batches)]
        load = partial(spdl_batch, resolution=resolution, policy=policy)
        pipeline = PipelineBuilder().add_source(chosen).pipe(load).add_sink(1).build(num_threads=1, max_failures=0)
        with pipeline.auto_stop():
            exhaust(pipeline)

    return run


def spdl_batch(
    samples: Sequence[tuple[str, int]], resolution: int, policy: Policy
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops of some JPEG files, uint8 (B, resolution, resolution, 3), and their labels, int64 (B,)."""
    from spdl import io

    frames, draw = [], transforms.RandomResizedCrop.get_params
    for path, _ in samples:
        packets = io.demux_image(path)
        shape = torch.empty(1, packets.codec.height, packets.codec.width, device="meta")
        top, left, height, width = draw(shape, list(policy.scale), list(policy.ratio))
        steps = [f"crop={width}:{height}:{left}:{top}:exact=1", f"scale={resolution}:{resolution}:flags=bilinear"]
        steps += ["hflip"] * (random.random() < policy.flip)
        frames.append(io.decode_packets(packets, filter_desc=",".join([*steps, "format=pix_fmts=rgb24"])))
    return io.to_torch(io.convert_frames(frames)), torch.tensor([label for _, label in samples])
