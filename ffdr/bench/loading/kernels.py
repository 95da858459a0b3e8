"""``ffdr bench kernels``: microseconds an image of every step of a replay, against the usual libraries.

Each step runs in a compiled loop, in one thread on one core. Resizing and operations see the same four pictures again
and again, so that these lie in the cache, where the step before leaves them in a loader. Splicing and decoding see all
images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from ffdr.augment.draw import draw_batch, pack_policy
from ffdr.augment.geometry import output_span, view_region
from ffdr.augment.magnitude import magnitude
from ffdr.augment.ops import IMAGE_SLACK
from ffdr.augment.policy import Policy
from ffdr.augment.view import FRACTION, OP_NUMBER, OPS
from ffdr.bench.corpus import make_photos, write_photos
from ffdr.bench.loading import drivers
from ffdr.bench.report import Table, Target, check_report, report, target_table
from ffdr.bench.statistics import Estimate
from ffdr.bench.timing import Timing, Work, single_threaded_libraries, time_in_turn
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton
from ffdr.config.measuring import BenchOptions
from ffdr.loader.decode import blank_views

PICTURES = 4
WIDTH, HEIGHT = 500, 375
OURS = "ffdr"
RESIZE, TWO_OPS, ERASE, MIXUP, CUTMIX, SPLICE, DECODE = (
    "crop-resize", "two random operations", "erase", "mixup", "cutmix", "splice", "decode",
)  # fmt: skip
PILLOW, OPENCV, TORCHVISION, WHOLE = "Pillow", "OpenCV INTER_LINEAR", "torchvision", "the whole image"

Kernels = dict[tuple[str, str], Callable[[], object]]
"""(step, who does it) → does it for all n views."""


def bench_kernels(options: BenchOptions) -> None:
    """Measure, print tables, and with ``options.json`` store them beside the figures.

    Raises:
        UserError: a report that could not be written.
    """
    check_report(options.json)
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder) / "photos", options.images, width=WIDTH, height=HEIGHT)
        images = ImageBeton.open(write_photos(photos, Path(folder) / "images.beton"))
        with single_threaded_libraries():
            work = {
                name: Work(run, options.images, cores=1) for name, run in kernels(images, options.resolution).items()
            }
            timings = time_in_turn(work, options.repeats)
    setting = [
        f"{options.images} views of photographs of {WIDTH}×{HEIGHT} pixels, {options.resolution} px output, one thread",
        f"crops of 8 to 100 % of the area; operations at random levels from 1 to {Policy().bins - 1} of either sign",
        f"{options.repeats} rounds, each kernel once a round; median [95 % interval]; ratios compare the same round",
    ]
    report(options.json, "Kernels", setting, [_table(timings), target_table(targets(timings))], _json(timings))


def kernels(images: ImageBeton, resolution: int) -> Kernels:
    """All of them, for images of one size: ours and, where there is one, the peer's for the same step and views."""
    subjects = _Subjects(images, resolution)
    return {
        **subjects.resizing(),
        **{key: run for op in OPS[1:] for key, run in subjects.operations(op, subjects.only(op)).items()},
        **subjects.operations(TWO_OPS, subjects.views),
        **subjects.erasing(),
        **subjects.mixing(),
        **subjects.decoding(),
    }


