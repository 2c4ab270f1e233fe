"""The CPUs and the memory of a process: within its affinity, its cgroups and their parents, and its Slurm job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.local import resources
from service.local.resources import available_cpus, available_memory

GIB = 1 << 30
V1 = "32 31 0:29 {mounted} /sys/fs/cgroup/{name} rw,relatime shared:9 - cgroup cgroup rw,{name}"
V2 = "32 31 0:29 {mounted} {point} rw,relatime - cgroup2 cgroup2 rw,nsdelegate"
OTHER = "22 1 0:21 / /proc rw,nosuid - proc proc rw"


@pytest.fixture(autouse=True)
def a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256 * GIB // 4096}.__getitem__)


def machine(root: Path, cgroup: str, mounts: list[str], files: dict[str, str]) -> Path:
    """Write the files of `proc` and of the cgroups into `root`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text("\n".join([OTHER, *mounts]) + "\n")
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def both_of_v1(mounted: str = "/") -> list[str]:
    return [V1.format(name=name, mounted=mounted) for name in ("cpu,cpuacct", "memory")]


def found(root: Path) -> tuple[int, float]:
    return available_cpus(root, {}), available_memory(root, {}) / GIB


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    assert found(tmp_path) == (64, 256), "without /proc"
    files = {"cpu.max": "max 100000", "memory.max": "max", "a/memory.high": "max"}
    assert found(machine(tmp_path, "0::/a\n", [V2.format(mounted="/", point="/sys/fs/cgroup")], files)) == (64, 256)


def test_limits_of_version_2_below_the_root_and_above_the_process_count(tmp_path: Path) -> None:
    files = {
        "system.slice/slurm/job_1/cpu.max": "300000 100000",
        "system.slice/slurm/job_1/memory.max": str(6 * GIB),
        "system.slice/slurm/job_1/step_0/cpu.max": "max 100000",
        "system.slice/slurm/job_1/step_0/memory.high": str(3 * GIB),
        "system.slice/slurm/job_2/memory.max": str(GIB),
    }
    cgroup = "0::/system.slice/slurm/job_1/step_0\n"
    assert found(machine(tmp_path, cgroup, [V2.format(mounted="/", point="/sys/fs/cgroup")], files)) == (3, 3)


def test_limits_of_version_1_below_the_root_and_above_the_process_count(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/slurm/job_1/cpu.cfs_quota_us": "100000",
        "cpu,cpuacct/slurm/job_1/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/slurm/job_1/memory.limit_in_bytes": str(3 * GIB // 2),
        "memory/slurm/job_1/step_0/memory.limit_in_bytes": "9223372036854771712",
    }
    cgroup = "9:name=systemd:/x\n4:memory:/slurm/job_1/step_0\n1:cpu,cpuacct:/slurm/job_1\n0::/\n"
    mounts = [*both_of_v1(), V2.format(mounted="/", point="/sys/fs/cgroup/unified")]
    assert found(machine(tmp_path, cgroup, mounts, files)) == (1, 1.5)


def test_a_container_sees_its_part_of_the_tree_only(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "250000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": str(2 * GIB),
        "memory/inner/memory.limit_in_bytes": str(GIB),
    }
    cgroup = "4:memory:/docker/c0ffee/inner\n1:cpu,cpuacct:/docker/c0ffee\n"
    assert found(machine(tmp_path, cgroup, both_of_v1("/docker/c0ffee"), files)) == (2, 1)


@pytest.mark.parametrize("cgroup", ["0::/../../elsewhere\n", "0::/elsewhere\n"])
def test_a_cgroup_outside_of_what_is_mounted_is_limited_by_the_mounted_one(tmp_path: Path, cgroup: str) -> None:
    files = {"cpu.max": "200000 100000", "memory.max": str(GIB)}
    mounts = [V2.format(mounted="/part", point="/sys/fs/cgroup")]
    assert found(machine(tmp_path, cgroup, mounts, files)) == (2, 1)


def test_a_mount_point_may_contain_spaces(tmp_path: Path) -> None:
    mounts = [V2.format(mounted="/", point=r"/sys/fs/cgroup/of\040ours")]
    assert found(machine(tmp_path, "0::/\n", mounts, {"of ours/cpu.max": "50000 100000"})) == (1, 256)


@pytest.mark.parametrize(
    ("variables", "cpus", "gib"),
    [
        ({"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_NODE": "1536"}, 1, 1.5),
        ({"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "2048"}, 4, 8),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_NODE": "0"}, 8, 256),
        ({"SLURM_CPUS_ON_NODE": "", "SLURM_MEM_PER_CPU": "many"}, 64, 256),
        ({"SLURM_CPUS_ON_NODE": "128", "SLURM_MEM_PER_NODE": "1000000"}, 64, 256),
    ],
)
def test_a_slurm_job_without_cgroups_has_what_was_allocated(
    tmp_path: Path, variables: dict[str, str], cpus: int, gib: float
) -> None:
    assert available_cpus(tmp_path, variables) == cpus
    assert available_memory(tmp_path, variables) / GIB == gib


def test_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {5}, raising=False)
    assert available_cpus(tmp_path, {}) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_limits_of_this_process_can_be_read() -> None:
    program = "from service.local.resources import available_cpus, available_memory as m; print(available_cpus(), m())"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    cpus, memory = map(int, printed.split())
    assert 1 <= cpus <= (os.cpu_count() or 1)
    assert memory > 64 << 20
    assert resources._read(Path("/proc/self/cgroup")), "it is not empty, so that it was parsed"
