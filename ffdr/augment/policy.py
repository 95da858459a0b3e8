"""The policy: what may be drawn, with which probabilities. Plain data; ``draw.py`` draws from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from ffdr.util.errors import UserError, between, one_of
from ffdr.util.text import brief

CROPS = ("resized", "padded", "whole")
AUGMENTS = (
    "randaugment", "trivialaugment", "autoaugment_imagenet", "autoaugment_cifar10", "autoaugment_svhn",
    "three_augment",
)  # fmt: skip
_ADDED = (
    "vertical_flip", "color_jitter", "color_jitter_prob", "grayscale", "blur", "blur_sigma", "solarize",
    "solarize_threshold",
)  # fmt: skip
"""Options that came later: at their defaults they are no part of what names or describes a policy, which stays as it
was before there were any."""
MOST_JITTER = 2.99
"""The largest strength of brightness, contrast and saturation: factors below 4."""
MOST_SIGMA = 7.99
"""The largest standard deviation of a blur, in pixels of a view of 224."""


@dataclass(frozen=True, repr=False)
class Policy:
    """What a view may be. Defaults are ImageNet's +RA/RE (Faghri et al. 2023, section 3).

    Ranges are (low, high). Probabilities lie in [0, 1]; an alpha of 0 or a probability of 0 switches a part off.
    """

    crop: str = "resized"
    """resized: RandomResizedCrop (torchvision); padded: RandomCrop of the image's own size after padding; whole."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Crop area as a share of the image (resized)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Crop width / height (resized)."""
    padding: float = 0.125
    """Black border on each side as a share of the image's side (padded); 0.125 is CIFAR's 4 of 32 pixels."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    augment: str = "randaugment"
    """Where operations come from: randaugment (Cubuk et al. 2020), trivialaugment (its "wide" form, Müller & Hutter
    2021), autoaugment_imagenet, autoaugment_cifar10, autoaugment_svhn (Cubuk et al. 2019); torchvision's operations.
    three_augment (Touvron et al. 2022, "DeiT III"): greyscale, solarise or blur, one of the three; the paper's colour
    jitter, which follows it, is color_jitter=0.3,0.3,0.3,0."""
    randaugment: float = 1.0
    """Probability that ``augment`` is applied."""
    ops: int = 2
    """RandAugment operations in a row: 0, 1 or 2."""
    magnitude: int = 9
    """RandAugment level of every operation, below ``bins``."""
    bins: int = 31
    """Number of RandAugment levels."""
    erase: float = 0.25
    """Probability of RandomErasing with black (Zhong et al. 2020)."""
    erase_scale: tuple[float, float] = (0.02, 0.33)
    """Erased area as a share of the output."""
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    """Erased height / width (torchvision's aspect ratio)."""
    mixup: float = 0.0
    """Probability of mixup (Zhang et al. 2018)."""
    mixup_alpha: float = 0.2
    """Weight of the first image ~ Beta(alpha, alpha)."""
    cutmix: float = 0.0
    """Probability of cutmix (Yun et al. 2019)."""
    cutmix_alpha: float = 1.0
    """Kept share of the first image ~ Beta(alpha, alpha)."""
    vertical_flip: float = 0.0
    """Probability of a vertical flip."""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Strengths of brightness, contrast, saturation (each up to 2.99) and hue (up to 0.5), in random order as
    torchvision's ColorJitter: factors in [max(0, 1 - strength), 1 + strength], a turn of the hue in [-strength,
    strength]; 0 leaves one out."""
    color_jitter_prob: float = 1.0
    """Probability of the colour jitter."""
    grayscale: float = 0.0
    """Probability of greyscale, after the colour jitter."""
    blur: float = 0.0
    """Probability of a Gaussian blur, after greyscale."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of a blur in pixels of a view of 224; it grows with the view's shorter side."""
    solarize: float = 0.0
    """Probability of solarising, after the blur."""
    solarize_threshold: int = 128
    """The grey level (0 to 255) from which on solarising inverts."""

    def __post_init__(self) -> None:
        self._check_kinds()
        one_of("policy.crop", self.crop, CROPS)
        one_of("policy.augment", self.augment, AUGMENTS)
        for name in (
            *("flip", "randaugment", "erase", "mixup", "cutmix"),
            *("vertical_flip", "color_jitter_prob", "grayscale", "blur", "solarize"),
        ):
            self._check(name, 0.0, 1.0)
        self._check("solarize_threshold", 0, 255)
        self._check("padding", 0.0, 1.0)
        self._check("ops", 0, 2)
        self._check("bins", 2, 127)
        self._check("magnitude", 0, self.bins - 1)
        if self.augment != "randaugment" and (self.ops, self.magnitude, self.bins) != (2, 9, 31):
            raise UserError(f"policy.ops, policy.magnitude, policy.bins: {self.augment} has its own; leave them out")
        for name in ("mixup_alpha", "cutmix_alpha"):
            self._check(name, 0.0, 100.0)
        for name, lowest, highest in (
            ("scale", 1e-4, 1.0),
            ("ratio", 1e-2, 1e2),
            ("erase_scale", 0.0, 1.0),
            ("erase_ratio", 1e-2, 1e2),
            ("blur_sigma", 1e-2, MOST_SIGMA),
        ):
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise UserError(
                    f"policy.{name}: {brief(low)},{brief(high)} is not a range within {lowest:g},{highest:g}"
                )
        most = (MOST_JITTER, MOST_JITTER, MOST_JITTER, 0.5)
        if not all(0 <= strength <= top for strength, top in zip(self.color_jitter, most, strict=True)):
            given = ",".join(map(brief, self.color_jitter))
            raise UserError(
                f"policy.color_jitter: {given} is not brightness, contrast, saturation from 0 to {MOST_JITTER:g} each, "
                "and hue from 0 to 0.5"
            )

    def _check_kinds(self) -> None:
        """Refuse what is no text, number or range, whatever file it comes from; a list becomes a tuple."""
        for field in fields(self):
            name, default, value = field.name, field.default, getattr(self, field.name)
            if isinstance(default, tuple):
                count = len(default)
                good = isinstance(value, tuple | list) and len(value) == count and all(map(_is_number, value))
                what = {2: "two numbers", 4: "four numbers"}[count]
            elif isinstance(default, str):
                good, what = isinstance(value, str), "a text"
            else:
                good = _is_number(value) and (isinstance(default, float) or isinstance(value, Integral))
                what = "a number" if isinstance(default, float) else "a whole number"
            if not good:
                raise UserError(f"policy.{name}: {brief(value)} is not {what}")
            object.__setattr__(self, name, tuple(value) if isinstance(default, tuple) else value)

    def _check(self, name: str, low: float, high: float) -> None:
        between(f"policy.{name}", getattr(self, name), low, high)

    def settings(self) -> dict[str, Any]:
        """All options by name, but those that came later only where they differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _ADDED or getattr(self, field.name) != field.default
        }

    def __repr__(self) -> str:
        """Of ``settings`` alone: what is computed from it, such as the identity of a run, stays as it was."""
        return f"Policy({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    @property
    def has_effects(self) -> bool:
        """Whether a view may have effects, so that they are stored with its record."""
        jitters = any(self.color_jitter) and self.color_jitter_prob > 0
        three = self.augment == "three_augment" and self.randaugment > 0
        return jitters or three or self.grayscale > 0 or self.blur > 0 or self.solarize > 0

    @property
    def mixes(self) -> bool:
        """Whether a view may need a partner image, so that records are ``MIXED_DTYPE``."""
        return (self.mixup > 0 and self.mixup_alpha > 0) or (self.cutmix > 0 and self.cutmix_alpha > 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
