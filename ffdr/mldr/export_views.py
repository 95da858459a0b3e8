"""From view records to what an archive stores of single images: the reverse of ``import_views.py``."""

from __future__ import annotations

import numpy as np

from ffdr.augment.view import CENTER, FLIP, FRACTION, OPS, PLACED, box_to_fractions, to_fraction
from ffdr.mldr.format import CENTER_CROP, PADDED_CROP, PLACED_CROP, RESIZED_CROP, Format
from ffdr.mldr.import_views import margin
from ffdr.mldr.magnitudes import is_signed, magnitudes
from ffdr.mldr.rows import Column, Rows

_FLAGS = {RESIZED_CROP: 0, PADDED_CROP: 0, PLACED_CROP: CENTER | PLACED, CENTER_CROP: CENTER}
"""Of the views that each crop makes, but for the flip."""


def columns_from_views(views: np.ndarray, rows: Rows, form: Format, sizes: np.ndarray) -> dict[str, Column]:
    """The columns, in order, of records (R,) ``VIEW_DTYPE``. sizes: (N, 2) original width and height of all images.

    Fractions that ``views_from_columns`` would not give, and levels that share a magnitude, are lost.

    Raises:
        EntryError: a view that the archive's transforms can't make.
    """
    rows.refuse(views["flags"] & ~np.uint8(FLIP) != _FLAGS[form.crop], "is not cropped as the first view is")
    sides = sizes[rows.image].astype(np.int64)
    columns: dict[str, Column] = {"resize": [form.short] * len(views)} if form.short else {}
    if form.crop == RESIZED_CROP:
        rows.refuse(views["pad"] != 0, "has a border, which the first view has not")
        left, top, width, height = _whole_boxes(views, rows, sides).T.tolist()
        columns["random_resized_crop"] = list(zip(top, left, height, width, strict=True))
    elif form.crop == PADDED_CROP:
        columns["random_crop"] = _windows(views, rows, form, sides)
    else:
        short = views["crop_w"] != to_fraction(form.resolution, form.short)
        rows.refuse(short | (views["crop_h"] != views["crop_w"]), "is not resized as the first view is")
        if form.crop == PLACED_CROP:
            columns["random_crop"] = _places(views, rows, form, sides)
    columns["random_horizontal_flip"] = (views["flags"] & FLIP != 0).tolist()
    columns["rand_augment"] = _ops(views, rows, form)
    rows.refuse(reaches_beyond(views, "erase"), "its erased box reaches beyond the output")
    erased = zip(pixel_boxes(views, "erase", form.resolution), views["erase_h"].tolist(), strict=True)
    columns["random_erase"] = [box if height else None for box, height in erased]
    return columns


def reaches_beyond(records: np.ndarray, prefix: str) -> np.ndarray:
    """Mask of records whose erased or pasted box can't be replayed, see ``augment.check``."""
    x, y, w, h = (records[f"{prefix}_{name}"].astype(np.int64) for name in "xywh")
    return (h != 0) & ((x + w > FRACTION + 1) | (y + h > FRACTION + 1))


def pixel_boxes(records: np.ndarray, prefix: str, resolution: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) in output pixels of erased or pasted boxes, as the replay has them."""
    sides = []
    for axis, extent in (("y", "h"), ("x", "w")):
        begin = pixels(records[f"{prefix}_{axis}"], resolution)
        end = np.minimum(begin + pixels(records[f"{prefix}_{extent}"], resolution), resolution)
        sides.append((begin.tolist(), (end - begin).tolist()))
    (top, height), (left, width) = sides
    return list(zip(top, left, height, width, strict=True))


def pixels(fractions: np.ndarray, length: np.ndarray | int) -> np.ndarray:
    """``geometry.whole_pixels`` of an array: fractions of ``length`` pixels, rounded half up."""
    return (2 * fractions.astype(np.int64) * length + FRACTION) // (2 * FRACTION)


def _whole_boxes(views: np.ndarray, rows: Rows, canvas: np.ndarray) -> np.ndarray:
    """Crop boxes (R, 4) int64 left, top, width, height on a canvas (R, 2); each must be whole pixels."""
    ends = []
    for number, (axis, extent) in enumerate((("crop_x", "crop_w"), ("crop_y", "crop_h"))):
        length = canvas[:, number]
        begin, size = pixels(views[axis], length), pixels(views[extent], length)
        again = box_to_fractions(begin, size, length)
        other = (again[0] != views[axis]) | (again[1] != views[extent]) | (size < 1) | (begin + size > length)
        rows.refuse(other, "its crop is not made of whole pixels of the original image, as the format wants it")
        ends.append((begin, size))
    (left, width), (top, height) = ends
    return np.stack([left, top, width, height], axis=1)


def _windows(views: np.ndarray, rows: Rows, form: Format, sides: np.ndarray) -> Column:
    borders = pixels(views["pad"][:, None], sides)
    rows.refuse((borders != form.padding).any(axis=1), f"has a border other than {form.padding} pixels of its image")
    boxes = _whole_boxes(views, rows, sides + 2 * form.padding)
    side = form.resolution
    rows.refuse((boxes[:, 2:] != side).any(axis=1), f"is a padded crop that is not {side}×{side} pixels of its image")
    return list(zip(boxes[:, 1].tolist(), boxes[:, 0].tolist(), strict=True))


def _places(views: np.ndarray, rows: Rows, form: Format, sides: np.ndarray) -> Column:
    border = pixels(views["pad"], form.resolution)
    rows.refuse(border != form.padding, f"has a border other than {form.padding} pixels of the output")
    free = margin(sides, form)
    left, top = pixels(views["crop_x"], free[:, 0]), pixels(views["crop_y"], free[:, 1])
    return list(zip(top.tolist(), left.tolist(), strict=True))


def _ops(views: np.ndarray, rows: Rows, form: Format) -> Column:
    """None where both operations are Identity at level 0, else both with their magnitudes."""
    bins = form.policy.bins
    rows.refuse(views["bins"] != bins, f"does not count in the policy's {bins} magnitude bins")
    table = magnitudes(bins, form.resolution)
    pairs = []
    for number in range(2):
        ops, levels = views[f"op{number}"].astype(np.int64), views[f"level{number}"].astype(np.int64)
        rows.refuse((ops >= len(OPS)) | (np.abs(levels) >= bins), "has an operation or a level that there is not")
        size = table[ops, np.abs(levels)]
        size = np.where((levels < 0) & is_signed(ops), -size, size)
        pairs.append(zip(ops.tolist(), size.tolist(), strict=True))
    idle = (views["op0"] == 0) & (views["op1"] == 0)
    return [None if nothing else [one, two] for one, two, nothing in zip(*pairs, idle.tolist(), strict=True)]
