"""Options as NAME=VALUE texts in recipes, on the command line and in files of weights: of models, and others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from ffdr.util.errors import UserError
from ffdr.util.text import brief, printable, reason

_OTHERWISE = {
    "num_classes": "the classes of the data decide it",
    "in_chans": "images have three channels",
    "img_size": "train.resolution decides it",
    "features_only": "a classifier is wanted",
    "out_indices": "a classifier is wanted",
    "pretrained": "give model.pretrained=true",
    "pretrained_cfg": "model.name names the weights, such as resnet50.a1_in1k",
    "pretrained_cfg_overlay": "model.name names the weights, such as resnet50.a1_in1k",
    "checkpoint_path": "give model.checkpoint",
    "cache_dir": "set HF_HOME instead",
    "device": "a GPU is used where there is one",
    "dtype": "give train.precision",
}
"""Arguments of timm's factory that are no options of the model, and what to do instead."""
_NO_OPTION = re.compile(
    r"pretrained.*|checkpoint.*|feature.*_cls|model_cfg|out_(indices|features)|return_interm_layers|pruned|"
    r"scriptable|exportable|no_jit|self|block|kwargs.*|.*(path|file|dir|cache|url|hub|cfgs?|args|_cls|_fn|backbone)"
)
"""What names files, weights, caches, configurations, classes or functions, whichever model has it."""
_NAME = re.compile(r"[A-Za-z]\w{0,63}")
_WORD = re.compile(r"[\w.+-]{0,64}")
"""Texts among the values: names in timm's own tables of layers, poolings and kinds."""
_MOST_TEXT, _MOST_VALUES, _MOST_OPTIONS = 200, 64, 64
MOST_NUMBER = 65536
"""Of a width, a number of blocks, a size or a ratio; no model of timm comes near it."""


def read_options(texts: Sequence[str], key: str = "model.options") -> dict[str, Any]:
    """Names and values of NAME=VALUE texts; the values as YAML has them: true, 0.1, blur, [3, 4, 6, 3].

    key: where the texts stand, for messages. What a model has of them, ``timm_options.factory_options`` says.

    Raises:
        UserError: a text of another form, a name that no model's architecture has, one that stands twice, or a value
            that is no short text, no number up to ``MOST_NUMBER``, and no flat list of them.
    """
    return read_values(texts, key, _check_option)


def read_values(texts: Sequence[str], key: str, check_name: Callable[[str, str], None]) -> dict[str, Any]:
    """The same with names of another kind. check_name: raises UserError for one that is none, given where it stands."""
    if len(texts) > _MOST_OPTIONS:
        raise UserError(f"{key}: {len(texts)} options, but at most {_MOST_OPTIONS} are read")
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UserError(f"{key}: {brief(text, 80)} is not NAME=VALUE")
        where = f"{key}: {printable(text, 80)}"
        check_name(name, where)
        if name in found:
            raise UserError(f"{key}: {name} is given twice")
        found[name] = _value(text, value, where)
    return found


def _check_option(name: str, where: str) -> None:
    if is_no_option(name):
        remedy = f": {_OTHERWISE[name]}" if name in _OTHERWISE else ""
        raise UserError(f"{where} is not an option of a model{remedy}")


def is_no_option(name: str) -> bool:
    """Whether an argument of timm's constructors is none of the architecture's options."""
    return name in _OTHERWISE or not _NAME.fullmatch(name) or bool(_NO_OPTION.fullmatch(name))


def _value(text: str, value: str, where: str) -> Any:
    """One value, read without tags, references or nesting."""
    if len(text) > _MOST_TEXT:
        raise UserError(f"{where}: longer than {_MOST_TEXT} characters")
    try:
        events = list(yaml.parse(value, yaml.SafeLoader))[2:-2]  # without the stream's and the document's
        brackets = sum(not isinstance(event, yaml.ScalarEvent) for event in events)
        if not all(map(_is_plain, events)) or brackets not in (0, 2):
            raise UserError(f"{where}: neither a plain value nor a flat list of them")
        found = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-13-01 is a date by its form
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: a value is not YAML ({reason(error)})") from error
    if isinstance(found, list) and len(found) > _MOST_VALUES:
        raise UserError(f"{where}: {len(found)} values, but at most {_MOST_VALUES} are read")
    for part in found if isinstance(found, list) else [found]:
        _check_scalar(part, where)
    return found


def _is_plain(event: yaml.Event) -> bool:
    kinds = (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.SequenceEndEvent)
    return isinstance(event, kinds) and not getattr(event, "tag", None) and not getattr(event, "anchor", None)


def _check_scalar(value: Any, where: str) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        if not _WORD.fullmatch(value):
            raise UserError(f"{where}: {brief(value, 80)} is not the name of anything in timm")
    elif not isinstance(value, int | float):
        raise UserError(f"{where}: neither a number, nor a text, nor true or false")
    elif not (math.isfinite(value) and abs(value) <= MOST_NUMBER):
        raise UserError(f"{where}: {brief(value, 40)} is not between -{MOST_NUMBER:,} and {MOST_NUMBER:,}")
