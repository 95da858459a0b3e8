"""Learn from reinforced data with Lightning.

    python docs/examples/train_with_lightning.py train.beton train+.beton val.beton --model resnet50 --epochs 16
    python docs/examples/train_with_lightning.py train.beton train+.beton val.beton --resume lightning_logs/…/x.ckpt

Lightning's Trainer takes ``ReinforcedLoader`` as it is: it counts epochs itself and gives each process its part of
them. Its place in the data is kept in Lightning's checkpoints, so that training resumes with the next batch.
"""

import argparse
from typing import Any

import lightning
import timm
import torch

from ffdr import ReinforcedLoader, SparseTargetLoss

Batch = tuple[torch.Tensor, Any, torch.Tensor]
"""Images, targets, and the images' numbers."""


class Student(lightning.LightningModule):
    """A model of timm that learns from what teachers said of stored views."""

    def __init__(self, name: str, num_classes: int, lr: float) -> None:
        super().__init__()
        self.model, self.lr = timm.create_model(name, num_classes=num_classes), lr
        self.loss_fn = SparseTargetLoss(num_classes=num_classes)

    def training_step(self, batch: Batch, number: int) -> torch.Tensor:
        """The loss of a batch of views."""
        images, targets, _ = batch
        loss = self.loss_fn(self.model(images), targets)
        self.log("loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, number: int) -> None:
        """Which images are recognised."""
        images, targets, _ = batch
        right = (self.model(images).argmax(1) == targets.label).float().mean()
        self.log("accuracy", right, prog_bar=True, batch_size=len(images), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises and falls once."""
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.05)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def main() -> None:
    """Train, validate, print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("images", "reinforced", "val"):
        parser.add_argument(name, help="a .beton file")
    parser.add_argument("--model", default="resnet50", help="timm's name of it")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=256, help="per process")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", metavar="CKPT", help="a checkpoint of Lightning")
    args = parser.parse_args()

    lightning.seed_everything(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # of "cuda" the GPU that Lightning gives this process
    shape = {"batch_size": args.batch_size, "resolution": args.resolution, "device": device}
    loader = ReinforcedLoader(args.images, args.reinforced, seed=args.seed, **shape)
    student = Student(args.model, loader.num_classes, args.lr)
    trainer = lightning.Trainer(max_epochs=args.epochs, log_every_n_steps=10)
    trainer.fit(student, loader, ReinforcedLoader(args.val, **shape), ckpt_path=args.resume)
    print(f"accuracy: {float(trainer.callback_metrics['accuracy']):.3f}")


if __name__ == "__main__":
    main()
