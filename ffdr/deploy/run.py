"""``ffdr export-model``: a trained model becomes a file or a folder that other tools read."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from torch import nn

from ffdr.config.deploying import ExportModelOptions
from ffdr.config.learning import ModelOptions
from ffdr.deploy.card import Card, read_scores
from ffdr.deploy.deployed import Deployed
from ffdr.deploy.graphs import OPSET, check_packages, used_bytes, write_onnx, write_torch
from ffdr.deploy.hub_folder import FILES, check_buildable, write_hub
from ffdr.deploy.origin import origin_of
from ffdr.models.build import ModelInfo, load_model, load_named
from ffdr.models.catalog import config_of
from ffdr.models.given import describe_given
from ffdr.models.hub import folder_files
from ffdr.models.modules import import_modules
from ffdr.util.atomic import partial_path
from ffdr.util.errors import UserError
from ffdr.util.opening import check_final, check_folder, check_own
from ffdr.util.text import brief, byte_size, command, printable, say
from ffdr.write.parts import check_out

_SIZE_KEY = "export_model.resolution"


def run(
    options: ExportModelOptions, model_options: ModelOptions, given: nn.Module | None = None, progress: bool = True
) -> Path:
    """Export as the options say, load what was written again, and compare the answers; returns its path.

    given: the module of a caller in Python, a copy of which is exported in place of a model that is built;
    ``model_options`` name it (``take_module``).

    Raises:
        UserError: a model that can't be had or that the format can't hold; an output that can't be written, or that is
            there already; other answers.
    """
    import_modules(model_options.module, "model.module")
    out = Path(options.out)
    given_files = [Path(file) for file in (options.checkpoint, model_options.checkpoint) if file]
    _check_output(options, out, [*given_files, *folder_files(model_options.name)])
    if options.format == "onnx":
        check_packages()
    of_model, parameters, scores = read_scores(options.report) if options.report else ("", None, {})
    model, info = _load(options, model_options) if given is None else _described(given, options, model_options)
    if of_model not in ("", info.name):
        raise UserError(f"export_model.report: {options.report} is of {printable(of_model)}, but this is {info.name}")
    own = sum(value.numel() for value in model.parameters())
    if parameters not in (None, own):
        raise UserError(
            f"export_model.report: {options.report} is of {info.name} with {brief(parameters)} parameters, but this "
            f"has {own}: other classes or options"
        )
    deployed = Deployed(model.cpu().float().eval().requires_grad_(False), info, options.pixels)

    def claim() -> None:
        _check_free(out, options.overwrite)

    if options.format == "hub":
        architecture = check_buildable(deployed)
        weights = options.checkpoint or model_options.checkpoint
        card = Card(out.absolute().name, options.license, origin_of(weights, info), scores)
        found = write_hub(deployed, architecture, card, out, claim)
    else:
        found = {"onnx": write_onnx, "torch": write_torch}[options.format](deployed, out, claim)
    if progress:
        say(_closing(options, out, info, found))
    return out


def _load(options: ExportModelOptions, model: ModelOptions) -> tuple[nn.Module, ModelInfo]:
    """The model that the options name."""
    if options.checkpoint:
        return load_model(options.checkpoint, options.resolution, _SIZE_KEY)
    return load_named(
        model.name, model.checkpoint, resolution=options.resolution, options=model.options, size_key=_SIZE_KEY
    )


def _described(given: nn.Module, options: ExportModelOptions, model: ModelOptions) -> tuple[nn.Module, ModelInfo]:
    """A copy of a caller's module on the CPU, with the weights of the checkpoint, if there is one; how to feed it."""
    try:
        copied = copy.deepcopy(given).cpu().float()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"model: {printable(model.name)} can't be copied; give one that copy.deepcopy takes") from error
    info = describe_given(copied, model.name, options.checkpoint, options.resolution, config_of(""), _SIZE_KEY)
    return copied, info


def _check_output(options: ExportModelOptions, out: Path, needed: list[Path]) -> None:
    """Raise UserError where the output can't be written, or would replace what it may not. needed: files to read."""
    if not out.absolute().parent.is_dir():
        raise UserError(f"export_model.out: there is no folder {out.parent}")
    if options.format != "hub":
        check_final(out)
        check_own(partial_path(out))
    elif os.path.lexists(out):
        check_folder(out)
        other = next((entry.name for entry in os.scandir(out) if entry.name not in FILES), None)
        if other is not None:
            raise UserError(
                f"{out}: holds {printable(other)}, which export-model does not write; remove the folder or name another"
            )
    check_out(out, needed, may_be_folder=options.format == "hub")
    for file in needed:
        if options.format == "hub" and file.exists() and out.resolve() in file.resolve().parents:
            raise UserError(f"{out}: holds {file.name}, which this run needs; choose another name")
    _check_free(out, options.overwrite)
    if not os.access(out.absolute().parent, os.W_OK):
        raise UserError(f"{out}: can't be written: this user may not write to {out.absolute().parent}")


def _check_free(out: Path, overwrite: bool) -> None:
    """Raise UserError if something has the output's name and may not be replaced."""
    if not overwrite and os.path.lexists(out):
        raise UserError(f"{out}: exists; --overwrite replaces it")


def _closing(options: ExportModelOptions, out: Path, info: ModelInfo, found: float) -> str:
    """What was written where, how far its answers differ, and what comes next."""
    kinds = {"onnx": f"ONNX, opset {OPSET}", "torch": "an archive of torch.export", "hub": "a folder for timm"}
    readers = {"onnx": "onnxruntime", "torch": "torch.export.load", "hub": "timm"}
    path: Any = str(out)
    then = {
        "onnx": f"onnxruntime.InferenceSession({path!r}).run(None, {{'images': images}})",
        "torch": f"torch.export.load({path!r}).module()(images)",
        "hub": command("eval", f"--model.name=local-dir:{out}", "--eval.data=IMAGES.beton"),
    }[options.format]
    return (
        f"{out}: {info.name} as {kinds[options.format]}, {byte_size(used_bytes(out))}; loaded again by "
        f"{readers[options.format]}, its answers differ by {found:.1e} at most; next: {then}"
    )
