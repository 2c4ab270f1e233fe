"""The extension computes the same as the Python code, and is built in the background."""

import fcntl
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import gn
from gn.cpu import builder, extension, kernels, loader
from tests.unit.gn.test_cpu import train
from tests.unit.gn.test_functional import arguments, channels_last

ROOT = Path(gn.__file__).parent.parent
LANES = ("auto", "kernels")

# Prints the path of each call: the name of the gradient function shows whether it is in C++ or in Python.
CALLS = """
import torch, gn
from gn.cpu import extension
x = torch.ones(2, 4, 3).cumsum(2).requires_grad_()

def call():
    y = gn.group_norm(x, 2, activation="relu")
    y.sum().backward()
    print("C++" if "gn::GroupNorm" in y.grad_fn.name() else "Python", y.sum().item(), flush=True)

call()
"""


@pytest.mark.parametrize("layout", [torch.clone, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", kernels.CODES, ids=str)
@pytest.mark.parametrize("shape", [(2, 12), (3, 8, 5), (2, 16, 6, 6), (70, 8, 3, 3), (2, 4, 2, 3, 2)])
def test_the_extension_and_python_agree_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype, layout: object) -> None:
    for activation, absent in itertools.product(kernels.ACTIVATIONS, ((), ("residual",), ("weight", "bias"))):
        results = []
        for lane in LANES:
            given = arguments(shape, dtype)
            given["x"] = layout(given["x"])
            for name in absent:
                del given[name]
            dy = given.pop("dy")
            with gn.backend(lane):
                results.append(train(num_groups=4, dy=dy, activation=activation, **given))
        for ours, theirs in zip(*results, strict=True):
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()


def test_the_gradient_runs_in_the_extension_if_it_is_to_be_used() -> None:
    x = torch.randn(2, 4, 3, requires_grad=True)
    names = {}
    for lane in LANES:
        with gn.backend(lane):
            names[lane] = gn.group_norm(x, 2).grad_fn.name()
    assert "gn::GroupNorm" in names["auto"]
    assert "gn::GroupNorm" not in names["kernels"]


def test_a_view_of_an_upstream_gradient_is_handed_on_as_that_of_the_residual() -> None:
    x, residual = torch.randn(2, 4, 3), torch.randn(2, 4, 3, requires_grad=True)
    dy = torch.randn(1, 4, 1).expand(2, 4, 3)
    gn.group_norm(x, 2, residual=residual).backward(dy)
    assert torch.equal(residual.grad, dy)


def test_a_tensor_changed_after_the_call_is_noticed() -> None:
    x, weight = torch.randn(2, 4, 3), torch.ones(4, requires_grad=True)
    y = gn.group_norm(x, 2, weight)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_was_saved_may_be_packed_away() -> None:
    packed = []

    def pack(tensor: torch.Tensor) -> int:
        packed.append(tensor.clone())
        return len(packed) - 1

    x, residual = (torch.randn(2, 4, 3, requires_grad=True) for _ in range(2))
    gn.group_norm(x, 2, residual=residual, activation="relu").sum().backward()
    expected = x.grad.clone()
    x.grad = None
    with torch.autograd.graph.saved_tensors_hooks(pack, packed.__getitem__):
        y = gn.group_norm(x, 2, residual=residual, activation="relu")
    y.sum().backward()
    assert packed
    assert torch.equal(x.grad, expected)


def test_another_version_in_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gn.group_norm(torch.randn(2, 4, 3), 2)
    other = tmp_path / "other.so"
    shutil.copy(extension.build(), other)
    monkeypatch.setattr(builder.Library, "find", lambda _: other)
    second = extension.Extension()
    with pytest.warns(RuntimeWarning, match="small batches take longer: another version"):
        assert second.library() is None
    assert second.library() is None  # a second warning would be an error


def test_importing_or_reloading_it_again_registers_nothing_twice() -> None:
    program = """
import importlib, sys, torch, gn
x = torch.randn(2, 4, 3)
expected = gn.group_norm(x, 2)
modules = sorted(name for name in sys.modules if name.split(".")[0] == "gn")
for name in modules:
    importlib.reload(sys.modules[name])
    assert torch.equal(gn.group_norm(x, 2), expected), name
for name in modules:
    del sys.modules[name]
import gn
from gn import operators
from gn.cpu import extension
assert torch.equal(gn.group_norm(x, 2), expected)
assert extension._extension.library() is not None
compiled = torch.compile(lambda x: gn.group_norm(x, 2), backend="eager", fullgraph=True)
assert torch.equal(compiled(x), expected)
"""
    done = run_program(program)
    assert done.returncode == 0, done.stderr


def test_operators_of_another_version_are_not_replaced() -> None:
    done = run_program('import torch; torch.library.define("gn::group_norm", "(Tensor x) -> Tensor"); import gn')
    assert (
        "ImportError: another version of gn is loaded in this process: it has registered gn::group_norm(" in done.stderr
    )


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(name="compiler")
def _compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that runs a script when it compiles the extension, and copies built files for its output.

    The files are built once per session, because compiling takes many seconds.
    """
    built = {
        "extension.cpp": extension.build(),
        "-shared": loader.build("group_norm", "float"),
    }
    lines = [f'*" {word} "*|*/{word}" "*) from={path};;' for word, path in built.items()]
    compiler = tmp_path / "compiler"
    compiler.write_text(
        f"""#!/bin/sh
case "$*" in *extension.cpp*) . {tmp_path}/script;; esac
case " $* " in {" ".join(lines)} *) from=/dev/null;; esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && cp "$from" "$2"; shift; done
exit 0
"""
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("GN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "script"


def ways(program: str, *options: str) -> tuple[list[str], str]:
    """Return the path of each call of the program, and its standard error."""
    command = [sys.executable, *options, "-c", CALLS + program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    calls = [line.split() for line in done.stdout.splitlines()]
    assert len({total for _, total in calls}) == 1
    return [way for way, _ in calls], done.stderr


@pytest.fixture(name="gate")
def _gate(tmp_path: Path) -> Iterator[Path]:
    """A named pipe that is open at both ends, so that opening it does not block."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    held = os.open(gate, os.O_RDWR)
    yield gate
    os.close(held)


