"""``ffdr bench kernels``: microseconds per image of every step of a replay, against the usual libraries.

Each step runs in a compiled loop, in one thread on one core. Resizing and operations see the same four pictures again
and again, so that these lie in the cache, where the step before leaves them in a loader. Decoding sees all
images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.geometry import output_span, view_region
from ffdr.augment.ops.apply import IMAGE_SLACK
from ffdr.augment.ops.blur import blur_radius, blur_sigma
from ffdr.augment.ops.magnitude import OpStep, magnitude
from ffdr.augment.policy import Policy
from ffdr.augment.view import (
    EFFECT_NUMBER,
    EFFECTS,
    FACTOR_ONE,
    FRACTION,
    HUE_TURN,
    OP_NUMBER,
    OPS,
    SIGMA_ONE,
    blank_effects,
)
from ffdr.bench.corpus import make_photos, write_photos
from ffdr.bench.loading import drivers
from ffdr.bench.results import Report, Summary, Table, bench, rounds
from ffdr.bench.timing import Timing, Workload, single_threaded_libraries, time_in_turn
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.beton.records import Records
from ffdr.config.measuring import BenchOptions
from ffdr.loader.replay.replayer import Replayer

PICTURES = 4
WIDTH, HEIGHT = 500, 375
OURS = "ffdr"
RESIZE, TWO_OPS, ERASE, MIXUP, CUTMIX, DECODE = (
    "crop-resize", "two random operations", "erase", "mixup", "cutmix", "decode",
)  # fmt: skip
PILLOW, OPENCV, TORCHVISION = "Pillow", "OpenCV INTER_LINEAR", "torchvision"
PARTS, WHOLE = "libjpeg-turbo, the same segments", "libjpeg-turbo, the whole image"

VALUES = {
    **dict.fromkeys(("Brightness", "Contrast", "Saturation"), (FACTOR_ONE * 6 // 10, FACTOR_ONE * 14 // 10)),
    "Hue": (-HUE_TURN // 10, HUE_TURN // 10), "Blur": (SIGMA_ONE // 10, 2 * SIGMA_ONE), "Solarize": (128, 128),
}  # fmt: skip
"""Lowest and highest value of the effects that are timed."""


def _their_blur(picture: Any, value: int) -> Any:
    side = int(picture.shape[-1])
    sigma = float(blur_sigma(value, side, side))
    size = 2 * int(blur_radius(sigma, side)) + 1
    return F.gaussian_blur(picture, [size, size], [sigma, sigma])


def _opencv_blur(picture: Any, value: int) -> Any:
    sigma = blur_sigma(value, *picture.shape[:2])
    return cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def _pillow_blur(picture: Any, value: int) -> Any:
    return picture.filter(ImageFilter.GaussianBlur(blur_sigma(value, *picture.size)))


THEIRS: dict[str, Callable[[Any, int], Any]] = {
    "Brightness": lambda picture, value: F.adjust_brightness(picture, value / FACTOR_ONE),
    "Contrast": lambda picture, value: F.adjust_contrast(picture, value / FACTOR_ONE),
    "Saturation": lambda picture, value: F.adjust_saturation(picture, value / FACTOR_ONE),
    "Hue": lambda picture, value: F.adjust_hue(picture, value / HUE_TURN),
    "Grayscale": lambda picture, _: F.rgb_to_grayscale(picture, 3),
    "Blur": _their_blur,
    "Solarize": F.solarize,
}
"""torchvision's functions by effect, of a picture and the effect's value."""
OPENCV_BLUR = "OpenCV GaussianBlur"
PEERS: dict[str, dict[str, Callable[[Any, int], Any]]] = {
    TORCHVISION: THEIRS,
    PILLOW: {
        **{name: THEIRS[name] for name in EFFECTS[1:6]},  # torchvision calls it
        "Blur": _pillow_blur,
        "Solarize": ImageOps.solarize,
    },
    OPENCV_BLUR: {"Blur": _opencv_blur},
}

Kernels = dict[tuple[str, str], Callable[[], object]]
"""(step, who does it) → does it for all n views."""


@bench(then="ffdr bench doctor")
def bench_kernels(options: BenchOptions, folder: Path) -> Report:
    """Time every kernel, and its peers."""
    photos = make_photos(folder / "photos", options.images, width=WIDTH, height=HEIGHT)
    images = ImageBeton.open(write_photos(photos, folder / "images.beton"))
    with single_threaded_libraries():
        work = {
            name: Workload(run, options.images, cores=1) for name, run in kernels(images, options.resolution).items()
        }
        timings = time_in_turn(work, options.repeats)
    setting = [
        f"{options.images} views of photographs of {WIDTH}×{HEIGHT} pixels, {options.resolution} px output, one thread",
        f"crops of 8 to 100 % of the area; operations at random levels from 1 to {Policy().bins - 1} of either sign",
        rounds(options, "kernel"),
    ]
    steps: dict[str, dict[str, Any]] = {}
    for (step, who), timing in timings.items():
        steps.setdefault(step, {})[who] = {"seconds_per_image": timing.time.json()}
    return Report("Kernels", setting, [_table(timings)], summary(timings), {"kernels": steps})


def kernels(images: ImageBeton, resolution: int) -> Kernels:
    """All of them, for images of one size: ours and, where there is one, the peer's for the same step and views."""
    subjects = _Subjects(images, resolution)
    return {
        **subjects.resizing(),
        **{key: run for op in OPS[1:] for key, run in subjects.operations(op, subjects.only(op)).items()},
        **subjects.operations(TWO_OPS, subjects.views),
        **{key: run for name in EFFECTS[1:] for key, run in subjects.effects(name).items()},
        **subjects.erasing(),
        **subjects.mixing(),
        **subjects.decoding(),
    }


