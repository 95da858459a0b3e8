"""Checkpoints: written beside, renamed, read without running code, and refused by a run they don't belong to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ffdr.models.tensors import checked_weights
from ffdr.models.torch_files import check_torch_file
from ffdr.train.report import is_record
from ffdr.util.atomic import atomic_path
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.opening import check_folder, own_folder
from ffdr.util.text import (
    brief,
    printable,
    reason,
    warn,
)

_VERSION = 2
_KEYS = (
    "identity", "epoch", "step", "best", "model", "ema", "optimizer", "scaler", "rng", "loader", "totals", "record",
    "schedule", "ended",
)  # fmt: skip
_ADDED: dict[str, Any] = {"record": {}, "schedule": {}, "ended": False}
"""Keys that checkpoints of this version had not from the start, and what they then are."""
_OPTIONAL = {"schedule", "ended"}
"""Keys that only some runs have."""
_COUNT, _MAPPING = (int,), (dict, OrderedDict)
_KINDS = {
    "identity": _MAPPING, "epoch": _COUNT, "step": _COUNT, "model": _MAPPING, "ema": _MAPPING, "optimizer": _MAPPING,
    "scaler": _MAPPING, "loader": _MAPPING, "totals": _MAPPING, "record": _MAPPING, "best": (float, int),
    "rng": (list,), "schedule": _MAPPING, "ended": (bool,),
}  # fmt: skip
"""What stands under each key of a state."""
_PLAIN = (type(None), bool, int, float, str, torch.Tensor, torch.dtype)
_MOST_VALUES = 300_000
"""In a state beside its weights; an optimiser has some 20 for each of them."""
_SHOWN_KEYS = {"data.lessons": "data.supervision"}
"""Keys of the identity that messages call otherwise than files do."""
_REMEDY = "give another train.out, or train.resume=0 to start afresh"


class Checkpoints:
    """A folder of checkpoints named by their step, of which the newest few are kept."""

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        """Nothing is written yet."""
        self.folder, self.keep = Path(folder), keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a run's state; older checkpoints go once the new one is whole.

        So do those of later steps, which a resumed run found damaged and is about to make again.
        """
        if not set(_KEYS) - _OPTIONAL <= set(state) <= set(_KEYS):
            raise ValueError(f"checkpoint: keys {sorted(state)}, but {sorted(_KEYS)} are needed")
        own_folder(self.folder)
        with atomic_path(self.folder / f"{step:09d}.pt") as file:
            torch.save({"version": _VERSION, **state}, file)
        paths = self.paths()
        upto = next(number for number, path in enumerate(paths, 1) if path.stem == f"{step:09d}")
        for path in (*paths[: max(0, upto - self.keep)], *paths[upto:]):
            path.unlink()

    def newest(self, identity: dict[str, Any], defaults: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, on the CPU; None where there is none at all.

        identity: what must be the same for the run to be the same run, by option name. defaults: of what
        neither need name. Raises UserError when all are damaged, and for one of another run, naming both sides.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                state = _read(path)
            except UserError as error:
                if path == paths[0]:
                    raise
                warn(f"{error}; going on from the one before")
                continue
            _check(path, (defaults or {}) | state["identity"], (defaults or {}) | identity)
            return state
        return None

    def clear(self) -> None:
        """Remove all of them: the run starts afresh."""
        for path in self.paths():
            path.unlink()

    def paths(self) -> list[Path]:
        """Oldest first. Raises UserError where the folder is a link: what is elsewhere is not this run's to remove."""
        check_folder(self.folder)
        return sorted(self.folder.glob("*.pt"), key=lambda path: int(path.stem) if path.stem.isdecimal() else -1)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not a file but a folder, a device or a pipe; {_REMEDY}")
    try:
        check_torch_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's safe unpickler lets whatever a damaged file provokes pass through
        raise UserError(f"{path}: no checkpoint could be read from it ({reason(error)}); {_REMEDY}") from error
    version = state.get("version") if isinstance(state, dict) else None
    if type(version) is not int or version != _VERSION or not set(_KEYS) <= {*state, *_ADDED}:
        raise UserError(f"{path}: not a checkpoint that this ffdr reads; {_REMEDY}")
    state = _ADDED | state
    for key, kinds in _KINDS.items():
        if type(state[key]) not in kinds or (kinds is _COUNT and state[key] < 0):
            raise UserError(f"{path}: {key} is {brief(state[key], 80)}, as no run writes it; {_REMEDY}")
    if state["record"] and not is_record(state["record"]):
        raise UserError(f"{path}: record is {brief(state['record'], 80)}, as no run writes it; {_REMEDY}")
    for key in ("model", "ema"):
        if state[key]:
            checked_weights(path, state[key])
    if not _is_plain([state[key] for key in _KEYS if key not in ("model", "ema")]):
        raise UserError(f"{path}: it holds more than numbers, texts and tensors, or more of them; {_REMEDY}")
    return state


def _is_plain(value: Any) -> bool:
    """Whether it is made of what runs write, however often anything in it refers to anything else."""
    waiting, seen = [value], 0
    while waiting and seen < _MOST_VALUES:
        part = waiting.pop()
        seen += 1
        if isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple):
            waiting += part
        elif type(part) not in _PLAIN:
            return False
    return not waiting


def _check(path: Path, found: dict[str, Any], identity: dict[str, Any]) -> None:
    for key, mine in identity.items():
        theirs = found.get(key)
        if not _is_same(mine, theirs):
            key = _SHOWN_KEYS.get(key, key)
            said = f"{key}={_shown(theirs)}, but this run has {key}={_shown(mine)}"
            raise UserError(f"{path}: made with {said}; {_REMEDY}")


def _shown(value: Any) -> str:
    """As a flag has it."""
    return printable(value) if isinstance(value, str) else brief(value)


def _is_same(mine: Any, theirs: Any) -> bool:
    """Equal as options are; a tensor is equal to none."""
    if isinstance(mine, tuple) and isinstance(theirs, tuple | list):
        return len(mine) == len(theirs) and all(map(_is_same, mine, theirs))
    return type(theirs) in _PLAIN and not isinstance(theirs, torch.Tensor) and mine == theirs


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Within, a state that does not fit is the user's mistake: it is of another run, or somebody's own."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        said = f"the state of its newest checkpoint fits no such run ({reason(error)})"
        raise UserError(f"{folder}: {said}; {_REMEDY}") from error


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
