"""From what an archive stores of single images to view records: crop, flip, operations, erased box.

Columns come by transform, one for each of ``Format.stored``. A row is one image: a sample's own, or its partner.

Shapes: R rows.
"""

from __future__ import annotations

import numpy as np

from ffdr.augment.geometry import resized_sides
from ffdr.augment.view import CENTER, FLIP, OP_NUMBER, OPS, PLACED, VIEW_DTYPE, box_to_fractions, to_fraction
from ffdr.mldr.format import PADDED_CROP, PLACED_CROP, RESIZED_CROP, Format
from ffdr.mldr.magnitudes import levels_of, magnitudes
from ffdr.mldr.rows import Column, Rows, without_none

_NO_OP = (OP_NUMBER["Identity"], 0.0)
_NO_BOX = (-1, 0, 0, 0)


def views_from_columns(columns: dict[str, Column], rows: Rows, form: Format, sizes: np.ndarray) -> np.ndarray:
    """View records (R,) ``VIEW_DTYPE``. sizes: (N, 2) original width and height of all images.

    Raises:
        EntryError: a value that is impossible for its image, or that a record can't hold.
    """
    views = np.zeros(len(rows), VIEW_DTYPE)
    views["bins"] = form.policy.bins
    sides = sizes[rows.image].astype(np.int64)
    if form.crop == RESIZED_CROP:
        _set_box(views, columns["random_resized_crop"], rows, sides)
    elif form.crop == PADDED_CROP:
        _set_window(views, columns["random_crop"], rows, form, sides)
    elif form.crop == PLACED_CROP:
        _set_place(views, columns["random_crop"], rows, form, sides)
    else:
        views["crop_w"] = views["crop_h"] = to_fraction(form.resolution, form.short)
        views["flags"] = CENTER
    if "random_horizontal_flip" in columns:
        _, flips = without_none(columns["random_horizontal_flip"], False)
        flipped = rows.single(flips, (bool,), "its flip is not true or false")
        views["flags"] |= flipped.astype(np.uint8) * np.uint8(FLIP)
    if "rand_augment" in columns:
        count = form.policy.ops
        _, column = without_none(columns["rand_augment"], [_NO_OP] * count)
        wrong = [type(ops) is not list or len(ops) != count for ops in column]
        rows.refuse(wrong, f"its rand_augment is not {count} operations")
        for number in range(count):
            ops, levels = _levels([ops[number] for ops in column], rows, form)
            views[f"op{number}"], views[f"level{number}"] = ops, levels
    if "random_erase" in columns:
        _set_erased(views, columns["random_erase"], rows, form.resolution)
    return views


def margin(sides: np.ndarray, form: Format) -> np.ndarray:
    """(R, 2) int64: how far a placed crop can move on images of these sides after resize, across and down."""
    share = int(to_fraction(form.resolution, form.short))
    unique, inverse = np.unique(sides, axis=0, return_inverse=True)
    resized = np.array([resized_sides(share, w, h, form.resolution) for w, h in unique.tolist()], np.int64)
    return resized.reshape(-1, 2)[inverse.ravel()] + 2 * form.padding - form.resolution


def _set_box(views: np.ndarray, column: Column, rows: Rows, sides: np.ndarray) -> None:
    """random_resized_crop; where it was skipped, the whole image."""
    there, column = without_none(column, (0, 0, 1, 1))
    boxes = rows.integers(column, 4, "its crop is not four whole numbers")
    top, left, height, width = np.where(there[:, None], boxes, np.pad(sides[:, ::-1], ((0, 0), (2, 0)))).T
    outside = (np.minimum(top, left) < 0) | (np.minimum(height, width) < 1)
    outside |= (left > sides[:, 0] - width) | (top > sides[:, 1] - height)  # sums of large numbers would wrap around
    rows.refuse(outside, lambda row: f"{_crop(boxes[row], ', height, width')} {_image(row, rows, sides)}")
    views["crop_x"], views["crop_w"] = box_to_fractions(left, width, sides[:, 0])
    views["crop_y"], views["crop_h"] = box_to_fractions(top, height, sides[:, 1])


