"""What a model may be called, and how teachers' names are taken apart."""

import pytest
import torch
from torch import nn

from ffdr.config.model_names import given_name, split_checkpoint, take_module
from ffdr.models.catalog import check_name, fixed_size
from ffdr.models.files import ModelInfo
from ffdr.reinforce.teacher import parse_models
from ffdr.util.errors import UserError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("resnet50", ("resnet50", "")),
        ("resnet50.a1_in1k:a:b.pt", ("resnet50.a1_in1k", "a:b.pt")),
        ("torchvision:resnet50", ("torchvision:resnet50", "")),
        ("torchvision:resnet50:runs/t/model.safetensors", ("torchvision:resnet50", "runs/t/model.safetensors")),
        ("hf-hub:timm/vit@main", ("hf-hub:timm/vit@main", "")),
        ("hf-hub:timm/vit:w.safetensors", ("hf-hub:timm/vit", "w.safetensors")),
        ("local-dir:/a:b/c", ("local-dir:/a:b/c", "")),
    ],
)
def test_a_name_ends_where_its_kind_says(text, parts):
    assert split_checkpoint(text) == parts
    assert parse_models([text]) == [parts]


@pytest.mark.parametrize("text", ["", ":x.pt", "a/b:x.pt", "torchvision:", "torchvision:a/b", "local-dir:", "hf-hub:"])
def test_what_is_no_teacher(text):
    with pytest.raises(UserError, match=r"^teacher\.models: .*NAME\[:CHECKPOINT\],… with NAME a name of timm's"):
        parse_models([text])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet5", r"torchvision has no classifier 'resnet5' \(did you mean resnet50"),
        ("torchvision:fcn_resnet50", "torchvision has no classifier"),  # of segments
        ("hf-hub:resnet50", "is not hf-hub:ORG/NAME"),
        ("hf-hub:a/b/c", "is not hf-hub:ORG/NAME"),
        ("hf-hub:a/b@c@d", "is not hf-hub:ORG/NAME"),
        ("local-dir:/nowhere", r"there is no config\.json in that folder"),
        (f"local-dir:{'x' * 5000}", r"there is no config\.json in that folder"),
        ("local-dir:", r"there is no config\.json in that folder"),  # not the current one
        ("timm/resnet50", "is not a name of timm's, torchvision:NAME, hf-hub:ORG/NAME or local-dir:FOLDER"),
        ("hub:a", "is not a name of timm's"),
        ("my_net", r"timm has no model 'my_net'.*; --model\.module imports what registers others"),
        ("module:a.B", r"a\.B is a module that was given in Python.* model=…, or register it .*--model\.module"),
    ],
)
def test_what_nothing_can_be_built_by(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(UserError, match=message) as error:
        check_name(name)
    assert "\n" not in str(error.value)


def test_sizes_are_fixed_where_the_library_says_so():
    names = (
        "test_vit",
        "torchvision:vit_b_32",
        "torchvision:maxvit_t",
        "torchvision:swin_t",
        "test_resnet",
        "module:a.B",
    )
    assert [fixed_size(name) for name in names] == [True, True, True, False, False, False]


def test_a_module_is_named_by_its_class():
    class Net(nn.Module):
        pass

    assert given_name(nn.Linear(1, 1)) == "module:torch.nn.modules.linear.Linear"
    assert given_name(Net()) == f"module:{__name__}.test_a_module_is_named_by_its_class.Net"
    Net.__qualname__ = "N" * 300
    ModelInfo.from_values(
        {"name": given_name(Net()), "num_classes": 1, "resolution": 1, "mean": [0] * 3, "std": [1] * 3}
    )


def test_only_a_module_is_taken_out_of_a_call():
    net = nn.Linear(1, 1)
    assert take_module({"model": {"name": "x"}, "out": "y"}) == (None, {"model": {"name": "x"}, "out": "y"})
    given, options = take_module({"model": net, "out": "y"})
    assert given is net and options["model"].name == given_name(net) and options["out"] == "y"
    assert take_module({"model": torch.zeros(1)})[0] is None
