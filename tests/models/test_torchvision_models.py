"""torchvision's classifiers beside torchvision itself: the same weights, the same logits, the same view."""

import math
import socket

import pytest
import torch
import torchvision.models as zoo
from crafted import refused
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from ffdr.config.learning import ModelOptions
from ffdr.models import torchvision_models
from ffdr.models.build import build_model, load_model, load_named, save_model
from ffdr.models.catalog import config_of
from ffdr.models.factory import Blueprint, create, size
from ffdr.models.files import ModelInfo
from ffdr.models.timm_options import on_meta

MEAN = (0.5,) * 3


def named(name):
    return f"torchvision:{name}"


def filled(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.1 * torch.rand(value.shape, generator=generator) + 0.01)
    return model.eval()


def theirs(name, classes, **more):
    return filled(zoo.get_model(name, num_classes=classes, **more))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_a_model_is_torchvisions_own_and_comes_back_the_same(name, tmp_path):
    reference = theirs(name, 5)
    model = build_model(ModelOptions(named(name)), 5, 64).eval()
    assert type(model) is type(reference) and model.num_classes == 5
    model.load_state_dict(reference.state_dict())
    save_model(tmp_path / "m.safetensors", model, ModelInfo(named(name), 5, 64, MEAN, MEAN))
    loaded, info = load_model(tmp_path / "m.safetensors")
    assert (info.name, info.num_classes, info.resolution) == (named(name), 5, 64)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(images), reference(images))
    torch.save(reference.state_dict(), tmp_path / "theirs.pth")
    foreign, fed = load_named(named(name), tmp_path / "theirs.pth", resolution=64)
    assert torch.equal(foreign(images), reference(images)) and fed.num_classes == 5


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_fine_tuning_makes_a_new_head_and_keeps_the_rest(name, tmp_path):
    reference = theirs(name, 5)
    torch.save(reference.state_dict(), tmp_path / "theirs.pth")
    model = build_model(ModelOptions(named(name), checkpoint=str(tmp_path / "theirs.pth")), 3, 64)
    head = torchvision_models.facts(name).head
    mine, state = model.state_dict(), reference.state_dict()
    changed = {key for key in mine if mine[key].shape != state[key].shape or not torch.equal(mine[key], state[key])}
    assert changed == {f"{head}.weight", f"{head}.bias"} and len(mine[f"{head}.weight"]) == 3


def test_pretrained_weights_come_through_torch_with_the_view_that_they_want(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    unknown = socket.gaierror(-2, "Name or service not known")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: (_ for _ in ()).throw(unknown))
    name, weights = "mobilenet_v3_small", zoo.MobileNet_V3_Small_Weights.DEFAULT
    said = refused(
        load_named, named(name), match=r"^model\.name: no pretrained weights for torchvision:mobilenet_v3_small"
    )
    assert "download.pytorch.org: Name or service not known" in said
    reference = theirs(name, 1000)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(reference.state_dict(), cache / weights.url.rpartition("/")[2])
    model, info = load_named(named(name))
    view = weights.transforms()
    assert (info.num_classes, info.resolution, info.mean, info.std) == (1000, 224, tuple(view.mean), tuple(view.std))
    images = torch.rand(1, 3, 224, 224)
    assert torch.equal(model(images), reference(images))
    tuned = build_model(ModelOptions(named(name), pretrained=True), 4, 64)
    assert torch.equal(tuned.features[0][0].weight, reference.features[0][0].weight)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "swin_v2_t", "efficientnet_b1", "vit_l_16"])
def test_views_are_resized_as_torchvision_does(name):
    config, view = config_of(named(name)), zoo.get_model_weights(name)["DEFAULT"].transforms()
    assert config.input_size == (3, *view.crop_size * 2)
    assert math.floor(config.input_size[-1] / config.crop_pct) == view.resize_size[0]


def test_auxiliary_classifiers_are_left_out_and_the_view_makes_up_for_it():
    reference = theirs("googlenet", 5, aux_logits=False, init_weights=False, transform_input=True)
    model = create(Blueprint(named("googlenet"), 5, 64))
    model.load_state_dict(reference.state_dict())
    config, pixels = config_of(named("googlenet")), torch.rand(2, 3, 64, 64)
    view = zoo.GoogLeNet_Weights.DEFAULT.transforms()

    def feed(mean, std):
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    expected = reference(feed(view.mean, view.std))
    torch.testing.assert_close(model.eval()(feed(config.mean, config.std)), expected)
    assert isinstance(model.train()(pixels), torch.Tensor)


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny"])
def test_a_transformer_comes_back_the_same(name, tmp_path):
    reference = zoo.get_model(name, num_classes=5).eval()
    save_model(tmp_path / "m.safetensors", reference, ModelInfo(named(name), 5, 32, MEAN, MEAN))
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "m.safetensors")[0](images), reference(images))


