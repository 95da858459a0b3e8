"""README's "Your own data": its four doors open as they stand, but for what takes hours."""

import re
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn

from ffdr.beton.read import ImageBeton

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SMALL = {"views=100": "views=2", "epochs=60": "epochs=1, batch_size=8, resolution=32", "num_workers=8": "num_workers=1",
         "batch_size=256": "batch_size=4"}  # fmt: skip
NAMES = ["dark", "bright"]


def pictures(count):
    """Dark ones and bright ones, in turn, as a dataset of Hugging Face's."""
    rng = np.random.default_rng(count)
    levels = [rng.integers(low, low + 60, (40, 48, 3), np.uint8) for low in (20, 180)]
    rows = {"image": [Image.fromarray(levels[i % 2]) for i in range(count)], "label": [i % 2 for i in range(count)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    return datasets.Dataset.from_dict(rows, features=features)


def brightness(pixels):
    """Logits of the two, of uint8 pixels (B, H, W, 3)."""
    level = pixels.float().mean((1, 2, 3)) / 16 - 8
    return torch.stack([-level, level], 1)


def test_the_four_doors_of_readme(tmp_path, monkeypatch):
    section = README.partition("## Your own data\n")[2].partition("\n## ")[0]
    assert len(section.splitlines()) <= 40
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    for there, here in SMALL.items():
        assert there in code
        code = code.replace(there, here)
    food = {"train": pictures(16), "validation": pictures(8)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: food)
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    names = {"my_clip": brightness, "my_net": net}
    exec(compile(code, "README.md", "exec"), names)

    images = ImageBeton.open("train.beton")
    assert images.class_names == tuple(NAMES) and images.labels.tolist() == [0, 1] * 8
    assert names["dataset"].num_views == 2
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (images.mean, images.std))
    for batch in names["views"]:  # what the teacher says of the very pixels that are shown
        pixels = ((batch["pixel_values"] * std + mean) * 255).permute(0, 2, 3, 1)
        assert pixels.shape == (4, 224, 224, 3)
        expected = brightness(pixels).log_softmax(1).gather(1, batch["target_ids"])
        torch.testing.assert_close(batch["target_log_probs"], expected, atol=5e-3, rtol=2e-3)
    assert Path("runs/food/model.safetensors").is_file()
    assert names["image"][0].output_size == (224, 224)
