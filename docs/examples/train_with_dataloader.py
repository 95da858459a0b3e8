"""Learn from reinforced data through PyTorch's own DataLoader, whose workers replay single views.

    python docs/examples/train_with_dataloader.py train.beton train+.beton val.beton --model resnet50 --epochs 16

For loops that must have a DataLoader, with samplers or collate functions of their own. ``ReinforcedLoader`` shows the
same views without worker processes.
"""

import argparse

import timm
import torch
from torch.utils.data import DataLoader

from ffdr import ReinforcedDataset, SparseTargetLoss, SparseTargets


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("images", "reinforced", "val"):
        parser.add_argument(name, help="a .beton file")
    parser.add_argument("--model", default="resnet50", help="timm's name of it")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=8)
    return parser.parse_args()


def main() -> None:
    """Train, validate, print the accuracy."""
    args = arguments()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = ReinforcedDataset(args.images, args.reinforced, resolution=args.resolution, seed=args.seed)
    val = ReinforcedDataset(args.val, resolution=args.resolution)
    shared = {"batch_size": args.batch_size, "num_workers": args.workers, "pin_memory": device.type == "cuda"}
    loader = DataLoader(train, shuffle=True, drop_last=True, persistent_workers=args.workers > 0, **shared)
    model = timm.create_model(args.model, num_classes=train.num_classes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * len(loader))
    loss_fn = SparseTargetLoss(num_classes=train.num_classes)

    for epoch in range(args.epochs):
        model.train()
        train.set_epoch(epoch)  # other views than in the epoch before; the workers know of it, too
        for batch in loader:
            images, targets = batch["pixel_values"].to(device), SparseTargets.from_batch(batch).to(device)
            loss = loss_fn(model(images), targets)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

    print(f"accuracy: {accuracy(model, DataLoader(val, **shared), device):.3f}")


@torch.no_grad()
def accuracy(model: torch.nn.Module, val: DataLoader, device: torch.device) -> float:
    """Share of the images that are recognised."""
    model.eval()
    right = sum(int((model(b["pixel_values"].to(device)).argmax(1).cpu() == b["labels"]).sum()) for b in val)
    return right / len(val.dataset)


if __name__ == "__main__":
    main()
