"""The published format, declared once: its transforms in their order, what each stores, and what its config means.

An entry ``{index}.pth.tar`` is ``(index, samples)``; a sample is ``{"params": P, "prob": (probabilities, ids)}``: one
augmented view of the image, mixed with a partner's or not, and what the teacher says of it.
P is a list: the partner's index or None if the archive mixes, then what each transform stored, in the order of
``TRANSFORMS``. With a partner, all but mixup and cutmix store a pair, the image's and the partner's. P may also be a
dictionary from transform to a pair (or a tuple of one), with the partner under ``id2``, operations by name, and
cutmix's box in a tuple of its own.

| transform | what it stores for one image |
|---|---|
| resize | its size |
| random_crop | (top, left) in pixels of the image with its border |
| random_resized_crop | (top, left, height, width) in pixels of the original image |
| random_horizontal_flip | whether it flips |
| rand_augment | None, or a list of (operation, magnitude) |
| random_erase | None, or (top, left, height, width) in output pixels; top = -1 erases nothing |
| mixup | None, or the weight of the first image |
| cutmix | None, or [share, x1, y1, x2, y2]: rows x1:x2, columns y1:y2 are the partner's |

Samples that ffdr exports may have one more key, ``record``, that readers of the original code never look at: see
``entries.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ffdr.archive.torch_zip import EntryError
from ffdr.augment.policy import Policy
from ffdr.util.errors import nearest
from ffdr.util.text import brief, printable

TRANSFORMS = (
    "uint8", "resize", "center_crop", "random_crop", "random_resized_crop", "random_horizontal_flip", "rand_augment",
    "to_tensor", "random_erase", "normalize", "mixup", "cutmix",
)  # fmt: skip
"""In the order in which they are applied, whatever the order in a config. Operations of rand_augment are numbered as
``augment.view.OPS``."""
STORES_NOTHING = ("uint8", "center_crop", "to_tensor", "normalize")
MIXING = ("mixup", "cutmix")
_MISSPELT = {"random_resize_crop": "random_resized_crop"}
"""How the public configs of Flowers-102 and Food-101 spell it."""

RESIZED_CROP, PADDED_CROP, PLACED_CROP, CENTER_CROP = "resized", "padded", "placed", "center"
"""Crops that both sides know: a box, resized; a window of the image with a border, as it is; a window of the resized
image with a border; the centre of the resized image."""
CROPS = {
    ("random_resized_crop",): RESIZED_CROP,
    ("random_crop",): PADDED_CROP,
    ("resize", "random_crop"): PLACED_CROP,
    ("resize", "center_crop"): CENTER_CROP,
}
"""By the transforms that make them."""

_SETTINGS: dict[str, tuple[str, str, Any]] = {
    "scale": ("random_resized_crop", "scale", None),
    "ratio": ("random_resized_crop", "ratio", None),
    "flip": ("random_horizontal_flip", "p", 0.5),
    "randaugment": ("rand_augment", "p", 1.0),
    "ops": ("rand_augment", "num_ops", 2),
    "magnitude": ("rand_augment", "magnitude", 9),
    "bins": ("rand_augment", "num_magnitude_bins", 31),
    "erase": ("random_erase", "p", 0.5),
    "erase_scale": ("random_erase", "scale", None),
    "erase_ratio": ("random_erase", "ratio", None),
    "mixup": ("mixup", "p", 1.0),
    "mixup_alpha": ("mixup", "alpha", 1.0),
    "cutmix": ("cutmix", "p", 1.0),
    "cutmix_alpha": ("cutmix", "alpha", 1.0),
}
"""ffdr's name for a transform's argument, by setting of a policy; with the default of the transform, where that is not
the policy's. ``p`` of a transform that is not in use is 0."""

_SHOWN = 60
"""Characters of a value that a message shows."""
_ONLY = {
    ("resize", "interpolation"): ("bilinear",),
    ("resize", "max_size"): (None,),
    ("random_crop", "fill"): (0,),
    ("random_crop", "padding_mode"): ("constant",),
    ("random_resized_crop", "interpolation"): ("bilinear",),
    ("rand_augment", "interpolation"): ("nearest",),
    ("rand_augment", "fill"): (None, 0),
}
"""Arguments that change pixels and that a view record can't hold: the values they may have."""


