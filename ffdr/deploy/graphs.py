"""Formats that hold a graph: a file of ONNX, and an archive of torch.export. Both take batches of any size."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from ffdr.deploy.deployed import Answer, Deployed, as_texts
from ffdr.util.atomic import atomic_path, partial_path
from ffdr.util.errors import UserError, is_out_of_memory
from ffdr.util.text import byte_size, join_list, reason

OPSET = 18
"""Version of ONNX's operators, of December 2022: the oldest that PyTorch's exporter writes without converting."""
INPUT, OUTPUT = "images", "logits"
"""Names in an ONNX file."""
METADATA = "ffdr.json"
"""Name of the metadata in an archive of torch.export."""
_BATCH = "batch"
_MOST_BATCH = 1 << 20
_MOST_ONNX = (1 << 31) - (1 << 24)
"""Bytes of weights: a file of ONNX has less than 2 GiB, graph included."""
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_packages() -> None:
    """Raise UserError where a package is missing that writing or checking ONNX needs."""
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"export_model.format: onnx needs {join_list(_ONNX_PACKAGES)}, the last to check what was written; "
            f"pip install {' '.join(missing)}"
        )


def write_onnx(deployed: Deployed, out: Path, claim: Callable[[], None]) -> float:
    """Write a file of ONNX, whose ``metadata_props`` are ``Deployed.metadata``.

    Args:
        deployed: the model.
        out: the file.
        claim: raises UserError if ``out`` is not free any more; called last.

    Returns:
        The largest difference of the answers of onnxruntime, which loads what was written.

    Raises:
        UserError: a model that ONNX can't hold, or other answers.
    """
    size = sum(value.numel() * value.element_size() for value in deployed.graph.state_dict().values())
    if size > _MOST_ONNX:
        raise UserError(
            f"export_model.format: {deployed.info.name} has {byte_size(size)} of weights, but a file of ONNX has less "
            "than 2 GiB; use torch or hub"
        )
    content = _onnx_bytes(deployed)
    with atomic_path(out) as file:
        file.write(content)
        file.flush()
        found = deployed.check(lambda: _onnxruntime(partial_path(out).read_bytes()), "onnxruntime")
        claim()
    return found


def write_torch(deployed: Deployed, out: Path, claim: Callable[[], None]) -> float:
    """Write an archive of torch.export, with ``Deployed.metadata`` in it as ``METADATA``. See ``write_onnx``."""
    content = io.BytesIO()
    torch.export.save(_traced(deployed), content, extra_files={METADATA: json.dumps(deployed.metadata())})
    with atomic_path(out) as file:
        file.write(content.getbuffer())
        file.flush()
        found = deployed.check(
            lambda: torch.export.load(io.BytesIO(partial_path(out).read_bytes())).module(), "torch.export.load"
        )
        claim()
    return found


def _traced(deployed: Deployed) -> ExportedProgram:
    """The graph of the model for batches of any size. Raises UserError where torch.export finds none."""
    batch = {0: Dim(_BATCH, min=1, max=_MOST_BATCH)}
    with _as_user_error(f"{deployed.info.name}: torch.export finds no graph of it for batches of any size"):
        return torch.export.export(deployed.graph, (deployed.sample(2),), dynamic_shapes=(batch,), strict=False)


def _onnx_bytes(deployed: Deployed) -> bytes:
    program = _traced(deployed)
    with _as_user_error(f"{deployed.info.name}: has operations that ONNX {OPSET} has not"):
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
        assert made is not None
        model = made.model_proto
    _tidy(model)
    for key, value in as_texts(deployed.metadata() | {"opset": OPSET}).items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def _tidy(model: Any) -> None:
    """Name the size of batches, and drop what the exporter noted: paths of this machine, shapes that readers infer."""
    graph = model.graph
    name = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == name:
                size.dim_param = _BATCH
    for part in (*graph.node, *graph.initializer, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""


def _onnxruntime(content: bytes) -> Answer:
    """The answers of onnxruntime for a file of ONNX."""
    import onnxruntime  # an optional package

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


@contextmanager
def _as_user_error(what: str) -> Iterator[None]:
    """Within, the exporters are quiet, and their errors, of many kinds, become a UserError. what: is wrong."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, OSError):
            raise
        raise UserError(f"{what} ({reason(error)})") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def used_bytes(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(entry.stat().st_size for entry in os.scandir(path)) if path.is_dir() else path.stat().st_size
