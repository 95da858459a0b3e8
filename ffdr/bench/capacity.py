"""What a device can do at best, what a model asks of it, and how much memory that takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from ffdr.bench.timing import Workload
from ffdr.config.learning import ModelOptions
from ffdr.models.build import build_model, forward_flops
from ffdr.train.stopwatch import wait

_SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the matrices that are multiplied: large enough to reach the device's full rate."""
_COPIED = {"cpu": 2**26, "cuda": 2**32}
"""Bytes: much more than any cache holds."""
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


def matrix_products(device: torch.device, dtype: torch.dtype | None) -> Workload:
    """Multiplies large square matrices: what the device reaches at best; the units are floating-point operations.

    dtype None is float32, on a GPU in TF32, as cuDNN's convolutions have it by default.
    """
    side, count = _SIDE[device.type], _PRODUCTS[device.type]
    # Random numbers: products of equal ones switch fewer transistors, so a GPU clocks higher than it ever will in use.
    a, b, out = (torch.randn(side, side, device=device).to(dtype or torch.float32) for _ in range(3))

    def multiply() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
        for _ in range(count):
            torch.mm(a, b, out=out)
        torch.set_float32_matmul_precision(before)
        wait(device)

    return Workload(multiply, count * 2 * side**3)


def device_copies(device: torch.device) -> Workload:
    """Copies within the device's memory; the units are bytes, those read and those written."""
    size, count = _COPIED[device.type], _PRODUCTS[device.type]
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(count):
            target.copy_(source)
        wait(device)

    return Workload(copy, 2 * count * size)


def pinned_copies(device: torch.device, shape: tuple[int, ...], count: int = 16) -> Workload:
    """Copies of batches of pixels (uint8) from pinned memory to a GPU; the units are bytes."""
    source = torch.zeros(shape, dtype=torch.uint8).pin_memory()

    def copy() -> None:
        for _ in range(count):
            source.to(device, non_blocking=True)
        wait(device)

    return Workload(copy, count * source.numel())


class PeakMemory:
    """The most memory in use since the last ``restart``.

    On a GPU what was allocated beyond what was there when this object was made; on a CPU all that the process holds.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._known = device, True
        if device.type == "cuda":
            torch.cuda.init()  # statistics of a device that was never used are refused
        self._before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        self.restart()

    def restart(self) -> None:
        """Forget the peak so far, such as that of a first run, which tries out algorithms."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest resident size so far
        except OSError:
            self._known = False

    def of_second(self, run: Callable[[], object]) -> int | None:
        """The peak of the second of two runs."""
        run()
        self.restart()
        run()
        return self.bytes

    @property
    def bytes(self) -> int | None:
        """None where the system doesn't report it."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return memory_figure("/proc/self/status", "VmHWM") if self._known else None


def memory_figure(file: str, key: str) -> int:
    """Bytes of a line ``KEY: 123 kB`` in one of Linux's files."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path(file).read_text())
    assert found is not None, f"Linux has {key} in {file}"
    return 1024 * int(found[1])
