"""A user's own file of models: one registered as plainly as timm allows, one through timm's builder."""

import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn


class TinyNet(nn.Module):
    def __init__(self, num_classes=10, width=8, depth=1):
        super().__init__()
        rates = [x.item() for x in torch.linspace(0, 0.1, depth)]  # as many ViTs do: it can't be built on meta
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(*(nn.Conv2d(width, width, 3, padding=1) for _ in rates))
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.stem(x)).relu()).mean((2, 3)))


class BuiltNet(TinyNet):
    def __init__(self, num_classes=10, in_chans=3, global_pool="avg", width=8, depth=1):
        super().__init__(num_classes, width, depth)
        self.num_classes = num_classes

    def reset_classifier(self, num_classes, global_pool=None):
        self.num_classes, self.head = num_classes, nn.Linear(self.head.in_features, num_classes)


default_cfgs = {"my_built": {"input_size": (3, 32, 32), "classifier": "head", "mean": (0.1,) * 3, "std": (0.2,) * 3}}


@register_model
def my_tiny(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    return TinyNet(**kwargs)


@register_model
def my_built(pretrained=False, **kwargs):
    return build_model_with_cfg(BuiltNet, "my_built", pretrained, **kwargs)
