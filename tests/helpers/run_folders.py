"""Folders of runs as ``ffdr train`` leaves them, without training."""

import json
from dataclasses import asdict

from ffdr.config import recipe


def log(epochs, top1=0.5, seconds=5.0, validated=True):
    """Records of which top-1 rises to the given one and the NLL falls."""
    records = []
    for epoch in range(1, epochs + 1):
        record = {
            "epoch": epoch, "step": 9 * epoch, "lr": 0.1, "train_loss": 2 / epoch, "images_per_second": 100.0,
            "data_wait": 0.25, "seconds": seconds,
        }  # fmt: skip
        if validated:
            record |= {"val_top1": top1 * epoch / epochs, "val_nll": 2 - top1 * epoch / epochs, "val_ece": 0.02}
        records.append(record)
    return records


def write_run(folder, records, asked=None, val="val.beton", fingerprint="beef0000", classes=3, **options):
    """options: of the section train, or dotted with ``__``. asked: epochs; None: as many as there are records."""
    folder.mkdir(parents=True)
    options = {"task": "erm", "warmup_epochs": 0, "epochs": asked or len(records), "out": folder} | options
    flags = [f"--{key.replace('__', '.') if '__' in key else f'train.{key}'}={value}" for key, value in options.items()]
    flags += ["--data.train=some/train.beton", *([f"--data.val=some/{val}"] if val else [])]
    found = recipe.parse("train", [*flags, "--model.name=resnet18"])
    (folder / "recipe.json").write_text(json.dumps(asdict(found)))
    sections = {
        "train": asdict(found.train), "model": asdict(found.model), "resolved": {},
        "data": {"num_classes": classes, "classes": "abcd", "fingerprint": "f00d1111"},
    }  # fmt: skip
    if fingerprint and val:
        sections["validation"] = {"fingerprint": fingerprint, "num_images": 50}
    (folder / "options.json").write_text(json.dumps(sections))
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder)
