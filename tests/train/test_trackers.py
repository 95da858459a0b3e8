"""Trackers log what log.jsonl has, below the run's folder, over stops and kills; those that fail end no training."""

import json
import os
import signal
import sqlite3
from importlib.util import find_spec

import pytest
from broken_tracker import Broken
from fakes import FakeLoader, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_file import history, records

import ffdr
from ffdr.config.training import TrainOptions
from ffdr.train.signals import Stopped
from ffdr.train.tracking import build, remote, tracker
from ffdr.train.tracking.calling import Callbacks
from ffdr.train.tracking.companion import Companion
from ffdr.util.errors import UserError
from ffdr.util.ranks import Ranks

HAS_TRACKIO = find_spec("trackio") is not None
needs_trackio = pytest.mark.skipif(not HAS_TRACKIO, reason="the lowest versions go without it, see test_versions.py")
ALL = ("tensorboard", "wandb", *(["trackio"] if HAS_TRACKIO else []))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run's folder and log: stopped in epoch 2, killed after it had logged epoch 3 of 4, and finished."""
    out = tmp_path_factory.mktemp("tracked") / "my run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(out.with_name("home")))
        for name in ("WANDB_MODE", "WANDB_CACHE_DIR", "TRACKIO_DIR"):
            patched.delenv(name, raising=False)
        patched.setenv("TRACKIO_SPACE_ID", "nobody/nothing")

        def begin(loader=None):
            val = FakeLoader(n=50, shuffle=False)
            return trainer(out, loader, val, trackers=ALL, project="digits", epochs=4, lr=0.01)

        loader = FakeLoader()
        loader.after_batch = lambda *at: os.kill(os.getpid(), signal.SIGTERM) if at == (1, 1) else None
        with pytest.raises(Stopped):
            begin(loader).fit()
        killed = begin()
        told = killed._callbacks.end_epoch

        def tell(record):
            asked = told(record)
            if record["epoch"] == 3:
                raise KeyboardInterrupt
            return asked

        killed._callbacks.end_epoch = tell
        with pytest.raises(KeyboardInterrupt):
            killed.fit()
        assert len(killed.log.records()) == 3
        last = begin()
        last.fit()
    return out, last.log.records()


def test_tensorboard_has_every_number_once(tracked):
    out, log = tracked
    assert len(list((out / "tensorboard").iterdir())) == 3  # one per start
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(log[0])
    for key in log[0]:
        points = [(event.step, event.value) for event in events.Scalars(key)]
        assert [step for step, _ in points] == [1, 2, 3, 4]
        if key not in ("seconds", "images_per_second", "data_wait"):  # epoch 3 was validated twice
            assert [value for _, value in points] == pytest.approx([record[key] for record in log])
    assert events.Tags()["tensors"] == ["recipe/text_summary"]


def test_a_run_that_is_not_resumed_has_one_event_file(tmp_path):
    trainer(tmp_path, epochs=3, tensorboard=True).fit()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    trainer(tmp_path, epochs=2, trackers=("tensorboard",), resume=False).fit()  # what was before is hidden
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2]


def test_wandb_has_every_number_in_the_file_of_the_last_start(tracked):
    out, log = tracked
    files = sorted((out / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    number = (out / "wandb" / "run-id").read_text().strip()
    assert [path.name for path in files] == [f"run-{number}.wandb"] * 3
    steps = history(files[-1])
    assert [{key: step[key] for key in log[0]} for step in steps] == log
    assert [step["_step"] for step in steps] == [1, 2, 3, 4]
    opened = next(record.run for record in records(files[-1]) if record.WhichOneof("record_type") == "run")
    assert (opened.project, opened.display_name, opened.run_id) == ("digits", "my run", number)
    config = {item.key: json.loads(item.value_json) for item in opened.config.update}
    assert config["train"]["lr"] == 0.01 and config["resolved"]["device"] == "cpu"
    summary = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for record in records(files[-1])
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert summary["best_val_top1"] == max(record["val_top1"] for record in log)
    ends = [record.exit for path in files for record in records(path) if record.WhichOneof("record_type") == "exit"]
    assert [end.exit_code for end in ends] == [1, 1, 0]


@needs_trackio
def test_trackio_has_every_number(tracked):
    out, log = tracked
    with sqlite3.connect(out / "trackio" / "digits.db") as base:
        rows = base.execute("select run_name, step, metrics from metrics order by step").fetchall()
        (config,) = base.execute("select config from configs").fetchone()
    number = (out / "trackio" / "run-id").read_text().strip()
    assert {name for name, _, _ in rows} == {f"my run-{number}"}
    assert [step for _, step, _ in rows] == [1, 2, 3, 4]
    found = [json.loads(metrics) for _, _, metrics in rows]
    assert found == [{"steps" if key == "step" else key: value for key, value in record.items()} for record in log]
    assert json.loads(config)["train"]["lr"] == 0.01


def test_all_that_trackers_leave_lies_below_the_run(tracked):
    out, _ = tracked
    assert {path.name for path in out.parent.iterdir()} <= {"my run", "home"}
    left = {path.name for path in out.with_name("home").rglob("*")} if out.with_name("home").exists() else set()
    assert not [name for name in left if "wandb" in name or "trackio" in name]


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """Train with the tracker that fails as its folder says; what it wrote."""
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))

    def train(how, **changes):
        given = trainer(tmp_path / how, FakeLoader(n=32), **changes)
        given._callbacks = Callbacks([], [Broken(tmp_path / how)], Ranks(), given.device)
        assert len(given.fit() and given.log.records()) == 3
        return (tmp_path / "trace").read_text()

    return train


