"""Gradient checkpointing, by timm: activations are computed again in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ffdr.util.errors import UserError
from ffdr.util.text import printable, reason


def checkpoint_gradients(model: nn.Module, name: str) -> None:
    """Have a model keep fewer activations. name: its own, for messages.

    The gradients stay the same, and so do the statistics of norms: what is computed a second time does not count a
    second time in them, as it would by itself (compiled, it does not either).

    Raises:
        UserError: the model has no ``set_grad_checkpointing``, or can't do it.
    """
    switch: Any = getattr(model, "set_grad_checkpointing", None)
    what = f"train.grad_checkpointing: {printable(name)}"
    remedy = "leave it out, and split batches with train.accumulate"
    if not callable(switch):
        raise UserError(f"{what} has no set_grad_checkpointing, as timm's models have; {remedy}")
    try:
        switch(True)
    except (AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise UserError(f"{what} can't do it ({reason(error)}); {remedy}") from error
    for module in model.modules():
        if getattr(module, "track_running_stats", False):
            module.register_forward_pre_hook(_counting_once(module))


def _counting_once(norm: Any) -> Callable[[Any, Any], None]:
    """A hook by which a pass that is done again, which is one within a backward pass, leaves statistics as they are."""
    momentum = norm.momentum

    def begin(module: Any, _: object) -> None:
        if torch.compiler.is_compiling():
            return
        again = torch._C._current_graph_task_id() != -1
        module.momentum = 0.0 if again else momentum
        if again and module.training and module.num_batches_tracked is not None:
            module.num_batches_tracked.sub_(1)  # to which the pass adds 1

    return begin
