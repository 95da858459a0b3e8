"""Facts about the images and the views of a beton, as plain JSON data.

N images, K views per image, T stored teacher entries per view (top-k), C classes; n images are read at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ffdr.augment.view import CENTER, EFFECTS, FLIP, FRACTION, OPS, VERTICAL_FLIP, share_of_first
from ffdr.beton.header import UNUSED
from ffdr.beton.layout import DCT, JPG, RAW
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.beton.records import EFFECT_UNITS, first_effects, first_views
from ffdr.beton.tables import BetonTables
from ffdr.codec.dct.coding import Coding
from ffdr.codec.dct.format import INLINE, RECORD_DTYPE, SAMPLING_NAMES
from ffdr.util.text import brief

SAMPLED = 20_000
"""Images at most whose views, or whose coefficients' records, are read."""
_SAMPLED_VIEWS = 1 << 23
"""Views at most that are read; bounds the memory."""
_CHUNK_VIEWS = 1 << 15
_MODES = {JPG: "jpg", RAW: "raw", DCT: "dct"}
_MANIFEST = ("source", "split", "mean", "std", "coefficients", "options", "versions")
"""What nothing but the manifest says."""

_SHARES = ("flip", "erase", "mix", "mixup", "cutmix")


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, extremes and quantiles of any numbers but none."""
    low, p5, p25, median, p75, p95, high = np.quantile(values, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)).tolist()
    mean = float(np.mean(values, dtype=np.float64))
    return {"mean": mean, "min": low, "p5": p5, "p25": p25, "median": median, "p75": p75, "p95": p95, "max": high}


def file_facts(tables: BetonTables) -> dict[str, Any]:
    """Header facts of any beton."""
    return {
        "bytes": len(tables.memmap),
        "page_size": tables.page_size,
        "samples": tables.num_samples,
        "fields": {spec.name: spec.type_id for spec in tables.specs},
        "checksums": tables.checksums is not None,
    }


def image_facts(images: ImageBeton) -> dict[str, Any]:
    """Sizes, modes, classes and manifest of an image beton."""
    counts = np.bincount(images.labels, minlength=images.num_classes)
    modes, frequencies = np.unique(images.modes, return_counts=True)
    manifest = images.manifest
    return {
        "count": images.num_images,
        "fingerprint": images.fingerprint,
        "bytes": int(images.data_size.sum()),
        "bytes_an_image": spread(images.data_size.astype(np.float64)),
        "modes": {_MODES.get(mode, str(mode)): n for mode, n in zip(modes.tolist(), frequencies.tolist(), strict=True)},
        "packed": None if images.coding is None else coefficient_facts(images, images.coding),
        "width": spread(images.sizes[:, 0]),
        "height": spread(images.sizes[:, 1]),
        "original_width": spread(images.original_sizes[:, 0]) if images.has_origins else None,
        "original_height": spread(images.original_sizes[:, 1]) if images.has_origins else None,
        "classes": images.num_classes,
        "images_a_class": spread(counts),
        "classes_without_images": [images.class_names[i] for i in np.flatnonzero(counts == 0)],
        "histogram": counts.tolist(),
        "manifest": None if manifest is None else manifest_facts(manifest),
    }


def coefficient_facts(images: ImageBeton, coding: Coding) -> dict[str, Any]:
    """The coding, and what the records of coefficient images say; of many images, evenly spaced ones are read."""
    found = np.flatnonzero(images.modes == DCT)
    sampled = min(len(found), SAMPLED)
    samplings, inline = Counter[str](), 0
    for i in found[np.arange(sampled) * len(found) // max(1, sampled)].tolist():
        record = images.data(i)[: RECORD_DTYPE.itemsize].view(RECORD_DTYPE)[0]
        known = record["sampling"] < len(SAMPLING_NAMES)
        samplings[SAMPLING_NAMES[record["sampling"]] if known else "unknown"] += 1
        inline += int(record["quant"] == INLINE)
    return {
        "count": len(found),
        "bytes": int(images.data_size[found].sum()),
        "coding_bytes": len(coding.pack()),
        "quantisation_sets": len(coding.quant),
        "sampled_images": sampled,
        "samplings": dict(samplings),
        "own_quantisation": inline,
    }


def manifest_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """What only the manifest says."""
    skipped = manifest.get("skipped")
    facts = {key: _shallow(manifest[key]) for key in _MANIFEST if key in manifest}
    return {**facts, "skipped": len(skipped) if isinstance(skipped, list) else 0}


def _shallow(value: Any, levels: int = 6) -> Any:
    """The same, with what nests deeper in brief."""
    if levels and isinstance(value, dict):
        return {key: _shallow(part, levels - 1) for key, part in value.items()}
    if levels and isinstance(value, list):
        return [_shallow(part, levels - 1) for part in value]
    return brief(value) if isinstance(value, dict | list) else value


def reinforced_facts(reinforced: ReinforcedBeton, images: ImageBeton | None) -> dict[str, Any]:
    """Header of a reinforced beton, and statistics of its views and of the teacher's outputs.

    Of many views only those of evenly spaced images are read; ``sampled_images`` says of how many.
    """
    header = reinforced.header
    sampled = max(1, min(header.num_images, SAMPLED, _SAMPLED_VIEWS // header.views))
    spaced = np.arange(sampled) * header.num_images // sampled
    step = max(1, _CHUNK_VIEWS // header.views)
    tally = _Tally(header.mixes, header.effects)
    for index in (spaced[at : at + step] for at in range(0, sampled, step)):
        views = np.stack([reinforced.views(i) for i in index.tolist()])
        ids, log_probs = (np.stack(parts) for parts in zip(*map(reinforced.logits, index.tolist()), strict=True))
        tally.damaged += sum(not reinforced.is_intact(i) for i in index.tolist())
        tally.count_views(views)
        tally.count_teacher(log_probs, header.num_classes)
        if images is not None:
            tally.count_agreement(index, views, ids, images.labels)
    return {
        "count": header.num_images,
        "fingerprint": header.fingerprint,
        "views": header.views,
        "topk": header.topk,
        "classes": header.num_classes,
        "teachers": list(header.teachers),
        "resolution": header.resolution,
        "seed": header.seed,
        "policy": header.policy,
        "bytes_a_view": (header.view_bytes + header.logit_bytes) / header.views,
        "sampled_images": sampled,
        "view_statistics": tally.view_facts(),
        "teacher_statistics": tally.teacher_facts(),
    }


def entropy_and_residual(log_probs: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Of teacher entries (…, T): entropy in nats of the distribution that they stand for, the probability that they
    leave out spread over all other classes, and that probability; (…) float64 each."""
    used = log_probs > UNUSED
    logs = np.where(used, log_probs, 0).astype(np.float64)
    probs = np.where(used, np.exp(logs), 0)
    total = probs.sum(axis=-1)
    residual = np.maximum(1 - total, 0)
    left = num_classes - used.sum(axis=-1)
    scale = np.where((left == 0) | (total > 1), total, 1)  # nobody to give the rest to, or rounding: see targets.py
    residual = np.where(left == 0, 0, residual)
    entropy = (np.log(scale) * total - (probs * logs).sum(axis=-1)) / scale
    rest = np.where(residual > 0, residual, 1)
    return entropy - np.where(residual > 0, residual * np.log(rest / np.maximum(left, 1)), 0), residual