@pytest.mark.parametrize(
    ("how", "said", "left"),
    [
        ("raise", "quota exceeded", "1 stopped"),
        ("die", "its process has ended with status 3", "1 "),
        ("wait", "no answer in time", "1 "),
    ],
)
def test_a_tracker_that_fails_is_told_once_and_the_training_goes_on(broken, how, said, left, monkeypatch, capsys):
    monkeypatch.setattr(remote, "_PATIENCE", {"begin": 60.0, "log": 0.5 if how == "wait" else 60.0, "finish": 0.2})
    if how == "raise":
        monkeypatch.setitem(remote._PATIENCE, "finish", 60.0)
    assert broken(how) == left
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"train.trackers: Broken failed in epoch 2 ({said}); the training goes on without it, and log.jsonl has all "
        "epochs"
    ]
    assert captured.out == ""


def test_a_tracker_that_works_is_finished(broken, capsys):
    assert broken("well") == "1 2 3 finished"
    assert capsys.readouterr() == ("", "")


def test_a_training_that_is_killed_while_it_waits_for_an_answer_leaves_a_closed_run(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    companion = Companion("broken_tracker", os.environ)
    given = {"folder": "", "project": "", "name": "well", "number": "", "config": {}, "records": []}
    companion.call("begin", given, 60.0)
    process = companion._process
    process.stdout.close()  # as the kernel does
    process.stdin.write(json.dumps(["log", {"record": {"epoch": 1}}]).encode() + b"\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert (tmp_path / "trace").read_text() == "1 stopped"


def test_a_tracker_that_can_not_start_is_told_before_the_first_step(broken, tmp_path):
    with pytest.raises(UserError, match=r"^train\.trackers: Broken can't start \(no network\); leave it out$"):
        broken("start")
    assert not (tmp_path / "start" / "checkpoints").exists()
    assert (tmp_path / "start" / "log.jsonl").read_text() == ""


@pytest.mark.parametrize("name", [*ALL, "rich"])
def test_what_is_not_installed_is_told_before_anything_is_opened(name, monkeypatch, tmp_path):
    monkeypatch.setattr(tracker, "find_spec", lambda package: None)
    option, more = ("train.live", {"live": True}) if name == "rich" else ("train.trackers", {"trackers": (name,)})
    data = {"train": str(tmp_path / "none.beton")}
    with pytest.raises(UserError, match=rf"^{option}: the package {name} is not installed; install it or leave it"):
        ffdr.train(data=data, model={"name": "test_resnet"}, out=str(tmp_path / "run"), **more)


def test_tensorboard_by_its_own_option_is_one_tracker(tmp_path):
    both = TrainOptions(out=str(tmp_path), tensorboard=True, trackers=("tensorboard", "wandb", "wandb"))
    assert [kind.name for kind in build.build_trackers(both)] == ["tensorboard", "wandb"]
    with pytest.raises(UserError, match=r"train\.trackers: 'wandbb' is not one of .*did you mean wandb\?"):
        TrainOptions(out=str(tmp_path), trackers=("wandbb",))


def test_an_id_that_ffdr_did_not_write_is_refused(tmp_path):
    (tmp_path / "run-id").write_text("../../elsewhere")
    with pytest.raises(UserError, match=r"run-id: not an id that ffdr wrote"):
        remote._run_id(tmp_path, resumed=True)
    fresh = remote._run_id(tmp_path, resumed=False)
    assert remote._run_id(tmp_path, resumed=True) == fresh


@needs_trackio
def test_where_trackers_write_and_send_is_the_users_choice(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/space")
    wandb, trackio = remote.Wandb(tmp_path), remote.Trackio(tmp_path)
    assert wandb.environment(tmp_path)["WANDB_MODE"] == "offline"
    assert trackio.environment(tmp_path)["TRACKIO_DIR"] == str(tmp_path)
    assert "TRACKIO_SPACE_ID" not in trackio.environment(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("TRACKIO_DIR", "/elsewhere")
    assert wandb.environment(tmp_path)["WANDB_MODE"] == "online"
    assert trackio.environment(tmp_path)["TRACKIO_DIR"] == "/elsewhere"
