"""Reinforce images with a zero-shot teacher: CLIP, which knows the classes by their names.

    python docs/examples/clip_teacher.py images.beton images+.beton --model=openai/clip-vit-base-patch32 \\
        --prompt="a photo of a {}" --views=100

Each class is described by prompts, whose embeddings are computed once. A view's logits are the similarities of its own
embedding to those of the classes, times CLIP's learned scale. Names such as n01440764 tell CLIP nothing:
``--names=names.txt`` has one per line, in the order of the classes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

import ffdr
from ffdr.reinforce import FunctionTeacher


class ZeroShot(torch.nn.Module):
    """A CLIP model as a classifier of images (B, 3, R, R), normalised, into logits (B, C)."""

    def __init__(self, clip: CLIPModel, class_embeddings: torch.Tensor) -> None:
        super().__init__()
        self.vision, self.projection = clip.vision_model, clip.visual_projection
        self.register_buffer("classes", class_embeddings)  # (C, D), of length 1
        self.register_buffer("scale", clip.logit_scale.detach().exp())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled cosine similarities of images and classes."""
        embeddings = self.projection(self.vision(pixel_values=images).pooler_output)
        return self.scale * unit(embeddings) @ self.classes.T


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors (…, D) of length 1."""
    return torch.nn.functional.normalize(vectors, dim=-1)


@torch.inference_mode()
def embed_classes(clip: CLIPModel, path: str, names: Sequence[str], prompts: list[str]) -> torch.Tensor:
    """(C, D): of each class the mean of its prompts' embeddings, of length 1."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = []
    for name in names:
        texts = tokenizer([prompt.format(name) for prompt in prompts], padding=True, return_tensors="pt")
        pooled = clip.text_model(texts["input_ids"], texts["attention_mask"]).pooler_output
        embeddings = unit(clip.text_projection(pooled))
        rows.append(unit(embeddings.mean(0)))
    return torch.stack(rows)


def main() -> None:
    """Reinforce."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="image beton")
    parser.add_argument("out", help="reinforced beton to write")
    parser.add_argument("--model", default="openai/clip-vit-base-patch32", help="of the Hugging Face hub, or a folder")
    parser.add_argument("--prompt", action="append", help="{} is the class; may stand several times")
    parser.add_argument("--names", type=Path, help="file of class names, instead of the beton's own")
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    args = parser.parse_args()
    dataset = ffdr.ReinforcedDataset(args.images)
    names = args.names.read_text(encoding="utf-8").splitlines() if args.names else dataset.class_names
    clip = CLIPModel.from_pretrained(args.model).eval()
    model = ZeroShot(clip, embed_classes(clip, args.model, names, args.prompt or ["a photo of a {}"]))
    side = clip.config.vision_config.image_size
    teacher = FunctionTeacher(model, "clip", mean=OPENAI_CLIP_MEAN, std=OPENAI_CLIP_STD, resolution=side)
    ffdr.reinforce(args.images, args.out, teacher={"models": teacher, "batch_size": args.batch_size}, views=args.views)


if __name__ == "__main__":
    main()
