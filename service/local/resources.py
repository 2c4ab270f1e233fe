"""The CPUs and the memory that this process may use: those of the machine, within every limit that applies to it.

The limits are the CPU affinity, which the kernel keeps within the cpuset cgroup; the quotas of the cgroup of the
process and of its parents, in version 1 and 2 of cgroups (cgroups(7)); and the allocation of a Slurm job.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def available_cpus(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of CPUs of this process, at least 1.

    Args:
        root: The folder of `proc` and `sys`.
        environment: The environment variables, among them those of Slurm.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slurm = _integers(environment.get("SLURM_CPUS_ON_NODE", ""))
    return max(1, min([affinity, *_cpu_quotas(root), *slurm]))


def available_memory(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return the bytes of memory of this process. The arguments are those of `available_cpus`."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_memory_limits(root), *_slurm_memory(environment)])


def _cpu_quotas(root: Path) -> Iterator[int]:
    for cgroup in _cgroups(root, "cpu"):
        # Version 2: "150000 100000" or "max 100000". Version 1: two files, and a quota of -1 if there is none.
        version_1 = _integers(_read(cgroup / "cpu.cfs_quota_us")) + _integers(_read(cgroup / "cpu.cfs_period_us"))
        match _integers(_read(cgroup / "cpu.max")) or version_1:
            case [quota, period] if quota > 0 and period > 0:
                yield quota // period


def _memory_limits(root: Path) -> Iterator[int]:
    for cgroup in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            yield from _integers(_read(cgroup / name))


def _slurm_memory(environment: Mapping[str, str]) -> Iterator[int]:
    """Yield the memory of the Slurm job on this node: in MiB, for the node or for each CPU; 0 is all of the node."""
    cpus = _integers(environment.get("SLURM_CPUS_ON_NODE", "")) or [1]
    for name, count in (("SLURM_MEM_PER_NODE", 1), ("SLURM_MEM_PER_CPU", cpus[0])):
        yield from (mebibytes * count << 20 for mebibytes in _integers(environment.get(name, "")) if mebibytes > 0)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the cgroup that `controller` applies to this process, and of its parents, both versions."""
    lines = (line.split(":", 2) for line in _read(root / "proc/self/cgroup").splitlines())
    # Version 2 has no names of controllers: "0::/path".
    member = {name: PurePosixPath(path) for _, names, path in lines for name in names.split(",")}
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, *_, options = filesystem.split(" ")
        if kind not in ("cgroup", "cgroup2") or (kind == "cgroup" and controller not in options.split(",")):
            continue
        mounted, point = map(_unescaped, mount.split(" ")[3:5])
        folder = root / point.lstrip("/")
        yield folder
        path = member.get("" if kind == "cgroup2" else controller)
        # In a container, the path may be one of the machine, of which only a part, or another part, is mounted.
        if path is not None and path.is_relative_to(mounted) and ".." not in path.parts:
            for name in path.relative_to(mounted).parts:
                folder /= name
                yield folder


def _unescaped(path: str) -> str:
    r"""Return a path of mountinfo, in which a space is written as \040 (proc_pid_mountinfo(5))."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _integers(text: str) -> list[int]:
    """Return the integers of `text`, or none if anything else is in it, such as "max"."""
    with suppress(ValueError):
        return [int(word) for word in text.split()]
    return []


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="surrogateescape")
    return ""
