"""The packages of the worker import downwards only, in the order that its docstring gives."""

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import worker
from tests.unit.test_imports import imports, module_of, within

LAYERS = (
    {"__main__", "devices"},
    {"process"},
    {"training"},
    {"checkpoints"},
    {"models"},
    {"normalizations.layers"},
    {"distributed", "data"},
    {"numerics"},
    {
        "architecture",
        "evaluation_spec",
        "events",
        "folders",
        "metrics",
        "normalizations",
        "recipes",
        "spec",
        "stopped",
        "validation",
    },
)
"""The packages and modules of the worker, from the top to the bottom; those of one layer do not import each other.

`normalizations` are the specifications, without the module `layers` of that package.
"""
LIGHT = LAYERS[-1]
"""These import each other without a cycle, which importing them shows."""

ROOT = Path(worker.__file__).parents[1]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "worker").rglob("*.py"))


def part_of(module: str) -> str | None:
    """The package or module at the top of the worker that a module belongs to; None if it is not in the worker."""
    if within(module, "worker.normalizations.layers"):
        return "normalizations.layers"
    root, _, rest = module.partition(".")
    return rest.split(".")[0] if root == "worker" and rest else None


def layer_of(part: str) -> int:
    """The number of the layer of a package or module, from the top."""
    (number,) = [number for number, layer in enumerate(LAYERS) if part in layer]
    return number


def allowed(importing: str, imported: str) -> bool:
    """Whether one package or module of the worker may import another."""
    both_light = importing in LIGHT and imported in LIGHT
    return importing == imported or both_light or layer_of(importing) < layer_of(imported)


def test_every_package_and_module_has_a_layer() -> None:
    parts = {part for path in FILES if (part := part_of(module_of(path))) is not None}
    assert parts == set().union(*LAYERS)
    assert sum(map(len, LAYERS)) == len(parts)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    importing = part_of(module_of(path))
    # Of `from worker.spec import SGD`, `worker.spec` decides.
    parts = {part for module in imports(path, for_types=False) if (part := part_of(module)) is not None}
    known = {part for part in parts if any(part in layer for layer in LAYERS)}
    if importing is None:
        assert not known, f"worker/__init__.py imports {known}: it is imported with every part"
        return
    upwards = sorted(part for part in known if not allowed(importing, part))
    assert not upwards, f"{path} imports {', '.join(upwards)}, which {importing} must not"


@pytest.mark.parametrize(
    ("importing", "imported"),
    [
        ("data", "training"),
        ("data", "distributed"),
        ("models", "training"),
        ("models", "checkpoints"),
        ("checkpoints", "training"),
        ("training", "process"),
        ("numerics", "data"),
        ("metrics", "numerics"),
    ],
)
def test_the_rule_refuses_an_import_upwards_or_sideways(importing: str, imported: str) -> None:
    assert not allowed(importing, imported)


def test_the_docstring_of_the_worker_gives_this_order() -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / "worker" / "__init__.py").read_text()))
    assert docstring is not None
    lines = [line.split()[0] for line in docstring.splitlines() if line.startswith("    ")]
    listed = [part for part in lines if part.strip(",") not in LIGHT]
    assert set(listed) == set().union(*LAYERS[1:-1])
    assert all(layer_of(above) <= layer_of(below) for above, below in pairwise(listed))


def test_what_runs_in_the_actor_does_not_import_torch() -> None:
    program = (
        "import sys; import worker.process.training_process, worker.process.messages, worker.data.mapped_files; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
