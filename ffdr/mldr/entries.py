"""Entries of an archive ↔ what a reinforced beton stores of them, many at a time.

On import, n entries become R = n·K rows, one per sample. Where an archive mixes images, the partners of those samples
that have one follow as further rows, so that ``views_from_columns`` sees single images only::

    entries ──► rows of (params, prob) ──► columns by transform ──► view records ──► StoredEntries
                                             R rows, then partners    R firsts, then seconds

On export the same the other way round. Params say less than a record: boxes count in pixels there and in fractions
here, and several levels of Posterize have one magnitude. So what is exported is imported again at once, and a sample
that does not come back bit for bit also holds its record, under a key of its own.

Shapes: n images, K samples (views) per image, R rows, T teacher entries per view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffdr.archive.stored import StoredEntries, are_probabilities, best_first
from ffdr.archive.torch_zip import EntryError
from ffdr.augment.view import FRACTION, MIXED_DTYPE, OP_NUMBER, VIEW_DTYPE, box_to_fractions, to_fraction
from ffdr.beton.header import UNUSED
from ffdr.mldr.archive import name_of
from ffdr.mldr.export_views import columns_from_views, pixel_boxes, reaches_beyond
from ffdr.mldr.format import MIXING, Format
from ffdr.mldr.import_views import views_from_columns
from ffdr.mldr.rows import Column, Rows, is_tuple_of, without_none
from ffdr.util.text import brief

Entry = tuple[int, list[dict[str, Any]]]
"""Index and samples, as pickled."""


@dataclass(frozen=True)
class Schema:
    """What every entry must satisfy."""

    form: Format
    views: int
    """K"""
    topk: int
    """T"""
    num_classes: int
    sizes: np.ndarray
    """(N, 2) int32 original width and height of each image"""


def check_entry(entry: Any, index: int, views: int | None = None) -> Entry:
    """An unpickled entry, if it has the form of one, is that of image ``index``, and has ``views`` samples.

    Raises:
        EntryError: it is not, in one line.
    """
    name = name_of(index)
    if type(entry) is not tuple or len(entry) != 2 or type(entry[1]) is not list or not entry[1]:
        raise EntryError(f"{name}: not an index and a list of samples")
    if type(entry[0]) is not int or entry[0] != index:
        raise EntryError(f"{name}: is the entry of image {brief(entry[0], 60)}")
    if views is not None and len(entry[1]) != views:
        raise EntryError(f"{name}: has {len(entry[1])} samples, but the first entry read has {views}")
    for number, sample in enumerate(entry[1]):
        good = type(sample) is dict and "params" in sample and is_tuple_of((list, tuple), sample.get("prob"))
        if not good:
            raise EntryError(f"{name}: sample {number}: has no params, or no prob of probabilities and ids")
    return entry


def from_entries(entries: list[Entry], schema: Schema) -> StoredEntries:
    """Records and logits of n entries that passed ``check_entry``.

    Raises:
        EntryError: a value that is impossible, or that a record can't hold: file, sample and value in one line.
    """
    index = np.array([number for number, _ in entries], np.int64)
    shape = (len(entries), schema.views)
    rows = Rows.of_files(index, schema.views)
    samples = [sample for _, samples in entries for sample in samples]
    ids, log_probs = _logits([sample["prob"] for sample in samples], rows, schema)
    params = [_as_list(sample["params"], schema.form, rows, row) for row, sample in enumerate(samples)]
    views = _views_from_params(params, rows, schema)
    exact = [row for row, sample in enumerate(samples) if "record" in sample]
    if exact:
        here = rows.select(np.array(exact), rows.image[exact])
        records = [samples[row]["record"] for row in exact]
        views[exact] = _restored(records, [params[row] for row in exact], here, schema)
    return StoredEntries(index, views.reshape(shape), ids.reshape(*shape, -1), log_probs.reshape(*shape, -1))


def to_entries(stored: StoredEntries, schema: Schema) -> list[Entry]:
    """The reverse of ``from_entries``. A sample that its params alone would not bring back bit for bit also holds its
    record.

    Raises:
        EntryError: a view or probabilities that the format can't hold.
    """
    K, views = schema.views, stored.views.ravel()
    rows = Rows.of_files(stored.index, K)
    params = _params_from_views(views, rows, schema)
    ids = _distinct_ids(stored).reshape(len(rows), -1).tolist()
    exact = np.exp(stored.log_probs.astype(np.float64))
    probs = np.where(stored.log_probs > UNUSED, exact, 0.0).reshape(len(rows), -1).tolist()
    samples = [{"params": p, "prob": prob} for p, prob in zip(params, zip(probs, ids, strict=True), strict=True)]
    entries = [(image, samples[n * K : (n + 1) * K]) for n, image in enumerate(stored.index.tolist())]
    again = from_entries(entries, schema)
    lost = (again.ids != stored.ids) | (again.log_probs != stored.log_probs)
    rows.refuse(lost.any(axis=2).ravel(), "its probabilities sum to more than 1, or one is too small for a float64")
    for row in np.flatnonzero(again.views.ravel() != views).tolist():
        samples[row]["record"] = views[row].tobytes()
    return entries


def _logits(probs: list[tuple[list, list]], rows: Rows, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Ids (R, T) uint16 and log-probabilities (R, T) float16, best first; ties stay in their order."""
    topk = schema.topk
    probs_RT = rows.numbers([prob for prob, _ in probs], topk, f"its probabilities are not {topk} numbers")
    ids_RT = rows.integers([ids for _, ids in probs], topk, f"its class ids are not {topk} whole numbers")
    rows.refuse(
        ((ids_RT < 0) | (ids_RT >= schema.num_classes)).any(axis=1),
        lambda row: f"class ids {brief(ids_RT[row].tolist())} are not all below {schema.num_classes}",
    )
    ordered = np.sort(ids_RT, axis=1)
    rows.refuse(
        (ordered[:, 1:] == ordered[:, :-1]).any(axis=1),
        lambda row: f"class ids {brief(ids_RT[row].tolist())} repeat a class",
    )
    rows.refuse(
        ~are_probabilities(probs_RT),
        lambda row: f"probabilities {brief(probs_RT[row].tolist())} are not from 0 to 1, or their sum is not",
    )
    return best_first(probs_RT, ids_RT)


