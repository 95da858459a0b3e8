"""What timm calls its models, and what it knows of them: names of today and of earlier versions, configurations."""

from __future__ import annotations

import timm
from timm.models import PretrainedCfg, get_deprecated_models

from ffdr.util.errors import UserError, nearest

_MISTAKEN: dict[str, str | None] = {
    "ig_resnext101_32x16d": "resnext101_32x16d.fb_wsl_ig1b_ft_in1k",
    "ig_resnext101_32x32d": "resnext101_32x32d.fb_wsl_ig1b_ft_in1k",
    "ig_resnext101_32x48d": None,
    "mixer_b16_224_in21k": "mixer_b16_224.goog_in21k",
    "mixer_l16_224_in21k": "mixer_l16_224.goog_in21k",
    "resmlp_12_224_dino": "resmlp_12_224.fb_dino",
    "resmlp_24_224_dino": "resmlp_24_224.fb_dino",
    "vit_base_patch16_224_sam": "vit_base_patch16_224.sam_in1k",
    "vit_base_patch32_224_sam": "vit_base_patch32_224.sam_in1k",
}
"""Earlier names that timm 1.0 takes for another architecture, for other weights than they stood for or for weights that
it has not, and what they are called today; None: timm has the model no longer."""


def check_name(name: str, key: str = "model.name", module: str = "--model.module") -> None:
    """Raise UserError for a name that timm does not know, with the nearest one, or that it has replaced, with the new
    one. key: the option that gave it. module: the one that registers more."""
    arch, _, tag = name.partition(".")
    if arch in get_deprecated_models():
        raise UserError(f"{key}: {_renamed(arch)}")
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        raise UserError(f"{key}: timm has no model {name!r}{near}; {module} imports what registers others")
    tags = [other.partition(".")[2] for other in timm.list_models(f"{arch}.*", pretrained=True)] if tag else []
    if tag and tag not in tags:
        has = ", ".join(tags) or "none"
        raise UserError(f"{key}: {arch} has no weights {tag!r}{nearest(tag, tags)}; it has {has}")


def _renamed(name: str) -> str:
    theirs = get_deprecated_models()[name]
    today = _MISTAKEN.get(name, theirs)
    says = f"{name} is an earlier name; timm now calls it {today}" if today else f"timm no longer has {name}"
    return says if today == theirs else f"{says} (timm itself would take that name for {theirs})"


def config_of(name: str) -> PretrainedCfg:
    """How timm's pretrained weights of a model want to be fed; of a model without a configuration timm's defaults."""
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def fixed_size(name: str) -> bool:
    """Whether the model is built for one input size (a ViT's position embedding), by timm's own account."""
    return bool(config_of(name).fixed_input_size)


def eval_size(config: PretrainedCfg) -> tuple[int, int]:
    """Height and width of the images on which timm's own ``validate.py`` evaluates the weights."""
    _, height, width = config.test_input_size or config.input_size
    return height, width


def eval_crop(config: PretrainedCfg, resolution: int) -> float:
    """The crop_pct with which timm's own ``validate.py`` evaluates the weights at so many pixels."""
    at_test_size = (resolution, resolution) == eval_size(config)
    return (config.test_crop_pct if at_test_size else None) or config.crop_pct
