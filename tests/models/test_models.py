"""Models: names, sizes, saving and loading, foreign and damaged files."""

import json
import os
import socket
from dataclasses import replace

import pytest
import safetensors
import timm
import torch

from ffdr.config.learning import ModelOptions
from ffdr.models import build as models
from ffdr.models import factory
from ffdr.models.build import (
    ModelInfo,
    build_model,
    class_digest,
    load_model,
    load_named,
    read_info,
    save_model,
)
from ffdr.util.errors import UserError

INFO = ModelInfo("test_resnet", 5, 32, (0.1, 0.25, 1 / 3), (0.5, 0.6, 0.7), 0.875, class_digest(["a", "b"]), "f00d")


def fill(model, seed=0):
    """Weights and statistics that nothing could produce by accident."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return model.eval()


def assert_same_model(left, right):
    states = left.state_dict(), right.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(left(images), right(images))


@pytest.fixture
def saved(tmp_path):
    model = fill(build_model(ModelOptions("test_resnet"), 5, 32)).to(memory_format=torch.channels_last)
    save_model(tmp_path / "model.safetensors", model, INFO)
    return model, tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_models_are_built_for_small_images(name):
    model = build_model(ModelOptions(name, drop_path=0.1), 7, 32)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("options", "resolution", "message"),
    [
        (ModelOptions("resnet5o"), 32, "did you mean resnet50"),
        (ModelOptions("resnet50.a1_in1"), 32, "did you mean a1_in1k"),
        (ModelOptions("vgg11", drop_path=0.1), 32, "model.drop_path: vgg11"),
        (ModelOptions("test_vit"), 33, "33 px"),
        (ModelOptions("test_resnet", checkpoint="nowhere.pt"), 32, "nowhere.pt: no such file"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(options, resolution, message):
    with pytest.raises(UserError, match=message) as error:
        build_model(options, 7, resolution)
    assert "\n" not in str(error.value)


def test_save_and_load_round_trip(saved):
    model, path = saved
    loaded, info = load_model(path)
    assert info == INFO
    assert not loaded.training
    assert_same_model(loaded, model)
    assert os.listdir(path.parent) == ["model.safetensors"]


STRANGE = ("猫", "a\udce9b", "=1+1", "x" * 300, 'a,"b"\n')
"""Names of classes: in another script, not UTF-8, a formula, long, and what a table would quote."""


def test_names_of_classes_are_kept_as_they_are(saved):
    model, path = saved
    info = replace(INFO, classes=class_digest(STRANGE), class_names=STRANGE)
    save_model(path, model, info)
    assert read_info(path) == info
    assert load_model(path)[1].class_names == STRANGE


@pytest.mark.parametrize(("length", "kept"), [(20, True), (80, False)])
def test_names_of_as_many_classes_as_there_can_be_are_kept_unless_too_long_to_be_read(tmp_path, length, kept):
    names = tuple(f"{number:0{length}d}" for number in range(1 << 16))
    info = ModelInfo("test_vit", len(names), 32, INFO.mean, INFO.std, classes=class_digest(names), class_names=names)
    save_model(tmp_path / "many.safetensors", torch.nn.Linear(1, 1), info)
    assert read_info(tmp_path / "many.safetensors") == (info if kept else replace(info, class_names=()))


def test_weights_without_names_are_the_file_that_they_were(saved):
    _, path = saved
    with safetensors.safe_open(path, framework="pt") as file:
        assert list(json.loads(file.metadata()["ffdr_model"])) == [
            "version", "name", "num_classes", "resolution", "mean", "std", "center", "classes", "fingerprint",
            "options",
        ]  # fmt: skip


@pytest.mark.parametrize("changes", [{"class_names": ("a", "b", "c", "d", "e")}, {"class_names": ("a", "b")}])
def test_names_of_other_classes_are_refused(changes):
    with pytest.raises(UserError, match="class_names: "):
        replace(INFO, **changes)


def test_timm_reads_the_file_without_us(saved):
    model, path = saved
    theirs = timm.create_model("test_resnet", num_classes=5, checkpoint_path=str(path)).eval()
    assert_same_model(theirs, model)


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    model, path = saved
    before = path.read_bytes()

    def dies(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(models, "save", dies)
    with pytest.raises(OSError, match="disk full"):
        save_model(path, model, INFO)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["model.safetensors"]


def test_fine_tuning_makes_a_new_head_and_keeps_the_rest(saved):
    model, path = saved
    tuned = build_model(ModelOptions("test_resnet", checkpoint=str(path)), 9, 64)
    ours, theirs = tuned.state_dict(), model.state_dict()
    assert ours["fc.weight"].shape == (9, theirs["fc.weight"].shape[1])
    for key in theirs:
        if not key.startswith("fc."):
            assert torch.equal(ours[key], theirs[key]), key


def test_same_head_is_kept(saved):
    model, path = saved
    tuned = build_model(ModelOptions("test_resnet", checkpoint=str(path)), 5, 64)
    assert torch.equal(tuned.fc.weight, model.fc.weight)


def test_a_vit_moves_to_another_resolution(tmp_path):
    model = fill(build_model(ModelOptions("test_vit"), 5, 32))
    info = ModelInfo("test_vit", 5, 32, INFO.mean, INFO.std)
    save_model(tmp_path / "vit.safetensors", model, info)
    bigger, info = load_model(tmp_path / "vit.safetensors", resolution=64)
    assert info.resolution == 64
    assert bigger(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert torch.equal(bigger.head.weight, model.head.weight)


def test_load_named_takes_the_metadata_of_our_files(saved):
    model, path = saved
    loaded, info = load_named("test_resnet", str(path), 5)
    assert info == INFO
    assert torch.equal(loaded.fc.weight, model.fc.weight)
    assert load_named("", str(path))[1].name == "test_resnet"


def test_load_named_reads_foreign_checkpoints_as_timm_does(saved, tmp_path):
    model, _ = saved
    for wrapped in (model.state_dict(), {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}):
        torch.save(wrapped, tmp_path / "foreign.pt")
        loaded, info = load_named("test_resnet", str(tmp_path / "foreign.pt"), 5)
        assert torch.equal(loaded.fc.weight, model.fc.weight)
        config = timm.get_pretrained_cfg("test_resnet")
        assert info == ModelInfo("test_resnet", 5, 160, config.mean, config.std, config.crop_pct)


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return (os.mkdir, ("evil",))


@pytest.mark.parametrize("damage", ["truncated", "text", "pickle", "other model", "wrong metadata", "other classes"])
def test_bad_checkpoints_are_one_clear_line(saved, tmp_path, damage, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, path = saved
    name, bad = "test_resnet", tmp_path / "bad.pt"
    if damage == "truncated":
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        bad.write_text("hello")
    elif damage == "pickle":
        torch.save({"state_dict": Evil()}, bad)
    elif damage == "other model":
        name, bad = "test_vit", path
    elif damage == "wrong metadata":
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(path.read_bytes().replace(b'"num_classes":"5"', b'"num_classes":"x"'))
    else:
        bad = path
    with pytest.raises(UserError) as error:
        load_named(name, str(bad), 7)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert bad.name in str(error.value)
    assert not (tmp_path / "evil").exists()
    if damage == "other classes":
        assert "5 classes" in str(error.value) and "7" in str(error.value)


def test_foreign_weights_of_another_model_are_refused(tmp_path):
    torch.save(build_model(ModelOptions("test_vit"), 5, 32).state_dict(), tmp_path / "vit.pt")
    with pytest.raises(UserError, match="not the weights of test_resnet"):
        load_named("test_resnet", str(tmp_path / "vit.pt"))
    with pytest.raises(UserError, match=r"--model\.name=NAME --model\.checkpoint="):
        load_model(tmp_path / "vit.pt")


def test_pretrained_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("An error happened.\nPlease check your connection")

    monkeypatch.setattr(factory, "_check_reachable", lambda config: None)
    monkeypatch.setattr(factory.timm, "create_model", offline)
    with pytest.raises(UserError, match="no pretrained weights for test_resnet") as error:
        load_named("test_resnet")
    assert "\n" not in str(error.value)


def test_an_unknown_hub_is_reported_at_once(monkeypatch):
    """timm would ask again and again; but weights in the cache, or a proxy that knows the hub, are all it needs."""
    asked = []

    def unknown(host, port):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    def asks_timm(*_args, **_kwargs):
        raise RuntimeError("timm was asked")

    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    monkeypatch.setattr(factory.socket, "getaddrinfo", unknown)
    monkeypatch.setattr(factory.timm, "create_model", asks_timm)
    with pytest.raises(UserError, match=r"teacher.models: no pretrained .* test_resnet \(.*Name or service not known"):
        load_named("test_resnet", key="teacher.models")
    assert asked == ["huggingface.co"]
    with monkeypatch.context() as patch, pytest.raises(UserError, match="timm was asked"):
        patch.setattr(factory, "try_to_load_from_cache", lambda repo, name: name == "pytorch_model.bin" or None)
        load_named("test_resnet")
    monkeypatch.setenv("https_proxy", "http://proxy:8080")
    with pytest.raises(UserError, match=r"model.name: .*timm was asked"):
        load_named("test_resnet")


def test_pretrained_weights_that_do_not_exist():
    with pytest.raises(UserError, match="no pretrained weights for mobilenetv2_035"):
        load_named("mobilenetv2_035")


def test_precision_by_device():
    cpu = torch.device("cpu")
    assert models.autocast_dtype("auto", cpu) is None
    assert models.autocast_dtype("float32", cpu) is None
    assert models.autocast_dtype("bfloat16", cpu) is torch.bfloat16
    with pytest.raises(UserError, match=r"train.precision: float16 needs a GPU"):
        models.autocast_dtype("float16", cpu)


def test_class_digest_sees_names_and_order():
    assert class_digest(["a", "b"]) != class_digest(["b", "a"]) != class_digest(["ba"])
    assert len(class_digest(["a"])) == 16


def test_pretrained_weights_are_the_start_where_asked_for(saved, monkeypatch):
    """There is no network here: timm's own fetching is shown a file instead."""
    theirs, path = saved
    real, where = factory.timm.create_model, {"file": str(path), "num_classes": 5, "label_offset": 0}

    def create(name, pretrained=False, **arguments):
        if pretrained:
            arguments |= {"pretrained_cfg_overlay": where, "num_classes": 5}
        return real(name, pretrained=pretrained, **arguments)

    def first_weight(model):
        return next(model.parameters())

    monkeypatch.setattr(factory, "_check_reachable", lambda config: None)
    monkeypatch.setattr(factory.timm, "create_model", create)
    tuned = build_model(ModelOptions("test_resnet", pretrained=True), 9, 64)
    assert torch.equal(first_weight(tuned), first_weight(theirs))
    assert tuned.num_classes == 9
    random = build_model(ModelOptions("test_resnet"), 9, 64)
    assert not torch.equal(first_weight(random), first_weight(theirs))


