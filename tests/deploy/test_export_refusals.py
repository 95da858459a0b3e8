"""What export-model refuses, in one line and before it writes; what it leaves behind when it is stopped: nothing."""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from disks import full_disk
from exported import Own, shaken, weights
from torch import nn

import ffdr
from ffdr.cli import main
from ffdr.deploy import deployed, graphs
from ffdr.util.errors import UserError, WriteError

OUTPUTS = ("m.onnx", "m.pt2", "hub")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "m.safetensors"
    weights(path, "test_efficientnet")
    return path


@pytest.fixture(scope="module")
def of_torchvision(checkpoint):
    path = checkpoint.with_name("tv.safetensors")
    weights(path, "torchvision:squeezenet1_1")
    return path


@pytest.fixture
def quick(monkeypatch):
    """The graph formats without their exporters, which take seconds."""
    monkeypatch.setattr(graphs, "_onnx_bytes", lambda deployed: b"x" * 9999)
    monkeypatch.setattr(graphs, "_onnxruntime", lambda content: lambda images: torch.zeros(len(images), 10))
    program = torch.export.export(nn.Identity(), (torch.zeros(1, 3, 32, 32),))  # takes no other batch
    monkeypatch.setattr(graphs, "_traced", lambda deployed: program)


def refused(message, **options):
    with pytest.raises(UserError) as caught:
        ffdr.export_model(**options)
    line = str(caught.value)
    assert message in line and line.isprintable(), line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "export_model.out: give FILE.onnx, FILE.pt2, or a folder"),
        ({"out": "x"}, "export_model.checkpoint: give a trained model, or name one with --model.name"),
        (
            {"out": "x", "format": "onxx"},
            "export_model.format: 'onxx' is not one of onnx, torch, hub (did you mean onnx?)",
        ),
        ({"out": "x.pt2", "format": "onnx"}, "export_model.out: 'x.pt2': format onnx takes a name that ends in .onnx"),
        ({"out": "x.onnx", "format": "hub"}, "export_model.out: 'x.onnx': format hub takes the name of a folder"),
        ({"out": "x", "format": "torch"}, "export_model.out: 'x': format torch takes a name that ends in .pt2"),
        ({"out": "model.pt"}, "export_model.out: 'model.pt' ends in .pt; name a .onnx or .pt2 file"),
        ({"out": "x", "pixels": True}, "export_model.pixels: models of timm take normalised images"),
        ({"out": "x.onnx", "license": "mit"}, "export_model.license: only the model card of format hub has it"),
        ({"out": "x.pt2", "report": "r.json"}, "export_model.report: only the model card of format hub has it"),
        ({"out": "x", "license": "MIT\nx: y"}, "export_model.license"),
        ({"out": "x", "license": "The MIT License"}, "export_model.license: 'The MIT License' is not one of the hub's"),
        ({"out": "x", "formats": "hub"}, "unknown key export_model.formats (did you mean export_model.format?)"),
        ({"out": "x", "checkpoint": "m", "model": {"name": "resnet18"}}, "export_model.checkpoint already says"),
        ({"out": "x", "checkpoint": "missing.safetensors"}, "missing.safetensors: no such file"),
        ({"out": "x", "model": nn.Linear(3, 2)}, "export_model.resolution: give the size of the images"),
        ({"out": "x", "model": nn.Flatten(), "resolution": 8}, "use onnx or torch"),
        ({"out": "none/x.onnx", "checkpoint": "m"}, "export_model.out: there is no folder none"),
    ],
)
def test_options_that_can_not_be(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(message, **options)
    assert os.listdir(tmp_path) == []


def test_the_command_line_knows_both_exports(capsys):
    assert main(["export-modl"]) == 2 and "did you mean export-model?" in capsys.readouterr().err
    assert main(["exprt"]) == 2 and "did you mean export?" in capsys.readouterr().err
    assert main(["export-model", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--export_model.checkpoint" in said and "--model.module" in said
    assert main(["export-model", "--export-model.pixles=1"]) == 2
    assert "did you mean export_model.pixels?" in capsys.readouterr().err


def test_refusals_come_before_the_slow_imports():
    code = """import sys, ffdr
try:
    ffdr.export_model(out="x.pt2", license="mit")
except ValueError as error:
    print({'torch', 'ffcv', 'numba', 'timm', 'cv2', 'onnx'} & set(sys.modules))"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_package_that_is_missing(checkpoint, tmp_path, monkeypatch):
    there = ("onnx", "onnxscript")
    known = {name: find_spec(name) for name in there}
    monkeypatch.setattr(graphs, "find_spec", lambda name: known.get(name))
    refused(
        "onnx needs onnx,onnxscript,onnxruntime, the last to check what was written; pip install onnxruntime",
        checkpoint=checkpoint, out=tmp_path / "m.onnx",
    )  # fmt: skip
    assert os.listdir(tmp_path) == []


def test_a_model_that_no_file_of_onnx_holds(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST_ONNX", 400_000)
    refused(
        "has 407.5 KiB of weights, but a file of ONNX has less than 2 GiB",
        checkpoint=checkpoint,
        out=tmp_path / "m.onnx",
    )
    assert os.listdir(tmp_path) == []


def test_models_that_timm_can_not_build(of_torchvision, tmp_path):
    said = "export_model.format: hub is for models that timm builds, and "
    refused(f"{said}torchvision:squeezenet1_1 is none", checkpoint=of_torchvision, out=tmp_path / "hub")
    refused(f"{said}module:exported.Own is none", model=Own(), resolution=32, out=tmp_path / "hub")
    assert os.listdir(tmp_path) == []


def test_a_model_that_timm_builds_otherwise(tmp_path):
    """Changed since: it says of itself what it is not."""
    import timm

    model = shaken(timm.create_model("test_efficientnet", num_classes=10))
    model.act = nn.Tanh()
    model.forward_head = lambda x, **_: model.classifier(model.global_pool(x)).tanh()
    refused("loaded again by timm, its answers differ by ", model=model, resolution=32, out=tmp_path / "hub")
    assert os.listdir(tmp_path) == []


class OfTheValues(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10] if images.sum() > 0 else images.flatten(1)[:, 5:15]


class OfTheBatch(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10] * int(images.shape[0])


class NotFinite(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10] / (images.flatten(1)[:, :10] * 0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (OfTheValues(), "torch.export finds no graph of it for batches of any size"),
        (OfTheBatch(), "torch.export finds no graph of it for batches of any size"),
        (NotFinite(), "gives logits that are not finite"),
    ],
)
def test_modules_without_such_a_graph(model, message, tmp_path):
    refused(message, model=model, resolution=8, out=tmp_path / "m.pt2")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_other_answers_leave_nothing(name, checkpoint, tmp_path, monkeypatch, quick):
    if name == "hub":
        monkeypatch.setattr(deployed, "TOLERANCE", -1.0)
    refused("nothing was written", checkpoint=checkpoint, out=tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_is_there_is_not_replaced_unasked(name, checkpoint, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(deployed.Deployed, "check", lambda *_: 0.0)
    out = ffdr.export_model(checkpoint=checkpoint, out=tmp_path / name, progress=False)
    file = out / "README.md" if out.is_dir() else out
    file.write_bytes(b"mine")
    refused(f"{out}: exists; --overwrite replaces it", checkpoint=checkpoint, out=out)
    assert file.read_bytes() == b"mine"
    ffdr.export_model(checkpoint=checkpoint, out=out, overwrite=True, progress=False)
    assert file.read_bytes() != b"mine" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_appears_meanwhile_stays(name, checkpoint, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(deployed.Deployed, "check", lambda *_: (tmp_path / name).write_bytes(b"mine") and 0.0)
    refused("exists; --overwrite replaces it", checkpoint=checkpoint, out=tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"mine" and os.listdir(tmp_path) == [name]


def test_a_folder_of_something_else_stays(checkpoint, tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "thesis.tex").touch()
    refused(
        "holds thesis.tex, which export-model does not write",
        checkpoint=checkpoint,
        out=tmp_path / "hub",
        overwrite=True,
    )
    (tmp_path / "file").touch()
    refused("a file where ffdr keeps a folder", checkpoint=checkpoint, out=tmp_path / "file", overwrite=True)
    (tmp_path / "m.onnx").mkdir()
    refused("a folder; give the name of a file", checkpoint=checkpoint, out=tmp_path / "m.onnx", overwrite=True)
    assert (tmp_path / "hub" / "thesis.tex").exists()


def test_the_weights_themselves_stay(checkpoint, tmp_path):
    """Those in a folder of the hub's layout are not replaced by what is made of them."""
    out = ffdr.export_model(checkpoint=checkpoint, out=tmp_path / "hub", progress=False)
    mine = out / "model.safetensors"
    model = {"name": "test_efficientnet", "checkpoint": str(mine)}
    refused("holds model.safetensors, which this run needs", model=model, out=out, overwrite=True)
    name = {"name": f"local-dir:{out}"}
    refused("holds config.json, which this run needs", model=name, out=out, overwrite=True)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_place_that_can_not_be_written_to(name, checkpoint):
    with pytest.raises(UserError, match=r"^/proc/self/.*: (can't be written|No such file)"):
        ffdr.export_model(checkpoint=checkpoint, out=f"/proc/self/{name}")


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_full_disk_is_one_line(name, checkpoint, tmp_path, quick):
    with full_disk(500), pytest.raises(WriteError, match=r"can't be written: File too large$"):
        ffdr.export_model(checkpoint=checkpoint, out=tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["m.pt2", "hub"])
def test_a_killed_run_leaves_no_name(name, checkpoint, tmp_path):
    """SIGKILL, with all files written; the next run clears up and ends as if nothing had been."""
    child = os.fork()
    if not child:
        deployed.Deployed.check = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        ffdr.export_model(checkpoint=checkpoint, out=tmp_path / name, progress=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert os.listdir(tmp_path) == [f"{name}.partial"]
    if name == "hub":
        (tmp_path / "hub.partial" / "left").touch()
    out = ffdr.export_model(checkpoint=checkpoint, out=tmp_path / name, progress=False)
    assert os.listdir(tmp_path) == [out.name]
    if out.is_dir():
        assert sorted(os.listdir(out)) == ["README.md", "config.json", "model.safetensors"]
