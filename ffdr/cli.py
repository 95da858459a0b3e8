"""The command line: one function per verb. Slow imports wait until the recipe is known to be good."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ffdr import __version__
from ffdr.config import ablation, files, measuring, verbs
from ffdr.config.choices import BENCHES
from ffdr.config.help import help_text
from ffdr.config.recipe import parse
from ffdr.util.errors import UserError, nearest
from ffdr.util.status import exit_status


def demo(options: measuring.DemoOptions) -> None:
    """The whole path on handwritten digits: write, reinforce, train by ERM, KD and DR, evaluate."""
    from ffdr.demo.run import run_demo

    run_demo(options)


def write(options: files.WriteOptions) -> None:
    """Turn a source dataset into an image beton."""
    from ffdr.write.images import write_images

    write_images(options)


def adopt(options: files.AdoptOptions) -> None:
    """Give a beton that stock FFCV has written a manifest: class names, mean and deviation."""
    from ffdr.write.adopt import adopt

    adopt(options)


def reinforce(recipe: verbs.ReinforceRecipe) -> None:
    """Draw views, replay them, let the teacher label them, store both."""
    from ffdr.reinforce.generate import generate

    generate(recipe.reinforce, recipe.policy, recipe.teacher)


def import_archive(options: files.ImportOptions) -> None:
    """Turn archives of a published format (apple/ml-dr, FKD) into a reinforced beton."""
    if options.format == "fkd":
        from ffdr.fkd.importing import import_archives
    else:
        from ffdr.mldr.importing import import_archives

    import_archives(options)


def export_archive(options: files.ExportOptions) -> None:
    """Turn a reinforced beton into an archive of the published format (apple/ml-dr)."""
    from ffdr.mldr.exporting import export_archive

    export_archive(options)


def pack(options: files.PackOptions) -> None:
    """Merge images and their reinforcement into one self-contained file."""
    from ffdr.write.copy.merge import pack

    pack(options)


def split(options: files.SplitOptions) -> None:
    """Split a merged beton into an image beton and a reinforced beton."""
    from ffdr.write.copy.merge import split

    split(options)


def subset(options: files.SubsetOptions) -> None:
    """Make a smaller file, of fewer images, views or teacher entries."""
    from ffdr.write.copy.subset import subset

    subset(options)


def concat(options: files.ConcatOptions) -> None:
    """Put betons together: images one after the other, views of the same images side by side."""
    from ffdr.write.copy.concat import concat

    concat(options)


def transcode(options: files.TranscodeOptions) -> None:
    """Turn JPEGs into coefficient images, or the reverse, without loss."""
    from ffdr.write.copy.transcode import transcode

    transcode(options)


def inspect(options: files.InspectOptions) -> None:
    """Show what a file holds: header, policy, teacher, statistics, pictures."""
    from ffdr.inspect.run import inspect

    inspect(options)


def verify(options: files.VerifyOptions) -> int:
    """Read a file whole and check every byte of it; exit status 1 if it is damaged."""
    from ffdr.write.verify import verify

    return verify(options)


def train(recipe: verbs.TrainRecipe) -> None:
    """Train one model by ERM, KD or DR."""
    from ffdr.train.run import run

    run(recipe)


def evaluate(recipe: verbs.EvalRecipe) -> None:
    """Accuracy and calibration of one model on a data set, or on ImageNet's evaluation sets."""
    from ffdr.evaluate.run import run

    run(recipe.eval, recipe.model, recipe.suite)


def export_model(recipe: verbs.ExportModelRecipe) -> None:
    """Turn a trained model into ONNX, a torch.export archive or a folder for the Hugging Face hub."""
    from ffdr.deploy.run import run

    run(recipe.export_model, recipe.model)


def bench(options: measuring.BenchOptions, what: str) -> None:
    """Measure: loader, kernels, files, epoch (DR : ERM), train, eval, doctor (what limits it), gpu (all of it)."""
    modules = {
        "loader": "loading.loader",
        "kernels": "loading.kernels",
        "files": "loading.files",
        "epoch": "epoch",
        "train": "train",
        "eval": "evaluate",
        "doctor": "doctor",
        "gpu": "gpu.session",
    }
    getattr(import_module(f"ffdr.bench.{modules[what]}"), f"bench_{what}")(options)


def ablate(options: ablation.AblateOptions) -> int:
    """Train and evaluate a grid of runs, with tables and plots; exit status 1 if a run failed."""
    from ffdr.ablate.run import run_ablation

    return run_ablation(options, main)


def report(options: ablation.ReportOptions) -> None:
    """Compare a run with the published results for its model, or any runs with each other."""
    from ffdr.ablate.reference import report

    report(options)


VERBS: dict[str, Callable[..., int | None]] = {
    "demo": demo,
    "write": write,
    "adopt": adopt,
    "reinforce": reinforce,
    "import": import_archive,
    "export": export_archive,
    "pack": pack,
    "split": split,
    "subset": subset,
    "concat": concat,
    "transcode": transcode,
    "inspect": inspect,
    "verify": verify,
    "train": train,
    "eval": evaluate,
    "export-model": export_model,
    "bench": bench,
    "ablate": ablate,
    "report": report,
}
_IN_BATCHES = ("demo", "reinforce", "train", "eval", "bench", "ablate")
"""Verbs that run models."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: see ``exit_status``; 1 for a damaged file, too."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = words.pop(0) if words else "--help"
    hint = "; try smaller batches" if verb in _IN_BATCHES else ""
    return exit_status(f"ffdr {verb}", lambda: _run(verb, words), hint)


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
        print(f"ffdr {verb}: {VERBS[verb].__doc__}\n\n  --config-file RECIPE.yaml\n{help_text(verb)}")
        return None
    positional: list[str] = []
    if verb == "bench":
        what = words.pop(0) if words else ""
        if what not in BENCHES:
            raise UserError(f"{what!r} is not one of {', '.join(BENCHES)}{nearest(what, BENCHES)}")
        positional.append(what)
    return VERBS[verb](parse(verb, words), *positional)


def _overview() -> str:
    lines = ["ffdr VERB [--config-file RECIPE.yaml] [--section.name=value ...]", ""]
    lines += [f"  {name:13s} {function.__doc__}" for name, function in VERBS.items()]
    lines += ["", "ffdr VERB --help lists the options of a verb; --name=value without a section is the verb's own."]
    return "\n".join(lines)
