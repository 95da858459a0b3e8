"""The bench of a bare GPU machine, run on a CPU: whatever fails or does not fit, the rest is measured and stored."""

import json
import os
import signal
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from ffdr.bench import published, results
from ffdr.bench.capacity import device_copies, matrix_products
from ffdr.bench.corpus import make_photos_at_once, repeat_photos
from ffdr.bench.gpu import files, hardware, health, loading, plan, profiling, session, suite, teaching
from ffdr.bench.gpu.outcomes import GpuOutcome, Outcomes
from ffdr.bench.gpu.pool import FAILED, MEASURED, READY, Background, Limits, Pool, Process, Worker, without_stops
from ffdr.bench.gpu.site import timed
from ffdr.bench.gpu.tables import tables
from ffdr.bench.loops import BareLoop
from ffdr.bench.timing import Timing
from ffdr.beton.read import ImageBeton, ReinforcedBeton
from ffdr.cli import main
from ffdr.config.choices import GPU_STAGES
from ffdr.config.measuring import BenchOptions
from ffdr.config.recipe import parse
from ffdr.config.training import TrainOptions
from ffdr.util import environment

CPU = torch.device("cpu")
NOTHING = {"model": "resnet5", "resolution": 32, "batch_size": 8, "ema": 0.0, "lines": []}
BROKEN = plan.GpuJob(plan.STEPS, "broken", "steps", 0.1, arguments=NOTHING)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run of everything but the tests, with a job that can't work; what was stored each time, and the report."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    stored = []
    with pytest.MonkeyPatch.context() as patch:
        jobs, store = plan.jobs, results.Report.store
        patch.setattr(plan, "jobs", lambda *arguments: [BROKEN, *jobs(*arguments)])
        patch.setattr(
            results.Report, "store", lambda *arguments: (store(*arguments), stored.append(json.loads(out.read_text())))
        )
        stages = tuple(stage for stage in GPU_STAGES if stage != plan.TESTS)
        session.bench_gpu(BenchOptions(device="cpu", seconds=900, stages=stages, json=str(out)))
    return stored, json.loads(out.read_text()), out.with_suffix(".md").read_text()


def statuses(content):
    return {name: job["status"] for jobs in content["stages"].values() for name, job in jobs.items()}


def test_every_stage_is_measured_and_a_failing_job_harms_none(whole):
    _, content, text = whole
    found = statuses(content)
    assert found.pop("broken").startswith("failed: ")
    assert set(found.values()) == {"measured"} and len(found) == 11
    assert set(content["stages"]) == set(GPU_STAGES) - {plan.TESTS}
    broken = content["stages"][plan.STEPS]["broken"]
    assert "Traceback" in broken["traceback"] and "failed" in text
    rows = {row["name"]: row for jobs in content["stages"].values() for job in jobs.values() for row in job["rows"]}
    assert {"step, eager, float32", "step, compiled, float32", "plain loop, compiled, float32"} <= set(rows)
    for row in rows.values():
        if "rate" in row:
            assert row["rate"]["values"] == pytest.approx([row["units"] / s for s in row["seconds"]])
    assert rows["step, compiled, float32"]["compile_seconds"] > 0
    assert rows["step, compiled, float32"]["flops"] > 0
    assert len(rows[loading.DR]["data_wait"]) == plan.CPU.repeats
    assert rows[health.COMPILATIONS]["value"] == 1 and rows[health.BREAKS]["value"] == 0
    assert rows[health.WAITS]["value"] is None
    assert content["profile"][0]["us_per_step"] > 0 and content["files"]["seconds"]["betons and views"] > 0
    assert "× published" in text and "not measured" in text and "Where a step's time goes" in text


def test_the_file_is_rewritten_after_every_job(whole):
    stored, content, _ = whole
    assert len(stored) >= len(statuses(content)) == 12
    ended = [sum(status != "not begun" for status in statuses(state).values()) for state in stored]
    assert ended == sorted(ended) and ended[0] == 1 and ended[-1] == 12
    assert stored[0]["environment"]["torch"]


