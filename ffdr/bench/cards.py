"""What others publish of a GPU, by which ffdr's own step is judged, and what memory alone allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ffdr.bench.report import Target
from ffdr.bench.statistics import Estimate

MODEL, RESOLUTION = "resnet50", 224
"""Of all figures here; pixels."""
TIMES_PUBLISHED = 1.6
"""How many times as fast as the published PyTorch figure ffdr's step has to be."""
FUSED_BYTES = 342e6
"""Bytes per image that a training step has to move at least, activations in 16 bits, with batch norm, ReLU and addition
fused into one pass; 486e6 where each is a pass of its own."""


@dataclass(frozen=True)
class Card:
    """Training ResNet-50 at 224 px on one GPU, images/s."""

    name: str
    """part of what the driver calls the card"""
    pytorch: float
    """PyTorch, automatic mixed precision, NCHW (Lambda)"""
    record: float
    """MLPerf Training v4.0, an eighth of eight GPUs' rate"""


CARDS = (Card("H100", 2790, 7160), Card("H200", 3079, 7950))


def card_named(name: str) -> Card | None:
    """The figures for a card by its driver's name; None: nothing is published that could be compared."""
    return next((card for card in CARDS if card.name in name), None)


def card_of(device: torch.device) -> Card | None:
    """The figures for a device's card."""
    return card_named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def published_target(rate: Estimate | None, card: Card | None) -> Target:
    """What is promised of the step's images/s; None: not measured, or on a card of which nothing is published."""
    known = card or CARDS[-1]
    name = f"{MODEL}, {RESOLUTION} px, one {known.name}: step : {known.pytorch:,.0f} images/s (PyTorch, AMP, NCHW)"
    return Target(name, rate.times(1 / card.pytorch) if rate and card else None, TIMES_PUBLISHED)
