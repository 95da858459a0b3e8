"""The header of a reinforced beton, and what its records must satisfy.

Two custom fields (FFCV type id 255), in the order of the image beton:

- ``aug_params``: pointer to K view records, of ``record_dtype``;
- ``logits``: pointer to K times T uint16 class ids followed by T float16 natural log-probabilities, best first. An
  entry that is not used has id 0 and log-probability -65504.

Both field descriptors hold the header: 8 bytes magic, uint16 length, JSON. Views with effects or vertical flips are of
layout version 2, which an earlier ffdr refuses when it opens the file; all others are of version 1, byte for byte as
they always were.

N images, K views per image, T stored teacher entries per view (top-k).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ffdr.augment.policy import Policy
from ffdr.augment.view import EFFECTS, LARGEST_VALUES, SMALLEST_VALUES, record_dtype
from ffdr.beton import layout
from ffdr.beton.layout import CUSTOM, FieldSpec
from ffdr.beton.tables import is_deep, refuse
from ffdr.util.errors import UserError
from ffdr.util.text import brief, reason

HEADER_MAGIC = b"FFDRRNF1"
"""Its last character is the layout version."""
HEADER_MAGIC_2 = b"FFDRRNF2"
"""Of views that may have effects or be flipped vertically: the JSON has ``effects``, too."""
UNUSED = -65504.0
"""Log-probability of an unused entry: the lowest finite float16, so that no file and no kernel meets an infinity."""
_UNUSED_BITS = np.float16(UNUSED).view(np.uint16)
_MOST_TEXT = 1024 - len(HEADER_MAGIC) - 2
_LEVELS = 8
"""Of nested lists and dictionaries in a policy, at most."""


@dataclass(frozen=True)
class ReinforcedHeader:
    """What a reinforced beton holds and what it was made of."""

    views: int
    """K"""
    topk: int
    """T"""
    num_classes: int
    num_images: int
    """N"""
    fingerprint: str
    """of the image beton"""
    mixes: bool
    """whether records hold a partner's view, too"""
    policy: dict[str, Any]
    """what the views were drawn from, as plain JSON data"""
    teachers: tuple[str, ...]
    resolution: int
    """pixels per side that the teachers saw; 0: each its own"""
    seed: int
    effects: bool | None = None
    """whether records hold effects; None: of layout version 1, which knows neither effects nor vertical flips"""

    def __post_init__(self) -> None:
        given = vars(self)  # out of a file: of any type
        for name, low, high in (
            ("views", 1, 65535),
            ("num_classes", 1, 1 << 16),
            ("topk", 1, 65535),
            ("num_images", 1, (1 << 32) - 1),
            ("resolution", 0, 1 << 16),
            ("seed", 0, (1 << 63) - 1),
        ):
            value = given[name]
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                raise UserError(f"reinforced header: {name} is {brief(value)}, not a whole number from {low} to {high}")
            object.__setattr__(self, name, int(value))  # a NumPy integer is no JSON
        if self.topk > self.num_classes:
            raise UserError(f"reinforced header: topk is {self.topk}, but there are {self.num_classes} classes")
        text = given["fingerprint"]
        if not isinstance(text, str) or len(text) != 32 or set(text) - set("0123456789abcdef"):
            raise UserError(f"reinforced header: fingerprint {brief(text)} is not 32 hexadecimal digits")
        if type(given["mixes"]) is not bool or not isinstance(given["policy"], dict):
            raise UserError("reinforced header: mixes must be true or false, policy a dictionary")
        if given["effects"] is not None and type(given["effects"]) is not bool:
            raise UserError(f"reinforced header: effects is {brief(given['effects'])}, not true or false")
        if isinstance(given["teachers"], str) or not all(isinstance(name, str) for name in self.teachers):
            raise UserError("reinforced header: teachers must be a list of names")
        if is_deep(self.policy, _LEVELS):
            raise UserError(f"reinforced header: its policy is nested more than {_LEVELS} deep")
        # As JSON has it (lists for tuples), so that a header equals itself read back.
        try:
            object.__setattr__(self, "policy", json.loads(json.dumps(self.policy, allow_nan=False)))
        except ValueError as error:  # infinities and what is no number: JSON has none, and it would not equal itself
            raise UserError(f"reinforced header: its policy is no JSON: {reason(error)}") from None
        object.__setattr__(self, "teachers", tuple(self.teachers))
        if self.view_bytes + self.logit_bytes > layout.MAX_PAGE_SIZE:
            raise UserError(f"reinforced header: {self.views} views of {self.topk} entries are too much for an image")
        self.pack()  # refuses what does not fit

    @property
    def record_dtype(self) -> np.dtype:
        """Of a stored view: see ``augment.view.record_dtype``."""
        return record_dtype(self.mixes, bool(self.effects))

    @property
    def view_bytes(self) -> int:
        """Bytes of the records of one image."""
        return self.views * self.record_dtype.itemsize

    @property
    def logit_bytes(self) -> int:
        """Bytes of the teacher's entries of one image."""
        return self.views * self.topk * 4

    def pack(self) -> bytes:
        """The arguments of both field descriptors, at most 1024 bytes."""
        given = asdict(self)
        magic = HEADER_MAGIC_2
        if given["effects"] is None:
            magic = HEADER_MAGIC
            del given["effects"]
        text = json.dumps(given, separators=(",", ":")).encode()
        if len(text) > _MOST_TEXT:
            most = f"the most is {_MOST_TEXT}; shorten the teachers' names"
            raise UserError(f"reinforced header: {len(text)} bytes, {most}")
        return magic + len(text).to_bytes(2, "little") + text

    @classmethod
    def unpack(cls, arguments: bytes) -> ReinforcedHeader:
        """The header in a field descriptor's arguments.

        Raises:
            UserError: it is not one.
        """
        start = len(HEADER_MAGIC)
        magic = arguments[:start]
        if magic not in (HEADER_MAGIC, HEADER_MAGIC_2):
            raise UserError("reinforced header: not written by ffdr, or by a newer version")
        length = int.from_bytes(arguments[start : start + 2], "little")
        try:
            found = cls(**json.loads(arguments[start + 2 : start + 2 + length]))
        except UserError:
            raise
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"reinforced header: unreadable: {reason(error)}") from None
        if (found.effects is None) != (magic == HEADER_MAGIC):
            raise UserError(f"reinforced header: effects is {brief(found.effects)} in layout version {chr(magic[-1])}")
        return found

    @classmethod
    def of_fields(cls, path: Path, specs: Sequence[FieldSpec]) -> ReinforcedHeader:
        """The header that both fields of a file agree on."""
        fields = [spec for spec in specs if spec.name in ("aug_params", "logits") and spec.type_id == CUSTOM]
        if len(fields) != 2:
            names = ", ".join(spec.name for spec in specs)
            refuse(path, f"a reinforced beton has fields aug_params and logits; fields here are {names}")
        if fields[0].arguments != fields[1].arguments:
            refuse(path, "its two fields have different headers")
        try:
            return cls.unpack(fields[0].arguments)
        except UserError as error:
            refuse(path, str(error))

    def specs(self) -> tuple[FieldSpec, FieldSpec]:
        """The two fields."""
        return FieldSpec("aug_params", CUSTOM, self.pack()), FieldSpec("logits", CUSTOM, self.pack())