def _set_window(views: np.ndarray, column: Column, rows: Rows, form: Format, sides: np.ndarray) -> None:
    """random_crop of the image as it is."""
    uneven = (sides[:, 0] != sides[:, 1]) & (form.padding > 0)
    canvas = sides + 2 * form.padding
    corners = rows.integers(column, 2, "its crop is not two whole numbers")
    rows.refuse(
        uneven,
        lambda row: (
            f"random_crop: padding {form.padding} of image {rows.image[row]} with {sides[row, 0]}×"
            f"{sides[row, 1]} pixels can't be held by a view record: the image is not square"
        ),
    )
    _check_corners(corners, canvas - form.resolution, rows, sides)
    views["pad"] = to_fraction(form.padding, sides[:, 0])
    views["crop_x"], views["crop_w"] = box_to_fractions(corners[:, 1], form.resolution, canvas[:, 0])
    views["crop_y"], views["crop_h"] = box_to_fractions(corners[:, 0], form.resolution, canvas[:, 1])


def _set_place(views: np.ndarray, column: Column, rows: Rows, form: Format, sides: np.ndarray) -> None:
    """resize, then random_crop. The record holds where the crop lies between its ends, not a box of the image."""
    corners = rows.integers(column, 2, "its crop is not two whole numbers")
    free = margin(sides, form)
    _check_corners(corners, free, rows, sides)
    views["flags"] = CENTER | PLACED
    views["crop_w"] = views["crop_h"] = to_fraction(form.resolution, form.short)
    views["pad"] = to_fraction(form.padding, form.resolution)
    views["crop_x"] = to_fraction(corners[:, 1], np.maximum(free[:, 0], 1))
    views["crop_y"] = to_fraction(corners[:, 0], np.maximum(free[:, 1], 1))


def _check_corners(corners: np.ndarray, free: np.ndarray, rows: Rows, sides: np.ndarray) -> None:
    """Refuse windows (R, 2) top, left that don't fit. free: (R, 2) how far they may lie, across and down."""
    outside = ((corners < 0) | (corners > free[:, ::-1])).any(axis=1)
    rows.refuse(outside, lambda row: f"{_crop(corners[row])} {_image(row, rows, sides)}")


def _crop(values: np.ndarray, more: str = "") -> str:
    return f"crop {tuple(values.tolist())} (top, left{more})"


def _image(row: int, rows: Rows, sides: np.ndarray) -> str:
    size = f"{sides[row, 0]}×{sides[row, 1]}"
    return f"is not inside image {rows.image[row]}, which had {size} pixels; are these the archive's images?"


def _levels(column: Column, rows: Rows, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (R,) and signed levels (R,) of one operation per row."""
    pairs = rows.numbers(column, 2, "an operation is not its number and its magnitude")
    numbers = pairs[:, 0]
    unknown = ~np.isin(numbers, np.arange(len(OPS)))
    rows.refuse(unknown, lambda row: f"operation {numbers[row]:g} is not one of 0 to {len(OPS) - 1}")
    bins, side = form.policy.bins, form.resolution
    ops = numbers.astype(np.int64)
    levels, bad = levels_of(ops, pairs[:, 1], magnitudes(bins, side), form.policy.magnitude)
    rows.refuse(
        bad,
        lambda row: f"{OPS[ops[row]]} has magnitude {pairs[row, 1]:g}, which is none of its {bins} at {side} pixels",
    )
    return ops, levels


def _set_erased(views: np.ndarray, column: Column, rows: Rows, resolution: int) -> None:
    _, column = without_none(column, _NO_BOX)
    boxes = rows.integers(column, 4, "its erased box is not four whole numbers")
    boxes = np.where(boxes[:, :1] == -1, 0, boxes)
    top, left, height, width = boxes.T
    outside = (boxes < 0).any(axis=1) | (top > resolution - height) | (left > resolution - width)
    rows.refuse(outside, lambda row: f"erased box {tuple(boxes[row].tolist())} is not inside {resolution} pixels")
    views["erase_x"], views["erase_w"] = box_to_fractions(left, width, resolution)
    views["erase_y"], views["erase_h"] = box_to_fractions(top, height, resolution)
