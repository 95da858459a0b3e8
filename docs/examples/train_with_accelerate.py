"""Learn from reinforced data in a loop of Hugging Face's Accelerate.

    python docs/examples/train_with_accelerate.py train.beton train+.beton val.beton --model resnet50 --epochs 16
    accelerate launch docs/examples/train_with_accelerate.py train.beton train+.beton val.beton

``ReinforcedLoader`` gives every process its own part of each batch, on its own device. So the loader stays as it is:
only the model and the optimizer are prepared.
"""

import argparse
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ffdr import ReinforcedLoader, SparseTargetLoss


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("images", "reinforced", "val"):
        parser.add_argument(name, type=Path, help="a .beton file")
    parser.add_argument("--model", default="resnet50", help="timm's name of it")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=256, help="per process")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train, validate, print the accuracy."""
    args = arguments()
    accelerator = Accelerator()  # joins the other processes, which the loaders then know of
    set_seed(args.seed)
    shape = {"batch_size": args.batch_size, "resolution": args.resolution, "device": accelerator.device}
    loader = ReinforcedLoader(args.images, args.reinforced, seed=args.seed, **shape)
    val = ReinforcedLoader(args.val, **shape)
    model = timm.create_model(args.model, num_classes=loader.num_classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * len(loader))
    model, optimizer = accelerator.prepare(model, optimizer)
    loss_fn = SparseTargetLoss(num_classes=loader.num_classes)

    for epoch in range(args.epochs):
        model.train()
        loader.set_epoch(epoch)
        for images, targets, _ in loader:
            loss = loss_fn(model(images), targets)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

    accelerator.print(f"accuracy: {accuracy(accelerator, model, val):.3f}")


@torch.no_grad()
def accuracy(accelerator: Accelerator, model: torch.nn.Module, val: ReinforcedLoader) -> float:
    """Share of the images that are recognised, over all processes: each has a part of them."""
    model = accelerator.unwrap_model(model).eval()
    right = sum((model(images).argmax(1) == targets.label).sum() for images, targets, _ in val)
    return float(accelerator.reduce(torch.as_tensor(right, device=accelerator.device))) / val.num_images


if __name__ == "__main__":
    main()
