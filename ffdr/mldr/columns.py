"""From view records to what an archive stores of single images: the reverse of ``records.py``, in the same words."""

from __future__ import annotations

import numpy as np

from ffdr.augment.view import CENTER, FLIP, FRACTION, OPS, PLACED, box_to_fractions, to_fraction
from ffdr.mldr import format as names
from ffdr.mldr.format import Format
from ffdr.mldr.levels import is_signed, magnitudes
from ffdr.mldr.records import resized_room
from ffdr.mldr.rows import Column, Rows

_GEOMETRY = {names.RESIZED: 0, names.PADDED: 0, names.PLACED: CENTER | PLACED, names.CENTER: CENTER}
"""Flags of the views that each crop makes, but for the flip."""


def to_columns(views: np.ndarray, halves: Rows, form: Format, sizes: np.ndarray) -> dict[str, Column]:
    """The columns, in order, of records (H,) ``VIEW_DTYPE``. sizes: (N, 2) original width and height of all images.

    Fractions that ``to_records`` would not give, and levels that share a magnitude, are lost.

    Raises:
        EntryError: a view that the archive's transforms can't make.
    """
    halves.refuse(views["flags"] & ~np.uint8(FLIP) != _GEOMETRY[form.crop], "is not cropped as the first view is")
    sides = sizes[halves.image].astype(np.int64)
    columns: dict[str, Column] = {"resize": [form.short] * len(views)} if form.short else {}
    if form.crop == names.RESIZED:
        columns["random_resized_crop"] = _boxes(views, halves, sides)
    elif form.crop == names.PADDED:
        columns["random_crop"] = _windows(views, halves, form, sides)
    else:
        short = views["crop_w"] != to_fraction(form.resolution, form.short)
        halves.refuse(short | (views["crop_h"] != views["crop_w"]), "is not resized as the first view is")
        if form.crop == names.PLACED:
            columns["random_crop"] = _places(views, halves, form, sides)
    columns["random_horizontal_flip"] = (views["flags"] & FLIP != 0).tolist()
    columns["rand_augment"] = _ops(views, halves, form)
    halves.refuse(beyond(views, "erase"), "its erased box reaches beyond the output")
    erased = zip(spans(views, "erase", form.resolution), views["erase_h"].tolist(), strict=True)
    columns["random_erase"] = [box if height else None for box, height in erased]
    return columns


def beyond(records: np.ndarray, prefix: str) -> np.ndarray:
    """Mask of records whose erased or pasted box can't be replayed, see ``augment.check``."""
    x, y, w, h = (records[f"{prefix}_{name}"].astype(np.int64) for name in "xywh")
    return (h != 0) & ((x + w > FRACTION + 1) | (y + h > FRACTION + 1))


def spans(records: np.ndarray, prefix: str, resolution: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) in output pixels of erased or pasted boxes, as the replay has them."""
    sides = []
    for axis, extent in (("y", "h"), ("x", "w")):
        begin = whole(records[f"{prefix}_{axis}"], resolution)
        end = np.minimum(begin + whole(records[f"{prefix}_{extent}"], resolution), resolution)
        sides.append((begin, end - begin))
    (top, height), (left, width) = sides
    return list(zip(*(part.tolist() for part in (top, left, height, width)), strict=True))


def whole(fractions: np.ndarray, length: np.ndarray | int) -> np.ndarray:
    """``geometry.whole_pixels`` of an array: fractions of ``length`` pixels, rounded half up."""
    return (2 * fractions.astype(np.int64) * length + FRACTION) // (2 * FRACTION)


def _pixels(views: np.ndarray, halves: Rows, canvas: np.ndarray) -> np.ndarray:
    """Crop boxes (H, 4) int64 left, top, width, height on a canvas (H, 2); each must be whole pixels."""
    ends = []
    for number, (axis, extent) in enumerate((("crop_x", "crop_w"), ("crop_y", "crop_h"))):
        length = canvas[:, number]
        begin, size = whole(views[axis], length), whole(views[extent], length)
        again = box_to_fractions(begin, size, length)
        other = (again[0] != views[axis]) | (again[1] != views[extent]) | (size < 1) | (begin + size > length)
        halves.refuse(other, "its crop is not made of whole pixels of the original image, as the format wants it")
        ends.append((begin, size))
    (left, width), (top, height) = ends
    return np.stack([left, top, width, height], axis=1)


def _boxes(views: np.ndarray, halves: Rows, sides: np.ndarray) -> Column:
    halves.refuse(views["pad"] != 0, "has a border, which the first view has not")
    left, top, width, height = _pixels(views, halves, sides).T.tolist()
    return list(zip(top, left, height, width, strict=True))


def _windows(views: np.ndarray, halves: Rows, form: Format, sides: np.ndarray) -> Column:
    borders = whole(views["pad"][:, None], sides)
    halves.refuse((borders != form.padding).any(axis=1), f"has a border other than {form.padding} pixels of its image")
    boxes = _pixels(views, halves, sides + 2 * form.padding)
    side = form.resolution
    halves.refuse((boxes[:, 2:] != side).any(axis=1), f"is a padded crop that is not {side}×{side} pixels of its image")
    return list(zip(boxes[:, 1].tolist(), boxes[:, 0].tolist(), strict=True))


def _places(views: np.ndarray, halves: Rows, form: Format, sides: np.ndarray) -> Column:
    border = whole(views["pad"], form.resolution)
    halves.refuse(border != form.padding, f"has a border other than {form.padding} pixels of the output")
    room = resized_room(sides, form)
    left, top = whole(views["crop_x"], room[:, 0]), whole(views["crop_y"], room[:, 1])
    return list(zip(top.tolist(), left.tolist(), strict=True))


def _ops(views: np.ndarray, halves: Rows, form: Format) -> Column:
    """None where both operations are Identity at level 0, else both with their magnitudes."""
    bins = form.policy.bins
    halves.refuse(views["bins"] != bins, f"does not count in the policy's {bins} magnitude bins")
    table = magnitudes(bins, form.resolution)
    names_, sizes = [], []
    for number in range(2):
        ops, levels = views[f"op{number}"].astype(np.int64), views[f"level{number}"].astype(np.int64)
        halves.refuse((ops >= len(OPS)) | (np.abs(levels) >= bins), "has an operation or a level that there is not")
        size = table[ops, np.abs(levels)]
        names_.append(ops.tolist())
        sizes.append(np.where((levels < 0) & is_signed(ops), -size, size).tolist())
    idle = (views["op0"] == 0) & (views["op1"] == 0)
    rows = zip(names_[0], sizes[0], names_[1], sizes[1], idle.tolist(), strict=True)
    return [None if nothing else [(op0, size0), (op1, size1)] for op0, size0, op1, size1, nothing in rows]