def test_a_vit_is_built_for_one_size_and_moves_to_another():
    assert on_meta(lambda: build_model(ModelOptions(named("vit_b_32")), 5, 64)).image_size == 64
    refused(lambda: on_meta(lambda: build_model(ModelOptions(named("vit_b_32")), 5, 65)), match="65 px")
    small, large = (VisionTransformer(side, 32, 1, 2, 8, 16, num_classes=5) for side in (64, 96))
    state = filled(small).state_dict()
    large.load_state_dict(torchvision_models.adapted("vit_b_32", state, large))
    expected = interpolate_embeddings(96, 32, dict(state))["encoder.pos_embedding"]
    assert torch.equal(large.encoder.pos_embedding, expected) and expected.shape == (1, 10, 8)
    assert torch.equal(
        torchvision_models.adapted("vit_b_32", state, small)["encoder.pos_embedding"], small.encoder.pos_embedding
    )


def test_options_are_plain_parameters_that_the_builder_hands_on():
    model = build_model(ModelOptions(named("resnet18"), options=("zero_init_residual=true",)), 5, 64)
    assert model.layer1[0].bn2.weight.abs().sum() == 0
    model = build_model(ModelOptions(named("mobilenet_v2"), options=("width_mult=0.5", "dropout=0.4")), 5, 64)
    assert model.classifier[0].p == 0.4 and model.last_channel == 1280 and model.features[0][0].out_channels == 16
    for options, message in (
        (("norm_layer=x",), "has no option norm_layer"),
        (("layers=[1,1,1,1]",), r"has no option layers; it has groups, "),
        (("groups=7",), "only supports groups=1"),
        (("width_per_group=60000",), "only supports groups=1"),
    ):
        asked = ModelOptions(named("resnet18"), options=options)
        refused(build_model, asked, 5, 64, match=message)


def test_stochastic_depth_is_what_the_recipe_says():
    depth, plain = (
        on_meta(lambda rate=rate: build_model(ModelOptions(named("convnext_tiny"), drop_path=rate), 5, 32))
        for rate in (0.3, 0)
    )
    assert depth.features[-1][-1].stochastic_depth.p == pytest.approx(0.3)
    assert plain.features[-1][-1].stochastic_depth.p == 0  # torchvision's own is 0.1
    for name in ("resnet18", "mobilenet_v3_small"):  # the latter would take it, and do nothing with it
        refused(build_model, ModelOptions(named(name), drop_path=0.1), 5, 64, match=r"model\.drop_path: torchvision:")
    asked = ModelOptions(named("swin_t"), options=("stochastic_depth_prob=0.1",))
    refused(build_model, asked, 5, 64, match=r"stochastic_depth_prob is what model\.drop_path says")


@pytest.mark.parametrize("name", ["regnet_y_400mf", "googlenet", "maxvit_t"])
def test_every_family_has_a_size_before_it_is_built(name):
    found = size(Blueprint(named(name), 1000, 224), name)
    count = zoo.get_model_weights(name)["DEFAULT"].meta["num_params"]
    assert found.bytes == pytest.approx(4 * count, rel=0.01 if name != "googlenet" else 0.2)
    assert {parameter.device.type for parameter in found.model.parameters()} == {"meta"}


def test_a_file_that_claims_a_large_model_is_refused_before_it_is_built(tmp_path):
    state = theirs("squeezenet1_1", 5)
    for name in ("regnet_y_128gf", "vit_h_14"):
        save_model(tmp_path / "m.safetensors", state, ModelInfo(named(name), 5, 224, MEAN, MEAN))
        refused(load_model, tmp_path / "m.safetensors", match=r"a torchvision:\w+ as it says has .* GiB")
    refused(load_model, _renamed(tmp_path, state, "no_such"), match="torchvision has no classifier 'no_such'")
    refused(load_model, _renamed(tmp_path, state, "resnet18"), match="not the weights of torchvision:resnet18")


def _renamed(folder, model, name):
    save_model(folder / "m.safetensors", model, ModelInfo(named(name), 5, 64, MEAN, MEAN))
    return folder / "m.safetensors"