def test_python_calls_the_kernels_until_the_extension_is_there(compiler: Path, gate: Path, tmp_path: Path) -> None:
    compiler.write_text(f"read line < {gate}")
    let_go = f"with open('{gate}', 'w') as gate: gate.write('go\\n')\n"
    took, _ = ways(f"call()\n{let_go}extension._extension._file.result()\ncall()", "-Werror")
    assert took == ["Python", "Python", "C++"]
    assert len(list((tmp_path / "cache").glob("extension-*.so"))) == 1


def test_a_process_that_ends_takes_the_compiler_with_it(compiler: Path, gate: Path, tmp_path: Path) -> None:
    compiler.write_text(f"sleep 600 & echo $! > {tmp_path / 'pid'}; echo > {gate}; wait")
    ways(f"open('{gate}').readline()")
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
    assert not list((tmp_path / "cache").glob(".build-extension-*"))


def test_an_extension_that_cannot_be_compiled_is_done_without_after_one_warning(compiler: Path) -> None:
    compiler.write_text('echo "ATen.h: error: no such file" >&2; exit 1')
    took, errors = ways("extension._extension._file.exception()\ncall()\ncall()")
    assert took == ["Python"] * 3
    assert errors.count("small batches take longer: ") == 1
    assert "no such file" in errors


def test_everything_can_be_built_ahead(compiler: Path, tmp_path: Path) -> None:
    compiler.touch()
    cache = tmp_path / "cache"
    done = build_ahead()
    assert done.returncode == 0, done.stderr
    assert f"gn: kernels and extension in {cache}" in done.stdout
    assert len(list(cache.glob("*.so"))) == 7

    compiler.write_text("exit 3")
    next(cache.glob("extension-*.so")).unlink()
    failed = build_ahead()
    assert failed.returncode == 1
    assert "gn: cannot be compiled ahead: " in failed.stderr


def test_nothing_is_built_ahead_where_it_could_not_be_kept(compiler: Path, tmp_path: Path) -> None:
    compiler.touch()
    (tmp_path / "cache").touch()  # a file: nothing can be written below it
    failed = build_ahead()
    assert failed.returncode == 1
    assert f"gn: cannot be compiled ahead: {tmp_path / 'cache'} cannot be written" in failed.stderr
    assert not failed.stdout


def build_ahead() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gn.cpu"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_process_that_ends_waits_for_no_other_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GN_CACHE_DIR", str(tmp_path))
    library = builder.Library("library", (), ())
    with builder._lock(tmp_path / library.file):
        build = extension._Build(library)
        build._abandon()
        assert not build._thread.is_alive()
    with pytest.raises(builder.BuildError, match="abandoned"):
        build.file.result()
    assert not list(tmp_path.glob(".build-*"))


def test_a_process_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    with builder._lock(path):
        opened = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _leads_to(fd, path.with_suffix(".lock"))]
        inherited = os.dup(opened[0])
    with open(path.with_suffix(".lock")) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(inherited)


def _leads_to(descriptor: int, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
    except OSError:
        return False


def test_what_a_killed_process_left_half_built_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GN_CACHE_DIR", str(tmp_path))
    library = builder.Library("library", (), ())
    leftover = tmp_path / f".build-{Path(library.file).stem}-left"
    leftover.mkdir()

    def make(folder: Path) -> Path:
        (folder / "made").write_text("content")
        return folder / "made"

    built = library.build(make)
    assert not leftover.exists()
    assert library.find() == built
    assert library.build(lambda _: pytest.fail("it existed already")) == built
