"""The live view in a real (pseudo-)terminal: its numbers are the log's, and the terminal is as before at the end."""

import codecs
import json
import math
import re
import signal

import pytest
from fakes import FakeLoader, trainer
from terminal import run_all

from ffdr.train.tracking.build import build_display
from ffdr.train.tracking.live import sparkline
from ffdr.train.tracking.progress import Bar

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
ENDS = {
    "SIGINT": (signal.SIGINT, "Stopped"),
    "SIGTERM": (signal.SIGTERM, "Stopped"),
    "error": (-1, "ZeroDivisionError"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def terminals(folder):
    """What terminals of several kinds were sent, and the exit statuses."""
    runs = {"plain": {"epochs": 3}, "piped": {"piped": str(folder / "file")}}
    runs |= {name: {"number": int(number), "columns": 50} for name, (number, _) in ENDS.items()}
    runs["ascii"] = {"columns": 38, "lines": 10, "encoding": "ascii", "environment": {"NO_COLOR": "1"}}
    runs["dumb"] = {"environment": {"TERM": "dumb"}}
    return run_all({name: {"out": str(folder / f"{name}-ü"), **run} for name, run in runs.items()})


@pytest.fixture
def shown(terminals, folder):
    text, status = terminals["plain"]
    assert status == 0
    return text, log_of(folder, "plain")


def log_of(folder, name):
    return [json.loads(line) for line in (folder / f"{name}-ü" / "log.jsonl").read_text().splitlines()]


def lines_of(text):
    return [line for line in re.split(r"[\r\n]+", ESCAPE.sub("", text)) if line]


def test_the_view_shows_what_the_log_has(shown):
    text, log = shown
    last = ESCAPE.sub("", text).replace("\r", "").rpartition("╭")[2]
    for record in log:
        row = next(line for line in last.splitlines() if re.match(rf"│ +{record['epoch']} ", line)).split()
        assert row[1:6] == [
            str(record["epoch"]), f"{record['train_loss']:.4f}", f"{record['val_top1']:.2%}",
            f"{record['images_per_second']:,.0f}", f"{record['data_wait']:.0%}",
        ]  # fmt: skip
    best = max(record["val_top1"] for record in log)
    epoch = next(record["epoch"] for record in log if record["val_top1"] == best)
    assert f"now {log[-1]['val_top1']:.2%}, best {best:.2%} (epoch {epoch})" in last
    assert "epoch 3/3" in last and "64/64 steps" in last and "100%" in last


def test_the_view_is_drawn_when_the_device_is_read(shown):
    text = ESCAPE.sub("", shown[0])
    assert re.search(r"training  [\d.]+ s left  loss \d\.\d{4}  [\d,]+ images/s  data wait \d+%  learning rate ", text)
    assert "validating" in text


def test_the_cursor_comes_back_and_warnings_stand_above(shown):
    text, _ = shown
    assert text.count(HIDE) == text.count(SHOW) == 1 and text.rindex(SHOW) > text.rindex("epoch 3/3")
    assert [line for line in lines_of(text) if "a warning" in line] == ["a warning meanwhile"]


@pytest.mark.parametrize("name", ENDS)
def test_the_cursor_comes_back_however_the_run_ends(terminals, name):
    text, status = terminals[name]
    assert status == 1 and lines_of(text)[-1] == f"ended by {ENDS[name][1]}"
    assert text.count(HIDE) == text.count(SHOW) == 1
    assert max(len(line) for line in lines_of(text) if line[:1] in ("╭", "│", "╰")) == 50


def test_a_terminal_without_utf_8_or_colours_can_show_it(terminals, folder):
    text, status = terminals["ascii"]
    assert status == 0, text
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)
    assert f"now {log_of(folder, 'ascii')[-1]['train_loss']:.4f}" in ESCAPE.sub("", text)


def test_output_that_is_no_terminal_gets_a_line_per_epoch(terminals, folder):
    text, status = terminals["piped"]
    assert status == 0 and "epoch 1/1" in text
    lines = (folder / "file").read_text().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/1"]


NOTE = "train.live: standard error is no terminal that can show it; a line per epoch instead"


def test_a_terminal_whose_cursor_stays_gets_lines_and_a_note(terminals):
    text, status = terminals["dumb"]
    assert status == 0 and NOTE in text and HIDE not in text and "╭" not in text


def test_without_a_terminal_there_are_lines_and_a_note(tmp_path, capsys):
    run = trainer(tmp_path, FakeLoader(n=32), epochs=2, live=True)
    assert capsys.readouterr() == ("", "")  # its progress is False
    run._display = build_display(run.options, "a run", 2, None)
    assert isinstance(run._display, Bar)
    run.fit()
    captured = capsys.readouterr()
    assert [line.split("  ")[0] for line in captured.out.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    assert captured.err == f"{NOTE}\n"


@pytest.mark.parametrize("plain", [False, True])
def test_a_curve_in_one_line(plain):
    bars = sparkline([0, 1, 2, 3, 4, 5, 6, 7], 20, plain)
    assert len(set(bars)) == 8 and bars == sparkline([7 * i for i in range(8)], 8, plain)
    assert bars.isascii() == plain and codecs.encode(bars, "utf-8")
    assert sparkline([1.0] * 5, 3, plain) == bars[0] * 3
    assert sparkline([0, 0, 7, 7], 2, plain) == bars[0] + bars[7]
    assert sparkline([0, math.nan, 7], 3, plain) == f"{bars[0]} {bars[7]}"
    assert sparkline([math.nan], 3, plain) == " "
