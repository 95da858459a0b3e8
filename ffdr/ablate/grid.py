"""A grid: axes with their points, and the cells that they span, each one run of ``ffdr train``."""

from __future__ import annotations

import itertools
import math
import os
import re
import shlex
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffdr.config import recipe
from ffdr.config.ablation import AblateOptions
from ffdr.config.files import SubsetOptions
from ffdr.config.verbs import TrainRecipe
from ffdr.config.yaml_file import MOST_CHARACTERS
from ffdr.util.errors import UserError, nearest
from ffdr.util.text import brief, command, join_list, printable, reason, split_list

SEED = "train.seed"
"""The axis whose points are repeats of the same run."""
_OWN = ("train.out", "train.resume", "train.dry_run")
_MOST_RUNS = 10_000
_MOST_TEXT = 1 << 25
"""Characters of all runs, as command lines and as recipes; those of a run are some three thousand."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    points: dict[str, str]
    """axis → label of its point"""
    recipe: TrainRecipe
    """resolved; ``train.out`` and ``train.resume`` are not settled yet"""
    command: str
    """the ``ffdr train`` command line that it stands for, but for train.out"""
    cut: SubsetOptions | None
    """how the reinforced beton that the recipe names is cut out of a larger one; None: it is there as it is"""

    @property
    def name(self) -> str:
        """Its points in one line."""
        return " ".join(f"{axis.rpartition('.')[2]}={label}" for axis, label in self.points.items())

    @property
    def group(self) -> tuple[tuple[str, str], ...]:
        """Its points but for the seed: what its repeats share."""
        return tuple((axis, label) for axis, label in self.points.items() if axis != SEED)


@dataclass(frozen=True)
class Grid:
    """All cells, in the order in which they run, and what is compared with what."""

    axes: dict[str, dict[str, dict[str, Any]]]
    """axis → label → options of ``ffdr train``"""
    cells: tuple[Cell, ...]
    compare: tuple[str, str] | None
    """axis and the label that is set against the axis' other labels"""

    @classmethod
    def from_options(cls, options: AblateOptions) -> Grid:
        """Resolve every cell. Raises UserError for what can't be a run, naming the cell."""
        for line in options.prepare:
            command_words(options, line)
        axes = {axis: _points(axis, points) for axis, points in options.axes.items()}
        kept = _only(axes, options.only)
        compare = _point(axes, "ablate.compare", options.compare) if options.compare else None
        runs = math.prod(map(len, kept.values()))
        if runs > _MOST_RUNS:
            raise UserError(
                f"ablate.axes: {brief(runs)} runs are more than {_MOST_RUNS:,}; take fewer points, or some of them by "
                "ablate.only"
            )
        return cls(axes, tuple(_cells(options, kept, axes)), compare)


def fill_in(options: AblateOptions, text: str, labels: Mapping[str, str] | None = None) -> str:
    """Put the folders in the place of {work} and {data}, and labels in the place of their axes' names.

    What is put in is left as it is, so that no text grows without end. Raises UserError for what is too long yet.
    """
    values = {"work": options.work, "data": options.data, **(labels or {})}
    names = "|".join(map(re.escape, values))
    filled = re.sub(rf"\{{({names})\}}", lambda found: values[found[1]], text)
    if len(filled) > max(MOST_CHARACTERS, len(text)):
        raise UserError(f"ablate: {brief(text)} is more than {MOST_CHARACTERS:,} characters when it is filled in")
    return filled


def command_words(options: AblateOptions, line: str) -> list[str]:
    """The words of a line of ``ablate.prepare``, each filled in by itself: a folder's name may hold a space.

    Raises:
        UserError: a line that is none, is too long, or begins a study: it may be this one.
    """
    fill_in(options, line)  # bounds the line as a whole
    try:
        spelled = shlex.split(line)
    except ValueError as error:
        raise UserError(f"ablate.prepare: {brief(line)} is no command line ({reason(error)})") from None
    words = [fill_in(options, word) for word in spelled]
    if not words or words[0] in ("", "ablate"):
        raise UserError(f"ablate.prepare: {brief(line)} makes nothing that a run needs; leave it out")
    return words


def _filled(options: AblateOptions, value: Any, labels: Mapping[str, str]) -> str:
    """A value as text, filled in; of a list, each part by itself: a folder's name may hold a comma."""
    if isinstance(value, (list, tuple)):
        return _spell([fill_in(options, str(part), labels) for part in value])
    return fill_in(options, _spell(value), labels)


def _points(axis: str, points: Any) -> dict[str, dict[str, Any]]:
    """Label → settings; a list of values of one option is spelled out. An axis without a dot has labels only."""
    if isinstance(points, list) and points and not any(isinstance(value, (dict, list)) for value in points):
        labels = {_spell(value): {axis: value} if "." in axis else {} for value in points}
        if len({as_number(label) for label in labels}) == len(points):
            return labels
    elif isinstance(points, dict) and points and all(isinstance(settings, dict) for settings in points.values()):
        return {str(label): dict(settings) for label, settings in points.items()}
    raise UserError(
        f"ablate.axes: {printable(axis)}: give a list of different values, or points with the options of each"
    )


