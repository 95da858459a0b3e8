"""What ``ffdr VERB --help`` says of its options."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Any

from ffdr.config.verbs import sections


def help_text(verb: str) -> str:
    """The options of a verb with their defaults, for ``--help``."""
    lines = []
    for section, options in sections(verb).items():
        lines.append(f"\n{section}: {(options.__doc__ or '').strip().splitlines()[0]}")
        texts = _field_help(options)
        for field in fields(options):
            default = "" if field.default in (MISSING, "", ()) else f" [{_spell(field.default)}]"
            body = textwrap.wrap(texts.get(field.name, "") + default, 78)
            lines.append(f"  --{section}.{field.name}")
            lines.extend(f"      {line}" for line in body)
    return "\n".join(lines)


def _spell(value: Any) -> str:
    if not isinstance(value, (tuple, list)):
        return str(value)
    return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)


def _field_help(options: type) -> dict[str, str]:
    """The text below each field of an options class, which Python itself throws away."""
    (definition,) = ast.parse(inspect.getsource(options)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found
