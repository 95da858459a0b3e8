"""Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", 2017): one number that divides logits.

It is fitted on one half of the images and judged on the other. It changes no prediction, only how sure the model is.
Shape suffixes: N images, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ffdr.evaluate.metrics import Result, Scores

LEAST, MOST = 0.01, 100.0
"""Temperatures that are looked at. Where a model makes no mistake the NLL falls with the temperature, down to a rounded
0: what is found there is small and means nothing."""
_ROWS = 1024
"""Images at a time, so that memory stays small; the same whatever the batches were, and so the same sums."""


@dataclass(frozen=True)
class Calibration:
    """Of a model as it is, and with its logits divided by the temperature; both on the images it was not fitted on."""

    temperature: float
    fitted: int
    """images that the temperature was fitted on"""
    mistakes: int
    """of the model on them; without any, there is no best temperature"""
    before: Result
    after: Result

    @property
    def judged(self) -> int:
        """Images that both results are of."""
        return round(self.before.scores["images"])


def calibrate(logits_NC: np.ndarray, labels_N: np.ndarray) -> Calibration | None:
    """Fit a temperature on the images of even numbers, and judge it on those of odd numbers.

    logits_NC: float32, finite at each label, in the order of the images. labels_N: int64. Same arrays, same result.
    None for fewer than two images or classes.
    """
    count, classes = logits_NC.shape
    if min(count, classes) < 2:
        return None
    temperature = fit_temperature(logits_NC[::2], labels_N[::2])
    before, after = (_scores(logits_NC[1::2], labels_N[1::2], t) for t in (1.0, temperature))
    mistakes = int((logits_NC[::2].argmax(1) != labels_N[::2]).sum())
    return Calibration(temperature, len(labels_N[::2]), mistakes, before, after)


def fit_temperature(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """The temperature of the least mean NLL of ``softmax(logits / temperature)``, from ``LEAST`` to ``MOST``.

    The NLL is convex in 1 / temperature, so it has no second minimum, and a bounded search along log temperature
    (Brent's, ``scipy.optimize.minimize_scalar``) finds the one, to 1e-6 of it.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and only runs that are validated need it

    bounds = (math.log(LEAST), math.log(MOST))

    def nll(log: float) -> float:
        return mean_nll(logits_NC, labels_N, math.exp(log))

    return math.exp(minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def mean_nll(logits_NC: np.ndarray, labels_N: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels under ``softmax(logits / temperature)``, in nats.

    In NumPy and float64: its sums depend on no number of threads.
    """
    total = 0.0
    for start in range(0, len(labels_N), _ROWS):
        scaled_NC = logits_NC[start : start + _ROWS].astype(np.float64) / temperature
        label_N = labels_N[start : start + _ROWS, None]
        scaled_NC -= scaled_NC.max(1, keepdims=True)
        at_label_N = np.take_along_axis(scaled_NC, label_N, 1)[:, 0]
        total += float((np.log(np.exp(scaled_NC).sum(1)) - at_label_N).sum())
    return total / len(labels_N)


def _scores(logits_NC: np.ndarray, labels_N: np.ndarray, temperature: float) -> Result:
    scores = Scores(logits_NC.shape[1], "cpu")
    for start in range(0, len(labels_N), _ROWS):
        part = slice(start, start + _ROWS)
        scaled_NC = logits_NC[part].astype(np.float64) / temperature  # rounded once, to float32, by ``Scores``
        scores.update(torch.from_numpy(scaled_NC), torch.from_numpy(labels_N[part]))
    return scores.result(alone=True)