def test_what_does_not_fit_is_skipped(tmp_path, capsys, monkeypatch):
    jobs = [replace(job, seconds=500.0) for job in plan.jobs(plan.CPU, False, (plan.SETUP, plan.HEALTH))]
    monkeypatch.setattr(plan, "jobs", lambda *arguments: jobs)
    begun = time.monotonic()
    stages = (plan.SETUP, plan.HEALTH)
    session.bench_gpu(BenchOptions(device="cpu", seconds=30, stages=stages, json=str(tmp_path / "a.json")))
    assert time.monotonic() - begun < 20
    found = statuses(json.loads((tmp_path / "a.json").read_text()))
    assert len(found) == 2 and all(status.startswith("skipped: needs ~500 s, 2") for status in found.values())
    assert "skipped: needs ~500 s" in capsys.readouterr().err


def pool_of(tmp_path, jobs, others=()):
    first = {"device": "cpu", "files": str(tmp_path), "folder": str(tmp_path / "work")}
    worker = Worker(jobs, first, tmp_path / "log", dict(os.environ, PYTHONPATH=str(suite.root())))
    return Pool([worker], Background(tmp_path / "ready", stopped=others), Limits(memory=10, jobs=1)), worker


def sleeper(tmp_path, text):
    return Process(["-c", text], tmp_path / "sleeper.log", dict(os.environ))


def state_of(process):
    return next(line for line in open(f"/proc/{process.process.pid}/status") if line.startswith("State:")).split()[1]


def test_others_stand_still_while_one_is_measured_and_who_hangs_or_dies_fails(tmp_path):
    job, again = (plan.GpuJob(plan.SETUP, name, "hardware", 1) for name in ("once", "again"))
    other = plan.GpuJob(plan.LOADER, "loader", "loader", 1, needs_files=True)
    busy = sleeper(tmp_path, "while True: pass")
    pool, worker = pool_of(tmp_path, [job, again, other], [busy])
    try:
        assert pool.wait(lambda: pool.state(job) == READY, 60)
        rows, states = [], []
        for row in pool.measure(job, 60):
            rows.append(row["name"])
            states.append(state_of(busy))
        assert rows == ["versions", hardware.PRODUCTS, hardware.COPIES] and set(states) == {"T"}
        assert state_of(busy) == "R" and pool.state(job) == MEASURED
        assert pool.wait(lambda: pool.state(again) == READY, 60)
        assert not pool.wait(lambda: pool.state(other) != "new", 0.5)  # its files are not there
        worker.signal(signal.SIGSTOP)
        assert list(pool.measure(again, 0.5)) == []
        assert pool.state(again) == FAILED and "not done in" in pool.failure(again)["failed"]
        assert pool.wait(lambda: pool.state(other) == FAILED, 10)
        assert "ended with status -9" in pool.failure(other)["failed"]
        assert pool.state(job) == MEASURED
    finally:
        pool.close()
    assert busy.ended and worker.ended


def test_files_that_cannot_be_made_fail_what_needs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(session._Session, "_background", broken_background)
    session.bench_gpu(BenchOptions(device="cpu", seconds=60, stages=(plan.LOADER,), json=str(tmp_path / "a.json")))
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["stages"][plan.LOADER]["loader"]["status"] == "failed: its files could not be made"
    assert "ZeroDivisionError" in content["stages"][plan.LOADER]["loader"]["traceback"]


def broken_background(self):
    self.files = sleeper(self.folder, "1 / 0")
    return Background(self.folder / "ready.json", stopped=[self.files])


def test_seconds_of_compiling_leave_out_those_of_standing_still():
    row = without_stops({"name": "x", "compile_span": (10.0, 20.0)}, [(5.0, 11.0), (12.0, 14.0), (19.0, 30.0)])
    assert row == {"name": "x", "compile_seconds": 10 - 1 - 2 - 1}
    assert without_stops({"name": "y"}, [(0.0, 1.0)]) == {"name": "y"}