def _point(axes: Mapping[str, Mapping[str, Any]], key: str, text: str) -> tuple[str, str]:
    """Axis and label that AXIS=POINT names. Raises UserError where there is none."""
    axis, _, label = text.partition("=")
    if axis not in axes:
        hint, names = nearest(axis, axes), printable(", ".join(axes))
        raise UserError(f"{key}: there is no axis {brief(axis)}{hint}; it has {names}")
    if label not in axes[axis]:
        names = printable(", ".join(axes[axis]))
        raise UserError(f"{key}: {printable(axis)} has no point {brief(label)}; it has {names}")
    return axis, label


def _only(axes: Mapping[str, Mapping[str, Any]], only: Iterable[str]) -> dict[str, list[str]]:
    """Axis → labels to run."""
    chosen: dict[str, set[str]] = {}
    for text in only:
        axis, label = _point(axes, "ablate.only", text)
        chosen.setdefault(axis, set()).add(label)
    return {axis: [label for label in points if label in chosen.get(axis, points)] for axis, points in axes.items()}


def _cells(
    options: AblateOptions, kept: Mapping[str, Sequence[str]], axes: Mapping[str, Mapping[str, dict[str, Any]]]
) -> Iterator[Cell]:
    """One for each combination of labels; recipes that they share are read once."""
    files = recipe.Files("train")
    length = 0
    for labels in itertools.product(*kept.values()):
        cell = _cell(options, dict(zip(kept, labels, strict=True)), axes, files)
        length += len(f"{cell.command}{cell.recipe}")
        if length > _MOST_TEXT:
            raise UserError(f"ablate: the recipes of all runs have more than {_MOST_TEXT:,} characters")
        yield cell


def _cell(
    options: AblateOptions,
    labels: dict[str, str],
    axes: Mapping[str, Mapping[str, dict[str, Any]]],
    read: recipe.Files,
) -> Cell:
    """Merge the settings of the grid and of the points, the later axis wins, and read them as a command line."""
    files: list[str] = []
    settings: dict[str, str] = {}
    for part in (options.settings, *(axes[axis][label] for axis, label in labels.items())):
        filled = {key: _filled(options, value, labels) for key, value in part.items()}
        files += [file for file in split_list(filled.pop("config-file", "")) if file]
        settings |= filled
    name = " ".join(f"{axis}={label}" for axis, label in labels.items())
    for key in _OWN:
        if key in settings:
            raise UserError(f"ablate, {printable(name)}: {key} is settled by ffdr ablate itself; leave it out")
    wanted = {key: settings.pop(f"subset.{key}", "") for key in ("views", "topk")}
    cut = None
    try:
        found, arguments = _parse(options, files, settings, read)
        if any(wanted.values()):
            cut = _cut(options, found, wanted)
            found, arguments = _parse(options, files, settings | {"data.reinforced": cut.out}, read)
    except UserError as error:
        raise UserError(f"ablate, {printable(name)}: {error}") from error
    return Cell(labels, found, command("train", *arguments), cut)


def _parse(
    options: AblateOptions, files: Iterable[str], settings: Mapping[str, str], read: recipe.Files
) -> tuple[TrainRecipe, list[str]]:
    """The recipe, and the command line that it was read from."""
    arguments = [word for file in files for word in ("--config-file", file)]
    arguments += [f"--{key}={value}" for key, value in settings.items()]
    return recipe.parse("train", arguments, [("train.out", f"{options.work}/cells")], read), arguments


def _cut(options: AblateOptions, found: TrainRecipe, wanted: Mapping[str, str]) -> SubsetOptions:
    """The cut of the reinforced beton that a cell names."""
    if found.train.task != "dr" or not found.data.reinforced:
        raise UserError("subset.views and subset.topk cut data.reinforced, which this run has not")
    full = Path(found.data.reinforced)
    parts = [f"-{key}{count}" for key, count in wanted.items() if count]
    # The path's checksum keeps files of the same name in different folders apart.
    name = f"{full.stem}-{zlib.crc32(os.fsencode(full)):08x}{''.join(parts)}.beton"
    flags = [f"--file={full}", f"--out={options.work}/subsets/{name}"]
    return recipe.parse("subset", [*flags, *(f"--{key}={count}" for key, count in wanted.items() if count)])


def as_number(label: str) -> float | str:
    """A label's number, which two labels of the same value share (0.1 and 1e-1); of others, the label."""
    try:
        return float(label)
    except ValueError:
        return label


def _spell(value: Any) -> str:
    """A value of a grid as text that the command line reads."""
    if isinstance(value, bool):
        return str(value).lower()
    return join_list(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
