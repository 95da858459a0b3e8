"""Entries of an archive and what a reinforced beton stores of them, in both directions, many samples at a time.

Shapes: n images, K samples (views) an image, R = n·K rows, T teacher entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffdr.augment.view import FRACTION, MIXED_DTYPE, OP_NUMBER, box_to_fractions, to_fraction
from ffdr.beton.header import UNUSED
from ffdr.beton.rounding import to_float16
from ffdr.mldr.columns import beyond, spans, to_columns
from ffdr.mldr.container import EntryError
from ffdr.mldr.format import MIXING, Format
from ffdr.mldr.records import to_records
from ffdr.mldr.rows import Column, Rows, without_none
from ffdr.mldr.source import name_of
from ffdr.util.text import brief

Entry = tuple[int, list[dict[str, Any]]]
"""Index and samples, as pickled."""
MOST = 1.001
"""The largest sum of a view's probabilities: 1, and what rounding may add."""


@dataclass(frozen=True)
class Rules:
    """What every entry must satisfy."""

    form: Format
    views: int
    """K"""
    topk: int
    """T"""
    num_classes: int
    sizes: np.ndarray
    """(N, 2) int32 original width and height of each image"""


@dataclass(frozen=True)
class Stored:
    """What a reinforced beton stores of n images."""

    index: np.ndarray
    """(n,) int64"""
    views: np.ndarray
    """(n, K) ``MIXED_DTYPE`` if the archive mixes, else ``VIEW_DTYPE``"""
    ids: np.ndarray
    """(n, K, T) uint16"""
    log_probs: np.ndarray
    """(n, K, T) float16"""


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
        if type(sample) is not dict or "params" not in sample or not _is_pair(sample.get("prob"), (list, tuple)):
            raise EntryError(f"{name}: sample {number}: has no params, or no prob of probabilities and ids")
    return entry


def from_entries(entries: list[Entry], rules: Rules) -> Stored:
    """Records and logits of n entries that passed ``check_entry``.

    Raises:
        EntryError: a value that is impossible, or that a record can't hold: file, sample and value in one line.
    """
    index = np.array([number for number, _ in entries], np.int64)
    shape = (len(entries), rules.views)
    rows = _rows(np.repeat(index, rules.views), np.tile(np.arange(rules.views), len(entries)))
    samples = [sample for _, samples in entries for sample in samples]
    ids, log_probs = _logits([sample["prob"] for sample in samples], rows, rules)
    params = [_as_list(sample["params"], rules.form, rows, row) for row, sample in enumerate(samples)]
    views = _views(params, rows, rules)
    exact = [row for row, sample in enumerate(samples) if "record" in sample]
    if exact:
        _restore(views, exact, samples, params, rows, rules)
    return Stored(index, views.reshape(shape), ids.reshape(*shape, -1), log_probs.reshape(*shape, -1))


