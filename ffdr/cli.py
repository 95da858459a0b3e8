"""The command line: one function a verb. Slow imports wait until the recipe is known to be good."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ffdr import __version__, recipe
from ffdr.errors import UserError, nearest
from ffdr.options import BENCHES, BenchRecipe, DemoRecipe, EvalRecipe, ReinforceRecipe, TrainRecipe, WriteRecipe


def demo(options: DemoRecipe) -> None:
    """The whole path on handwritten digits: write, reinforce, train by ERM, KD and DR, evaluate."""
    from ffdr.demo.run import run_demo

    run_demo(options.demo)


def write(options: WriteRecipe) -> None:
    """Turn a source dataset into an image beton."""
    from ffdr.beton.write import write_images

    write_images(options.write)


def reinforce(options: ReinforceRecipe) -> None:
    """Draw views, replay them, let the teacher label them, store both."""
    from ffdr.reinforce.generate import generate

    generate(options.reinforce, options.policy, options.teacher)


def train(options: TrainRecipe) -> None:
    """Train one model by ERM, KD or DR."""
    from ffdr.train.run import run

    run(options)


def evaluate(options: EvalRecipe) -> None:
    """Accuracy and calibration of one model on one image beton."""
    from ffdr.evaluate.run import run

    run(options.eval, options.model)


def bench(options: BenchRecipe, what: str) -> None:
    """Measure: epoch (epoch time of DR against ERM)."""
    from ffdr.bench.epoch import bench_epoch

    {"epoch": bench_epoch}[what](options.bench)


VERBS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "write": write,
    "reinforce": reinforce,
    "train": train,
    "eval": evaluate,
    "bench": bench,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 0; 2 after one line about a mistake in the input; 1 after one line about a
    file system or memory that fails (a full disk, too large a batch); 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = words.pop(0) if words else "--help"
    if verb in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if verb == "--version":
        print(f"ffdr {__version__}")
        return 0
    try:
        _run(verb, words)
    except UserError as error:
        print(f"ffdr {verb}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ffdr {verb}: {error.filename or 'file system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except Exception as error:
        if type(error).__name__ not in ("MemoryError", "OutOfMemoryError"):  # the latter is torch's, not imported here
            raise
        print(f"ffdr {verb}: out of memory: {' '.join(str(error).split())[:200]}; try smaller batches", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"ffdr {verb}: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(verb: str, words: list[str]) -> None:
    if verb not in VERBS:
        raise UserError(f"no such verb; one of {', '.join(VERBS)}{nearest(verb, VERBS)}")
    if any(word in ("-h", "--help") for word in words):
        print(f"ffdr {verb}: {VERBS[verb].__doc__}\n\n  --config-file RECIPE.yaml\n{recipe.help_text(verb)}")
        return
    positional: list[Any] = []
    if verb == "bench":
        what = words.pop(0) if words else ""
        if what not in BENCHES:
            raise UserError(f"{what!r} is not one of {', '.join(BENCHES)}{nearest(what, BENCHES)}")
        positional.append(what)
    VERBS[verb](recipe.parse(verb, words), *positional)


def _overview() -> str:
    lines = ["ffdr VERB [--config-file RECIPE.yaml] [--section.name=value ...]", ""]
    lines += [f"  {name:10s} {function.__doc__}" for name, function in VERBS.items()]
    return "\n".join([*lines, "", "ffdr VERB --help lists the options of a verb."])