def effects_of(policy: Policy) -> bool | None:
    """What the header of views that are drawn from a policy says of effects."""
    return True if policy.has_effects else False if policy.vertical_flip > 0 else None


def check_views(views: np.ndarray, header: ReinforcedHeader) -> str:
    """What is wrong with records, (K,) or (n, K), or an empty string.

    All else is checked where it is replayed (``augment.check``).
    """
    if header.mixes and (views["mix"]["partner"] >= header.num_images).any():
        return f"a view's partner is not one of the {header.num_images} images"
    if header.effects:
        names = ("first_effects", "second_effects") if header.mixes else ("first_effects",)
        return next(filter(None, (_check_effects(views[name]) for name in names)), "")
    return ""


def _check_effects(effects: np.ndarray) -> str:
    """What is wrong with effects, (…, 8) ``EFFECT_DTYPE``, or an empty string."""
    kinds, values = effects["kind"], effects["value"]
    if (kinds >= len(EFFECTS)).any():
        return f"effect {kinds.max()} of a view is not below {len(EFFECTS)}"
    low, high = np.array(SMALLEST_VALUES)[kinds], np.array(LARGEST_VALUES)[kinds]
    bad = (values < low) | (values > high)
    if bad.any():
        kind, value = int(kinds[bad][0]), int(values[bad][0])
        return f"{EFFECTS[kind]} {value} of a view is not from {SMALLEST_VALUES[kind]} to {LARGEST_VALUES[kind]}"
    if ((kinds[..., :-1] == 0) & (kinds[..., 1:] != 0)).any():
        return "a view has an effect behind one that is none"
    return ""


def check_logits(ids: np.ndarray, log_probs: np.ndarray, header: ReinforcedHeader) -> str:
    """What is wrong with teacher entries, (K, T) or (n, K, T), or an empty string."""
    if header.num_classes <= 0xFFFF and (ids >= header.num_classes).any():
        return f"class id {ids.max()} is not below {header.num_classes}"
    # By their bits, because NumPy compares float16 ten times as slowly: finite numbers up to 0 are -0 to UNUSED and +0.
    bits = log_probs.view(np.uint16)
    sizes = bits & np.uint16(0x7FFF)
    if not ((bits == 0) | ((bits >= 0x8000) & (bits <= _UNUSED_BITS))).all():
        return "a log-probability is not a finite number up to 0"
    if (sizes[..., 1:] < sizes[..., :-1]).any():
        return "log-probabilities are not sorted, best first"
    return ""


def check_new_logits(ids: np.ndarray, log_probs: np.ndarray) -> str:
    """What is wrong with teacher entries about to be written, (K, T) or (n, K, T), or an empty string.

    Two rules that a reader can live without: unused entries have id 0, and no view names a class twice.
    """
    used = log_probs > UNUSED
    if ids[~used].any():
        return "an unused entry has another id than 0"
    # Unused entries get numbers that are no ids, all different.
    distinct = np.where(used, ids, (1 << 16) + np.arange(ids.shape[-1]))
    distinct.sort(axis=-1)
    if (distinct[..., 1:] == distinct[..., :-1]).any():
        return "a class occurs twice in a view"
    return ""
