"""Small trained models to export, and images to ask them about."""

import numpy as np
import torch
from torch import nn

from ffdr.beton.read import ImageBeton
from ffdr.config.learning import ModelOptions
from ffdr.loader.loader import ReinforcedLoader
from ffdr.models.build import ModelInfo, build_model, class_digest, save_model

MEAN, STD = (0.2, 0.3, 0.4), (0.3, 0.25, 0.2)
CLASSES = ("zero", 'one: "1"', "two | - x", "three\n---", "café", "</details>", "`six`", "[7](x)", "#8", "")


class Own(nn.Module):
    """A module of somebody's own."""

    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(8, classes)

    def forward(self, images):
        return self.head(self.dropout(self.body(images).mean((2, 3))))


def shaken(model, seed=0):
    """The model with weights and statistics that are no initial ones, so that its logits spread."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.1 * torch.rand_like(value)).add_(0.02 * torch.rand_like(value))
    return model.eval()


def weights(path, name, side=32, options=(), names=CLASSES):
    """A file of weights with all that is known of them; returns the model."""
    torch.manual_seed(0)
    model = shaken(build_model(ModelOptions(name=name, options=options), 10, side))
    save_model(
        path,
        model,
        ModelInfo(name, 10, side, MEAN, STD, 0.9, class_digest(names), "ab" * 16, options, names),
    )
    return model


def digit_views(beton, count=5, side=32):
    """(count, 3, side, side) uint8 evaluation views of real images."""
    loader = ReinforcedLoader(ImageBeton.open(beton), batch_size=count, resolution=side, dtype=torch.uint8, workers=1)
    return next(iter(loader))[0].clone().contiguous()


def normalised(pixels, mean=MEAN, std=STD):
    mean, std = (torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1) for values in (mean, std))
    return ((pixels.to(torch.float64) / 255 - mean) / std).to(torch.float32)


def asked(answer, model, images, sizes=(1, 5)):
    """The largest difference of answers, relative to the logits' scale where that is above 1."""
    worst = 0.0
    for size in sizes:
        with torch.no_grad():
            ours = model(images[:size])
        theirs = torch.as_tensor(np.asarray(answer(images[:size])))
        assert ours.shape == theirs.shape == (size, 10)
        worst = max(worst, ((ours - theirs).abs().max() / max(1.0, ours.abs().max())).item())
    return worst
