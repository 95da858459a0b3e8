"""The command line: one function a verb. Slow imports wait until the recipe is known to be good."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ffdr import __version__
from ffdr.config import recipe
from ffdr.config.choices import BENCHES
from ffdr.config.verbs import (
    AblateRecipe,
    BenchRecipe,
    DemoRecipe,
    EvalRecipe,
    ExportRecipe,
    ImportRecipe,
    InspectRecipe,
    PackRecipe,
    ReinforceRecipe,
    ReportRecipe,
    SplitRecipe,
    SubsetRecipe,
    TrainRecipe,
    TranscodeRecipe,
    VerifyRecipe,
    WriteRecipe,
)
from ffdr.util.errors import (
    UserError,
    is_bad_path,
    is_out_of_memory,
    nearest,
)
from ffdr.util.text import reason, warn


def demo(options: DemoRecipe) -> None:
    """The whole path on handwritten digits: write, reinforce, train by ERM, KD and DR, evaluate."""
    from ffdr.demo.run import run_demo

    run_demo(options.demo)


def write(options: WriteRecipe) -> None:
    """Turn a source dataset into an image beton."""
    from ffdr.write.images import write_images

    write_images(options.write)


def reinforce(options: ReinforceRecipe) -> None:
    """Draw views, replay them, let the teacher label them, store both."""
    from ffdr.reinforce.generate import generate

    generate(options.reinforce, options.policy, options.teacher)


def import_archive(options: ImportRecipe) -> None:
    """Turn archives of the published format (apple/ml-dr) into a reinforced beton."""
    from ffdr.mldr.importing import import_archives

    import_archives(options.import_)


def export_archive(options: ExportRecipe) -> None:
    """Turn a reinforced beton into an archive of the published format (apple/ml-dr)."""
    from ffdr.mldr.exporting import export_archive

    export_archive(options.export)


def pack(options: PackRecipe) -> None:
    """Merge images and their reinforcement into one self-contained file."""
    from ffdr.write.merge import pack

    pack(options.pack)


def split(options: SplitRecipe) -> None:
    """Take a packed file apart."""
    from ffdr.write.merge import split

    split(options.split)


def subset(options: SubsetRecipe) -> None:
    """Fewer images, views or teacher entries out of a full file."""
    from ffdr.write.subset import subset

    subset(options.subset)


def transcode(options: TranscodeRecipe) -> None:
    """Turn JPEGs into packed coefficients, or the reverse, without loss."""
    from ffdr.write.transcode import transcode

    transcode(options.transcode)


def inspect(options: InspectRecipe) -> None:
    """Tell what a file holds: header, policy, teacher, statistics, pictures."""
    from ffdr.inspect.run import inspect

    inspect(options.inspect)


def verify(options: VerifyRecipe) -> int:
    """Read a file whole and check every byte of it; exit status 1 if it is damaged."""
    from ffdr.write.verify import verify

    return verify(options.verify)


def train(options: TrainRecipe) -> None:
    """Train one model by ERM, KD or DR."""
    from ffdr.train.run import run

    run(options)


def evaluate(options: EvalRecipe) -> None:
    """Accuracy and calibration of one model on a data set, or on ImageNet's evaluation sets."""
    from ffdr.evaluate.run import run

    run(options.eval, options.model, options.suite)


def bench(options: BenchRecipe, what: str) -> None:
    """Measure: loader, kernels, files, epoch (DR : ERM), train, eval, doctor (what limits it), gpu (all of it)."""
    from ffdr.bench.doctor import bench_doctor
    from ffdr.bench.epoch import bench_epoch
    from ffdr.bench.evaluate import bench_eval
    from ffdr.bench.gpu.run import bench_gpu
    from ffdr.bench.loading.files import bench_files
    from ffdr.bench.loading.kernels import bench_kernels
    from ffdr.bench.loading.loader import bench_loader
    from ffdr.bench.train import bench_train

    benches = {
        "loader": bench_loader,
        "kernels": bench_kernels,
        "files": bench_files,
        "epoch": bench_epoch,
        "train": bench_train,
        "eval": bench_eval,
        "doctor": bench_doctor,
        "gpu": bench_gpu,
    }
    benches[what](options.bench)