class _Subjects:
    """What the kernels work on. n views, P pictures, R pixels a side."""

    def __init__(self, images: ImageBeton, resolution: int) -> None:
        self.images, self.resolution = images, resolution
        self.scratch = scratch = drivers.Scratch(images, resolution)
        self.spans = Replayer(images, resolution, threads=1).spans(np.arange(len(images)))
        self.views, self.mixes = _draw(images)
        self.photos = np.stack([decode_image(images, i) for i in range(PICTURES)])
        size = 3 * resolution * resolution
        self.pictures = np.zeros((PICTURES, size + IMAGE_SLACK), np.uint8)
        for i in range(PICTURES):
            drivers.resize_all(self.photos[i : i + 1], self.views[i : i + 1], scratch.out[0], scratch.work)
            self.pictures[i, :size] = scratch.out[0].ravel()
        shape = (resolution, resolution, 3)
        self.tensors = [
            torch.from_numpy(picture[:size].reshape(shape)).permute(2, 0, 1).contiguous() for picture in self.pictures
        ]

    def only(self, op: str) -> np.ndarray:
        """The views with this operation alone, at the level of their first one."""
        views = self.views.copy()
        views["op0"], views["op1"] = OP_NUMBER[op], 0
        return views

    def resizing(self) -> Kernels:
        scratch, side = self.scratch, (self.resolution, self.resolution)
        boxes = [view_region(view, WIDTH, HEIGHT, *side) for view in self.views[:, 0]]
        pictures = [Image.fromarray(photo) for photo in self.photos]

        def pillow() -> None:
            for i, box in enumerate(boxes):
                pictures[i % PICTURES].crop(box).resize(side, Image.Resampling.BILINEAR)

        def opencv() -> None:
            for i, (x0, y0, x1, y1) in enumerate(boxes):
                cv2.resize(self.photos[i % PICTURES][y0:y1, x0:x1], side, interpolation=cv2.INTER_LINEAR)

        return {
            (RESIZE, OURS): lambda: drivers.resize_all(self.photos, self.views, scratch.out[0], scratch.work),
            (RESIZE, PILLOW): pillow,
            (RESIZE, OPENCV): opencv,
        }

    def operations(self, step: str, views: np.ndarray) -> Kernels:
        """The operations of the views on resized pictures."""
        scratch, side = self.scratch, self.resolution
        chains = [
            [
                (OPS[op], magnitude(OpStep(op, level, bins, False), side, side))
                for op, level in ((op0, level0), (op1, level1))
                if op
            ]
            for op0, level0, op1, level1, bins in views[:, 0][["op0", "level0", "op1", "level1", "bins"]].tolist()
        ]

        def torchvision() -> None:
            for i, chain in enumerate(chains):
                picture = self.tensors[i % PICTURES]
                for op, size in chain:
                    picture = _apply_op(picture, op, size, InterpolationMode.NEAREST, None)

        return {
            (step, OURS): lambda: drivers.operate_all(
                self.pictures, views, blank_effects(len(views)), scratch.second, scratch.out[0], scratch.work
            ),
            (step, TORCHVISION): torchvision,
        }

    def values(self, name: str) -> np.ndarray:
        """One effect for each view, (n, 2, 8), of random strength, as a colour jitter of 0.4 and 0.1 draws it."""
        low, high = VALUES.get(name, (0, 0))
        effects, rng = blank_effects(len(self.views)), np.random.default_rng(0)
        effects[:, 0, 0]["kind"] = EFFECT_NUMBER[name]
        effects[:, 0, 0]["value"] = rng.integers(low, high + 1, len(effects))
        return effects

    def effects(self, name: str) -> Kernels:
        """One effect on resized pictures."""
        scratch, views, effects = self.scratch, self.views.copy(), self.values(name)
        views["op0"] = views["op1"] = 0
        values = effects[:, 0, 0]["value"].tolist()
        size = 3 * self.resolution**2
        shape = (self.resolution, self.resolution, 3)
        pictures: dict[str, Any] = {
            TORCHVISION: self.tensors,
            PILLOW: [Image.fromarray(picture[:size].reshape(shape)) for picture in self.pictures],
            OPENCV_BLUR: [picture[:size].reshape(shape) for picture in self.pictures],
        }

        def run(who: str, function: Callable[[Any, int], object]) -> None:
            for i, value in enumerate(values):
                function(pictures[who][i % PICTURES], value)

        peers = {who: functions[name] for who, functions in PEERS.items() if name in functions}
        step = f"effect {name}"
        return {
            (step, OURS): lambda: drivers.operate_all(
                self.pictures, views, effects, scratch.second, scratch.out[0], scratch.work
            ),
            **{(step, who): partial(run, who, function) for who, function in peers.items()},
        }

    def erasing(self) -> Kernels:
        side, nothing = self.resolution, torch.zeros(())
        tensor = self.tensors[0].clone()
        spans = [
            (output_span(view["erase_y"], view["erase_h"], side), output_span(view["erase_x"], view["erase_w"], side))
            for view in self.views[:, 0]
        ]

        def torchvision() -> None:
            for (top, bottom), (left, right) in spans:
                F.erase(tensor, top, left, bottom - top, right - left, nothing, inplace=True)

        return {
            (ERASE, OURS): lambda: drivers.erase_all(self.views, self.scratch.out[0]),
            (ERASE, TORCHVISION): torchvision,
        }

    def mixing(self) -> Kernels:
        mixup, cutmix = self.mixes.copy(), self.mixes.copy()
        mixup["cut_h"] = 0
        cutmix["mixup"] = FRACTION
        first, second = self.scratch.out
        return {
            (MIXUP, OURS): lambda: drivers.mix_all(mixup, first, second),
            (CUTMIX, OURS): lambda: drivers.mix_all(cutmix, first, second),
        }

    def decoding(self) -> Kernels:
        scratch, sizes = self.scratch, self.images.sizes
        segments, whole = (drivers.collect(self.images, scratch, self.spans, views) for views in (self.views, None))
        return {
            (DECODE, OURS): lambda: drivers.decode_all_segments(
                self.spans, sizes, self.views, self.resolution, *scratch.decoding
            ),
            (DECODE, PARTS): lambda: drivers.decode_all(scratch.decoder, *segments, scratch.canvas),
            (DECODE, WHOLE): lambda: drivers.decode_all(scratch.decoder, *whole, scratch.canvas),
        }


