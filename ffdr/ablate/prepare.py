"""What the cells need before they can run: files made by other verbs, and reinforced betons cut to size."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from ffdr.ablate.grid import Grid, command_words
from ffdr.ablate.workers import Callback, Workers
from ffdr.beton.read import ReinforcedBeton
from ffdr.config import recipe
from ffdr.config.ablation import AblateOptions
from ffdr.config.files import SubsetOptions
from ffdr.util.atomic import atomic_write
from ffdr.util.errors import UserError
from ffdr.util.foreign import read_json
from ffdr.util.opening import own_folder
from ffdr.util.text import say
from ffdr.write.copy.subset import subset

CommandLine = Callable[[Sequence[str]], int]
"""Runs the words of an ``ffdr`` command line, as ``cli.main`` does; returns the exit status. Must pickle."""


def prepare(options: AblateOptions, grid: Grid, command_line: CommandLine) -> None:
    """Run the command lines of ``ablate.prepare`` that were not run yet, in a worker; then cut what is to be cut.

    Raises:
        UserError: a command that failed (what it printed says why), or a cut that the file does not offer.
        Stopped: Ctrl-C or SIGTERM.
    """
    lines = [shlex.join(command_words(options, line)) for line in options.prepare]
    record = Path(options.work) / "prepared.json"
    if _done(record, lines) < len(lines):
        record.parent.mkdir(parents=True, exist_ok=True)
        (outcome,) = Workers(1, options.threads).run([partial(_run_lines, command_line, lines, record)], Callback())
        if outcome.error:
            raise UserError(f"ablate.prepare: {outcome.error}")
    for cut in dict.fromkeys(cell.cut for cell in grid.cells if cell.cut is not None):
        if not _is_cut(cut):
            own_folder(Path(cut.out).parent)
            subset(replace(cut, overwrite=True))


def _done(record: Path, lines: Sequence[str]) -> int:
    """How many lines an earlier run has done. What stands after a changed line may depend on it, so it is not done."""
    done = _recorded(record)
    count = 0
    while count < min(len(done), len(lines)) and done[count] == lines[count]:
        count += 1
    return count


def _recorded(record: Path) -> list[str | None]:
    """The lines that are done, each spelled as ``shlex.join`` spells its words.

    Last None, where one that was done before was changed and not all after it are made.
    """
    lines = read_json(record) if record.exists() else []
    if isinstance(lines, list) and all(line is None or isinstance(line, str) for line in lines):
        with suppress(ValueError):  # a quote that does not end
            return [None if line is None else shlex.join(shlex.split(line)) for line in lines]
    raise UserError(f"{record}: not the command lines that were run; remove it to run all of them")


def _run_lines(command_line: CommandLine, lines: Sequence[str], record: Path) -> None:
    """In a worker: each line that was not run yet. After a changed line, what the earlier ones made is replaced."""
    first = _done(record, lines)
    changed = len(_recorded(record)) > first
    for number, line in enumerate(lines[first:], first):
        words = shlex.split(line)
        if changed:
            words = _replacing(words, record.parent)
        say(f"ffdr {shlex.join(words)}")
        sys.stdout.flush()
        status = command_line(words)
        if status >= 128:  # stopped by a signal
            raise SystemExit(status)
        if status:
            raise UserError(f"ffdr {line} ended with status {status}")
        done = [*lines[: number + 1], *([None] if changed and number + 1 < len(lines) else [])]
        atomic_write(record, json.dumps(done, indent=2) + "\n")


def _replacing(words: list[str], work: Path) -> list[str]:
    """A command line with ``--overwrite``, where it makes files in the study's folder alone, which is its own."""
    longer = [*words, "--overwrite"]
    try:
        found = recipe.parse(words[0], longer[1:])
    except (UserError, KeyError, IndexError):  # no such option, or given already; the run reports other mistakes
        return words
    made = next(part for part in (found, *vars(found).values()) if hasattr(part, "overwrite"))
    outs = [made.out] if hasattr(made, "out") else [made.images, made.reinforced]  # ffdr split makes two
    is_own = all(Path(out).resolve().is_relative_to(work.resolve()) for out in outs if out)
    return longer if is_own else words


def _is_cut(cut: SubsetOptions) -> bool:
    """Whether the file is there and stems from the very reinforcement that would be cut now."""
    if not Path(cut.out).exists():
        return False
    full = ReinforcedBeton.open(cut.file).header
    wanted = replace(full, views=cut.views or full.views, topk=cut.topk or full.topk)
    return ReinforcedBeton.open(cut.out).header == wanted
