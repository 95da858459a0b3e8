"""What a device can do at best, what a model asks of it, and how much memory that takes."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ffdr.bench.timing import Work
from ffdr.models import build_model, forward_flops
from ffdr.options import ModelOptions

_SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the matrices that are multiplied: large enough to reach the device's full rate."""
_PRODUCTS = {"cpu": 1, "cuda": 32}
"""In a row, so that starting them does not count."""


def training_flops(name: str, num_classes: int, resolution: int) -> int:
    """Floating-point operations of one image's forward and backward pass: three times the forward pass.

    A multiply-add counts as two. Counting the backward pass itself would be off for depthwise convolutions, of which
    torch's counter takes each group's gradient for a full one.

    Raises:
        UserError: timm can't build the model for this resolution.
    """
    with torch.device("meta"):  # shapes without numbers: no memory, no time
        model = build_model(ModelOptions(name=name), num_classes, resolution).eval()
        return 3 * forward_flops(model, name, resolution)


def matrix_products(device: torch.device, dtype: torch.dtype | None) -> Work:
    """Multiplies large square matrices: what the device reaches at best; the units are floating-point operations.

    dtype None is float32, on a GPU in TF32, as cuDNN's convolutions have it by default.
    """
    side, count = _SIDE[device.type], _PRODUCTS[device.type]
    a, b, out = (torch.ones(side, side, dtype=dtype or torch.float32, device=device) for _ in range(3))

    def multiply() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
        for _ in range(count):
            torch.mm(a, b, out=out)
        torch.set_float32_matmul_precision(before)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return Work(multiply, count * 2 * side**3)


class PeakMemory:
    """The most memory in use since the last ``restart``.

    On a GPU what was allocated beyond what was there when this object was made; on a CPU all that the process holds.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._known = device, True
        self._before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        self.restart()

    def restart(self) -> None:
        """Forget the peak so far, such as that of a first run, which tries out algorithms."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._known = _reset_resident_peak()

    @property
    def bytes(self) -> int | None:
        """None where the system doesn't tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _resident_peak() if self._known else None


def _reset_resident_peak() -> bool:
    """Linux: forget the process's highest resident size so far; whether that is allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "Linux tells every process its highest resident size"
    return 1024 * int(found[1])
