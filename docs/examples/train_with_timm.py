"""Learn from reinforced data with pieces of timm's train.py: optimizer, schedule, averaged weights, mixed precision.

    python docs/examples/train_with_timm.py train.beton train+.beton val.beton --model resnet50 --epochs 16

In timm's own ``train.py`` the same lines change: the loaders and the loss. Its mixup, augmentations and label smoothing
are left out: stored views and the teacher's log-probabilities have these already.
"""

import argparse

import torch
from timm import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler, accuracy, random_seed

from ffdr import ReinforcedLoader, SparseTargetLoss


def main() -> None:
    """Train, validate, print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("images", "reinforced", "val"):
        parser.add_argument(name, help="a .beton file")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--opt", default="adamw")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--clip-grad", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    random_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = {"batch_size": args.batch_size, "resolution": args.resolution, "device": device}
    loader = ReinforcedLoader(args.images, args.reinforced, seed=args.seed, **shape)
    val = ReinforcedLoader(args.val, **shape)
    model = create_model(args.model, num_classes=loader.num_classes).to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt=args.opt, lr=args.lr, weight_decay=0.05)
    by_step = {"step_on_epochs": False, "updates_per_epoch": len(loader)}
    schedule, epochs = create_scheduler_v2(
        optimizer, num_epochs=args.epochs, warmup_epochs=args.epochs // 10, **by_step
    )
    averaged = ModelEmaV3(model, use_warmup=True)
    scaler = NativeScaler(device=device.type)
    loss_fn = SparseTargetLoss(num_classes=loader.num_classes)

    for epoch in range(epochs):
        model.train()
        losses = AverageMeter()
        for step, (images, targets, _) in enumerate(loader, start=epoch * len(loader)):
            with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                loss = loss_fn(model(images), targets)
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=args.clip_grad, parameters=model.parameters())
            averaged.update(model, step)
            schedule.step_update(step + 1)
            losses.update(loss.item(), len(images))
        print(f"epoch {epoch + 1}: loss {losses.avg:.3f}, accuracy {validate(averaged, val):.1f} %")

    print(f"accuracy: {validate(averaged, val) / 100:.3f}")


@torch.inference_mode()
def validate(model: torch.nn.Module, val: ReinforcedLoader) -> float:
    """Top-1 accuracy in %."""
    model.eval()
    top1 = AverageMeter()
    for images, targets, _ in val:
        top1.update(accuracy(model(images), targets.label)[0].item(), len(images))
    return top1.avg


if __name__ == "__main__":
    main()
