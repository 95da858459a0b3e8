"""What is stored of a teacher's predictions: the best classes and their log-probabilities, rounded to 16 bits.

Shape suffixes: B images, C classes, T kept entries (top-k).
"""

from __future__ import annotations

import numpy as np
import torch

from ffdr.beton.header import UNUSED
from ffdr.beton.rounding import to_float16
from ffdr.util.errors import UserError


def topk(log_probs: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What is stored of a teacher's predictions: ids (B, k) uint16 and log-probabilities (B, k) float16, best first.

    log_probs: (B, C) float. Ties go to the lower id. Rounding is to nearest; a row whose rounded probabilities exceed 1
    by more than ``rounding.EXCESS`` is rounded down instead. An unused slot (fewer classes than k, or no probability
    that float16 can hold) is id 0 with -65504; nothing stored is infinite.

    Raises ValueError for more classes than uint16 can name, UserError for a prediction that is not a number.
    """
    return TopK(log_probs, k).result()


class TopK:
    """``topk`` in two parts: the device only begins, so that it has the next batch before this one is read."""

    def __init__(self, log_probs: torch.Tensor, k: int) -> None:
        """Begin to sort (B, C) float log-probabilities; arguments and errors are those of ``topk``."""
        B, C = log_probs.shape
        if C > 2**16:
            raise ValueError(f"top-k: {C} classes, but ids of 16 bits name at most {2**16}")
        self._shape = B, k
        values, order = log_probs.sort(dim=1, descending=True, stable=True)  # torch.topk promises nothing about ties
        kept = min(k, C)
        wanted = values[:, :kept].double(), order[:, :kept], log_probs.isnan().any()
        self._parts = [part.to("cpu", non_blocking=True) for part in wanted]
        self._there = torch.cuda.current_stream(log_probs.device).record_event() if log_probs.is_cuda else None

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """ids and log-probabilities as ``topk`` gives them; waits for the device."""
        if self._there is not None:
            self._there.synchronize()
        exact_BT, order_BT, is_nan = self._parts
        if bool(is_nan):
            raise UserError("teacher.precision: the teacher predicts what is not a number; try bfloat16 or float32")
        kept = exact_BT.shape[1]
        ids_BT = np.zeros(self._shape, np.uint16)
        logs_BT = np.full(self._shape, UNUSED, np.float16)
        ids_BT[:, :kept] = order_BT.numpy()
        logs_BT[:, :kept] = to_float16(exact_BT.numpy())
        ids_BT[logs_BT <= UNUSED] = 0
        return ids_BT, logs_BT
