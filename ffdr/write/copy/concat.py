"""``ffdr concat``: betons put together. Images one after the other, reinforcements of the same images side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.augment.policy import Policy
from ffdr.beton.read import ImageBeton, ReinforcedBeton, open_both
from ffdr.config.files import ConcatOptions
from ffdr.util.errors import UserError
from ffdr.util.text import brief
from ffdr.write.copy.copying import Copy, Samples, contents
from ffdr.write.copy.joined import JoinedImages, JoinedViews, joined_manifest
from ffdr.write.parts import check_place, slots_of
from ffdr.write.receipt import Work
from ffdr.write.resumable import run_all

_PROBED = 16
"""Images whose views are compared, to find draws that two files share."""


def concat(options: ConcatOptions, progress: bool = True) -> Path:
    """Write one beton of what several hold; a killed run is resumed, and what is there already is not made again.

    Images follow each other in the order of the files, stored as they are: the file equals the one that ``ffdr write``
    would make of all of them in this order. Of the reinforcements of the same images, each image gets the views of the
    first file, then those of the second one, and so on.

    Returns:
        The path of the new file.

    Raises:
        UserError: files that don't fit together, or hold the same image or view twice; damage; no room on the disk; a
            file of other work that is there already, and ``overwrite`` is false.
    """
    paths, out = [Path(file) for file in options.files], Path(options.out)
    _check_distinct(paths)
    images, reinforced = _open_alike(paths)
    samples: Samples
    if images:
        check_place(out, images[0], paths)
        _check_classes(images)
        samples = joined = JoinedImages(images)
        manifest, slots = joined_manifest(images, joined.stored), sum(map(slots_of, images))
    else:
        check_place(out, None, paths)
        _check_same_kind(reinforced)
        samples, manifest, slots = JoinedViews(reinforced), None, 0
        _check_new_views(reinforced)
    sources = hashlib.sha256("\n".join(map(contents, images or reinforced)).encode()).hexdigest()
    copy = Copy(Work(out, "concat", options.overwrite, sources={"files": sources}), [samples], manifest, slots)
    run_all([copy], progress, out if images else None, None if images else out)
    return out


def _check_distinct(paths: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"concat.files: {path} and {seen[path.resolve()]} are one file")
        seen[path.resolve()] = path


def _open_alike(paths: Sequence[Path]) -> tuple[list[ImageBeton], list[ReinforcedBeton]]:
    """The betons, which all hold images or all hold views; the other list is empty."""
    images: list[ImageBeton] = []
    reinforced: list[ReinforcedBeton] = []
    for path in paths:
        held, views = open_both(path)
        if held is not None and views is not None:
            raise UserError(
                f"{path}: is a merged beton; ffdr split takes it apart, and images and views are put together apart"
            )
        if held is not None:
            images.append(held)
        elif views is not None:
            reinforced.append(views)
    if images and reinforced:
        raise UserError(
            f"{reinforced[0].path}: holds views, but {images[0].path} holds images; ffdr pack merges images with their "
            "views"
        )
    return images, reinforced


def _check_classes(images: Sequence[ImageBeton]) -> None:
    """Refuse betons of other classes, and those without a manifest beside those with one."""
    first = images[0]
    for other in images[1:]:
        bare, named = (first, other) if first.manifest is None else (other, first)
        if bare.manifest is None:
            if named.manifest is not None:
                raise UserError(f"{bare.path}: has no manifest, unlike {named.path}; ffdr adopt writes one")
            continue
        for number, (name, known) in enumerate(zip(other.class_names, first.class_names, strict=False)):
            if name != known:
                raise UserError(
                    f"{other.path}: class {number} is called {brief(name)}, but that of {first.path} {brief(known)}; "
                    "files that are put together have the same classes in the same order"
                )
        if other.num_classes != first.num_classes:
            raise UserError(f"{other.path}: has {other.num_classes} classes, but {first.path} has {first.num_classes}")


def _check_same_kind(reinforced: Sequence[ReinforcedBeton]) -> None:
    """Refuse views of other images, or such as one header can't describe."""
    first = reinforced[0]
    for other in reinforced[1:]:
        if (other.header.num_images, other.header.fingerprint) != (first.header.num_images, first.header.fingerprint):
            raise UserError(
                f"{other.path}: made for {other.header.num_images} images with fingerprint {other.header.fingerprint}, "
                f"but {first.path} for {first.header.num_images} with {first.header.fingerprint}"
            )
        if other.header.topk != first.header.topk:
            most, least = (other, first) if other.header.topk > first.header.topk else (first, other)
            raise UserError(
                f"{most.path}: has {most.header.topk} teacher entries per view, but {least.path} {least.header.topk}; "
                f"ffdr subset --topk={least.header.topk} takes the best"
            )
        for name in ("num_classes", "teachers", "resolution", "policy", "mixes", "effects"):
            mine, others = getattr(first.header, name), getattr(other.header, name)
            if name == "policy" and mine != others:
                name = next(f"policy.{key}" for key in {**mine, **others} if mine.get(key) != others.get(key))
                mine, others = (_setting(policy, name.removeprefix("policy.")) for policy in (mine, others))
            if mine != others:
                raise UserError(
                    f"{other.path}: made with {name} {brief(others, 60)}, but {first.path} with {brief(mine, 60)}; one "
                    "file can't say both"
                )


def _setting(policy: Mapping[str, Any], key: str) -> Any:
    """A setting of a stored policy; one that came later is left out where it has its default."""
    return policy.get(key, getattr(Policy, key, None))


def _check_new_views(reinforced: Sequence[ReinforcedBeton]) -> None:
    """Refuse files of which two have a view in common: one that is the same draw for every image."""
    probed = np.unique(np.linspace(0, len(reinforced[0]) - 1, _PROBED).astype(np.int64)).tolist()
    seen: dict[bytes, tuple[ReinforcedBeton, int]] = {}
    for beton in reinforced:
        views_PK = np.stack([beton.views(i) for i in probed])
        found = [(views_PK[:, k].tobytes(), (beton, k)) for k in range(beton.header.views)]
        for draws, (_, k) in found:
            if draws in seen:
                other, number = seen[draws]
                raise UserError(
                    f"{beton.path}: its view {k} is view {number} of {other.path}; ffdr reinforce draws others with "
                    f"another --reinforce.seed than {beton.header.seed}"
                )
        seen.update(found)