@dataclass(frozen=True)
class Format:
    """What an archive's config says of its entries. The ``repr`` is part of an export's identity: keep it as it is."""

    transforms: tuple[str, ...]
    """those in use, in order"""
    crop: str
    """``RESIZED_CROP``, ``PADDED_CROP``, ``PLACED_CROP`` or ``CENTER_CROP``"""
    resolution: int
    """pixels per side of the output"""
    short: int
    """short side after resize, in pixels; 0 without"""
    padding: int
    """border of random_crop on each side, in pixels"""
    policy: Policy
    """what ffdr would draw from to get such entries, as near as its policies come"""

    @classmethod
    def of_config(cls, config: Any) -> Format:
        """What the content of ``config.pth.tar`` means.

        Raises:
            EntryError: not a config, or a transform that no view record can hold, named.
        """
        try:
            given = config["reinforce"]["image_augmentation"]
        except (TypeError, KeyError):
            raise EntryError("it has no reinforce.image_augmentation") from None
        used = _enabled(given)
        crops = tuple(name for name in used if name == "resize" or name.endswith("_crop"))
        if crops not in CROPS:
            known = "; ".join(" + ".join(names) for names in CROPS)
            raise EntryError(f"crops by {' + '.join(crops) or 'nothing'}; a view record holds {known}")
        try:
            resolution = _side(crops[-1], used)
            short = _side("resize", used) if "resize" in used else 0
            padding = _padding(used.get("random_crop", {}).get("padding"))
            policy = _policy(used, CROPS[crops], padding / resolution)
            return cls(tuple(used), CROPS[crops], resolution, short, padding, policy)
        except ValueError as error:
            raise EntryError(f"image_augmentation: {error}") from None

    @property
    def mixes(self) -> bool:
        """Whether entries begin with a partner."""
        return any(name in self.transforms for name in MIXING)

    @property
    def stored(self) -> tuple[str, ...]:
        """Transforms that store something for each image, in order."""
        return tuple(name for name in self.transforms if name not in STORES_NOTHING + MIXING)

    @cached_property
    def length(self) -> int:
        """Length of a compressed P."""
        return self.mixes + len(self.stored) + sum(name in self.transforms for name in MIXING)


def _enabled(given: Any) -> dict[str, dict[str, Any]]:
    """The transforms in use and their arguments, in order; every name is known and every argument can be honoured."""
    if not isinstance(given, dict) or not all(isinstance(arguments, dict) for arguments in given.values()):
        raise EntryError("reinforce.image_augmentation: not a dictionary of transforms and their arguments")
    used: dict[str, dict[str, Any]] = {}
    for written, arguments in given.items():
        name = _MISSPELT.get(written, written)
        if not arguments.get("enable", True):
            continue
        if name not in TRANSFORMS or name in used:
            hint = nearest(name, TRANSFORMS) if isinstance(name, str) and len(name) <= _SHOWN else ""
            raise EntryError(f"transform {_shown(name)} can't be held by a view record{hint}")
        for (transform, argument), allowed in _ONLY.items():
            if transform == name and argument in arguments and not _is_one_of(arguments[argument], allowed):
                said = _shown(arguments[argument])
                raise EntryError(f"transform {name}: {argument} {said} can't be held by a view record")
        used[name] = arguments
    return {name: used[name] for name in TRANSFORMS if name in used}


def _shown(value: Any) -> str:
    """As a message shows it: texts without quotes."""
    return printable(value, _SHOWN) if isinstance(value, str) else brief(value, _SHOWN)


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    return any(type(value) is type(known) and value == known for known in allowed)


def _all_alike(value: Any) -> Any:
    """The number that a list or tuple has once or several times; anything else as it is."""
    if type(value) not in (list, tuple) or not value or any(type(part) is not int for part in value):
        return value
    return value[0] if len(set(value)) == 1 else value


def _side(name: str, used: Mapping[str, Mapping[str, Any]]) -> int:
    """The size of a transform, which must be one number or, for crops, twice the same."""
    size: Any = used[name].get("size")
    if name != "resize" or type(size) not in (list, tuple) or len(size) == 1:  # resized to two sides, aspects change
        size = _all_alike(size)
    if type(size) is not int or not 1 <= size <= 65535:
        raise ValueError(f"{name}: size {_shown(size)} is not one side from 1 to 65535")
    return size


def _padding(given: Any) -> int:
    """The border of random_crop, which must be equal on all sides."""
    padding = _all_alike(given)
    if padding is not None and (type(padding) is not int or not 0 <= padding <= 65535):
        raise ValueError(f"random_crop: padding {_shown(padding)} is not one border for all sides")
    return padding or 0


def _policy(used: Mapping[str, Mapping[str, Any]], crop: str, padding: float) -> Policy:
    """The policy of a config. padding: the border of random_crop, as a share of the output's side."""
    settings: dict[str, Any] = {"crop": {RESIZED_CROP: "resized", CENTER_CROP: "whole"}.get(crop, "padded")}
    if settings["crop"] == "padded":
        settings["padding"] = padding
    for setting, (name, argument, default) in _SETTINGS.items():
        if name not in used:
            settings |= {setting: 0.0} if argument == "p" else {}
        elif default is not None or argument in used[name]:
            settings[setting] = used[name].get(argument, default)
    return Policy(**settings)


def augmentation(form: Format, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, dict[str, Any]]:
    """The ``image_augmentation`` of a config, whose ``Format`` is ``form``. mean, std: per channel, of [0, 1]."""
    arguments: dict[str, dict[str, Any]] = {
        "resize": {"size": form.short},
        "center_crop": {"size": form.resolution},
        "random_crop": {"size": form.resolution, "padding": form.padding},
        "random_resized_crop": {"size": form.resolution},
        "normalize": {"mean": list(mean), "std": list(std)},
    }
    for setting, (name, argument, _) in _SETTINGS.items():
        value = getattr(form.policy, setting)
        arguments.setdefault(name, {})[argument] = list(value) if isinstance(value, tuple) else value
    return {name: {"enable": True, **arguments.get(name, {})} for name in form.transforms}
