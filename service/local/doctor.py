"""`normlab doctor`: the state of the requirements of training on this machine."""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from service.local.private_ray import PrivateRay, temporary_folder
from service.local.processes import child_environment
from service.local.resources import available_cpus, available_memory
from service.settings import Settings, existing_part

LEAST_DISK = 1 << 30
REPORT_TIMEOUT_S = 120.0

DEVICES, IMAGES, SCHEMA = "worker.devices", "worker.data.inspection", "service.store.schema_check"
"""The modules that report, each in a separate process: torch is slow to import, and images occupy memory."""


@dataclass(frozen=True)
class Finding:
    """The state of one requirement of training. `note`: training works, but could be faster or is not set up yet."""

    name: str
    ok: bool
    detail: str
    note: bool = False


def examine(settings: Settings) -> list[Finding]:
    """Return the state of every requirement. This machine can train if every finding is ok."""
    return [
        Finding("python", True, f"{platform.python_version()} ({sys.executable})"),
        *_computing(settings),
        _ray(settings),
        _compiler(),
        _processors(settings),
        _images(settings),
        _database(settings),
        _disk(settings),
    ]


def _computing(settings: Settings) -> list[Finding]:
    try:
        found = _report(settings, DEVICES)
    except _NoReport as error:
        return [Finding("torch", False, f"cannot be imported ({error}): pip install 'normlab[worker]'")]
    built = f", for CUDA {found['cuda']}" if found["cuda"] else ""
    torch = Finding("torch", True, f"{found['version']}{built}")
    gpus = found["gpus"]
    if settings.gpus_per_worker and not gpus:
        missing = f"none, but NORMLAB_GPUS_PER_WORKER requests GPUs: {found['problem']}; or unset it"
        return [torch, Finding("gpu", False, missing)]
    if not gpus:
        precision = "bfloat16 where it is faster" if found["bfloat16"] else "float32"
        # A loaded driver means that there is a GPU, which torch cannot use.
        why = f"; {found['problem']}" if found["driver"] else ""
        return [torch, Finding("gpu", True, f"none: training runs on the CPU, in {precision}{why}", note=True)]
    precision = "bfloat16" if found["bfloat16"] else "float32, because it has no bfloat16"
    if not settings.gpus_per_worker:
        unused = f"{', '.join(gpus)}: not used; NORMLAB_GPUS_PER_WORKER=1 trains on it"
        return [torch, Finding("gpu", True, unused, note=True)]
    return [torch, Finding("gpu", True, f"{', '.join(gpus)}: trains in {precision}")]


def _ray(settings: Settings) -> Finding:
    try:
        installed = version("ray")
    except PackageNotFoundError:
        return Finding("ray", False, "not installed: pip install 'normlab[worker]'")
    if settings.ray_address:
        return Finding("ray", True, f"{installed}, at {settings.ray_address}")
    try:
        return Finding("ray", True, f"{installed}, private, with its files in {temporary_folder()}")
    except RuntimeError as error:
        return Finding("ray", False, str(error))


def _compiler() -> Finding:
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler:
        return Finding("compiler", True, f"{compiler}: compiles the CPU kernels")
    return Finding("compiler", True, "no C++ compiler: group normalization runs on plain torch, slower", note=True)


def _processors(settings: Settings) -> Finding:
    slots = PrivateRay(settings).slots
    cpus, memory = available_cpus(), available_memory()
    trains = "" if settings.gpus_per_worker else f": trains {slots} jobs at once"
    return Finding("machine", True, f"{cpus} CPUs, {memory / 2**30:.1f} GiB of memory{trains}")


def _images(settings: Settings) -> Finding:
    try:
        found = _report(settings, IMAGES, str(settings.data_dir))
    except _NoReport as error:
        return Finding("cifar10", False, f"cannot be inspected ({error})")
    if not found["found"]:
        detail = f"not in {settings.data_dir} yet: the first job downloads it from {found['url']}"
        return Finding("cifar10", True, detail, note=True)
    if found["problem"]:
        return Finding("cifar10", False, found["problem"])
    return Finding("cifar10", True, f"in {settings.data_dir}, every file as published")


def _database(settings: Settings) -> Finding:
    if settings.database_url is None and not os.path.exists(settings.home / "normlab.db"):
        return Finding("database", True, f"none in {settings.home} yet: `normlab up` creates it")
    where = str(settings.database)
    if settings.database_url:
        # Without the user and the password, which may also be in the query.
        where = where.partition("?")[0].rpartition("@")[2]
    try:
        found = _report(settings, SCHEMA)
    except _NoReport as error:
        return Finding("database", False, f"{where}: {error}")
    if found is None:
        return Finding("database", True, f"{where}, up to date")
    if settings.database_url is None and "migrate" in found:
        return Finding("database", True, f"{where}: `normlab up` migrates it", note=True)
    return Finding("database", False, f"{where}: {found}")


def _disk(settings: Settings) -> Finding:
    folder = existing_part(settings.home)
    if not os.access(folder, os.W_OK | os.X_OK):
        missing = f"{settings.home} cannot be written: set NORMLAB_HOME to a directory that can, or give it as --home"
        return Finding("disk", False, missing)
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free under {settings.home}"
    if free < LEAST_DISK:
        return Finding("disk", False, f"{detail}: checkpoints need at least {LEAST_DISK / 1e9:.1f} GB")
    return Finding("disk", True, detail)


def _report(settings: Settings, module: str, *arguments: str) -> Any:
    """Return the JSON that `python -m module` prints. Raises `_NoReport` with the last line of its error."""
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments],
            env=child_environment(settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=REPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _NoReport(f"no answer in {REPORT_TIMEOUT_S:.0f} s") from error
    if ended.returncode:
        raise _NoReport((ended.stderr.strip().splitlines() or ["no reason given"])[-1])
    return json.loads(ended.stdout)


class _NoReport(Exception):
    pass