def _draw(images: ImageBeton) -> tuple[np.ndarray, np.ndarray]:
    """views (n, 2), all erased, with operations at random levels, and mixes (n,), all with mixup and cutmix."""
    count = len(images)
    policy = replace(Policy(), erase=1.0, mixup=1.0, mixup_alpha=1.0, cutmix=1.0)
    views, mixes, effects = Records.blank(count)
    sizes, index, epochs = images.original_sizes, np.arange(count), np.zeros(count, np.int64)
    draw_batch(pack_policy(policy), np.uint64(0), epochs, index, sizes, views, mixes, effects)
    rng = np.random.default_rng(0)
    for name in ("level0", "level1"):
        views[name] = rng.integers(1, policy.bins, views.shape) * rng.choice([-1, 1], views.shape)
    return views, mixes


def summary(timings: Mapping[tuple[str, str], Timing]) -> Summary:
    """ffdr's kernels beside their peers, and on a core of known speed."""
    ours, pillow = timings[RESIZE, OURS], timings[RESIZE, PILLOW]
    slowest = max((timings[op, OURS].time for op in OPS[1:]), key=lambda time: time.median)
    core = "µs, if Pillow's crop-resize takes 1 ms"
    return {
        "crop-resize : Pillow": ours.rate.over(pillow.rate),
        "crop-resize : OpenCV INTER_LINEAR": ours.rate.over(timings[RESIZE, OPENCV].rate),
        f"slowest operation, {core}": slowest.over(pillow.time).times(1000),
        f"two random operations, {core}": timings[TWO_OPS, OURS].time.over(pillow.time).times(1000),
    }


def _table(timings: Mapping[tuple[str, str], Timing]) -> Table:
    rows = []
    for step in dict.fromkeys(step for step, _ in timings):
        ours = timings[step, OURS]
        cost = ours.time.times(1e6).text(1)
        peers = [(who, timing) for (name, who), timing in timings.items() if name == step and who != OURS]
        for who, timing in peers:
            rows.append((step, cost, who, timing.time.times(1e6).text(1), ours.rate.over(timing.rate).text(1)))
        if not peers:
            rows.append((step, cost, "", "", ""))
    headings = ("", OURS, "peer", "its time", "× as fast")
    return Table("µs per image, one core", headings, rows, ["Identity costs nothing."])
