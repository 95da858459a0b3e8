"""What others publish of training on a card, to set ffdr's own rates beside (``results/reference/training.csv``)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ffdr.util.shipped import references

TABLE = references() / "training.csv"


@dataclass(frozen=True)
class PublishedRate:
    """Training a model on one GPU."""

    model: str
    """timm's name"""
    resolution: int
    """pixels"""
    card: str
    """part of what the driver calls the card"""
    images_per_second: float
    how: str
    source: str


def published_rates(device: torch.device) -> list[PublishedRate]:
    """Those for a device's card, in the order of the table; none where there is no table or the card is not in it."""
    return rates_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else []


def rates_of(card: str, table: Path = TABLE) -> list[PublishedRate]:
    """Those for a card, by its driver's name."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["card"] in card]
    return [
        PublishedRate(
            model=row["timm"],
            resolution=int(row["resolution"]),
            card=row["card"],
            images_per_second=float(row["images_per_second"]),
            how=row["how"],
            source=row["source"],
        )
        for row in rows
    ]


def first_rate(published: Sequence[PublishedRate], model: str, resolution: int) -> PublishedRate | None:
    """The one to compare with: the first of this model and resolution."""
    return next((rate for rate in published if (rate.model, rate.resolution) == (model, resolution)), None)