class _Subjects:
    """What the kernels work on. n views, P pictures, R pixels a side."""

    def __init__(self, images: ImageBeton, resolution: int) -> None:
        self.images, self.resolution = images, resolution
        self.room = room = drivers.Room(images, resolution)
        self.index = np.arange(len(images))
        self.views, self.mixes = _draw(images)
        self.photos = np.stack([decode_image(images, i) for i in range(PICTURES)])
        size = 3 * resolution * resolution
        self.pictures = np.zeros((PICTURES, size + IMAGE_SLACK), np.uint8)
        for i in range(PICTURES):
            drivers.resize_all(self.photos[i : i + 1], self.views[i : i + 1], room.out[0], room.work)
            self.pictures[i, :size] = room.out[0].ravel()
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
        room, side = self.room, (self.resolution, self.resolution)
        boxes = [view_region(self.views, i, 0, WIDTH, HEIGHT, *side) for i in range(len(self.views))]
        pictures = [Image.fromarray(photo) for photo in self.photos]

        def pillow() -> None:
            for i, box in enumerate(boxes):
                pictures[i % PICTURES].crop(box).resize(side, Image.Resampling.BILINEAR)

        def opencv() -> None:
            for i, (x0, y0, x1, y1) in enumerate(boxes):
                cv2.resize(self.photos[i % PICTURES][y0:y1, x0:x1], side, interpolation=cv2.INTER_LINEAR)

        return {
            (RESIZE, OURS): lambda: drivers.resize_all(self.photos, self.views, room.out[0], room.work),
            (RESIZE, PILLOW): pillow,
            (RESIZE, OPENCV): opencv,
        }

    def operations(self, step: str, views: np.ndarray) -> Kernels:
        """The operations of the views on resized pictures."""
        room, side = self.room, self.resolution
        chains = [
            [
                (OPS[op], magnitude(op, level, bins, False, side, side))
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
            (step, OURS): lambda: drivers.operate_all(self.pictures, views, room.pictures[1], room.out[0], room.work),
            (step, TORCHVISION): torchvision,
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
            (ERASE, OURS): lambda: drivers.erase_all(self.views, self.room.out[0]),
            (ERASE, TORCHVISION): torchvision,
        }

    def mixing(self) -> Kernels:
        mixup, cutmix = self.mixes.copy(), self.mixes.copy()
        mixup["cut_h"] = 0
        cutmix["mixup"] = FRACTION
        first, second = self.room.out
        return {
            (MIXUP, OURS): lambda: drivers.mix_all(mixup, first, second),
            (CUTMIX, OURS): lambda: drivers.mix_all(cutmix, first, second),
        }

    def decoding(self) -> Kernels:
        room, parts = self.room, np.zeros((len(self.views), 3), np.int64)
        segments, whole = (drivers.collect(self.images, room, self.index, views) for views in (self.views, None))
        return {
            (SPLICE, OURS): lambda: drivers.splice_all(
                room.stored, self.index, self.views, self.resolution, room.jpeg, parts
            ),
            (DECODE, OURS): lambda: drivers.decode_all(room.decoder, *segments, room.canvas),
            (DECODE, WHOLE): lambda: drivers.decode_all(room.decoder, *whole, room.canvas),
        }


def _draw(images: ImageBeton) -> tuple[np.ndarray, np.ndarray]:
    """views (n, 2), all erased, with operations at random levels, and mixes (n,), all with mixup and cutmix."""
    count = len(images)
    policy = replace(Policy(), erase=1.0, mixup=1.0, mixup_alpha=1.0, cutmix=1.0)
    views, mixes = blank_views(count)
    draw_batch(pack_policy(policy), np.uint64(0), 0, np.arange(count), images.original_sizes, views, mixes)
    rng = np.random.default_rng(0)
    for name in ("level0", "level1"):
        views[name] = rng.integers(1, policy.bins, views.shape) * rng.choice([-1, 1], views.shape)
    return views, mixes


def targets(timings: Mapping[tuple[str, str], Timing]) -> list[Target]:
    """What is promised."""
    ours, pillow = timings[RESIZE, OURS], timings[RESIZE, PILLOW]
    slowest = max((timings[op, OURS].time for op in OPS[1:]), key=lambda time: time.median)

    def on_reference(time: Estimate) -> Estimate:
        """µs on a core that takes 1 ms for Pillow's crop-resize."""
        return Estimate.of(1000 * np.divide(time.values, pillow.time.values))

    core = "µs, if Pillow's crop-resize takes 1 ms"
    return [
        Target("crop-resize : Pillow", ours.rate.over(pillow.rate), 8),
        Target("crop-resize : OpenCV INTER_LINEAR", ours.rate.over(timings[RESIZE, OPENCV].rate), 1.15),
        Target(f"slowest operation, {core}", on_reference(slowest), 170, at_most=True),
        Target(f"two random operations, {core}", on_reference(timings[TWO_OPS, OURS].time), 90, at_most=True),
    ]


def _table(timings: Mapping[tuple[str, str], Timing]) -> Table:
    rows = []
    for step in dict.fromkeys(step for step, _ in timings):
        ours = timings[step, OURS]
        peers = [(who, timing) for (name, who), timing in timings.items() if name == step and who != OURS]
        for who, timing in peers:
            rows.append((step, _microseconds(ours), who, _microseconds(timing), ours.rate.over(timing.rate).text(1)))
        if not peers:
            rows.append((step, _microseconds(ours), "", "", ""))
    return Table(
        "µs an image, one core", ("", OURS, "peer", "its time", "× as fast"), rows, ["Identity costs nothing."]
    )


def _microseconds(timing: Timing) -> str:
    return Estimate.of(1e6 * np.array(timing.time.values)).text(1)


def _json(timings: Mapping[tuple[str, str], Timing]) -> dict[str, Any]:
    steps: dict[str, dict[str, Any]] = {}
    for (step, who), timing in timings.items():
        steps.setdefault(step, {})[who] = {"seconds_an_image": timing.time.json()}
    return {"kernels": steps, "targets": {target.name: target.json() for target in targets(timings)}}
