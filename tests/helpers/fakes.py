"""A loader in memory that keeps what ffdr.loader.protocol promises, a teacher, short runs with them, for tests."""

import numpy as np
import torch

from ffdr.config.learning import ModelOptions
from ffdr.config.training import TrainOptions
from ffdr.loader.targets import SparseTargets
from ffdr.train.fit import DataInfo, Trainer
from ffdr.train.student import build_student

CLASSES = 4
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
DATA = DataInfo(MEAN, STD, classes="abcd", fingerprint="f00d")


class FakeLoader:
    """64 images of 32 px in 4 classes that differ in colour; the order depends on (seed, epoch)."""

    def __init__(self, n=64, batch_size=16, seed=0, topk=0, fingerprint="f00d", num_classes=CLASSES, shuffle=True):
        rng = np.random.default_rng(1)
        self.num_images, self.num_classes, self.batch_size = n, num_classes, batch_size
        colours = torch.from_numpy(rng.normal(size=(num_classes, 3, 1, 1))).float()
        self.labels = torch.from_numpy(rng.integers(0, num_classes, n))
        noise = torch.from_numpy(rng.normal(size=(n, 3, 32, 32))).float()
        self.images = (colours[self.labels] + noise).contiguous(memory_format=torch.channels_last)
        self.seed, self.topk, self.fingerprint, self.shuffle = seed, topk, fingerprint, shuffle
        self.epoch = self.batch = 0
        self.resolutions = []
        self.after_batch = lambda epoch, batch: None
        self.spoil = None  # (epoch, batch) whose images are not finite

    def __len__(self):
        return -(-self.num_images // self.batch_size)

    def __iter__(self):
        order = np.arange(self.num_images)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_images)
        for batch in range(self.batch, len(self)):
            self.batch = batch + 1
            index = torch.from_numpy(order[batch * self.batch_size : (batch + 1) * self.batch_size])
            images = self.images[index]
            if self.spoil == (self.epoch, batch):
                images = images * torch.inf
            yield images, self.targets(index), index
            self.after_batch(self.epoch, batch)

    def targets(self, index):
        label = self.labels[index]
        if not self.topk:
            return SparseTargets(label[:, None], torch.zeros(len(index), 1), label)
        ids = (label[:, None] + torch.arange(self.topk)) % self.num_classes
        logs = torch.tensor([0.9] + [0.05 / self.topk] * (self.topk - 1)).log().half().expand(len(index), -1)
        return SparseTargets(ids, logs, label)

    def set_epoch(self, epoch):
        self.epoch, self.batch = epoch, 0

    def set_resolution(self, resolution):
        self.resolutions.append(resolution)

    def state_dict(self):
        return {"seed": self.seed, "epoch": self.epoch, "batch": self.batch, "fingerprint": self.fingerprint}

    def load_state_dict(self, state):
        assert state["fingerprint"] == self.fingerprint
        self.epoch, self.batch = state["epoch"], state["batch"]


class FakeTeacher:
    """Knows the colours; counts how often it is asked, and remembers with which normalisation."""

    def __init__(self, num_classes=CLASSES):
        self.num_classes, self.asked = num_classes, []

    names = ("fake",)

    def log_probs_normalised(self, images, mean, std):
        self.asked.append((tuple(mean), tuple(std)))
        return (images.mean((2, 3)) @ torch.ones(3, self.num_classes)).log_softmax(1)


def options(out, **changes):
    plain = {
        "epochs": 3, "batch_size": 16, "lr": 0.05, "warmup_epochs": 1.0, "resolution": 32, "seed": 7, "out": str(out)
    }  # fmt: skip
    return TrainOptions(**(plain | changes))


def trainer(
    out,
    loader=None,
    val_loader=None,
    teacher=None,
    model=None,
    data=DATA,
    device="cpu",
    ranks=None,
    callbacks=(),
    **changes,
):
    given, loader = options(out, **changes), loader or FakeLoader()
    student = build_student(given, model or ModelOptions("test_resnet"), loader.num_classes, torch.device(device))
    return Trainer(given, student, data, loader, val_loader, teacher, progress=False, ranks=ranks, callbacks=callbacks)


def weights(run):
    return {key: value.clone() for key, value in run.result.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
