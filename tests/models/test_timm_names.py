"""timm's names: earlier ones are reported with today's; on what timm itself evaluates."""

import pytest
import timm
from timm.models import PretrainedCfg, get_deprecated_models

from ffdr.models.timm_names import (
    check_name,
    config_of,
    eval_crop,
    eval_size,
)
from ffdr.util.errors import UserError


@pytest.mark.parametrize("name", [*get_deprecated_models(), "tf_efficientnet_b0_ns.tag"])
def test_an_earlier_name_is_reported_with_todays(name):
    """One line each; the name in it is one that timm has, of the architecture and weights that the old one says."""
    with pytest.raises(UserError, match=r"teacher\.models: ") as error:
        check_name(name, "teacher.models")
    message, name = str(error.value), name.partition(".")[0]
    assert name in message and "\n" not in message
    if f"timm no longer has {name}" in message:
        return
    today = message.partition("timm now calls it ")[2].partition(" (")[0]
    check_name(today)
    arch, _, tag = today.partition(".")
    source, _, rest = name.partition("_")
    if source in ("ig", "ssl", "swsl", "gluon", "tv", "tf", "adv") and rest in timm.list_models():
        assert arch == rest
    config = config_of(today)
    if name.endswith(("_in21k", "_in22k", "_22k")):
        assert config.num_classes > 10_000 or "orig_in21k" in tag  # whose head was not published
    if name.endswith(("ft1k", "_ns", "_ap", "_sam")):
        assert config.num_classes == 1000
    for word in ("dino", "sam", "distilled", "ssl", "swsl", "gluon", "miil"):
        if word in name.split("_"):
            assert word in today


def test_names_that_timm_maps_to_another_model_are_reported_with_the_right_one():
    for name, message in {
        "ig_resnext101_32x16d": r"calls it resnext101_32x16d\.fb_wsl_ig1b_ft_in1k \(.* for resnext101_32x8d\.",
        "ig_resnext101_32x48d": r"timm no longer has ig_resnext101_32x48d \(.* for resnext101_32x8d\.",
        "mixer_b16_224_in21k": r"calls it mixer_b16_224\.goog_in21k \(.* for mixer_b16_224\.goog_in21k_ft_in1k\)",
        "vit_base_patch16_224_sam": r"calls it vit_base_patch16_224\.sam_in1k \(",
        "convnext_tiny_in22ft1k": r"calls it convnext_tiny\.fb_in22k_ft_in1k$",
    }.items():
        with pytest.raises(UserError, match=message):
            check_name(name)


def test_what_timm_evaluates_on():
    plain = PretrainedCfg(input_size=(3, 224, 224), crop_pct=0.9)
    assert (eval_size(plain), eval_crop(plain, 224), eval_crop(plain, 288)) == ((224, 224), 0.9, 0.9)
    larger = PretrainedCfg(test_input_size=(3, 288, 288), crop_pct=0.9, test_crop_pct=1.0)
    assert (eval_size(larger), eval_crop(larger, 224), eval_crop(larger, 288)) == ((288, 288), 0.9, 1.0)