def ablate(options: AblateRecipe) -> int:
    """Train and examine a grid of runs, with tables and plots of them; exit status 1 if a run failed."""
    from ffdr.ablate.run import run_ablation

    return run_ablation(options.ablate, main)


def report(options: ReportRecipe) -> None:
    """Set a run beside the published figures for its model."""
    from ffdr.ablate.reference import report

    report(options.report)


VERBS: dict[str, Callable[..., int | None]] = {
    "demo": demo,
    "write": write,
    "reinforce": reinforce,
    "import": import_archive,
    "export": export_archive,
    "pack": pack,
    "split": split,
    "subset": subset,
    "transcode": transcode,
    "inspect": inspect,
    "verify": verify,
    "train": train,
    "eval": evaluate,
    "bench": bench,
    "ablate": ablate,
    "report": report,
}
_IN_BATCHES = ("demo", "reinforce", "train", "eval", "bench", "ablate")
"""Verbs that run models."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status.

    0; 2 after one line about a mistake in the input, a path that can't be written to among them; 1 after one line about
    a system that fails (a full disk, no memory left), and for a damaged file; 130 when interrupted, 141 when nobody
    reads what it prints, 143 when stopped by SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = words.pop(0) if words else "--help"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # else somebody put something of their own there
            stream.reconfigure(errors="backslashreplace")  # no name, and no terminal, may end the work
    status = 1
    try:
        status = _status(verb, words)
        if sys.stdout:  # closed by >&-
            sys.stdout.flush()
    except BrokenPipeError:  # its reader, such as head, has seen enough
        status = 141
    except OSError as error:
        if not status:  # else it is told already
            status = 1
            print(f"ffdr {verb}: standard output: {error.strerror}", file=sys.stderr)
    finally:
        _drop_unwritable()
    return status


def _status(verb: str, words: list[str]) -> int:
    """Run one verb; what fails is told in one line."""
    try:
        return _run(verb, words) or 0
    except BrokenPipeError:
        raise
    except UserError as error:
        line, status = str(error), 2
    except KeyboardInterrupt as error:  # or one that knows more, such as train.control.Stopped
        line, status = str(error) or "interrupted", getattr(error, "status", 130)
    except Exception as error:
        if is_out_of_memory(error):
            hint = "; try smaller batches" if verb in _IN_BATCHES else ""
            line, status = f"out of memory{f': {reason(error)}' if str(error) else ''}{hint}", 1
        elif isinstance(error, OSError):
            line = f"{error.filename or 'file system'}: {error.strerror or error}"
            status = 2 if is_bad_path(error) else 1
        else:
            raise
    warn(f"ffdr {verb}: {line}")
    return status


def _drop_unwritable() -> None:
    """Let go what is left in buffers that can't be written: Python would try again as it ends."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(verb: str, words: list[str]) -> int | None:
    if verb in ("-h", "--help", "help"):
        print(_overview())
        return None
    if verb == "--version":
        print(f"ffdr {__version__}")
        return None
    if verb not in VERBS:
        raise UserError(f"no such verb; one of {', '.join(VERBS)}{nearest(verb, VERBS)}")
    if any(word in ("-h", "--help") for word in words):
        print(f"ffdr {verb}: {VERBS[verb].__doc__}\n\n  --config-file RECIPE.yaml\n{recipe.help_text(verb)}")
        return None
    positional: list[Any] = []
    if verb == "bench":
        what = words.pop(0) if words else ""
        if what not in BENCHES:
            raise UserError(f"{what!r} is not one of {', '.join(BENCHES)}{nearest(what, BENCHES)}")
        positional.append(what)
    return VERBS[verb](recipe.parse(verb, words), *positional)


def _overview() -> str:
    lines = ["ffdr VERB [--config-file RECIPE.yaml] [--section.name=value ...]", ""]
    lines += [f"  {name:10s} {function.__doc__}" for name, function in VERBS.items()]
    lines += ["", "ffdr VERB --help lists the options of a verb; --name=value without a section is the verb's own."]
    return "\n".join(lines)
