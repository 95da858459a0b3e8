"""What the machine is and what it can do at best."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import numba
import torch

from ffdr.bench.capacity import device_copies, matrix_products, pinned_copies
from ffdr.bench.gpu.site import Ready, Row, Site

PRODUCTS, COPIES, PINNED = "matrix products", "copies in memory", "pinned copies to the GPU"


def prepare(site: Site) -> Ready:
    """Look at what is there."""
    known = versions(site.device)
    return Ready(lambda: _measure(site, known))


def _measure(site: Site, known: dict[str, str]) -> Iterator[Row]:
    yield {"name": "versions", **known}
    # One at a time: together they would need 13 GB.
    makers = {
        PRODUCTS: lambda: matrix_products(site.device, torch.bfloat16 if site.device.type == "cuda" else None),
        COPIES: lambda: device_copies(site.device),
    }
    if site.device.type == "cuda":
        side = site.sizes.resolution
        makers[PINNED] = lambda: pinned_copies(site.device, (site.sizes.batch_size, side, side, 3))
    for name, make in makers.items():
        yield from site.rows({name: make()})


def versions(device: torch.device) -> dict[str, str]:
    """Card, driver, libraries below torch, and the pool of Numba's parallel kernels."""
    found = {"numba_threads": _threading_layer(), "torch_threads": str(torch.get_num_threads())}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "card": properties.name,
            "memory_gb": f"{properties.total_memory / 1e9:.0f}",
            "multiprocessors": str(properties.multi_processor_count),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }
    return found | _driver()


def _threading_layer() -> str:
    @numba.njit(parallel=True)
    def first_use(count: int) -> int:
        total = 0
        for i in numba.prange(count):
            total += i
        return total

    first_use(8)  # the pool is chosen by the first parallel kernel that runs
    return numba.threading_layer()


def _driver() -> dict[str, str]:
    """What nvidia-smi says of driver, clock and power."""
    if not shutil.which("nvidia-smi"):
        return {}
    query = "driver_version,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return {}
    return dict(zip(("driver", "clock", "power"), map(str.strip, line.split(",")), strict=False))
