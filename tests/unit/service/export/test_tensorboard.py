"""Exports are read back by TensorBoard's reader."""

import builtins
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
    parse_session_end_info_plugin_data,
    parse_session_start_info_plugin_data,
)

from service.experiments import axes
from service.export import ExportError, Point, Run
from service.export.tensorboard import TensorBoardSink, folder_of
from tests.unit.service.conftest import Run as Command
from tests.unit.service.export.conftest import Follow, Lab
from tests.unit.service.store.acting import FINAL, row

AT = "2026-01-02T03:04:05+00:00"
SPEC: dict[str, Any] = {
    "model": "resnet20",
    "normalization": {"type": "group", "num_groups": 8},
    "batch_size": 2,
    "seed": 0,
    "deterministic": False,
    "dataset": {"name": "cifar10", "train_limit": None},
    "schedule": {"type": "multistep", "milestones": [0.5, 0.75]},
}


def a_run(*points: Point, status: str = "running", **spec: Any) -> Run:
    job = {"id": "job_1", "name": "", "status": status, "spec": SPEC | spec, "precision": None}
    label = axes.label("normalization", (SPEC | spec)["normalization"])
    return Run(job | {"normalization": label, "created_at": AT, "finished_at": AT}, points)


def points(*values: float) -> list[Point]:
    return [Point("test_error", 10 * (n + 1), 1000.5 + n, value) for n, value in enumerate(values)]


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def scalars(accumulator: EventAccumulator, tag: str = "test_error") -> list[tuple[int, float, float]]:
    return [(event.step, event.wall_time, event.value) for event in accumulator.Scalars(tag)]


def test_curves_are_read_by_step_with_their_times(tmp_path: Path) -> None:
    run = a_run(*points(0.5, 0.25), Point("train_loss", 5, 999.0, math.nan))
    TensorBoardSink(tmp_path).update(run)
    found = read(tmp_path / folder_of(run))
    assert scalars(found) == [(10, 1000.5, 0.5), (20, 1001.5, 0.25)]
    assert math.isnan(found.Scalars("train_loss")[0].value)


def test_a_run_is_called_by_what_it_trains() -> None:
    assert folder_of(a_run()) == "group-8-resnet20-b2-s0-job_1"
    assert folder_of(a_run(dataset={"name": "synthetic"})) == "group-8-resnet20-b2-s0-synthetic-job_1"
    ghost = {"type": "batch", "ghost_batch_size": 16}
    assert folder_of(a_run(normalization=ghost, batch_size=64)) == "batch-ghost-batches-of-16-resnet20-b64-s0-job_1"


