"""Learn from reinforced data with the Trainer of Hugging Face's Transformers.

    python docs/examples/train_with_transformers.py train.beton train+.beton val.beton --model resnet50 --epochs 16

Items of ``ReinforcedDataset`` are dictionaries with ``pixel_values`` and ``labels``, as the Trainer's are, and with the
teacher's classes and log-probabilities, from which the loss below learns. Models of Transformers are used in the same
way; their output's ``logits`` go to the loss.
"""

import argparse
from typing import Any

import timm
import torch
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

from ffdr import ReinforcedDataset, SparseTargetLoss, SparseTargets


class ReinforcedTrainer(Trainer):
    """Learns from the teacher's classes; is evaluated on the labels."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """The loss of a batch of items; the evaluation view's only entry is the label, so it has the cross-entropy."""
        logits = model(inputs["pixel_values"])
        loss = SparseTargetLoss(num_classes=logits.shape[1])(logits, SparseTargets.from_batch(inputs))
        return (loss, {"logits": logits}) if return_outputs else loss


class SetEpoch(TrainerCallback):
    """Tells the dataset which epoch begins: with several processes, Accelerate's samplers keep it to themselves."""

    def __init__(self, dataset: ReinforcedDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the epoch's first batch is read; half-way through it after a resume."""
        self.dataset.set_epoch(int(state.epoch or 0))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the images that are recognised."""
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def main() -> None:
    """Train, validate, print the accuracy."""
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
    parser.add_argument("--out", default="runs/transformers", help="folder for checkpoints")
    args = parser.parse_args()

    train = ReinforcedDataset(args.images, args.reinforced, resolution=args.resolution, seed=args.seed)
    val = ReinforcedDataset(args.val, resolution=args.resolution)
    torch.manual_seed(args.seed)
    options = TrainingArguments(
        output_dir=args.out, num_train_epochs=args.epochs, learning_rate=args.lr, weight_decay=0.05, seed=args.seed,
        per_device_train_batch_size=args.batch_size, per_device_eval_batch_size=args.batch_size,
        dataloader_num_workers=args.workers, dataloader_persistent_workers=args.workers > 0,
        label_names=["labels"], remove_unused_columns=False,  # which are all that the model's forward doesn't name
        lr_scheduler_type="cosine", warmup_steps=0.1, save_strategy="epoch", save_total_limit=1, report_to="none",
    )  # fmt: skip
    trainer = ReinforcedTrainer(
        timm.create_model(args.model, num_classes=train.num_classes), options, train_dataset=train, eval_dataset=val,
        callbacks=[SetEpoch(train)], compute_metrics=accuracy,
    )  # fmt: skip
    trainer.train()
    print(f"accuracy: {trainer.evaluate()['eval_accuracy']:.3f}")


if __name__ == "__main__":
    main()
