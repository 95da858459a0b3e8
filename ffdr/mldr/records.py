"""From what an archive stores of single images to view records: crop, flip, operations, erased box.

A half is one image's share of a sample: the image itself, or its partner. H halves come as columns, one for each of
``Format.stored``, with one value a half.
"""

from __future__ import annotations

import numpy as np

from ffdr.augment.geometry import resized_sides
from ffdr.augment.view import CENTER, FLIP, OP_NUMBER, OPS, PLACED, VIEW_DTYPE, box_to_fractions, to_fraction
from ffdr.mldr import format as names
from ffdr.mldr.format import Format
from ffdr.mldr.levels import levels_of, magnitudes
from ffdr.mldr.rows import Column, Rows, without_none

_NO_OP = (OP_NUMBER["Identity"], 0.0)
_NO_BOX = (-1, 0, 0, 0)


def to_records(columns: dict[str, Column], halves: Rows, form: Format, sizes: np.ndarray) -> np.ndarray:
    """Records (H,) ``VIEW_DTYPE`` of columns by transform. sizes: (N, 2) original width and height of all images.

    Raises:
        EntryError: a value that is impossible for its image, or that a record can't hold.
    """
    views = np.zeros(len(halves), VIEW_DTYPE)
    views["bins"] = form.policy.bins
    sides = sizes[halves.image].astype(np.int64)
    if form.crop == names.RESIZED:
        _set_box(views, columns["random_resized_crop"], halves, sides)
    elif form.crop == names.PADDED:
        _set_window(views, columns["random_crop"], halves, form, sides)
    elif form.crop == names.PLACED:
        _set_place(views, columns["random_crop"], halves, form, sides)
    else:
        views["crop_w"] = views["crop_h"] = to_fraction(form.resolution, form.short)
        views["flags"] = CENTER
    if "random_horizontal_flip" in columns:
        _, flips = without_none(columns["random_horizontal_flip"], False)
        flipped = halves.single(flips, (bool,), "its flip is not true or false")
        views["flags"] |= flipped.astype(np.uint8) * np.uint8(FLIP)
    if "rand_augment" in columns:
        _set_ops(views, columns["rand_augment"], halves, form)
    if "random_erase" in columns:
        _set_erased(views, columns["random_erase"], halves, form.resolution)
    return views


def resized_room(sides: np.ndarray, form: Format) -> np.ndarray:
    """(H, 2) int64: how far the output can move on images of these sides after resize, across and down."""
    share = int(to_fraction(form.resolution, form.short))
    unique, inverse = np.unique(sides, axis=0, return_inverse=True)
    resized = np.array([resized_sides(share, w, h, form.resolution) for w, h in unique.tolist()], np.int64)
    return resized.reshape(-1, 2)[inverse.ravel()] + 2 * form.padding - form.resolution


def _set_box(views: np.ndarray, column: Column, halves: Rows, sides: np.ndarray) -> None:
    """random_resized_crop; where it was skipped, the whole image."""
    there, column = without_none(column, (0, 0, 1, 1))
    boxes = halves.tuples(column, 4, "its crop is not four whole numbers")
    top, left, height, width = np.where(there[:, None], boxes, np.pad(sides[:, ::-1], ((0, 0), (2, 0)))).T
    outside = (np.minimum(top, left) < 0) | (np.minimum(height, width) < 1)
    outside |= (left > sides[:, 0] - width) | (top > sides[:, 1] - height)  # sums of large numbers would wrap around
    halves.refuse(
        outside,
        lambda row: (
            f"crop {tuple(boxes[row].tolist())} (top, left, height, width) is not inside image "
            f"{halves.image[row]}, which had {sides[row, 0]}×{sides[row, 1]} pixels; are these the archive's images?"
        ),
    )
    views["crop_x"], views["crop_w"] = box_to_fractions(left, width, sides[:, 0])
    views["crop_y"], views["crop_h"] = box_to_fractions(top, height, sides[:, 1])