def test_hparams_have_the_spec_and_group_the_seeds(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    groups = []
    for seed, batch_size in ((0, 2), (1, 2), (9007199254740993, 4)):
        run = a_run(status="succeeded", seed=seed, batch_size=batch_size)
        sink.update(run)
        contents = read(tmp_path / folder_of(run)).PluginTagToContent("hparams")
        start = parse_session_start_info_plugin_data(contents[SESSION_START_INFO_TAG])
        groups.append(start.group_name)
    assert groups[0] == groups[1] != groups[2]
    assert start.start_time_secs == 1767323045
    assert start.hparams["normalization.type"].string_value == "group"
    assert start.hparams["schedule.milestones"].string_value == "0.5 0.75"
    assert start.hparams["batch_size"].number_value == 4
    assert start.hparams["seed"].string_value == "9007199254740993"
    assert start.hparams["deterministic"].WhichOneof("kind") == "bool_value"
    assert "dataset.train_limit" not in start.hparams
    end = parse_session_end_info_plugin_data(contents[SESSION_END_INFO_TAG])
    assert (end.status, end.end_time_secs) == (1, 1767323045)


def test_a_second_export_changes_no_byte(tmp_path: Path) -> None:
    run = a_run(*points(0.5), status="failed")
    TensorBoardSink(tmp_path).update(run)
    [file] = (tmp_path / folder_of(run)).iterdir()
    before = file.read_bytes()
    TensorBoardSink(tmp_path).update(run)
    assert list((tmp_path / folder_of(run)).iterdir()) == [file]
    assert file.read_bytes() == before


def test_what_is_new_is_appended_where_a_reader_goes_on(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.update(a_run(*points(0.5)))
    reader = read(tmp_path / folder_of(a_run()))
    sink.update(a_run(*points(0.5, 0.25)))
    sink.update(a_run(*points(0.5, 0.25), status="succeeded"))
    reader.Reload()
    assert [value for _, _, value in scalars(reader)] == [0.5, 0.25]
    assert len(list((tmp_path / folder_of(a_run())).iterdir())) == 1


def test_an_export_that_was_cut_off_is_made_whole(tmp_path: Path) -> None:
    run = a_run(*points(0.5, 0.25))
    TensorBoardSink(tmp_path).update(run)
    [file] = (tmp_path / folder_of(run)).iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    TensorBoardSink(tmp_path).update(run)
    assert file.read_bytes() == whole


def test_what_no_longer_counts_is_forgotten_by_a_reader_that_had_it(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.update(a_run(*points(0.5, 0.9)))
    reader = read(tmp_path / folder_of(a_run()))
    for now in ((0.5, 0.25), (0.5, 0.2, 0.1)):
        sink.update(a_run(*points(*now)))
        reader.Reload()
        assert [round(value, 6) for _, _, value in scalars(reader)] == list(now)
        assert scalars(read(tmp_path / folder_of(a_run()))) == scalars(reader)
        files = sorted((tmp_path / folder_of(a_run())).iterdir())
        assert [file.stat().st_size > 0 for file in files] == [False] * (len(files) - 1) + [True]


def test_live_from_a_service_that_loses_a_worker(lab: Lab, follow: Follow, tmp_path: Path) -> None:
    lab.submit()
    following = follow(TensorBoardSink(tmp_path))
    first = lab.train()
    lab.report(first, 10)
    lab.do(first.checkpoint(10))
    run = following.until(lambda run: bool(run.points))
    assert [step for step, _, _ in scalars(read(tmp_path / folder_of(run)))] == [10]
    lab.report(first, 20, error=0.9)
    lab.do(first.lose())
    second = lab.train(resumed_from_step=10)
    lab.do(second.report(row(20, kind="eval", test_error=0.25), row(20, kind="train", train_loss=2.0)))
    lab.do(second.fail(FINAL))
    following.end()
    found = read(tmp_path / folder_of(run))
    assert [(step, round(value, 6)) for step, _, value in scalars(found)] == [(10, 0.1), (20, 0.25)]
    assert [step for step, _, _ in scalars(found, "train_loss")] == [20]


def test_the_command_says_what_it_wrote_and_how_to_see_it(lab: Lab, run: Command, tmp_path: Path) -> None:
    job = lab.trained(name="mine")
    ended = run("--url", lab.url, "export", "tensorboard", str(tmp_path / "new" / "board"), job)
    assert (ended.code, ended.out) == (0, f"1 job, 2 points\ntensorboard --logdir {tmp_path}/new/board\n")
    assert ended.err == f"{job}  2 points  succeeded  mine\n"
    assert [f"-{job}" in folder.name for folder in (tmp_path / "new" / "board").iterdir()] == [True]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("job_1", "--experiment", "experiment_1"), "give ids of jobs, or --experiment and --label, not both"),
        (("--label", "paper"), "--label is 'paper': give it as KEY=VALUE"),
    ],
)
def test_the_command_refuses_what_it_cannot_understand(
    lab: Lab, run: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = run("--url", lab.url, "export", "tensorboard", str(tmp_path), *arguments)
    assert (ended.code, ended.err) == (2, f"normlab: {said}\n")


def test_a_missing_tensorboard_is_reported_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without(monkeypatch, "tensorboard")
    with pytest.raises(ExportError, match=r'pip install "normlab\[tensorboard\]"'):
        TensorBoardSink(tmp_path)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make imports of `package` fail, as if it were not installed."""
    really = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_neither_torch_nor_tensorflow_is_needed(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['tensorflow'] = None\n"
        "from pathlib import Path\nfrom service.export import Run\n"
        "from service.export.tensorboard import TensorBoardSink\n"
        f"TensorBoardSink(Path({str(tmp_path)!r})).update(Run({a_run().job!r}, ()))"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / folder_of(a_run())).PluginTagToContent("hparams")
