"""The policy: what may be drawn, with which probabilities. Plain data; ``draw.py`` draws from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from ffdr.util.errors import UserError, between, one_of
from ffdr.util.text import brief

CROPS = ("resized", "padded", "whole")
AUGMENTS = ("randaugment", "trivialaugment", "autoaugment_imagenet", "autoaugment_cifar10", "autoaugment_svhn")


@dataclass(frozen=True)
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
    2021), autoaugment_imagenet, autoaugment_cifar10, autoaugment_svhn (Cubuk et al. 2019); torchvision's operations."""
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

    def __post_init__(self) -> None:
        self._check_kinds()
        one_of("policy.crop", self.crop, CROPS)
        one_of("policy.augment", self.augment, AUGMENTS)
        for name in ("flip", "randaugment", "erase", "mixup", "cutmix"):
            self._check(name, 0.0, 1.0)
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
        ):
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise UserError(
                    f"policy.{name}: {brief(low)},{brief(high)} is not a range within {lowest:g},{highest:g}"
                )

    def _check_kinds(self) -> None:
        """Refuse what is no text, number or range, whatever file it comes from; a list becomes a tuple."""
        for field in fields(self):
            name, default, value = field.name, field.default, getattr(self, field.name)
            if isinstance(default, tuple):
                good = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))
                what = "two numbers"
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

    @property
    def mixes(self) -> bool:
        """Whether a view may need a partner image, so that records are ``MIXED_DTYPE``."""
        return (self.mixup > 0 and self.mixup_alpha > 0) or (self.cutmix > 0 and self.cutmix_alpha > 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