def _set_window(views: np.ndarray, column: Column, halves: Rows, form: Format, sides: np.ndarray) -> None:
    """random_crop of the image as it is."""
    corners = halves.tuples(column, 2, "its crop is not two whole numbers")
    uneven = (sides[:, 0] != sides[:, 1]) & (form.padding > 0)
    halves.refuse(
        uneven,
        lambda row: (
            f"random_crop: padding {form.padding} of image {halves.image[row]} with {sides[row, 0]}×"
            f"{sides[row, 1]} pixels can't be held by a view record: the image is not square"
        ),
    )
    canvas = sides + 2 * form.padding
    _check_corners(corners, canvas - form.resolution, halves, sides)
    views["pad"] = to_fraction(form.padding, sides[:, 0])
    views["crop_x"], views["crop_w"] = box_to_fractions(corners[:, 1], form.resolution, canvas[:, 0])
    views["crop_y"], views["crop_h"] = box_to_fractions(corners[:, 0], form.resolution, canvas[:, 1])


def _set_place(views: np.ndarray, column: Column, halves: Rows, form: Format, sides: np.ndarray) -> None:
    """resize, then random_crop."""
    corners = halves.tuples(column, 2, "its crop is not two whole numbers")
    room = resized_room(sides, form)
    _check_corners(corners, room, halves, sides)
    views["flags"] = CENTER | PLACED
    views["crop_w"] = views["crop_h"] = to_fraction(form.resolution, form.short)
    views["pad"] = to_fraction(form.padding, form.resolution)
    views["crop_x"] = to_fraction(corners[:, 1], np.maximum(room[:, 0], 1))
    views["crop_y"] = to_fraction(corners[:, 0], np.maximum(room[:, 1], 1))


def _check_corners(corners: np.ndarray, room: np.ndarray, halves: Rows, sides: np.ndarray) -> None:
    """Refuse windows (H, 2) top, left that don't fit. room: (H, 2) across, down."""
    halves.refuse(
        ((corners < 0) | (corners > room[:, ::-1])).any(axis=1),
        lambda row: (
            f"crop {tuple(corners[row].tolist())} (top, left) is not inside image {halves.image[row]}, "
            f"which had {sides[row, 0]}×{sides[row, 1]} pixels; are these the archive's images?"
        ),
    )


def _set_ops(views: np.ndarray, column: Column, halves: Rows, form: Format) -> None:
    policy, count = form.policy, form.policy.ops
    _, column = without_none(column, [_NO_OP] * count)
    halves.refuse(
        [type(ops) is not list or len(ops) != count for ops in column], f"its rand_augment is not {count} operations"
    )
    table = magnitudes(policy.bins, form.resolution)
    for number in range(count):
        pairs = halves.numbers([ops[number] for ops in column], 2, "an operation is not its number and its magnitude")
        ops = pairs[:, 0]
        unknown = ~np.isin(ops, np.arange(len(OPS)))
        halves.refuse(unknown, lambda row, ops=ops: f"operation {ops[row]:g} is not one of 0 to {len(OPS) - 1}")
        levels, bad = levels_of(ops.astype(np.int64), pairs[:, 1], table, policy.magnitude)
        halves.refuse(
            bad,
            lambda row, pairs=pairs: (
                f"{OPS[int(pairs[row, 0])]} has magnitude {pairs[row, 1]:g}, which is none of its "
                f"{policy.bins} at {form.resolution} pixels"
            ),
        )
        views[f"op{number}"], views[f"level{number}"] = ops, levels


def _set_erased(views: np.ndarray, column: Column, halves: Rows, resolution: int) -> None:
    _, column = without_none(column, _NO_BOX)
    boxes = halves.tuples(column, 4, "its erased box is not four whole numbers")
    boxes = np.where(boxes[:, :1] == -1, 0, boxes)
    top, left, height, width = boxes.T
    outside = (boxes < 0).any(axis=1) | (top > resolution - height) | (left > resolution - width)
    halves.refuse(outside, lambda row: f"erased box {tuple(boxes[row].tolist())} is not inside {resolution} pixels")
    views["erase_x"], views["erase_w"] = box_to_fractions(left, width, resolution)
    views["erase_y"], views["erase_h"] = box_to_fractions(top, height, resolution)
