"""Event files of TensorBoard: one folder per run, with curves by step and time, and parameters for HParams.

The bytes of an event file are a function of the run: a second export recognizes existing values and appends new ones.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.client.files import naming
from service.experiments.titles import with_datasets
from service.export.runs import ExportError, Run, seconds

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

LARGEST_EXACT = 2**53
"""Numbers of HParams are double-precision floats, which hold every integer up to this one."""
_FILE = "events.out.tfevents.{created}.normlab.{number}"
_UNSAFE = re.compile(r"[^A-Za-z0-9.]+")
_STATUS = {"succeeded": "STATUS_SUCCESS", "failed": "STATUS_FAILURE", "cancelled": "STATUS_FAILURE"}


class TensorBoardSink:
    """A folder for `tensorboard --logdir`. Raises `ExportError` if TensorBoard is not installed."""

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboard.summary.writer.record_writer  # noqa: F401
        except ModuleNotFoundError as error:
            raise ExportError('TensorBoard is not installed here: pip install "normlab[tensorboard]"') from error
        self._folder = folder

    def update(self, run: Run) -> None:
        """See `Sink.update`."""
        wanted = _bytes_of(run)
        folder = self._folder / folder_of(run)
        folder.mkdir(parents=True, exist_ok=True)
        with naming(folder):
            self._write(run, folder, wanted)

    def _write(self, run: Run, folder: Path, wanted: bytes) -> None:
        *outdated, latest = sorted(folder.glob(_FILE.format(created="*", number="*"))) or [_file(folder, run, 0)]
        there = latest.read_bytes() if latest.exists() else b""
        if wanted.startswith(there):
            with latest.open("ab") as file:
                file.write(wanted[len(there) :])
        else:
            # The existing values differ, so a new file replaces them. TensorBoard continues with a file of a later name
            # only while the file that it has open exists: that one is emptied, not removed.
            _file(folder, run, int(latest.suffix[1:]) + 1).write_bytes(wanted)
            outdated.append(latest)
        for path in outdated:
            os.truncate(path, 0)


def _file(folder: Path, run: Run, number: int) -> Path:
    return folder / _FILE.format(created=int(seconds(run.job["created_at"])), number=f"{number:06}")


def folder_of(run: Run) -> str:
    """Return the folder name of a run, as in `group-8-resnet20-b2-s0-job_1`."""
    spec = run.job["spec"]
    described = f"{run.job['normalization']} {spec['model']} b{spec['batch_size']} s{spec['seed']}"
    described = with_datasets(described, [spec["dataset"]["name"]])
    return f"{_UNSAFE.sub('-', described).strip('-')}-{run.id}"


def _bytes_of(run: Run) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in _events(run):
        writer.write(event.SerializeToString(deterministic=True))
    return content.getvalue()


def _events(run: Run) -> "Iterator[Event]":
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary

    created = seconds(run.job["created_at"])
    yield Event(wall_time=created, file_version="brain.Event:2")
    # SessionLog.START makes readers discard the values of earlier files of this run.
    yield Event(wall_time=created, step=0, session_log=SessionLog(status=SessionLog.START))
    yield Event(wall_time=created, summary=_session_start(run))
    for point in run.points:
        summary = Summary(value=[Summary.Value(tag=point.name, simple_value=point.value)])
        yield Event(wall_time=point.time, step=point.step, summary=summary)
    if run.ended:
        yield Event(wall_time=seconds(run.job["finished_at"]), summary=_session_end(run))


def _session_start(run: Run) -> Any:
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    parameters = run.parameters
    alike = json.dumps({name: value for name, value in parameters.items() if name != "seed"}, sort_keys=True)
    # HParams averages the sessions of a group: the seeds.
    start = SessionStartInfo(
        group_name=hashlib.sha256(alike.encode()).hexdigest()[:16], start_time_secs=seconds(run.job["created_at"])
    )
    for name, value in parameters.items():
        match value:
            case bool():
                start.hparams[name].bool_value = value
            case int() as number if abs(number) > LARGEST_EXACT:
                start.hparams[name].string_value = str(number)
            case int() | float():
                start.hparams[name].number_value = value
            case str():
                start.hparams[name].string_value = value
    return _about_hparams(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def _session_end(run: Run) -> Any:
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    end = SessionEndInfo(status=Status.Value(_STATUS[run.job["status"]]), end_time_secs=seconds(run.job["finished_at"]))
    return _about_hparams(SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def _about_hparams(tag: str, content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

    return Summary(value=[Summary.Value(tag=tag, metadata=create_summary_metadata(content), tensor=NULL_TENSOR)])