def test_options_reach_timms_model_and_its_saved_copy(tmp_path):
    """A residual branch that does not start at zero is what the option asks for."""
    torch.manual_seed(0)
    plain, asked = (
        build_model(ModelOptions("test_resnet", options=options), 5, 32) for options in ((), ("drop_rate=0.5",))
    )
    assert (plain.drop_rate, asked.drop_rate) == (0.0, 0.5)
    info = ModelInfo("test_resnet", 5, 32, (0.5,) * 3, (0.5,) * 3, options=("drop_rate=0.5",))
    save_model(tmp_path / "m.safetensors", asked, info)
    again, read = load_model(tmp_path / "m.safetensors")
    assert again.drop_rate == 0.5
    assert read == info
    with pytest.raises(UserError, match=r"model\.options: test_resnet"):
        build_model(ModelOptions("test_resnet", options=("no_such=1",)), 5, 32)
    with pytest.raises(UserError, match="not NAME=VALUE"):
        ModelOptions("test_resnet", options=("drop_rate",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_classes=5", "the classes of the data decide it"),
        ("features_only=true", "a classifier is wanted"),
        ("pretrained=true", "give model.pretrained=true"),
        ("checkpoint_path=x.pt", "give model.checkpoint"),
        ("img_size=32", "train.resolution decides it"),
        ("drop_rate=0.1,drop_rate=0.2", "drop_rate is given twice"),
    ],
)
def test_arguments_that_are_no_options_of_a_model_are_refused_by_name(text, message):
    with pytest.raises(UserError, match=rf"model\.options: .*{message}"):
        ModelOptions("test_resnet", options=tuple(text.split(",")))