# What follows from the rows.


def step(name, seconds, compile="off", how=plan.STEP, **more):
    facts = {"model": "resnet50", "resolution": 224, "batch_size": 256, "ema": 0.0, "precision": "bfloat16"}
    facts |= {"how": how, "compile": compile, "flops": 25e9, **more}
    return timed(name, Timing(seconds, 256), **facts)


def outcomes(card="NVIDIA H200", **stages):
    jobs = [GpuOutcome(stage, stage, "measured", 1.0, rows) for stage, rows in stages.items()]
    return Outcomes(jobs, published.rates_of(card))


def test_columns_are_what_they_say():
    eager, compiled = step("eager", (0.064, 0.064, 0.064)), step("compiled", (0.04, 0.032, 0.04), "default")
    large = step("large", (0.032,) * 3, "default", batch_size=512)
    machine = [
        timed(hardware.PRODUCTS, Timing((1.0,) * 3, int(800e12))),
        timed(hardware.COPIES, Timing((1.0,) * 3, int(4.3e12))),
    ]
    found = outcomes(steps=[eager, compiled, large], **{plan.SETUP: machine})
    columns = found.columns(compiled)  # 6,400, 8,000, 6,400 images/s; eager 4,000
    assert (columns["eager"].median, columns["eager"].low, columns["eager"].high) == pytest.approx((1.6, 1.6, 2.0))
    assert columns["published"].median == pytest.approx(6400 / 3079)
    assert columns["traffic"].median == pytest.approx(100 * 6400 * 342e6 / 4.3e12)
    assert columns["matrix"].median == pytest.approx(100 * 6400 * 25e9 / 800e12)
    assert found.columns(large)["eager"].median == pytest.approx(2.0)  # of another batch size
    assert outcomes("NVIDIA A100", steps=[eager, compiled]).columns(compiled)["published"] is None
    other = step("other", (0.04,) * 3, model="resnet18")
    assert found.columns(other)["traffic"] is None and found.columns(other)["eager"] is None
    assert found.best(256)["name"] == "compiled" and found.best()["name"] == "large"


