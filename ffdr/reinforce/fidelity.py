"""What storage costs: how far the distribution that a file gives back is from the teacher's own.

Shapes: B views, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ffdr.loader.targets import SparseTargets
from ffdr.reinforce.topk import topk

KEPT = (1, 5, 10, 20)
"""Numbers of stored entries (top-k) that are compared."""
DENSE_CLASSES = 100
"""Storing every class is compared up to so many."""


@dataclass(frozen=True)
class Fidelity:
    """Of storing the best ``entries`` classes of a view."""

    entries: int
    divergence: float
    """KL(file ‖ teacher), nats per view"""
    kept: float
    """mean probability of the stored entries, by the teacher's own numbers"""


def fidelity(log_probs: torch.Tensor, entries: int) -> Fidelity:
    """Of these views, when k entries are stored as float16 and the rest is spread over the other classes.

    KL(file ‖ teacher) is the loss that is left to a student who predicts what the teacher does and learns from the
    file. The other direction is infinite for any view whose stored entries sum to 1 after rounding, because the file
    then leaves the other classes nothing.

    log_probs: (B, C) float natural log-probabilities of the teacher; a class without any counts as float32's least.
    """
    B, C = log_probs.shape
    ids, logs = topk(log_probs, entries)
    no_labels = torch.zeros(B, dtype=torch.long)
    given = SparseTargets(torch.from_numpy(ids).long(), torch.from_numpy(logs), no_labels).dense(C).double()
    teacher = log_probs.double().cpu().clamp_min(torch.finfo(torch.float32).min)
    divergence = (torch.special.xlogy(given, given) - given * teacher).sum(1).mean()
    kept = teacher.topk(min(entries, C), dim=1).values.exp().sum(1).mean()
    return Fidelity(entries, float(divergence), float(kept))


def table(log_probs: torch.Tensor, stored: int) -> str:
    """The comparison as text: ``KEPT``, all classes where they are few, and ``stored``, which this file keeps."""
    B, C = log_probs.shape
    compared = {k for k in KEPT if k < C} | {stored} | ({C} if C <= DENSE_CLASSES else set())
    lines = [f"storage fidelity, {B} views:   KL(file ‖ teacher), nats   probability kept"]
    for row in (fidelity(log_probs, k) for k in sorted(compared)):
        name = "all classes" if row.entries == C else f"top-{row.entries}"
        note = "  (this file)" if row.entries == stored else ""
        lines.append(f"  {name:12s} {row.divergence:28.3e} {row.kept:22.4f}{note}")
    return "\n".join(lines)
