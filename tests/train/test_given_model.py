"""``ffdr.train(model=…)`` and ``ffdr.evaluate(model=…)``: any module, trained as the very object that it is."""

from pathlib import Path

import pytest
import torch
import yaml
from ranked import finish, launch
from safetensors.torch import load_file
from torch import nn

import ffdr
from ffdr.cli import main
from ffdr.config.learning import ModelOptions
from ffdr.models.build import build_model, load_named, read_info
from ffdr.models.modules import import_modules
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks

FILE = str(Path(__file__).parents[1] / "helpers" / "my_models.py")
NAME = "module:test_given_model.Net"


class Net(nn.Module):
    """Nothing of timm's: no num_classes, no configuration; weights that two layers share, dropout, a frozen layer."""

    def __init__(self, classes=10, outputs=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.second.weight = self.first.weight
        self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.1)
        self.head, self.outputs = nn.Linear(8, classes), outputs
        self.stem.requires_grad_(False)

    def forward(self, x):
        x = self.norm(self.second(self.first(self.stem(x)).relu()))
        x = self.head(self.drop(x.relu().mean((2, 3))))
        return self.outputs(x, self.training) if self.outputs else x


def net(seed=0, **more):
    torch.manual_seed(seed)
    return Net(**more)


def options(digits, out, **more):
    data = {"train": str(digits), "val": str(digits), "workers": 1}
    given = {"epochs": 2, "batch_size": 25, "resolution": 32, "lr": 0.05, "seed": 5, "precision": "float32"}
    return {**given, "data": data, "out": str(out), "progress": False, **more}


def states_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """The module as it was and as it is, the folder of its run, and the last record."""
    out, model = tmp_path_factory.mktemp("given") / "run", net()
    record = ffdr.train(model=model, **options(digits, out))
    return model, out, record


def test_the_object_itself_is_trained_and_stored_by_plain_names(run):
    model, out, record = run
    before, after = net().state_dict(), model.state_dict()
    assert torch.equal(before["stem.weight"], after["stem.weight"])  # frozen
    assert not torch.equal(before["head.weight"], after["head.weight"])
    assert states_equal(load_file(out / "model.safetensors"), dict(after)) and model.training
    info = read_info(out / "model.safetensors")
    assert (info.name, info.num_classes, info.resolution) == (NAME, 10, 32)
    assert yaml.safe_load((out / "recipe.yaml").read_text())["model"]["name"] == NAME
    assert record["epoch"] == 2


def test_the_same_weights_make_the_same_run(run, digits, tmp_path):
    torch.rand(3)
    ffdr.train(model=net(), **options(digits, tmp_path / "again"))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run[1] / "model.safetensors").read_bytes()


def test_a_run_goes_on_with_a_module_of_the_same_kind(run, digits, tmp_path):
    """By its recipe; the weights that the new object had don't matter."""
    out = tmp_path / "run"
    ffdr.train(model=net(), **options(digits, out))
    for file in out.glob("*.safetensors"):
        file.unlink()
    max((out / "checkpoints").iterdir()).unlink()
    other = net(seed=9)
    ffdr.train(model=other, config_file=out / "recipe.yaml", progress=False)
    assert states_equal(other.state_dict(), run[0].state_dict())
    assert (out / "model.safetensors").read_bytes() == (run[1] / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"made with model\.name=module:test_given_model\.Net, but this run has"):
        ffdr.train(model=nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), **options(digits, out))


def test_it_is_evaluated_as_it_is_and_with_a_files_weights(run, digits, capsys):
    trained, out, record = run
    kept = [value.clone() for value in trained.state_dict().values()]
    report = ffdr.evaluate(model=trained, data=digits, resolution=32, workers=1, precision="float32")
    then = capsys.readouterr().out.split("; next: ")[1]  # no command knows the model
    assert then.startswith(f"ffdr.evaluate(model=…, data={str(digits)!r}, resolution=32,") and "json='REPORT" in then
    assert report["top1"] == pytest.approx(record["val_top1"]) and report["model"] == NAME
    assert all(map(torch.equal, kept, trained.state_dict().values())) and not trained.training
    trained.train()
    other = net(seed=3)
    for file in (out / "model.safetensors", max((out / "checkpoints").iterdir())):
        again = ffdr.evaluate(model=other, checkpoint=file, data=digits, workers=1, precision="float32")
        assert again["nll"] == report["nll"] and again["resolution"] == 32
    assert states_equal(other.state_dict(), trained.state_dict())


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda module: torch.compile(module, backend="eager")])
def test_wrapped_it_takes_its_own_weights_back(digits, tmp_path, wrap, capsys):
    """Whose names begin with what reading drops: "module.", "_orig_mod."."""
    model = wrap(net())
    record = ffdr.train(model=model, **options(digits, tmp_path / "run", epochs=1))
    for file in (tmp_path / "run" / "model.safetensors", *(tmp_path / "run" / "checkpoints").iterdir()):
        other = wrap(net(seed=3))
        report = ffdr.evaluate(model=other, checkpoint=file, data=digits, workers=1, precision="float32")
        assert report["top1"] == pytest.approx(record["val_top1"])
        assert states_equal(other.state_dict(), model.state_dict())
    printed = capsys.readouterr().out  # a call, as no command can give the module
    assert f"next: ffdr.evaluate(model=…, checkpoint={str(file)!r}, " in printed


