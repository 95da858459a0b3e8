"""docs/examples/clip_teacher.py stores what transformers itself says of the views and the class names."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ffdr import ReinforcedDataset
from ffdr.beton.read import ImageBeton

pytest.importorskip("transformers")
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
WORDS = ["[pad]", "[unk]", "a", "photo", "of", "the", "number", *map(str, range(10)), "[end]"]
PROMPTS = ("a photo of the number {}", "the {}")
SIDE, VIEWS = 32, 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Folder of a random CLIP of two layers, and of a tokenizer that knows a few words."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = [("[end]", len(WORDS) - 1)]  # where CLIP reads a text's embedding
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [end]", special_tokens=end)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[pad]", unk_token="[unk]", eos_token="[end]"
    ).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 16, "eos_token_id": len(WORDS) - 1}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**text, "bos_token_id": 0, "pad_token_id": 0},
        vision_config={**small, "image_size": SIDE, "patch_size": 8},
        projection_dim=8,
    )
    model = CLIPModel(config)
    for layer in (model.visual_projection, model.text_projection):  # else all answers are about the same
        torch.nn.init.normal_(layer.weight)
    model.save_pretrained(folder)
    return folder


def test_stored_log_probs_are_those_of_transformers(clip, digits, tmp_path):
    out = tmp_path / "out.beton"
    command = [sys.executable, str(ROOT / "docs" / "examples" / "clip_teacher.py"), str(digits), str(out)]
    command += [f"--model={clip}", *(f"--prompt={prompt}" for prompt in PROMPTS), f"--views={VIEWS}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=400, env=env)
    assert run.returncode == 0, run.stderr
    dataset = ReinforcedDataset(digits, out)
    assert dataset.reinforced.header.teachers[0].startswith("clip@")
    shown = [(image, view) for image in range(0, 100, 7) for view in range(VIEWS)]
    pixels = np.stack([dataset.view(image, view, SIDE)[0] for image, view in shown])
    expected = by_transformers(clip, ImageBeton.open(digits).class_names, pixels).log_softmax(1)
    stored = torch.stack([dataset.view(image, view, SIDE)[1].dense(10)[0] for image, view in shown])
    assert expected.std(0).max() > 0.05  # the views tell
    torch.testing.assert_close(stored.log(), expected, atol=4e-3, rtol=2e-3)


@torch.no_grad()
def by_transformers(folder, names, pixels):
    """(B, C) logits of uint8 images (B, R, R, 3), by the classes that transformers has for all of it."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False)
    images = processor(list(pixels), return_tensors="pt")
    embeddings = []
    for prompt in PROMPTS:
        texts = tokenizer([prompt.format(name) for name in names], padding=True, return_tensors="pt")
        texts.pop("token_type_ids", None)  # older versions of transformers make them, and CLIP takes none
        outputs = model(**texts, **images)
        embeddings.append(outputs.text_embeds)
    classes = torch.nn.functional.normalize(sum(embeddings), dim=1)
    return model.logit_scale.exp() * outputs.image_embeds @ classes.T
