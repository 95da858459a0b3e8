"""``model.module``: the user's own file is imported once; what it registers is built, stored, checked and loaded."""

import sys
from pathlib import Path

import pytest
import timm
import torch
from crafted import ours, refused

from ffdr.config.learning import ModelOptions
from ffdr.models.build import build_model, load_model, load_named, save_model
from ffdr.models.files import ModelInfo
from ffdr.models.modules import import_modules
from ffdr.models.timm_options import on_meta, options_of

FILE = str(Path(__file__).parents[1] / "helpers" / "my_models.py")
MEAN = (0.5,) * 3


def info(name, classes=10, **more):
    return ModelInfo(name, classes, 32, MEAN, MEAN, **more)


@pytest.fixture(scope="module")
def registered():
    import_modules([FILE], "model.module")


def test_a_file_is_imported_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("NUMBER = 3")
    (tmp_path / "json.py").write_text("import beside, sys; sys.imports = getattr(sys, 'imports', 0) + beside.NUMBER")
    for name in ("json.py", str(tmp_path / "json.py"), "./json.py"):
        import_modules([name], "model.module")
    assert sys.imports == 3
    assert "dumps" in vars(sys.modules["json"])  # Python's own keeps its name
    import_modules(["os.path", "beside"], "model.module")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import torch\nraise ValueError('no such\\nwidth')", r"ValueError: no such width \(.*broken\.py, line 2\)"),
        ("x = (", r"SyntaxError: .* \(.*broken\.py, line 1\)"),
        ("import no_such_library", r"ModuleNotFoundError: No module named 'no_such_library' \(.*line 1\)"),
        ("raise SystemExit(3)", r"SystemExit: 3 \(.*line 1\)"),
        ("import json\njson.loads('{')", r"JSONDecodeError: .*"),
    ],
)
def test_a_file_that_fails_is_one_line_with_its_exception(tmp_path, text, message):
    (tmp_path / "broken.py").write_text(text)
    said = refused(import_modules, [str(tmp_path / "broken.py")], "teacher.module", match=message)
    assert said.startswith("teacher.module: ") and "broken" not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        "nowhere.py",
        "x\0.py",
        "y" * 3000 + ".py",
        "a/b",
        "no_such_package.models",
        "os.nowhere",
        "a b",
        ".py",
        "..x",
        "-",
    ],
)
def test_what_cannot_be_imported(name):
    refused(import_modules, [name], "model.module", match=r"^model\.module: ")


@pytest.mark.parametrize("name", ["my_tiny", "my_built"])
def test_a_registered_model_is_built_stored_loaded_and_tuned(registered, tmp_path, name):
    options = ModelOptions(name, options=("width=6", "depth=2"), module=FILE)
    model = build_model(options, 10, 32)
    assert (model.stem.out_channels, len(model.blocks), model.head.out_features) == (6, 2, 10)
    save_model(tmp_path / "m.safetensors", model, info(name, options=options.options))
    loaded, found = load_model(tmp_path / "m.safetensors")
    assert found.options == options.options
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    tuned = build_model(ModelOptions(name, options=options.options, checkpoint=str(tmp_path / "m.safetensors")), 3, 32)
    assert tuned.head.out_features == 3 and torch.equal(tuned.stem.weight, model.stem.weight)


def test_one_that_looks_at_numbers_is_sized_all_the_same(registered, tmp_path):
    """So that a file can't ask for more than it holds, whatever it says."""
    assert set(options_of("my_tiny")) == {"width", "depth"}
    with pytest.raises(RuntimeError):
        on_meta(lambda: timm.create_model("my_tiny"), numbers=False)
    assert {p.device.type for p in on_meta(lambda: timm.create_model("my_tiny")).parameters()} == {"meta"}
    state = timm.create_model("my_tiny").state_dict()
    path = ours(tmp_path / "m.safetensors", state=state, name="my_tiny", options=["width=60000"])
    refused(load_model, path, match=r"a my_tiny as it says has .* GiB|this machine has|but its weights")
    path = ours(tmp_path / "m.safetensors", state=state, name="my_tiny", options=["act_layer=x"])
    refused(load_model, path, match="my_tiny has no option act_layer")


def test_a_checkpoint_without_its_module_says_what_is_missing(tmp_path):
    path = ours(tmp_path / "m.safetensors", name="nobodys_net")
    for call, flag in (
        (load_model, "--model.module"),
        (lambda p: load_named("", p, size_key="teacher.x"), "--teacher.module"),
    ):
        said = refused(call, path)
        assert "timm has no model 'nobodys_net'" in said and f"{flag} imports what registers others" in said


def test_metadata_imports_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "payload.py").write_text("raise KeyboardInterrupt")
    for name in ("module:payload.Net", "payload", "local-dir:payload", "hf-hub:a/b", "module:os.system", "payload.py"):
        refused(load_model, ours(tmp_path / "m.safetensors", name=name))
    refused(load_model, ours(tmp_path / "m.safetensors", module=["payload"]), match="module.* is no field")