def expected_classes(index: np.ndarray, views: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The label of each view (n, K) of the images ``index`` (n,); of two mixed images, of the one that shows more."""
    wanted = np.repeat(labels[index][:, None], views.shape[1], axis=1)
    mix = views["mix"] if "mix" in (views.dtype.names or ()) else None
    return wanted if mix is None else np.where(share_of_first(mix) >= 0.5, wanted, labels[mix["partner"]])


@dataclass
class _Tally:
    """Counts over all views that were read."""

    mixes: bool
    effects: bool | None
    """as in the header"""
    views: int = 0
    damaged: int = 0
    """samples whose checksum is wrong"""
    crop_area: float = 0.0
    """summed over the cropped views, as shares of their images"""
    counts: Counter[str] = field(default_factory=Counter)
    """views that are or have something, by what it is"""
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    """smallest and largest value of each effect that occurs"""
    agreeing: int = 0
    compared: int = 0
    entropies: list[np.ndarray] = field(default_factory=list)
    residuals: list[np.ndarray] = field(default_factory=list)

    def count_views(self, views: np.ndarray) -> None:
        """Count records (n, K)."""
        first = first_views(views)
        cropped = (first["flags"] & CENTER) == 0
        masks = {"crop": cropped, "flip": (first["flags"] & FLIP) != 0, "erase": first["erase_h"] != 0}
        masks |= {name: (first["op0"] == op) | (first["op1"] == op) for op, name in enumerate(OPS)}
        if self.mixes:
            mixup, cutmix = views["mix"]["mixup"] != FRACTION, views["mix"]["cut_h"] != 0
            masks |= {"mixup": mixup, "cutmix": cutmix, "mix": mixup | cutmix}
        if self.effects is not None:
            masks["vertical_flip"] = (first["flags"] & VERTICAL_FLIP) != 0
        self.counts.update({name: int(mask.sum()) for name, mask in masks.items()})
        if self.effects:
            self._count_effects(first_effects(views))
        self.views += views.size
        areas = first["crop_w"].astype(np.float64) * first["crop_h"] / FRACTION**2
        self.crop_area += float(areas[cropped].sum())
        size = views.dtype.itemsize
        for raw in (image.tobytes() for image in views):
            different = {raw[at : at + size] for at in range(0, len(raw), size)}
            self.counts["duplicate"] += views.shape[1] - len(different)

    def _count_effects(self, effects: np.ndarray) -> None:
        """Count effects (n, K, 8); what a view has twice counts once."""
        for number, name in enumerate(EFFECTS):
            found = effects["kind"] == number
            values = effects["value"][found]
            if number and values.size:
                low, high = self.ranges.get(name, (int(values[0]), int(values[0])))
                self.ranges[name] = min(low, int(values.min())), max(high, int(values.max()))
                self.counts[f"effect {name}"] += int(found.any(axis=-1).sum())

    def count_teacher(self, log_probs: np.ndarray, num_classes: int) -> None:
        """Entropy and residual mass of teacher entries (n, K, T)."""
        entropy, residual = entropy_and_residual(log_probs, num_classes)
        self.entropies.append(entropy.astype(np.float32).ravel())
        self.residuals.append(residual.astype(np.float32).ravel())

    def count_agreement(self, index: np.ndarray, views: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> None:
        """Compare the teacher's best class (n, K) with the label."""
        wanted = expected_classes(index, views, labels)
        self.agreeing += int((ids[..., 0] == wanted).sum())
        self.compared += wanted.size

    def view_facts(self) -> dict[str, Any]:
        """Shares of all views, and counts."""
        shares = {name: self.counts[name] / self.views for name in (*OPS, *_SHARES, "duplicate")}
        return {
            "views": self.views,
            "crop_area_mean": self.crop_area / self.counts["crop"] if self.counts["crop"] else None,
            **{f"{name}_share": shares[name] for name in _SHARES},
            "op_share": {name: shares[name] for name in OPS[1:]},
            **({} if self.effects is None else self._effect_facts()),
            "duplicates": self.counts["duplicate"],
            "duplicate_share": shares["duplicate"],
            "damaged_samples": self.damaged,
        }

    def _effect_facts(self) -> dict[str, Any]:
        """What views of layout version 2 may have; only of such files, so that reports on others stay as they were.

        Values: factors; turns of the colour circle; pixels of a view of 224; grey levels.
        """
        effects: dict[str, dict[str, float]] = {}
        for name in EFFECTS[1:]:
            effects[name] = {"share": self.counts[f"effect {name}"] / self.views}
            if name in self.ranges and name in EFFECT_UNITS:
                low, high = self.ranges[name]
                effects[name] |= {"min": low / EFFECT_UNITS[name], "max": high / EFFECT_UNITS[name]}
        return {
            "vertical_flip_share": self.counts["vertical_flip"] / self.views,
            "effects": effects if self.effects else {},
        }

    def teacher_facts(self) -> dict[str, Any]:
        """Entropy in nats of the distribution that the entries stand for, mass that they leave out, agreement."""
        return {
            "entropy": spread(np.concatenate(self.entropies)),
            "residual": spread(np.concatenate(self.residuals)),
            "top1_agreement": self.agreeing / self.compared if self.compared else None,
        }