def _distinct_ids(stored: StoredEntries) -> np.ndarray:
    """Class ids (n, K, T), with a class that the view does not name, rather than 0, where an entry is not used."""
    ids = stored.ids.astype(np.int64)
    for i, k in np.argwhere((stored.log_probs <= UNUSED).any(axis=2)).tolist():
        unused = stored.log_probs[i, k] <= UNUSED
        free = np.setdiff1d(np.arange(ids.shape[2] + 1), ids[i, k, ~unused])
        ids[i, k, unused] = free[: unused.sum()]
    return ids


def _as_list(params: Any, form: Format, rows: Rows, row: int) -> list:
    """The list form of P, see ``format.py``; its parts are not yet looked at."""
    if type(params) is list and len(params) == form.length:
        return params
    if type(params) is not dict:
        rows.refuse_row(row, f"its params are not the {form.length} values that the config's transforms store")
    mixings = [_flat(params.get(name)) for name in MIXING if name in form.transforms]
    partner = params.get("id2") if any(mixing is not None for mixing in mixings) else None
    count = 1 if partner is None else 2
    pairs = [params.get(name) or (None, None) for name in form.stored]
    if not all(type(pair) in (list, tuple) and len(pair) >= count for pair in pairs):
        rows.refuse_row(row, "its params hold neither (image's,) nor (image's, partner's) of each transform")
    if "rand_augment" in form.stored:
        at = form.stored.index("rand_augment")
        pairs[at] = [_numbered(ops) for ops in pairs[at]]
    stored = [pair[0] if partner is None else list(pair[:2]) for pair in pairs]
    return [*([partner] if form.mixes else []), *stored, *mixings]


def _flat(mixing: Any) -> Any:
    """(share, (x1, y1, x2, y2)) as the list form has it; anything else as it is."""
    return [mixing[0], *mixing[1]] if is_tuple_of((float, list, tuple), mixing) and type(mixing[1]) is tuple else mixing


def _numbered(ops: Any) -> Any:
    """Operations by number, which the dictionary form has by name; anything else as it is."""
    if type(ops) is not list:
        return ops
    return [(OP_NUMBER.get(op[0], op[0]), op[1]) if is_tuple_of((str, int, float), op) else op for op in ops]


def _views_from_params(params: list[list], rows: Rows, schema: Schema) -> np.ndarray:
    """Records (R,)."""
    form, sizes = schema.form, schema.sizes
    columns = list(zip(*params, strict=True))
    if not form.mixes:
        return views_from_columns(dict(zip(form.stored, columns, strict=True)), rows, form, sizes)
    partners, stored, mixings = columns[0], columns[1 : 1 + len(form.stored)], columns[1 + len(form.stored) :]
    paired = [partner is not None for partner in partners]
    second = np.flatnonzero(paired)
    there = rows.select(second, rows.image[second])
    image = there.single([partners[row] for row in second], (int,), "its partner is not an index")
    there.refuse((image < 0) | (image >= len(sizes)), lambda row: f"its partner {image[row]} is not an image")
    singles = rows.followed_by(there.select(np.arange(len(second)), image))
    split = _split_pairs(dict(zip(form.stored, stored, strict=True)), paired, rows)
    views = views_from_columns(split, singles, form, sizes)
    records = np.zeros(len(rows), MIXED_DTYPE)
    records["first"] = views[: len(rows)]
    used = [name for name in MIXING if name in form.transforms]
    mixed = _set_mix(records["mix"], dict(zip(used, mixings, strict=True)), rows, form.resolution)
    rows.refuse(mixed & ~np.array(paired), "is mixed, but names no partner")
    # A partner of which nothing is shown, as of a box without pixels, is stored as none: the image itself.
    kept = _shows_partner(records["mix"])[second]
    records["mix"]["partner"] = rows.image
    records["mix"]["partner"][second[kept]] = image[kept]
    records["second"][second[kept]] = views[len(rows) :][kept]
    return records


