"""The facts of ``statistics.py`` as an aligned table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from ffdr.util.text import MOST_LINE, brief, printable

_PARTS = 40
"""Of a list or dictionary that are shown."""
Rows = list[tuple[str, str]]


def render(facts: Mapping[str, Any]) -> str:
    """All sections of a file's facts, each a list of names and values in two columns."""
    parts = [("", _file(facts["file"]))]
    if facts["images"]:
        parts.append(("images", _images(facts["images"])))
    if facts["reinforced"]:
        reinforced = facts["reinforced"]
        parts.append(("views", _header(reinforced)))
        parts.append((f"statistics of {_sample(reinforced)}", _views(reinforced["view_statistics"])))
        parts.append(("teacher on these views", _teacher(reinforced["teacher_statistics"])))
    shown = [(title, [(printable(name), printable(value, MOST_LINE)) for name, value in rows]) for title, rows in parts]
    width = max(len(name) for _, rows in shown for name, _ in rows)
    lines = [f"{printable(facts['path'], MOST_LINE)}: {facts['kind']}"]
    for title, rows in shown:
        lines += ["", title] if title else []
        lines += [f"  {name:{width}}  {value}".rstrip() for name, value in rows]
    return "\n".join(lines)


def _file(facts: Mapping[str, Any]) -> Rows:
    return [
        ("size", f"{facts['bytes']:,} bytes, pages of {facts['page_size']:,}"),
        ("fields", _list([f"{name} (type {number})" for name, number in facts["fields"].items()])),
        ("checksums", "yes" if facts["checksums"] else "none: not written by ffdr"),
    ]


def _images(facts: Mapping[str, Any]) -> Rows:
    empty = facts["classes_without_images"]
    rows = [
        ("count", f"{facts['count']:,}"),
        ("fingerprint", facts["fingerprint"]),
        ("modes", ", ".join(f"{mode} {count:,}" for mode, count in facts["modes"].items())),
        ("stored", f"{facts['bytes']:,} bytes"),
        ("bytes an image", _spread(facts["bytes_an_image"], "{:,.0f}")),
        *_packed(facts["packed"]),
        ("width", _spread(facts["width"], "{:.0f}")),
        ("height", _spread(facts["height"], "{:.0f}")),
        ("original width", _spread(facts["original_width"], "{:.0f}")),
        ("original height", _spread(facts["original_height"], "{:.0f}")),
        ("classes", f"{facts['classes']:,}"),
        ("images a class", _spread(facts["images_a_class"], "{:,.0f}")),
        ("classes without images", f"{len(empty):,}{': ' if empty else ''}{_list(empty)}"),
    ]
    manifest = facts["manifest"]
    if manifest is None:
        return [*rows, ("manifest", "none")]
    for key, value in manifest.items():
        rows.append((f"manifest: {key}", _plain(value)))
    return rows


def _packed(facts: Mapping[str, Any] | None) -> Rows:
    if facts is None:
        return []
    some = "" if facts["sampled_images"] == facts["count"] else f" of {facts['sampled_images']:,} that were read"
    samplings = ", ".join(f"{name} {count:,}" for name, count in facts["samplings"].items())
    sets = f"{facts['quantisation_sets']:,} sets of quantisation tables"
    return [
        ("packed", f"{facts['count']:,} images, {facts['bytes']:,} bytes"),
        ("codebooks", f"{facts['coding_bytes']:,} bytes with {sets}"),
        ("samplings", (samplings or "none") + some),
        ("own quantisation tables", f"{facts['own_quantisation']:,}{some}"),
    ]


def _header(facts: Mapping[str, Any]) -> Rows:
    return [
        ("images", f"{facts['count']:,}"),
        ("images' fingerprint", facts["fingerprint"]),
        ("views an image", f"{facts['views']:,}"),
        ("teacher entries a view", f"top {facts['topk']:,} of {facts['classes']:,} classes"),
        ("bytes a view", f"{facts['bytes_a_view']:.1f}"),
        ("teachers", ", ".join(map(printable, facts["teachers"]))),
        ("teachers' resolution", f"{facts['resolution']} pixels" if facts["resolution"] else "each its own"),
        ("seed", str(facts["seed"])),
        *((f"policy: {key}", _plain(value)) for key, value in facts["policy"].items()),
    ]


def _sample(facts: Mapping[str, Any]) -> str:
    views = f"{facts['view_statistics']['views']:,} views"
    if facts["sampled_images"] == facts["count"]:
        return f"all {views}"
    return f"{views}, those of {facts['sampled_images']:,} evenly spaced images out of {facts['count']:,}"


def _views(facts: Mapping[str, Any]) -> Rows:
    area = facts["crop_area_mean"]
    ops = sorted(facts["op_share"].items(), key=lambda pair: -pair[1])
    return [
        ("mean crop area", "no crops" if area is None else f"{_share(area)} of the image with its border"),
        ("flipped", _share(facts["flip_share"])),
        ("erased", _share(facts["erase_share"])),
        ("mixed", f"{_share(facts['mix_share'])} (mixup {_share(facts['mixup_share'])}, "
                  f"cutmix {_share(facts['cutmix_share'])})"),
        ("operations", ", ".join(f"{name} {_share(share)}" for name, share in ops if share) or "none"),
        ("duplicates", f"{facts['duplicates']:,} views equal to an earlier one of their image "
                       f"({_share(facts['duplicate_share'])})"),
        ("samples whose checksum is wrong", f"{facts['damaged_samples']:,}"),
    ]  # fmt: skip


def _teacher(facts: Mapping[str, Any]) -> Rows:
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


def _list(values: Sequence[str], shown: int = 10) -> str:
    return _joined([printable(value) for value in values[:shown]], len(values))


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
