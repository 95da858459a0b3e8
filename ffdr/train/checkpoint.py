"""Checkpoints: written aside, renamed, read without running code, and refused by a run they don't belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ffdr.errors import UserError
from ffdr.models import aside

_VERSION = 1
_KEYS = ("identity", "epoch", "step", "model", "ema", "optimizer", "scaler", "rng", "loader", "totals")


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a run's state; an earlier checkpoint stays until the new one is whole."""
    if set(state) != set(_KEYS):
        raise ValueError(f"checkpoint: keys {sorted(state)}, but {sorted(_KEYS)} are needed")
    with aside(path) as partial:
        torch.save({"version": _VERSION, **state}, partial)


def load_checkpoint(path: str | Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read a run's state onto the CPU.

    identity: what must be the same for the run to be the same run, by option name. Raises UserError for a damaged file
    and for one of another run, naming both sides.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's safe unpickler lets whatever a damaged file provokes pass through
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: no checkpoint could be read from it ({reason}); {_REMEDY}") from error
    if not isinstance(state, dict) or state.get("version") != _VERSION or not set(_KEYS) <= set(state):
        raise UserError(f"{path}: not a checkpoint that this ffdr reads; {_REMEDY}")
    for key, mine in identity.items():
        theirs = state["identity"].get(key)
        if theirs != mine:
            raise UserError(f"{path}: made with {key}={theirs}, but this run has {key}={mine}; {_REMEDY}")
    return state


_REMEDY = "give another train.out, or train.resume=0 to start afresh"


def get_rng(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's generators that training draws from (dropout, stochastic depth)."""
    rng = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(device)
    return rng


def set_rng(rng: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put the generators back; a run moved to another kind of device keeps what both have."""
    torch.set_rng_state(rng["cpu"])
    if device.type == "cuda" and "cuda" in rng:
        torch.cuda.set_rng_state(rng["cuda"], device)