def _split_pairs(columns: dict[str, Column], paired: list[bool], rows: Rows) -> dict[str, Column]:
    """Columns of all rows' own values, then of the partners'; where there is a partner, values come as pairs."""
    split: dict[str, Column] = {}
    for name, column in columns.items():
        values = list(zip(paired, column, strict=True))
        unpaired = [pair and not (type(value) in (list, tuple) and len(value) == 2) for pair, value in values]
        rows.refuse(unpaired, f"has a partner, but {name} is not a pair")
        firsts = [value[0] if pair else value for pair, value in values]
        split[name] = firsts + [value[1] for pair, value in values if pair]
    return split


def _set_mix(mixes: np.ndarray, columns: dict[str, Column], rows: Rows, resolution: int) -> np.ndarray:
    """Weights and pasted boxes into ``MIX_DTYPE`` (R,). Returns the mask of rows that were mixed."""
    nothing = [None] * len(rows)
    has_weight, column = without_none(columns.get("mixup", nothing), 1.0)
    weights = rows.single(column, (float, int), "its mixup is not a number")
    rows.refuse(~((weights >= 0) & (weights <= 1)), lambda row: f"mixup {weights[row]} is not from 0 to 1")
    mixes["mixup"] = to_fraction(weights, 1)
    has_box, cuts = without_none(columns.get("cutmix", nothing), [1.0, 0, 0, 0, 0])
    rows.refuse([type(cut) is not list for cut in cuts], "its cutmix is not a share and a box")
    boxes = rows.integers([cut[1:] for cut in cuts], 4, "its cutmix has not four whole numbers")
    top, left, bottom, right = boxes.T
    outside = (boxes < 0).any(axis=1) | (boxes > resolution).any(axis=1) | (bottom < top) | (right < left)
    rows.refuse(outside, lambda row: f"cutmix box {boxes[row].tolist()} is not inside {resolution} pixels")
    boxes[(bottom == top) | (right == left)] = 0
    mixes["cut_x"], mixes["cut_w"] = box_to_fractions(left, right - left, resolution)
    mixes["cut_y"], mixes["cut_h"] = box_to_fractions(top, bottom - top, resolution)
    return has_weight | has_box


def _shows_partner(mixes: np.ndarray) -> np.ndarray:
    """Whether anything of the partner is seen."""
    return (mixes["mixup"] != FRACTION) | (mixes["cut_h"] != 0)


def _params_from_views(views: np.ndarray, rows: Rows, schema: Schema) -> list[list]:
    """P, in the list form, of records (R,)."""
    form = schema.form
    if not form.mixes:
        return [list(row) for row in zip(*columns_from_views(views, rows, form, schema.sizes).values(), strict=True)]
    mix = views["mix"]
    rows.refuse(reaches_beyond(mix, "cut"), "its pasted box reaches beyond the output")
    second = np.flatnonzero(_shows_partner(mix))
    partners = mix["partner"].astype(np.int64)
    there = rows.select(second, partners[second])
    firsts = columns_from_views(views["first"], rows, form, schema.sizes)
    seconds = columns_from_views(views["second"][second], there, form, schema.sizes)
    params: list[list] = [[None, *row] for row in zip(*firsts.values(), strict=True)]
    for row, values in zip(second.tolist(), zip(*seconds.values(), strict=True), strict=True):
        params[row] = [int(partners[row]), *map(list, zip(params[row][1:], values, strict=True))]
    weights = mix["mixup"] / FRACTION
    for row, (top, left, height, width) in enumerate(pixel_boxes(mix, "cut", form.resolution)):
        share = 1.0 - height * width / form.resolution**2
        box = [share, top, left, top + height, left + width]
        weight = float(weights[row]) if mix["mixup"][row] != FRACTION else None
        params[row] += [weight, box if mix["cut_h"][row] else None]
    return params


def _restored(records: list[Any], params: list[list], rows: Rows, schema: Schema) -> np.ndarray:
    """Records (R,) that samples hold beside their params; both must say the same."""
    dtype = np.dtype(MIXED_DTYPE if schema.form.mixes else VIEW_DTYPE)
    misfit = [type(record) is not bytes or len(record) != dtype.itemsize for record in records]
    rows.refuse(misfit, f"its record is not {dtype.itemsize} bytes")
    restored = np.frombuffer(b"".join(records), dtype)
    if schema.form.mixes:
        rows.refuse(restored["mix"]["partner"] >= len(schema.sizes), "its record's partner is not an image")
    again = _params_from_views(restored, rows, schema)
    differs = [found != given for found, given in zip(again, params, strict=True)]
    rows.refuse(differs, "its record says something else than its params")
    return restored