def to_entries(stored: Stored, rules: Rules) -> list[Entry]:
    """The reverse of ``from_entries``. A sample that its params alone would not bring back bit for bit also holds its
    record.

    Raises:
        EntryError: a view or probabilities that the format can't hold.
    """
    count, shape = len(stored.index), stored.views.shape
    views, rows = stored.views.ravel(), _rows(np.repeat(stored.index, shape[1]), np.tile(np.arange(shape[1]), count))
    params = _params(views, rows, rules)
    ids, probs = _distinct_ids(stored).tolist(), np.exp(stored.log_probs.astype(np.float64))
    probs = np.where(stored.log_probs > UNUSED, probs, 0.0).tolist()
    entries: list[Entry] = [
        (
            int(stored.index[i]),
            [{"params": params[i * shape[1] + k], "prob": (probs[i][k], ids[i][k])} for k in range(shape[1])],
        )
        for i in range(count)
    ]
    again = from_entries(entries, rules)
    lost = (again.ids != stored.ids) | (again.log_probs != stored.log_probs)
    rows.refuse(lost.any(axis=2).ravel(), "its probabilities sum to more than 1, or one is too small for a float64")
    for row in np.flatnonzero(again.views.ravel() != views).tolist():
        entries[row // shape[1]][1][row % shape[1]]["record"] = views[row].tobytes()
    return entries


def _rows(index: np.ndarray, sample: np.ndarray) -> Rows:
    return Rows(index, sample, index)


def _is_pair(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is a list or tuple of two values of these kinds."""
    return type(value) in (list, tuple) and len(value) == 2 and all(type(part) in kinds for part in value)


def _logits(probs: list[tuple[list, list]], rows: Rows, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Ids (R, T) uint16 and log-probabilities (R, T) float16, best first; ties stay in their order."""
    topk = rules.topk
    probs_RT = rows.numbers([prob for prob, _ in probs], topk, f"its probabilities are not {topk} numbers")
    ids_RT = rows.tuples([ids for _, ids in probs], topk, f"its class ids are not {topk} whole numbers")
    rows.refuse(
        ((ids_RT < 0) | (ids_RT >= rules.num_classes)).any(axis=1),
        lambda row: f"class ids {brief(ids_RT[row].tolist())} are not all below {rules.num_classes}",
    )
    ordered = np.sort(ids_RT, axis=1)
    rows.refuse(
        (ordered[:, 1:] == ordered[:, :-1]).any(axis=1),
        lambda row: f"class ids {brief(ids_RT[row].tolist())} repeat a class",
    )
    rows.refuse(
        ~((probs_RT >= 0).all(axis=1) & (probs_RT.sum(axis=1) <= MOST)),
        lambda row: f"probabilities {brief(probs_RT[row].tolist())} are not from 0 to 1, or their sum is not",
    )
    order = np.argsort(-probs_RT, axis=1, kind="stable")
    with np.errstate(divide="ignore"):
        logs = to_float16(np.log(np.take_along_axis(probs_RT, order, axis=1)))
    ids = np.take_along_axis(ids_RT, order, axis=1).astype(np.uint16)
    ids[logs <= UNUSED] = 0
    return ids, logs


def _distinct_ids(stored: Stored) -> np.ndarray:
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
    halves = [params.get(name) or (None, None) for name in form.stored]
    if not all(type(half) in (list, tuple) and len(half) >= count for half in halves):
        rows.refuse_row(row, "its params hold neither (image's,) nor (image's, partner's) of each transform")
    if "rand_augment" in form.stored:
        at = form.stored.index("rand_augment")
        halves[at] = [_numbered(ops) for ops in halves[at]]
    stored = [half[0] if partner is None else list(half[:2]) for half in halves]
    return [*([partner] if form.mixes else []), *stored, *mixings]


def _flat(mixing: Any) -> Any:
    """(share, (x1, y1, x2, y2)) as the list form has it; anything else as it is."""
    return [mixing[0], *mixing[1]] if _is_pair(mixing, (float, list, tuple)) and type(mixing[1]) is tuple else mixing


def _numbered(ops: Any) -> Any:
    """Operations by number, which the dictionary form has by name; anything else as it is."""
    if type(ops) is not list:
        return ops
    return [(OP_NUMBER.get(op[0], op[0]), op[1]) if _is_pair(op, (str, int, float)) else op for op in ops]


def _views(params: list[list], rows: Rows, rules: Rules) -> np.ndarray:
    """Records (R,)."""
    form, sizes = rules.form, rules.sizes
    columns = list(zip(*params, strict=True))
    if not form.mixes:
        return to_records(dict(zip(form.stored, columns, strict=True)), rows, form, sizes)
    partners, stored, mixings = columns[0], columns[1 : 1 + len(form.stored)], columns[1 + len(form.stored) :]
    paired = [partner is not None for partner in partners]
    second = np.flatnonzero(paired)
    there = rows.take(second, rows.image[second])
    image = there.single([partners[row] for row in second], (int,), "its partner is not an index")
    there.refuse((image < 0) | (image >= len(sizes)), lambda row: f"its partner {image[row]} is not an image")
    halves = rows.then(there.take(np.arange(len(second)), image))
    views = to_records(_split(dict(zip(form.stored, stored, strict=True)), paired, rows), halves, form, sizes)
    records = np.zeros(len(rows), MIXED_DTYPE)
    records["first"] = views[: len(rows)]
    used = [name for name in MIXING if name in form.transforms]
    mixed = _set_mix(records["mix"], dict(zip(used, mixings, strict=True)), rows, form.resolution)
    rows.refuse(mixed & ~np.array(paired), "is mixed, but names no partner")
    kept = _takes_part(records["mix"])[second]
    records["mix"]["partner"] = rows.image
    records["mix"]["partner"][second[kept]] = image[kept]
    records["second"][second[kept]] = views[len(rows) :][kept]
    return records


def _split(columns: dict[str, Column], paired: list[bool], rows: Rows) -> dict[str, Column]:
    """Columns of all rows' own values, then of the partners'; where there is a partner, values come as pairs."""
    split: dict[str, Column] = {}
    for name, column in columns.items():
        unpaired = [
            pair and not (type(value) in (list, tuple) and len(value) == 2)
            for pair, value in zip(paired, column, strict=True)
        ]
        rows.refuse(unpaired, f"has a partner, but {name} is not a pair")
        first = [value[0] if pair else value for pair, value in zip(paired, column, strict=True)]
        split[name] = first + [value[1] for pair, value in zip(paired, column, strict=True) if pair]
    return split


def _set_mix(mixes: np.ndarray, columns: dict[str, Column], rows: Rows, resolution: int) -> np.ndarray:
    """Weights and pasted boxes into ``MIX_DTYPE`` (R,). Returns the mask of rows that were mixed."""
    nothing = [None] * len(rows)
    has_weight, weights = without_none(columns.get("mixup", nothing), 1.0)
    weights = rows.single(weights, (float, int), "its mixup is not a number")
    rows.refuse(~((weights >= 0) & (weights <= 1)), lambda row: f"mixup {weights[row]} is not from 0 to 1")
    mixes["mixup"] = to_fraction(weights, 1)
    has_box, cuts = without_none(columns.get("cutmix", nothing), [1.0, 0, 0, 0, 0])
    rows.refuse([type(cut) is not list for cut in cuts], "its cutmix is not a share and a box")
    boxes = rows.tuples([cut[1:] for cut in cuts], 4, "its cutmix has not four whole numbers")
    top, left, bottom, right = boxes.T
    outside = (boxes < 0).any(axis=1) | (boxes > resolution).any(axis=1) | (bottom < top) | (right < left)
    rows.refuse(outside, lambda row: f"cutmix box {boxes[row].tolist()} is not inside {resolution} pixels")
    boxes[(bottom == top) | (right == left)] = 0
    mixes["cut_x"], mixes["cut_w"] = box_to_fractions(left, right - left, resolution)
    mixes["cut_y"], mixes["cut_h"] = box_to_fractions(top, bottom - top, resolution)
    return has_weight | has_box


def _params(views: np.ndarray, rows: Rows, rules: Rules) -> list[list]:
    """P, in the list form, of records (R,)."""
    form = rules.form
    if not form.mixes:
        return [list(row) for row in zip(*to_columns(views, rows, form, rules.sizes).values(), strict=True)]
    mix = views["mix"]
    rows.refuse(beyond(mix, "cut"), "its pasted box reaches beyond the output")
    second = np.flatnonzero(_takes_part(mix))
    partners = mix["partner"].astype(np.int64)
    first_columns = to_columns(views["first"], rows, form, rules.sizes)
    second_columns = to_columns(views["second"][second], rows.take(second, partners[second]), form, rules.sizes)
    params: list[list] = [[None, *row] for row in zip(*first_columns.values(), strict=True)]
    for row, values in zip(second.tolist(), zip(*second_columns.values(), strict=True), strict=True):
        params[row] = [int(partners[row]), *map(list, zip(params[row][1:], values, strict=True))]
    weights = mix["mixup"] / FRACTION
    for row, (top, left, height, width) in enumerate(spans(mix, "cut", form.resolution)):
        share = 1.0 - height * width / form.resolution**2
        box = [share, top, left, top + height, left + width]
        weight = float(weights[row]) if mix["mixup"][row] != FRACTION else None
        params[row] += [weight, box if mix["cut_h"][row] else None]
    return params


def _takes_part(mixes: np.ndarray) -> np.ndarray:
    """Whether anything is taken from the partner."""
    return (mixes["mixup"] != FRACTION) | (mixes["cut_h"] != 0)


def _restore(
    views: np.ndarray, exact: list[int], samples: list[dict[str, Any]], params: list[list], rows: Rows, rules: Rules
) -> None:
    """Put the records that samples hold in place of those made from their params, which must say the same."""
    here = rows.take(np.array(exact), rows.image[exact])
    records = [samples[row]["record"] for row in exact]
    size = views.dtype.itemsize
    misfit = [type(record) is not bytes or len(record) != size for record in records]
    here.refuse(misfit, f"its record is not {size} bytes")
    restored = np.frombuffer(b"".join(records), views.dtype)
    if rules.form.mixes:
        here.refuse(restored["mix"]["partner"] >= len(rules.sizes), "its record's partner is not an image")
    again = _params(restored, here, rules)
    differs = [found != params[row] for found, row in zip(again, exact, strict=True)]
    here.refuse(differs, "its record says something else than its params")
    views[exact] = restored
