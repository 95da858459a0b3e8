"""What loader and dataset have in common: files that belong together, and what is shown of their images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ffdr.augment.policy import Policy
from ffdr.beton.read import ImageBeton, ReinforcedBeton, check_same_images
from ffdr.loader.views import DrawnViews, FixedView, SomeStored, StoredViews, ViewSource
from ffdr.util.arguments import fraction, shown
from ffdr.util.errors import UserError

Images = str | Path | ImageBeton
Reinforced = str | Path | ReinforcedBeton


def open_images(images: Images) -> ImageBeton:
    """An image beton, which may be open already.

    Raises:
        UserError: it can't be opened, or is none.
    """
    return images if isinstance(images, ImageBeton) else ImageBeton.open(_path("images", images))


def open_reinforced(reinforced: Reinforced, images: ImageBeton) -> ReinforcedBeton:
    """The reinforced beton, which must be of these images, whoever opened it.

    Raises:
        UserError: it can't be opened, is none, or is one of other images.
    """
    if not isinstance(reinforced, ReinforcedBeton):
        return ReinforcedBeton.open(_path("reinforced", reinforced), images)
    check_same_images(reinforced.path, reinforced.header, images)
    return reinforced


def open_views(
    images: ImageBeton,
    reinforced: Reinforced | None,
    policy: Policy | None,
    reinforced_share: float,
    center: float,
    seed: int,
) -> tuple[ViewSource, int]:
    """The views that images show, as ``ReinforcedLoader`` describes its arguments; and the number of classes.

    Raises:
        UserError: arguments that are none, or don't go together; a beton of other images.
    """
    share, center = fraction("reinforced_share", reinforced_share), fraction("center", center, 1e-3)
    if policy is not None and not isinstance(policy, Policy):
        raise UserError(f"policy: {shown(policy)} is not a Policy")
    if reinforced is None:
        if share != 1:
            raise UserError(f"reinforced_share: {share:g}, but there is no reinforced beton; give it, or leave it out")
        fresh = FixedView(images, center) if policy is None else DrawnViews(policy, seed, images)
        return fresh, images.num_classes
    if (policy is not None) != (share < 1):
        raise UserError(
            "reinforced, policy: a reinforced beton already holds drawn views; give one of both, or "
            "both with a reinforced_share below 1"
        )
    opened = open_reinforced(reinforced, images)
    stored = StoredViews(opened, seed)
    if policy is None:
        return stored, opened.header.num_classes
    return SomeStored(stored, DrawnViews(policy, seed, images), share, seed), opened.header.num_classes


def _path(key: str, path: Any) -> str | Path:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UserError(f"{key}: {shown(path)} is neither a path nor an opened beton of that kind")
    return path if isinstance(path, str) else Path(path)
