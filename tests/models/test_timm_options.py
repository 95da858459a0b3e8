"""Options of timm's models: those of the architecture and no others, from files, recipes and the command line alike."""

import inspect
import os
import re
from pathlib import Path

import pytest
import timm
import torch
from crafted import CLASSES, NAME, SIDE, Payload, ours, refused
from timm.models import load_checkpoint, load_state_dict

from ffdr.cli import main
from ffdr.config.architecture import read_options
from ffdr.config.learning import ModelOptions
from ffdr.models.build import build_model, load_model
from ffdr.models.timm_options import (
    TooManyError,
    factory_options,
    options_of,
    size_of,
)

OTHERS = (
    "checkpoint_path=second.pt", "cache_dir=x", "pretrained=true", "pretrained_cfg=a1_in1k", "pretrained_strict=false",
    "pretrained_cfg_overlay=x", "pretrained_filter_fn=x", "pretrained_window_sizes=[1]", "pretrained_model_args=x",
    "features_only=true", "feature_cls=fx", "feature_cfg=x", "num_classes=7", "in_chans=1", "img_size=64",
    "out_indices=[1]", "scriptable=true", "exportable=true", "no_jit=true", "kwargs_filter=[a]", "model_cfg=x",
    "pruned=true", "device=cuda", "dtype=float16", "block=Bottleneck", "block_args=x", "variant=resnet18",
    "model_cls=x", "use_naflex=true", "no_such=1", "self=1", "kwargs=1", "__class__=x",
)  # fmt: skip


@pytest.mark.parametrize("option", OTHERS)
def test_only_options_of_the_architecture_are_admitted(option, tmp_path):
    """From the metadata of a file and from a recipe alike."""
    path = ours(tmp_path / "m.safetensors", options=[option])
    message = refused(load_model, path, match=r"m\.safetensors: ")
    assert option.partition("=")[0] in message
    refused(lambda: build_model(ModelOptions(NAME, options=(option,)), CLASSES, SIDE), match=r"^model\.options: ")


def test_a_second_file_is_neither_opened_nor_run(tmp_path, digits, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, "second.pt")
    os.mkfifo("third.pt")  # whoever opens it waits forever
    for second in ("second.pt", "third.pt"):
        ours(tmp_path / "first.safetensors", options=[f"checkpoint_path={second}"])
        assert main(["eval", "--checkpoint=first.safetensors", f"--data={digits}"]) == 2
        assert "checkpoint_path" in capsys.readouterr().err
    assert not Path("payload").exists()


def test_an_unknown_option_is_reported_with_the_nearest(tmp_path):
    message = refused(factory_options, "resnet50", ["layres=[3,4,6,3]"])
    assert "resnet50 has no option layres (did you mean layers?); it has aa_layer, act_layer, avg_down" in message


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("resnet50", {"layers", "aa_layer", "zero_init_last", "drop_rate", "stem_type", "global_pool", "norm_layer"}),
        ("test_vit", {"patch_size", "embed_dim", "depth", "qk_norm", "class_token", "init_values"}),
        ("test_efficientnet.r160_in1k", {"drop_rate", "stem_size", "bn_eps", "se_layer"}),
        ("test_byobnet", {"stem_type", "zero_init_last", "width_factor"}),  # fields of its configuration
        ("maxvit_rmlp_pico_rw_256", {"conv_norm_eps", "transformer_dim_head", "stem_width"}),  # of those within it
        ("deit_tiny_distilled_patch16_224", {"qkv_bias", "drop_rate"}),  # of the base class
        ("levit_128s", {"mlp_ratio", "drop_rate"}),
    ],
)
def test_options_are_those_of_the_constructor(name, some):
    has = set(options_of(name))
    assert some <= has
    assert not has & {"num_classes", "in_chans", "img_size", "cfg", "self", "args", "kwargs", "device", "dtype"}


def test_honest_options_reach_the_model(tmp_path):
    options = ("layers=[1,1,1,2]", "stem_type=deep", "drop_rate=0.25")
    model = build_model(ModelOptions(NAME, options=options), CLASSES, SIDE)
    path = ours(tmp_path / "m.safetensors", state=model.state_dict(), options=options)
    loaded, info = load_model(path)
    assert info.options == options
    assert (len(loaded.layer4), len(loaded.conv1), loaded.drop_rate) == (2, 7, 0.25)
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize(
    "value",
    [
        "!!python/name:os.system", "!!int 3", "&a 1", "[[1, 2], 3]", "{a: 1}", "[{a: 1}]", "2024-01-01", ".nan",
        ".inf", "65537", "-70000", "1" * 150, "1" * 300, "/etc/passwd", "hf-hub:a", "a b", "[" * 100, "a" * 100, "3\n4",
        "[" + "1," * 70 + "1]", "\x1b[31m", "1\n---\n2", "2024-13-01",
    ],
)  # fmt: skip
def test_values_are_short_and_plain(value):
    refused(read_options, [f"drop_rate={value}"], match=r"^model\.options: drop_rate=")


def test_values_are_read_as_yaml_has_them():
    texts = ("a=true", "b=0.5", "c=blur", "d=[3, 4]", "e=''", "f=null", "g=[a, 1.5]", "h= 7 ")
    expected = {"a": True, "b": 0.5, "c": "blur", "d": [3, 4], "e": "", "f": None, "g": ["a", 1.5], "h": 7}
    assert read_options(texts) == expected


def test_counting_layers_ends_with_the_count():
    with pytest.raises(TooManyError):
        size_of(lambda: timm.create_model("resnet18"), 10)
    assert size_of(lambda: timm.create_model("resnet18")).bytes == pytest.approx(4 * 11.7e6, rel=0.01)
    assert torch.empty(0).device.type == "cpu"


def test_a_recipe_builds_no_more_than_the_machine_holds():
    for options in (("layers=[60000,1,1,1]",), ("channels=[65536,65536,65536,65536]",)):
        asked = ModelOptions(NAME, options=options)
        refused(
            build_model, asked, CLASSES, SIDE, match=r"model\.options: test_resnet with .*(layers|this machine has)"
        )


def test_timm_itself_loads_nothing_but_weights():
    for function in (load_state_dict, load_checkpoint):
        assert inspect.signature(function).parameters["weights_only"].default is True
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    (bound,) = re.findall(r'"timm>=([\d.]+)"', text)
    assert tuple(map(int, bound.split("."))) >= (1, 0, 26)  # before it, both unpickled whatever a file named
