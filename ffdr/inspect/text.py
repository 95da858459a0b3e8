"""The facts of ``statistics.py`` as an aligned table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from ffdr.util.text import MOST_LINE, brief, first_few, printable

_PARTS = 40
"""Of a list or dictionary that are shown."""
Section = list[tuple[str, str]]
"""Names and values."""


def render(facts: Mapping[str, Any]) -> str:
    """All sections of a file's facts, each a list of names and values in two columns."""
    parts = [("", _file(facts["file"]))]
    if facts["images"]:
        parts.append(("images", _images(facts["images"])))
    reinforced = facts["reinforced"]
    if reinforced:
        views, sampled, count = reinforced["view_statistics"], reinforced["sampled_images"], reinforced["count"]
        some = f", those of {sampled:,} evenly spaced images out of {count:,}"
        sample = f"{views['views']:,} views{some}" if sampled < count else f"all {views['views']:,} views"
        parts.append(("views", _header(reinforced)))
        parts.append((f"statistics of {sample}", _views(views)))
        parts.append(("teacher on these views", _teacher(reinforced["teacher_statistics"])))
    shown = [(title, [(printable(name), printable(value, MOST_LINE)) for name, value in rows]) for title, rows in parts]
    width = max(len(name) for _, rows in shown for name, _ in rows)
    lines = [f"{printable(facts['path'], MOST_LINE)}: {facts['kind']}"]
    for title, rows in shown:
        lines += ["", title] if title else []
        lines += [f"  {name:{width}}  {value}".rstrip() for name, value in rows]
    return "\n".join(lines)


def _file(facts: Mapping[str, Any]) -> Section:
    return [
        ("size", f"{facts['bytes']:,} bytes, pages of {facts['page_size']:,}"),
        ("fields", first_few([f"{name} (type {number})" for name, number in facts["fields"].items()], 10)),
        ("checksums", "yes" if facts["checksums"] else "none: not written by ffdr"),
    ]


def _images(facts: Mapping[str, Any]) -> Section:
    empty, manifest = facts["classes_without_images"], facts["manifest"]
    return [
        ("count", f"{facts['count']:,}"),
        ("fingerprint", facts["fingerprint"]),
        ("modes", ", ".join(f"{mode} {count:,}" for mode, count in facts["modes"].items())),
        ("stored", f"{facts['bytes']:,} bytes"),
        ("bytes per image", _spread(facts["bytes_an_image"], "{:,.0f}")),
        *(_coefficients(facts["packed"]) if facts["packed"] else ()),
        ("width", _spread(facts["width"], "{:.0f}")),
        ("height", _spread(facts["height"], "{:.0f}")),
        *[
            (f"original {side}", "not in the file" if spread is None else _spread(spread, "{:.0f}"))
            for side, spread in (("width", facts["original_width"]), ("height", facts["original_height"]))
        ],
        ("classes", f"{facts['classes']:,}"),
        ("images per class", _spread(facts["images_a_class"], "{:,.0f}")),
        ("classes without images", f"{len(empty):,}" + (f": {first_few(empty, 10)}" if empty else "")),
        *([("manifest", "none")] if manifest is None else _entries("manifest", manifest)),
    ]


def _coefficients(facts: Mapping[str, Any]) -> Section:
    some = "" if facts["sampled_images"] == facts["count"] else f" of {facts['sampled_images']:,} that were read"
    samplings = ", ".join(f"{name} {count:,}" for name, count in facts["samplings"].items())
    sets = f"{facts['quantisation_sets']:,} sets of quantisation tables"
    return [
        ("coefficient images", f"{facts['count']:,} images, {facts['bytes']:,} bytes"),
        ("codebooks", f"{facts['coding_bytes']:,} bytes with {sets}"),
        ("samplings", (samplings or "none") + some),
        ("own quantisation tables", f"{facts['own_quantisation']:,}{some}"),
    ]


def _header(facts: Mapping[str, Any]) -> Section:
    return [
        ("images", f"{facts['count']:,}"),
        ("images' fingerprint", facts["fingerprint"]),
        ("views per image", f"{facts['views']:,}"),
        ("teacher entries per view", f"top {facts['topk']:,} of {facts['classes']:,} classes"),
        ("bytes per view", f"{facts['bytes_a_view']:.1f}"),
        ("teachers", ", ".join(map(printable, facts["teachers"]))),
        ("teachers' resolution", f"{facts['resolution']} pixels" if facts["resolution"] else "each its own"),
        ("seed", str(facts["seed"])),
        *_entries("policy", facts["policy"]),
    ]


def _views(facts: Mapping[str, Any]) -> Section:
    area = facts["crop_area_mean"]
    ops = sorted(facts["op_share"].items(), key=lambda pair: -pair[1])
    mixes = f"mixup {_share(facts['mixup_share'])}, cutmix {_share(facts['cutmix_share'])}"
    duplicates = f"{facts['duplicates']:,} views equal to an earlier one of their image"
    return [
        ("mean crop area", "no crops" if area is None else f"{_share(area)} of the image with its border"),
        ("flipped", _share(facts["flip_share"])),
        ("erased", _share(facts["erase_share"])),
        ("mixed", f"{_share(facts['mix_share'])} ({mixes})"),
        ("operations", ", ".join(f"{name} {_share(share)}" for name, share in ops if share) or "none"),
        *(_effects(facts) if "effects" in facts else ()),
        ("duplicates", f"{duplicates} ({_share(facts['duplicate_share'])})"),
        ("samples whose checksum is wrong", f"{facts['damaged_samples']:,}"),
    ]


def _effects(facts: Mapping[str, Any]) -> Section:
    found = [(name, about) for name, about in facts["effects"].items() if about["share"]]
    shown = [
        f"{name} {_share(about['share'])}" + (f" ({about['min']:.3g} to {about['max']:.3g})" if "min" in about else "")
        for name, about in found
    ]
    return [
        ("flipped vertically", _share(facts["vertical_flip_share"])),
        ("effects", ", ".join(shown) or "none"),
    ]


def _teacher(facts: Mapping[str, Any]) -> Section:
    agreement = facts["top1_agreement"]
    return [
        ("agreement with labels", "unknown without --images" if agreement is None else f"{_share(agreement)} (top-1)"),
        ("entropy, nats", _spread(facts["entropy"], "{:.3f}")),
        ("mass left out", _spread(facts["residual"], "{:.4f}")),
    ]


def _spread(facts: Mapping[str, float], form: str) -> str:
    names = {"min": "min", "p5": "5 %", "median": "median", "p95": "95 %", "max": "max", "mean": "mean"}
    if facts["min"] == facts["max"]:
        return f"{form.format(facts['min'])} each"
    return ", ".join(f"{name} {form.format(facts[key])}" for key, name in names.items())


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _entries(title: str, facts: Mapping[str, Any]) -> Section:
    return [(f"{title}: {key}", _plain(value)) for key, value in facts.items()]


def _joined(shown: Sequence[str], count: int) -> str:
    more = f" and {count - len(shown):,} more" if count > len(shown) else ""
    return ", ".join(shown) + more


def _plain(value: Any, levels: int = 3) -> str:
    """Manifest and policy values, on one line; of long ones the first parts."""
    if levels and isinstance(value, dict):
        parts = islice(value.items(), _PARTS)
        return _joined([f"{printable(key)} {_plain(part, levels - 1)}" for key, part in parts], len(value))
    if levels and isinstance(value, list | tuple):
        return _joined([_plain(part, levels - 1) for part in value[:_PARTS]], len(value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(value) or "(empty)" if isinstance(value, str) else brief(value)
