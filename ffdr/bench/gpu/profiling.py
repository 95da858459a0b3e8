"""Where the time of a training step goes, by kinds of kernels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity

from ffdr.bench.gpu.site import Row
from ffdr.train.stopwatch import wait

_TOP = 10
_KINDS = (
    ("Triton reductions", ("triton_red", "triton_per")),
    ("Triton pointwise", ("triton_",)),
    ("batch norm", ("batchnorm", "batch_norm", "bn_fw", "bn_bw", "norm_fw", "norm_bw")),
    ("optimiser", ("multi_tensor", "foreach", "fused_sgd", "fused_adam", "fusedsgd", "fusedadam")),
    ("convolution", ("conv", "xmma", "cudnn", "gemm", "cutlass", "wgrad", "dgrad", "nvjet", "addmm", "aten::mm")),
    ("copies", ("memcpy", "memset", "copy_")),
)
"""The first kind of which a word is in the kernel's name."""


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name."""
    name = kernel.lower()
    return next((kind for kind, words in _KINDS if any(word in name for word in words)), "other")


def profile(run: Callable[[], object], steps: int, device: torch.device) -> Row:
    """Microseconds per step by kind of kernel, and the longest kernels. steps: that ``run`` does."""
    gpu = device.type == "cuda"
    run()
    wait(device)
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as recorded:
        run()
        wait(device)
    kernels = []
    for event in recorded.key_averages():
        spent = event.self_device_time_total if gpu else event.self_cpu_time_total
        if spent > 0:
            kernels.append({"kernel": event.key[:200], "us": spent / steps, "calls": event.count / steps})
    kernels.sort(key=lambda kernel: -kernel["us"])
    kinds: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        kinds[kind_of(kernel["kernel"])] += kernel["us"]
    return {"us_per_step": sum(kinds.values()), "kinds": dict(kinds), "top": kernels[:_TOP]}
