"""Two processes with a linear probe, whose rate follows the validation, train as one does."""

import json

import pytest
from ranked import finish, launch
from safetensors.numpy import load_file

from ffdr import cli

FLAGS = [
    "--train.epochs=4", "--train.batch_size=20", "--train.resolution=32", "--train.lr=0.01", "--train.optimizer=lion",
    "--train.linear_probe=1", "--train.scheduler=plateau", "--train.patience_epochs=0", "--train.warmup_epochs=0",
    "--model.name=test_resnet", "--data.center=1", "--data.workers=1",
]  # fmt: skip


def test_two_ranks_probe_and_follow_the_validation_as_one_does(digits, tmp_path):
    flags = ["train", *FLAGS, f"--data.train={digits}", f"--data.val={digits}"]
    status, errors = finish(launch(2, ["-m", "ffdr", *flags, f"--train.out={tmp_path / 'two'}"]))
    assert status == [0, 0], errors
    assert not cli.main([*flags, f"--train.out={tmp_path / 'one'}"])
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    assert [line["lr"] for line in logs[0]] == [line["lr"] for line in logs[1]]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("two", "one")]
    for name, value in weights[0].items():
        if name.startswith("fc."):  # a step of lion turns with the sign of a sum
            assert value == pytest.approx(weights[1][name], abs=0.02)
        else:
            assert (value == weights[1][name]).all(), name
