"""Learn from reinforced data in a script for FFCV's own Loader: what changes is its ``pipelines``, and the loss.

    python docs/examples/ffcv_pipeline.py merged.beton val.beton --model resnet50 --epochs 16

The decoders of ``ffdr.ffcv`` show each image's view of the epoch, and what the teacher made of that view.
"""

import argparse

import numpy as np
import timm
import torch
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline import PipelineSpec
from ffcv.transforms import Convert, Squeeze, ToDevice, ToTensor, ToTorchImage
from torchvision.transforms import Normalize

from ffdr import SparseTargetLoss, SparseTargets
from ffdr.ffcv import CUSTOM_FIELDS, ReplayImageDecoder, TargetIdsDecoder, TargetLogProbsDecoder

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def loaders(args: argparse.Namespace, device: torch.device) -> tuple[Loader, Loader]:
    """Of training and of validation."""
    arrays = [ToTensor(), ToDevice(device)]
    pixels, label = [*arrays, ToTorchImage(), Convert(torch.float32), Normalize(MEAN, STD)], [*arrays, Squeeze(1)]
    shape = {"batch_size": args.batch_size, "num_workers": args.workers, "os_cache": True}
    pipelines = {
        "image": [ReplayImageDecoder(args.train, resolution=args.resolution, seed=args.seed), *pixels],
        "label": [IntDecoder(), *label],
        **dict.fromkeys(("origin", "aug_params", "logits")),  # no pipelines of their own
        "ids": PipelineSpec("logits", TargetIdsDecoder(args.train, seed=args.seed), list(arrays)),
        "log_probs": PipelineSpec("logits", TargetLogProbsDecoder(args.train, seed=args.seed), list(arrays)),
    }
    shown = {"order": OrderOption.RANDOM, "seed": args.seed, "custom_fields": CUSTOM_FIELDS}
    train = Loader(args.train, pipelines=pipelines, **shown, **shape)
    center = CenterCropRGBImageDecoder((args.resolution,) * 2, ratio=1.0)
    pipelines = {"image": [center, *pixels], "label": [IntDecoder(), *label], "origin": None}
    return train, Loader(args.val, pipelines=pipelines, drop_last=False, **shape)


def main(args: argparse.Namespace) -> None:
    """Train, then validate."""
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, val = loaders(args, device)
    model = timm.create_model(args.model, num_classes=args.num_classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=5e-5)
    loss_fn = SparseTargetLoss(num_classes=args.num_classes)

    for epoch in range(args.epochs):
        for step, (images, label, ids, log_probs) in enumerate(train):
            at = (epoch + step / len(train)) / args.epochs
            optimizer.param_groups[0]["lr"] = args.lr * np.interp(at, [0, 0.2, 1], [0.1, 1, 0])
            loss = loss_fn(model(images), SparseTargets(ids, log_probs, label))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}\nloss: {loss.item():.3f}")
    with torch.no_grad():
        model.eval()
        right = torch.cat([model(images).argmax(1) == label for images, label in val])
    print(f"accuracy: {right.float().mean().item():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="a merged beton")
    parser.add_argument("val", help="an image beton")
    parser.add_argument("--model", default="resnet50", help="timm's name")
    parser.add_argument("--num-classes", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=8, help="threads that decode")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
