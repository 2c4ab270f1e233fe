"""The kernels are compiled once, and without a compiler gn falls back to torch."""

import os
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import gn
from gn import backends
from gn.cpu import builder, extension, kernels, loader

QUICK = tuple(flag.replace("-O2", "-O0") for flag in loader.FLAGS)
ROOT = Path(gn.__file__).parent.parent
PROGRAM = """
import torch, gn
x = torch.ones(2, 4, 3).cumsum(2)
print(float(gn.group_norm(x, 2, activation="relu").sum()))
"""


@pytest.fixture(name="cache")
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a loader in its initial state."""
    monkeypatch.setenv("GN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(extension, "_operators", {})
    loader.library.cache_clear()
    backends._warn.cache_clear()
    yield tmp_path / "cache"
    loader.library.cache_clear()
    backends._warn.cache_clear()


def compiler(tmp_path: Path, script: str) -> str:
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this the process of a user whom the system does not know."""
    for name in ("GN_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)


def libraries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.so"))


def test_one_library_serves_processes_that_start_at_once(cache: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    results = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(results) == 1
    assert len(libraries(cache)) == 1
    assert not list(cache.glob(".build-*"))


def test_a_damaged_library_is_built_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "FLAGS", QUICK)
    assert kernels.library(torch.float32)
    (library,) = libraries(cache)
    whole = library.read_bytes()
    # A new file, because the old one is mapped into this process.
    library.unlink()
    library.write_bytes(whole[: len(whole) // 2])
    loader.library.cache_clear()
    assert kernels.library(torch.float32)
    assert len(library.read_bytes()) == len(whole)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "exits with 3"),
        ('echo "x.cpp:1: error: no such thing" >&2; exit 1', "no such thing"),
        ('[ "$1" = --version ] || touch "$(echo "$@" | sed "s/.*-o //; s/ .*//")"', "file too short|invalid ELF"),
    ],
    ids=["fails", "complains", "writes nothing"],
)
def test_a_broken_compiler_leaves_the_reference_and_one_warning(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    x = torch.randn(2, 4, 3)
    with pytest.warns(RuntimeWarning, match=f"slower reference is used instead: .*({reason})"):
        y = gn.group_norm(x, 2)
    assert torch.equal(gn.group_norm(x, 2), y)  # a second warning would be an error
    torch.testing.assert_close(y, torch.nn.functional.group_norm(x, 2))


def test_without_a_compiler_the_warning_says_what_was_looked_for(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(RuntimeWarning, match=r"none of c\+\+, g\+\+, clang\+\+ is on the PATH"):
        gn.group_norm(torch.randn(2, 4, 3), 2)


class TestWithoutAWritableCache:
    """The folder of the user in the temporary folder serves, if no other user can have written there."""

    @pytest.fixture(autouse=True, params=["cache below a file", "no home directory"])
    def _no_cache(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        if request.param == "no home directory":
            has_no_home(monkeypatch)
        else:
            cache.touch()
            monkeypatch.setenv("GN_CACHE_DIR", str(cache / "gn"))

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / f"gn-{os.getuid()}"

    def build(self, content: bytes = b"library", **options: bool) -> Path:
        def make(folder: Path) -> Path:
            (folder / "made").write_bytes(content)
            return folder / "made"

        return builder.Library("tiny", (), ()).build(make, **options)

    def test_libraries_are_built_for_all_processes_of_the_user(self, folder: Path) -> None:
        path = self.build()
        assert path.parent == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert builder.Library("tiny", (), ()).find() == path
        assert self.build(b"another") == path

    @pytest.mark.parametrize("kind", ["open to others", "of another user", "a link"])
    def test_a_folder_that_others_can_have_written_is_not_used(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        path = self.build()
        if kind == "open to others":
            folder.chmod(0o777)
        elif kind == "a link":
            folder.rename(tmp_path / "elsewhere")
            folder.symlink_to(tmp_path / "elsewhere")
        else:
            uid = os.getuid()
            monkeypatch.setattr("os.getuid", lambda: uid + 1)
            folder.rename(tmp_path / f"gn-{uid + 1}")
        assert path.name == builder.Library("tiny", (), ()).file
        assert builder.Library("tiny", (), ()).find() is None
        with pytest.raises(
            builder.BuildError, match=r"set GN_CACHE_DIR.*; .*gn-.* cannot be written by this user alone"
        ):
            self.build()

    def test_libraries_built_ahead_are_in_the_cache_or_nowhere(self, folder: Path) -> None:
        with pytest.raises(builder.BuildError, match="set GN_CACHE_DIR"):
            self.build(fallback=False)
        assert not folder.exists()


def test_without_a_home_directory_the_kernels_are_compiled(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_no_home(monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(loader, "FLAGS", QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.library(torch.float32)
    assert len(libraries(tmp_path / f"gn-{os.getuid()}")) == 1


def test_another_compiler_or_another_flag_makes_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def file(*settings: str, sources: tuple[str, ...] = (loader.HEADERS, "group_norm.cpp")) -> str:
        return builder.Library("group_norm", sources, settings).file

    first = file("-O2")
    assert file("-O2") == first
    assert file("-O2", "-g") != first
    assert file("-O2", sources=("group_norm.cpp",)) != first
    monkeypatch.setenv("CXX", "g++ -DOTHER")
    assert file("-O2") != first


def test_the_backend_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the kernels were called")

    monkeypatch.setattr(kernels, "forward", refuse)
    for name in ("auto", "reference"):
        with gn.backend(name):
            gn.group_norm(torch.randn(2, 4, 3), 2)
    with gn.backend("kernels"), pytest.raises(AssertionError, match="kernels were called"):
        gn.group_norm(torch.randn(2, 4, 3), 2)


def test_a_backend_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="one of 'auto', 'kernels', 'reference', got 'fast'"), gn.backend("fast"):
        pass


def test_the_backend_of_kernels_refuses_what_no_kernel_takes() -> None:
    x = torch.randn(2, 4, 3).double()
    message = (
        r"backend 'kernels' has no kernel for torch.float64 on cpu: kernels take torch.float32, torch.bfloat16, "
        r"torch.float16; backend 'auto' falls back to the reference"
    )
    with gn.backend("kernels"), pytest.raises(RuntimeError, match=message):
        gn.group_norm(x, 2)
    with gn.backend("auto"):
        torch.testing.assert_close(gn.group_norm(x, 2), torch.nn.functional.group_norm(x, 2))


def test_the_backend_of_kernels_refuses_to_compute_without_a_compiler(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 3"))
    for _ in range(2):
        with gn.backend("kernels"), pytest.raises(RuntimeError, match=r"torch.float32 on cpu: .* exits with 3"):
            gn.group_norm(torch.randn(2, 4, 3), 2)


def test_the_backend_of_kernels_takes_what_has_no_values() -> None:
    with gn.backend("kernels"):
        assert gn.group_norm(torch.empty(0, 4, 3, dtype=torch.float64), 2).shape == (0, 4, 3)
        assert gn.group_norm(torch.empty(2, 4, 3, device="meta"), 2).is_meta


def test_the_environment_chooses_the_backend_of_a_process() -> None:
    program = "import gn.backends; print(gn.backends.selected())"
    for name, chosen in [*((name, name) for name in backends.NAMES), ("", "auto")]:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=ROOT, env={"GN_BACKEND": name}, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == chosen