def test_it_is_no_teacher_of_its_own(digits, tmp_path):
    model = net()
    with pytest.raises(UserError, match=r"^teacher: Net has parameters of the model that is trained"):
        ffdr.train(model=model, teacher=model, task="kd", **options(digits, tmp_path / "run", epochs=1))
    ffdr.train(model=model, teacher=net(), task="kd", **options(digits, tmp_path / "run", epochs=1))


def test_a_model_of_a_library_may_be_given_too(digits, tmp_path):
    model = build_model(ModelOptions("test_efficientnet"), 10, 32)
    ffdr.train(model=model, **options(digits, tmp_path / "run", epochs=1, ema=0.9))
    stored = load_file(tmp_path / "run" / "model.safetensors")
    assert not states_equal(stored, dict(model.state_dict()))  # averaged weights
    report = ffdr.evaluate(model=model, checkpoint=tmp_path / "run" / "model.safetensors", data=digits, workers=1)
    assert report["model"] == "module:timm.models.efficientnet.EfficientNet"
    assert states_equal(stored, dict(model.state_dict()))


def test_a_compiled_step_takes_it(digits, tmp_path, graphs):
    ffdr.train(model=net(), **options(digits, tmp_path / "run", epochs=1, compile="default"))
    assert graphs() >= 1


def test_a_dry_run_leaves_it_as_it_is(digits, tmp_path, capsys):
    model = net()
    ffdr.train(model=model, **options(digits, tmp_path / "run", dry_run=True))
    assert states_equal(model.state_dict(), net().state_dict()) and model.training
    assert f"{NAME}, 0.00 M parameters, starts from the weights that it has" in capsys.readouterr().out


def test_the_command_line_says_how_it_is_loaded(run, digits, capsys):
    for words in (
        ["eval", f"--eval.checkpoint={run[1] / 'model.safetensors'}", f"--eval.data={digits}"],
        ["train", f"--config-file={run[1] / 'recipe.yaml'}"],
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "test_given_model.Net is a module that was given in Python" in said
        assert "model=…, or register it with timm in a file for --model.module" in said and said.count("\n") == 1


def test_registered_it_is_known_by_that_name(digits, tmp_path):
    """A module's file teaches, is tuned and evaluated under the name that the user registers it by."""
    import_modules([FILE], "model.module")
    from my_models import TinyNet

    model = TinyNet()
    ffdr.train(model=model, **options(digits, tmp_path / "run", epochs=1))
    file = tmp_path / "run" / "model.safetensors"
    loaded, info = load_named("my_tiny", file)
    assert info.name == "my_tiny" and states_equal(loaded.state_dict(), model.state_dict())
    tuned = build_model(ModelOptions("my_tiny", checkpoint=str(file)), 3, 32)
    assert torch.equal(tuned.stem.weight, model.stem.weight) and tuned.head.out_features == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Net(7), r"gives \(1, 7\) for an image instead of 10 classes"),
        (Net(outputs=lambda x, _: {"logits": x}), "gives dict for an image"),
        (Net(outputs=lambda x, training: (x, x) if training else x), "gives tuple for 2 images in training mode"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 10)), "can't take images of 32 px"),
        (nn.Flatten(), "has no parameter that requires a gradient"),
        (Net(outputs=lambda x, training: {}["x"] if training else x), r"can't take images of 32 px in training mode"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "has parameters without values yet"),
        (Net().to("meta"), "has parameters without values yet"),
    ],
)
def test_what_cannot_be_trained(digits, tmp_path, model, message):
    with pytest.raises(UserError, match=rf"^model: module:.*{message}") as error:
        ffdr.train(model=model, **options(digits, tmp_path / "run"))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_what_cannot_be_evaluated(run, digits, tmp_path):
    with pytest.raises(UserError, match=r"^eval\.resolution: give the size"):
        ffdr.evaluate(model=net(), data=digits)
    with pytest.raises(UserError, match=r"these are not the weights of module:test_given_model\.Net"):
        ffdr.evaluate(model=net(classes=7), checkpoint=run[1] / "model.safetensors", data=digits)
    with pytest.raises(UserError, match="7"):
        ffdr.evaluate(model=net(classes=7), data=digits, resolution=32)
    with pytest.raises(UserError, match=r"^call: model: .* is neither"):
        ffdr.evaluate(model=Net, data=digits)


SCRIPT = """
import torch
from ffdr.util.ranks import Ranks
with Ranks.join() as ranks:
    image = torch.full((2, 3, 4, 4), 1.0 + ranks.rank)
    own = [image.to(memory_format=torch.channels_last), torch.tensor(5 + ranks.rank)]
    ranks.share_first(own)
    assert own[0].eq(1).all() and own[0].is_contiguous(memory_format=torch.channels_last) and own[1] == 5
"""


def test_ranks_begin_with_the_weights_of_the_first(digits, tmp_path, monkeypatch):
    status, errors = finish(launch(2, ["-c", SCRIPT]))
    assert status == [0, 0], errors
    shared = []
    monkeypatch.setattr(Ranks, "share_first", lambda _, tensors: shared.extend(tensors))
    model = net()
    ffdr.train(model=model, **options(digits, tmp_path / "run", epochs=1))
    assert [tensor.data_ptr() for tensor in shared] == [tensor.data_ptr() for tensor in model.state_dict().values()]
