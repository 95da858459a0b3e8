"""A tracker whose library fails as its run's folder is called."""

import os
import time
from pathlib import Path

from ffdr.train.tracking.remote import Remote


class Broken(Remote):
    name, package, title = "broken", "json", "Broken"
    module = "broken_tracker"

    def environment(self, folder):
        return dict(os.environ)


how = ""


def begin(folder, project, name, number, config, records):
    global how
    how = name
    print("a library prints what it likes")
    if how == "start":
        raise SystemExit("no network")


def log(record):
    if record["epoch"] == 2 and how == "raise":
        raise ValueError("quota\nexceeded")
    if record["epoch"] == 2 and how == "die":
        os._exit(3)
    if record["epoch"] == 2 and how == "wait":
        time.sleep(60)
    trace(f"{record['epoch']} ")


def finish(finished):
    trace("finished" if finished else "stopped")


def trace(text):
    with Path(os.environ["TRACE"]).open("a") as file:
        file.write(text)
