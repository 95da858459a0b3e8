"""What a model may be called, in options, among teachers and in files of weights: one grammar.

=========================  ============================================================================================
``NAME``                   a model of timm, with or without the tag of its weights, or one that ``model.module`` adds
``torchvision:NAME``       a classifier of torchvision
``hf-hub:ORG/NAME[@REV]``  a model of timm's on the Hugging Face hub
``local-dir:FOLDER``       the same in a folder, as ``timm.models.save_for_hf`` writes it
``module:PACKAGE.CLASS``   a module that a caller in Python gave; it can't be built by that name
=========================  ============================================================================================

A teacher is ``NAME[:CHECKPOINT]``. All that follows ``local-dir:`` is the folder, colons included: its weights lie in
it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from ffdr.config.learning import ModelOptions

TIMM, TORCHVISION, HUB, FOLDER, GIVEN = "", "torchvision:", "hf-hub:", "local-dir:", "module:"
FORMS = "a name of timm's, torchvision:NAME, hf-hub:ORG/NAME or local-dir:FOLDER"
_PREFIXES = (TORCHVISION, HUB, FOLDER, GIVEN)
_LONGEST = 100
"""Characters of the name of a class and its module."""
STORED_NAME = rf"({TORCHVISION}|{GIVEN})?[\w.-]{{1,{_LONGEST}}}"
"""Pattern of the names that files of weights have: what comes from a hub or a folder is stored by its architecture."""


def split_prefix(name: str) -> tuple[str, str]:
    """The prefix that says where a model comes from, ``TIMM`` if there is none, and the rest."""
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), TIMM)
    return prefix, name.removeprefix(prefix)


def split_checkpoint(text: str) -> tuple[str, str]:
    """Name and checkpoint, empty if there is none, of ``NAME[:CHECKPOINT]``."""
    prefix, rest = split_prefix(text)
    if prefix == FOLDER:
        return text, ""
    name, _, checkpoint = rest.partition(":")
    return prefix + name, checkpoint


def is_from_hub(name: str) -> bool:
    """Whether a model is of the Hugging Face hub, or of a folder of that kind, which say what timm is to build."""
    return split_prefix(name)[0] in (HUB, FOLDER)


def is_given(name: str) -> bool:
    """Whether it stands for a module that a caller in Python gave."""
    return name.startswith(GIVEN)


def given_name(module: object) -> str:
    """What a module that a caller gave is called in recipes, checkpoints and files of weights."""
    kind = type(module)
    full = re.sub(r"[^\w.]", "", f"{kind.__module__}.{kind.__qualname__}".replace("<locals>.", ""))
    return GIVEN + full[-_LONGEST:].lstrip(".")


def take_module(options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The ``torch.nn.Module`` among the options of a call, as ``model``, or None; and the options with a model section
    that names it in its place, whatever a recipe has there."""
    given = options.get("model")
    torch = sys.modules.get("torch")  # who has a module has imported it
    if torch is None or not isinstance(given, torch.nn.Module):
        return None, dict(options)
    return given, {**options, "model": ModelOptions(name=given_name(given))}