def test_published_rates_are_those_of_the_card(tmp_path):
    found = {name: published.rates_of(name) for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H200")}
    assert [[rate.images_per_second for rate in rates] for rates in found.values()] == [[2790, 7160], [3079, 7950]]
    first = published.first_rate(found["NVIDIA H200"], "resnet50", 224)
    assert (first.images_per_second, first.source) == (3079, "lambdal/deeplearning-benchmark")
    assert published.first_rate(found["NVIDIA H200"], "resnet50", 160) is None
    assert published.rates_of("NVIDIA A100-SXM4-80GB") == published.published_rates(CPU) == []
    assert published.rates_of("NVIDIA H200", tmp_path / "training.csv") == []


def test_the_summary_follows_from_the_rows():
    steps = [
        step("eager", (0.064,) * 3),
        step("compiled", (0.04,) * 3, "default"),
        step("fit", (0.0412, 0.042, 0.0408), "default", plan.FIT),
        step("plain", (0.04,) * 3, "default", plan.BARE),
    ]
    epochs = [
        timed(loading.DR, Timing((1.0, 1.2, 1.0), 100), data_wait=[0.02, 0.005, 0.02]),
        timed(loading.CACHED, Timing((0.98, 1.18, 0.98), 100)),
        timed(loading.ERM, Timing((0.9, 1.1, 0.9), 100)),
    ]
    teacher = [
        timed(f"{teaching.LABELLING}, {teaching.EAGER}", Timing((1.0,) * 3, 95)),
        timed(f"{teaching.FORWARD}, {teaching.EAGER}", Timing((1.0,) * 3, 100)),
    ]
    states = [{"name": health.MEMORY, "value": 1.5, "detail": ""}, {"name": health.WAITS, "value": 0, "detail": ""}]
    summary = outcomes(steps=steps, epochs=epochs, teacher=teacher, health=states).summary()
    medians = {name: figure and figure.median for name, figure in summary.items()}
    assert medians == {
        "step : published rate": pytest.approx(6400 / 3079),
        "compiled step : eager step": pytest.approx(1.6),
        "resnet50: fit loop's time : plain compiled loop's": pytest.approx(1.03),
        "end to end : cached step": pytest.approx(0.98),
        "DR : ERM, epoch time": pytest.approx(1 / 0.9),
        "starvation, %": pytest.approx(2),
        "teacher's labelling : forward pass, eager": pytest.approx(0.95),
        "teacher's labelling : forward pass, compiled": None,
        "evaluation : forward pass": None,
        "reserved memory, last epoch : second": 1.5,
        "steps of 3 in which the host waits for the GPU": 0,
        "graph breaks": None,
        "compilations per size of views": None,
    }
    assert set(outcomes().summary().values()) == {None}


def test_a_table_shows_failures_and_published_rates():
    failed = {**step("compiled", (1.0,) * 3, "default"), "failed": "RuntimeError: no Triton", "traceback": "..."}
    text = "\n".join(map(str, tables(outcomes(steps=[step("eager", (0.064,) * 3), failed]), [])))
    assert (
        "failed: RuntimeError: no Triton" in text and "7,950 images/s (MLPerf v4.0's record" in text and "1.30" in text
    )


def test_kernels_are_sorted_by_kind():
    kinds = {
        "triton_red_fused_native_batch_norm_backward_12": "Triton reductions",
        "triton_poi_fused_convolution_relu_3": "Triton pointwise",
        "sm90_xmma_fprop_implicit_gemm_bf16": "convolution",
        "void cudnn::bn_fw_tr_1C11_kernel_NCHW": "batch norm",
        "void at::native::multi_tensor_apply_kernel": "optimiser",
        "Memcpy DtoD (Device -> Device)": "copies",
        "void at::native::elementwise_kernel": "other",
    }
    assert {name: profiling.kind_of(name) for name in kinds} == kinds


# The plan, the files, the tests, and mistakes.


def test_the_plan_of_a_gpu_is_whole():
    jobs = plan.jobs(plan.GPU, True, ())
    assert len({job.name for job in jobs}) == len(jobs)
    assert {job.stage for job in jobs} | {plan.TESTS, plan.PROFILE} == set(GPU_STAGES)
    rows = [line for job in jobs for line in job.arguments.get("lines", ())]
    lines = {(line["how"], line["precision"], line["compile"]) for line in rows}
    for precision in ("bfloat16", "float16"):
        for mode in ("off", "default", "reduce-overhead"):
            assert (plan.STEP, precision, mode) in lines
    assert (plan.BARE, "bfloat16", "default") in lines and (plan.FIT, "bfloat16", "default") in lines
    assert sum(job.seconds for job in jobs if not job.extra) < 250
    assert all(job.memory >= job.keeps for job in jobs) and max(job.memory for job in jobs) < 0.9 * 80
    assert [job.stage for job in plan.jobs(plan.GPU, True, (plan.HEALTH,))] == [plan.HEALTH]


def test_photographs_do_not_depend_on_the_number_of_processes(tmp_path):
    one, two = (make_photos_at_once(tmp_path / str(n), 6, n, 3, (40, 30)) for n in (1, 2))
    names = sorted(path.relative_to(one) for path in one.rglob("*.jpg"))
    assert len(names) == 6 and len({(one / name).read_bytes() for name in names}) == 6
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    repeat_photos(one, 3)
    assert len(list(one.rglob("*.jpg"))) == 18


def test_the_files_belong_together(tmp_path):
    files.make_files(tmp_path, replace(plan.CPU, photos=12, copies=2), 1)
    images, jpegs = ImageBeton.open(tmp_path / "dct.beton"), ImageBeton.open(tmp_path / "jpg.beton")
    assert len(images) == len(jpegs) == 24 and images.coding is not None and jpegs.coding is None
    for beton in (images, jpegs):
        assert ReinforcedBeton.open(tmp_path / "views.beton", beton).header.views == plan.CPU.views
    assert set(json.loads((tmp_path / files.READY).read_text())["seconds"]) >= {"photographs", "betons and views"}


def test_the_outcome_of_the_tests_is_counted():
    log = "passed a.py::b, 3 s\nfailed a.py::c, 4 s\nE  assert passed == 1\nskipped a.py::d, 2 s\npassed a.py::e, 2 s\n"
    row = suite.outcome(log, 1)
    assert (row["failed"], row["passed"], row["skipped"]) == (1, 2, 1) and "assert passed" in row["log"]
    assert "log" not in suite.outcome("passed a.py::b, 3 s\n", 0)
    assert suite.outcome(log, None)["failed_tests"] == "cut off"
    found = {file.name for file in suite.test_files()}
    assert "test_loader.py" in found and "test_text.py" not in found


def test_the_bare_loop_normalises_pixels_itself():
    model = torch.nn.Conv2d(3, 4, 1)
    seen = []
    model.forward = lambda x: (seen.append(x), x.mean((2, 3)) @ torch.ones(3, 4))[1]
    loop = BareLoop(model, TrainOptions(out="unused"), None, "off", (0.5, 0.25, 0.0), (0.5, 0.5, 1.0))
    loop.loss(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([1.0, 1.5, 1.0])


def test_the_peak_is_that_of_random_matrices(monkeypatch):
    made = []
    monkeypatch.setattr("ffdr.bench.capacity._SIDE", {"cpu": 16})
    monkeypatch.setattr(torch, "mm", lambda a, b, out: made.append((a, b)))
    matrix_products(CPU, torch.bfloat16).run()
    assert made[0][0].dtype == torch.bfloat16 and made[0][0].float().std() > 0.5
    assert not torch.equal(*made[0])
    monkeypatch.setattr("ffdr.bench.capacity._COPIED", {"cpu": 1000})
    assert device_copies(CPU).units == 2000


def test_an_environment_without_opencv_python_is_no_error(monkeypatch):
    known = environment.version

    def version(name):
        if name in ("opencv-python", "scikit-image"):
            raise PackageNotFoundError(name)
        return "9.9" if name == "opencv-python-headless" else known(name)

    monkeypatch.setattr(environment, "version", version)
    found = environment.environment()
    assert found["opencv-python-headless"] == "9.9" and found["scikit-image"] == "unknown"
    assert "opencv-python" not in found


def test_a_copy_without_git_names_its_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv(environment.COMMIT, raising=False)
    assert environment.environment()["commit"] == "not a checkout"
    monkeypatch.setenv(environment.COMMIT, "abc1234")
    assert environment.environment()["commit"] == "abc1234"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages=set-up,loder"], r"bench.stages: 'loder' is not one of .* (did you mean loader?)"),
        (["--device=gpu"], "bench.device: 'gpu' is not one of cpu, cuda"),
        (["--device=cuda"], "bench.device: cuda asked for, but torch sees no GPU here"),
        (["--json=/nowhere/a.json"], "bench.json: there is no folder /nowhere"),
        (["--seconds=0"], "bench.seconds: 0 is not between 1 and"),
    ],
)
def test_mistakes_are_reported_before_anything_starts(words, message, capsys, monkeypatch):
    monkeypatch.setattr(session, "_Session", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "gpu", *words]) == 2
    shown = capsys.readouterr().err
    assert all(part in shown for part in message.split(" .* ")) and shown.count("\n") == 1


def test_stages_are_parsed():
    assert parse("bench", ["--stages=loader,health"]).stages == ("loader", "health")
