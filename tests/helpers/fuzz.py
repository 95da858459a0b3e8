"""Damages a beton in thousands of ways and uses each result; run by test_hostile.py in a child process.

``python fuzz.py FOLDER SEED ROUNDS KIND …`` prints a JSON object: by kind, how many damaged files could be used to the
end, how many samples claimed to be intact but were not, the different errors, the seconds of the slowest round.
"""

import faulthandler
import io
import json
import re
import resource
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mutations import ALL, MUTATIONS, OPEN, TABLES, N, Whole, change_manifest

from ffdr.beton.layout import DCT, JPG
from ffdr.beton.pixels import decode_image
from ffdr.beton.read import ImageBeton, ReinforcedBeton, open_both
from ffdr.config.files import (
    InspectOptions,
    PackOptions,
    SplitOptions,
    SubsetOptions,
    VerifyOptions,
)
from ffdr.inspect.run import inspect
from ffdr.loader.order import view_epochs
from ffdr.loader.pages import PageCache, PagePlan
from ffdr.loader.replay.replayer import Replayer
from ffdr.loader.views import StoredViews, ViewBatch
from ffdr.util.errors import UserError
from ffdr.write.copy.merge import pack, split
from ffdr.write.copy.subset import subset
from ffdr.write.copy.transcode import _Sampler, _ToJpeg
from ffdr.write.verify import verify

KINDS = ("images", "coefficients", "mixed", "stock", "reinforced", "effects", "merged", "manifest")
"""NAME.beton in the folder; a manifest is that of ``images``."""
SIDE = 32
MEMORY = 1 << 28
"""What using a small file may add to the process."""
SECONDS = 5
"""Of processor time that using a small file may take."""
PATIENCE = 120
"""Seconds until a round is given up, on a machine however busy."""
VERBS_EVERY = 23
"""Rounds from one that goes through the verbs to the next."""