def test_options_that_make_no_classifier_are_refused():
    with pytest.raises(UserError, match=r"model.options: test_vit with .* gives \(1, .*\) for an image instead of 5"):
        build_model(ModelOptions("test_vit", options=("global_pool=''",)), 5, 32)
    with pytest.raises(UserError, match=r"model.options: test_resnet with .* can't take images of 32 px"):
        build_model(ModelOptions("test_resnet", options=("global_pool=''",)), 5, 32)
    with pytest.raises(UserError, match=r"model\.options: act_layer=\[: a value is not YAML"):
        build_model(ModelOptions("test_resnet", options=("act_layer=[",)), 5, 32)
    with pytest.raises(UserError, match=r"drop_path_rate is what model\.drop_path says"):
        ModelOptions("test_resnet", drop_path=0.1, options=("drop_path_rate=0.2",))


def test_foreign_weights_are_loaded_with_their_options(saved, tmp_path):
    model, path = saved
    torch.save(model.state_dict(), tmp_path / "foreign.pt")
    loaded, info = load_named("test_resnet", str(tmp_path / "foreign.pt"), options=("drop_rate=0.5",))
    assert (loaded.drop_rate, info.options) == (0.5, ("drop_rate=0.5",))
    with pytest.raises(UserError, match="says itself what its model has"):
        load_named("test_resnet", str(path), options=("drop_rate=0.5",))


def test_a_model_without_a_configuration_of_timm(monkeypatch, tmp_path):
    """As one that a user registers: timm goes on with its defaults, and so do we."""
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: None)
    assert not models.fixed_size("test_resnet")
    model = build_model(ModelOptions("test_resnet"), 5, 32)
    save_model(tmp_path / "model.safetensors", model, INFO)
    assert load_model(tmp_path / "model.safetensors")[1] == INFO
    torch.save(build_model(ModelOptions("test_resnet"), 1000, 32).state_dict(), tmp_path / "foreign.pt")
    _, info = load_named("test_resnet", str(tmp_path / "foreign.pt"))
    assert (info.num_classes, info.resolution, info.center) == (1000, 224, 0.875)
    with pytest.raises(UserError, match="no pretrained weights"):
        monkeypatch.setattr(factory.timm, "create_model", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("none")))
        load_named("test_resnet")
