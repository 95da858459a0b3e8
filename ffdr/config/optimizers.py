"""Optimisers of timm, by name: which there are, and what each can be told. timm is imported for those that need it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ffdr.config.architecture import read_values
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import brief, printable

_NAME = re.compile(r"[a-z][a-z0-9]{1,40}")
_OTHERWISE = {
    "lr": "give train.lr",
    "weight_decay": "give train.weight_decay",
    "weight_decay_exclude_1d": "give train.decay_norms",
    "momentum": "give train.momentum",
    "betas": "give train.betas",
    "eps": "give train.eps",
    "nesterov": "give train.nesterov, or the optimiser of another name",
    "layer_decay": "give train.layer_decay",
    "layer_decay_no_opt_scale": "give train.freeze",
    "params": "the model's are meant",
    "foreach": "the device decides it",
    "fused": "the device decides it",
    "capturable": "the device decides it",
    "deterministic": "it always is",
    "maximize": "a loss is made small",
    "differentiable": "nothing is differentiated through it",
    "verbose": "it says nothing",
}
"""Arguments of optimisers that ``train.optimizer_options`` does not set, and what to do instead."""
_FACTORY = ("fallback_list", "fallback_no_weight_decay", "layer_decay_min_scale")
"""Arguments of timm's factory that the options may set besides."""


@dataclass(frozen=True)
class OptimizerFacts:
    """What timm knows of an optimiser."""

    name: str
    has_momentum: bool = False
    has_eps: bool = True
    num_betas: int = 0
    """0: it has none"""
    nesterov: bool | None = None
    """Nesterov's momentum unless told otherwise; None: it has no such switch"""
    options: tuple[str, ...] = ()
    """what ``train.optimizer_options`` may set, sorted"""
    deterministic: bool = False
    """whether it draws random numbers, and has a switch to draw the same ones in every process"""


def check_form(key: str, name: str) -> None:
    """Raise UserError for a text that is no optimiser's name, without looking for it among timm's."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{key}: {brief(name)} is not one of timm's optimisers, such as sgd, adamw, lamb, lion or muon")


@functools.cache
def available() -> tuple[str, ...]:
    """The optimisers that can be chosen, sorted: timm's, but for those of other libraries (apex, bitsandbytes) and
    those that need second derivatives."""
    from timm.optim import get_optimizer_info, list_optimizers

    infos = {name: get_optimizer_info(name) for name in map(str, list_optimizers())}
    return tuple(name for name, it in infos.items() if not isinstance(it.opt_class, str) and not it.second_order)


@functools.cache
def optimizer_facts(name: str) -> OptimizerFacts:
    """What an optimiser can be told.

    Raises:
        UserError: timm has none of that name, or one that can't work here.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

    if name not in available():
        why = "is not one of timm's optimisers"
        if name in list_optimizers():
            other = get_optimizer_info(name).opt_class
            needs = other.partition(".")[0] if isinstance(other, str) else "second derivatives"
            why = f"needs {needs}, which ffdr does not use"
        raise UserError(f"train.optimizer: {brief(name)} {why}{nearest(name, available())}")
    info = get_optimizer_info(name)
    constructor: Any = info.opt_class
    parameters = inspect.signature(constructor).parameters
    factory = [key for key in _FACTORY if key in inspect.signature(create_optimizer_v2).parameters]
    defaults = info.defaults or {}
    nesterov = defaults.get("nesterov", parameters["nesterov"].default) if "nesterov" in parameters else None
    return OptimizerFacts(
        name,
        info.has_momentum,
        info.has_eps,
        info.num_betas if info.has_betas else 0,
        nesterov,
        tuple(sorted({*parameters, *factory} - _OTHERWISE.keys())),
        "deterministic" in parameters,
    )


def has_momentum(name: str) -> bool:
    """Whether ``train.momentum`` does something; of sgd and adamw without a look at timm."""
    return name == "sgd" or (name != "adamw" and optimizer_facts(name).has_momentum)


def read_optimizer_options(texts: Sequence[str]) -> dict[str, Any]:
    """The values of ``train.optimizer_options`` by their names; whether the optimiser has them is another question.

    Raises:
        UserError: a text that is not NAME=VALUE, a value that is neither plain nor a flat list, or a name that an
            option of its own sets.
    """
    return read_values(texts, "train.optimizer_options", _check_name)


def _check_name(name: str, where: str) -> None:
    if name in _OTHERWISE:
        raise UserError(f"{where} is not set here: {_OTHERWISE[name]}")


def chosen_options(facts: OptimizerFacts, texts: Sequence[str]) -> dict[str, Any]:
    """The same for one optimiser. Raises UserError for a name that it has not, too."""
    found = read_optimizer_options(texts)
    for name in found:
        if name not in facts.options:
            listed = f"; it has {', '.join(facts.options)}" if facts.options else "; it has none"
            raise UserError(
                f"train.optimizer_options: {facts.name} has no option {printable(name, 64)}"
                f"{nearest(name, facts.options)}{listed}"
            )
    return found