class User:
    """Opens files and touches everything in them, next to undamaged ones."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        self.out.mkdir(exist_ok=True)
        self.images = ImageBeton.open(folder / "images.beton")
        self.reinforced = ReinforcedBeton.open(folder / "reinforced.beton")
        self.effects = ReinforcedBeton.open(folder / "effects.beton")
        self.pixels = [decode_image(self.images, i) for i in range(N)]
        self.coded_pixels = [decode_image(ImageBeton.open(folder / "coefficients.beton"), i) for i in range(N)]

    def use(self, path, replay, verbs):
        """Returns the number of samples that say they are intact but are not."""
        if verbs:
            self.go_through_verbs(path)
        images, reinforced = open_both(path)
        wrong = 0 if images is None else self.touch_images(images)
        wrong += 0 if reinforced is None else self.touch_views(reinforced)
        if replay:
            self.replay(images or self.images, reinforced or self.reinforced)
        if verbs and images:
            for i in range(len(images)):
                task = _Sampler(images, 90) if images.modes[i] == JPG else _ToJpeg(images, 1.01)
                tolerate(task, [i])
        return wrong

    def touch_images(self, beton):
        wrong = 0
        for i in range(len(beton)):
            if beton.checksums is None or not beton.is_intact(i):
                tolerate(decode_image, beton, i)
            else:
                pixels = self.coded_pixels if beton.modes[i] == DCT else self.pixels
                wrong += not np.array_equal(decode_image(beton, i), pixels[i])
        return wrong

    def touch_views(self, beton):
        wrong = 0
        for i in range(len(beton)):
            if not beton.is_intact(i):
                tolerate(beton.views, i)
                tolerate(beton.logits, i)
            else:
                whole = self.effects if beton.header.effects else self.reinforced
                pairs = zip(self.parts(beton, i), self.parts(whole, i), strict=True)
                wrong += any(a.tobytes() != b.tobytes() for a, b in pairs)
        return wrong

    @staticmethod
    def parts(beton, i):
        return beton.views(i), *beton.logits(i)

    @staticmethod
    def replay(images, reinforced):
        """A batch, as the loader replays it: two views of each image."""
        source = StoredViews(reinforced, seed=0)
        index = np.repeat(np.arange(min(N, len(images), len(reinforced))), 2)
        batch = ViewBatch.blank(len(index), source.entries)
        source.fill(view_epochs(0, len(index), 2), index, batch)
        replayer = Replayer(images, SIDE, threads=1)
        replayer(replayer.spans(index), batch.records, np.empty((len(index), *replayer.shape), np.uint8), 2)
        cache = PageCache(images)
        (pages,) = cache.pages_of([index])
        slots = {page: slot for slot, page in enumerate(pages)}
        when = {key: {0: set(pages)} for key in ("can_prefetch_at", "entering_at")}
        with PagePlan(cache, SimpleNamespace(num_slots=len(pages), page_to_slot=slots, **when)) as plan:
            plan.start_batch(0)

    def go_through_verbs(self, path):
        """Those of the command line; each may refuse the file by itself."""
        out, views, mine = str(self.out / "out.beton"), str(self.out / "views.beton"), str(path)
        images, reinforced = str(self.images.path), str(self.reinforced.path)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            tolerate(verify, VerifyOptions(file=mine), progress=False)
            tolerate(verify, VerifyOptions(file=reinforced, against=mine), progress=False)
            for options in (InspectOptions(file=mine), InspectOptions(file=reinforced, images=mine)):
                tolerate(inspect, options)
            for fewer in ({"topk": 1}, {"indices": "0:7"}):
                tolerate(subset, SubsetOptions(file=mine, out=out, overwrite=True, **fewer), progress=False)
            tolerate(split, SplitOptions(file=mine, images=out, reinforced=views, overwrite=True), progress=False)
            for pair in ((mine, reinforced), (images, mine)):
                tolerate(pack, PackOptions(*pair, out, overwrite=True), progress=False)


def tolerate(function, *arguments, **named):
    """What is known to be damaged may be refused."""
    with suppress(UserError):
        function(*arguments, **named)


def damaged_files(folder, kind, rng, rounds):
    """Makes one after the other; yields its path and how it was sealed."""
    if kind == "manifest":
        text = (folder / "manifest.json").read_bytes()
        (folder / "damaged.beton").write_bytes((folder / "images.beton").read_bytes())
        for _ in range(rounds):
            (folder / "damaged.json").write_bytes(change_manifest(text, rng))
            yield folder / "damaged.beton", OPEN
        (folder / "damaged.json").unlink()
        return
    whole = Whole(folder / f"{kind}.beton")
    for turn in range(rounds):
        data = bytearray(whole.data)
        MUTATIONS[turn % len(MUTATIONS)](whole, data, rng)
        seal = (OPEN, TABLES, ALL)[turn // len(MUTATIONS) % 3]
        (folder / "damaged.beton").write_bytes(whole.sealed(data, seal))
        yield folder / "damaged.beton", seal


def fuzz(folder, user, kind, seed, rounds):
    """Returns the report on one kind."""
    report = {"used": 0, "wrong": 0, "lines": {}, "refused": 0, "slowest": 0.0}
    files = damaged_files(folder, kind, np.random.default_rng(seed), rounds)
    for turn, (path, seal) in enumerate(files):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        start = time.process_time()
        try:
            wrong = user.use(path, turn % 3 == 0, turn % VERBS_EVERY == 0)
            report["wrong"] += wrong if seal == OPEN else 0
            report["used"] += 1
        except UserError as error:
            report["refused"] += 1
            kind_of_error = re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", str(error).split("damaged.", 1)[-1][5:])[:45]
            report["lines"].setdefault(kind_of_error, str(error))
        except BaseException:
            path.rename(folder / f"broke_{kind}.beton")
            print(f"{kind}: round {turn}, seed {seed}", file=sys.stderr)
            raise
        report["slowest"] = max(report["slowest"], time.process_time() - start)
    faulthandler.cancel_dump_traceback_later()
    return report


def main(folder, seed, rounds, kinds):
    user = User(folder)
    for kind in KINDS[:-1]:  # everything is compiled before memory is bounded
        assert user.use(folder / f"{kind}.beton", True, True) == 0
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    reports = {kind: fuzz(folder, user, kind, seed, rounds) for kind in kinds}
    print(json.dumps(reports))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
