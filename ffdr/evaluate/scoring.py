"""How a model's outputs on a set of images are scored: which images count, which classes are admitted, what is right.

Shape suffixes: N images of the set, B of a batch, C classes of the model, P classes of the set, G classes of the model
that stand for one of the set's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ffdr.evaluate.metrics import NO_LABEL, Scores


class Watcher(Protocol):
    """What else is handed the outputs on the images that a ``Scorer`` counts."""

    def update(self, logits: torch.Tensor, index: torch.Tensor) -> None:
        """Take a batch. logits: (B, P) of the set's classes on any device; index: (B,) int64 numbers of the images, on
        the CPU."""


class Scorer:
    """Scores one pass over a set; several can share a pass, each with its own labels and classes."""

    def __init__(
        self,
        labels: np.ndarray,
        class_names: Sequence[str],
        num_classes: int,
        columns: np.ndarray | None = None,
        published: int = 0,
    ) -> None:
        """labels: (N,) int64 class of each image, or (N, M) of which each is right; an image whose first is
        ``NO_LABEL`` is left out. class_names: of the set's classes. num_classes: C. columns: (P,) or (P, G) classes of
        the model that the set's are: all others are masked, and of G classes the most probable one stands for the
        set's; None: all C. published: images that the set has when it is whole; 0: unknown.
        """
        self.labels, self.class_names, self.published = labels, class_names, published
        self._columns = None if columns is None else torch.from_numpy(columns.reshape(len(columns), -1))
        self._scores = Scores(num_classes if columns is None else len(columns))
        self.watchers: list[Watcher] = []

    @property
    def count(self) -> int:
        """Images that are counted: those that have a label."""
        return int((self.labels.reshape(len(self.labels), -1)[:, 0] != NO_LABEL).sum())

    def update(self, logits: torch.Tensor, index: torch.Tensor) -> None:
        """Count a batch. logits: (B, C) on any device; index: (B,) int64 numbers of the images, on the CPU."""
        labels = self.labels[index.numpy()]
        counted = labels.reshape(len(labels), -1)[:, 0] != NO_LABEL
        if not counted.all():  # known without a look at the device
            rows = torch.from_numpy(np.flatnonzero(counted)).to(logits.device, non_blocking=True)
            logits, labels, index = logits[rows], labels[counted], index[torch.from_numpy(counted)]
        if not len(labels):
            return
        if self._columns is not None:
            self._columns = self._columns.to(logits.device)
            logits = logits[:, self._columns].amax(2)
        self._scores.update(logits, torch.from_numpy(labels).to(logits.device, non_blocking=True))
        for watcher in self.watchers:
            watcher.update(logits, index)

    def report(self) -> dict[str, Any]:
        """Scores over all ranks (``metrics.Scores``), and behind them as plain data:

        reliability: for each of the 15 bins of confidence its images (which make the confidence histogram), their mean
        confidence and accuracy (None without images); per_class: accuracy by name, of classes that have images. Where
        an image has several labels there is no nll, brier or per_class: they need the one.

        Raises UserError as ``Scores.result`` does.
        """
        result = self._scores.result()
        report: dict[str, Any] = dict(result.scores)
        report["reliability"] = result.reliability()
        if self.labels.ndim > 1:
            del report["nll"], report["brier"]
        else:
            by_name = zip(self.class_names, result.classes.tolist(), strict=False)  # a model may have classes more
            report["per_class"] = {name: right / n for name, (n, right) in by_name if n}
        if self.published:
            report["published_images"] = self.published
        return report
