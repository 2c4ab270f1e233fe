"""The rules of imports between modules, and of the size and name of a file, checked on the sources.

The packages and top-level modules of `service`, each above those that it may import (`ARROWS` lists every import):

    cli                                   openapi
     │                                       │
    export   local                          app      dispatcher
     │        │                              │           │
    client ◀──┘                             api          │
     ┊                                       │           │
     ┊              report   dashboard   store   artifacts
     ┊                 │                     │           │
     ┊              figures                  │           │
     ┊                 │                     │           │
     └┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄▶ experiments      │
                                             │           │
                                     jobs   validation   │
                                             │           │
     cluster_report   errors   settings   logs   open_files   ray_environment   version
                                  │
                        quotas   secret_files

The two columns are two programs. The left one is the command line and the client. It reaches the right one over HTTP
only, and imports only types, the vocabulary of statuses and the renderer of reports. The right one runs in the
processes of the service.
"""

import ast
import graphlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("gn", "worker", "service")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LIGHT = (
    "worker.evaluation_spec",
    "worker.spec",
    "worker.architecture",
    "worker.events",
    "worker.folders",
    "worker.metrics",
    "worker.normalizations",
    "worker.recipes",
    "worker.stopped",
    "worker.validation",
)
"""The modules of `worker` that `service` may import. They import the standard library, pydantic and psutil only."""
HEAVY = "worker.normalizations.layers"
"""The module of a light package that is not light."""
CLUSTER = "service.dispatcher.cluster"
LAYERS = (
    ("cli", "openapi"),
    ("export", "local", "app", "dispatcher"),
    ("client", "api"),
    ("report", "dashboard", "store", "artifacts"),
    ("figures",),
    ("experiments",),
    ("jobs", "validation"),
    ("cluster_report", "errors", "settings", "logs", "open_files", "ray_environment", "version"),
    ("quotas", "secret_files"),
)
"""The packages and top-level modules of `service`, from the top layer to the bottom layer."""
ARROWS = {
    "cli": {"client", "experiments", "export", "jobs", "local", "report", "settings", "version"},
    "openapi": {"app", "settings"},
    "export": {"client", "experiments", "jobs"},
    "local": {"client", "open_files", "ray_environment", "settings"},
    "app": {"api", "artifacts", "logs", "open_files", "settings", "store", "version"},
    "dispatcher": {
        "artifacts",
        "cluster_report",
        "errors",
        "experiments",
        "jobs",
        "logs",
        "open_files",
        "ray_environment",
        "settings",
        "store",
    },
    "client": {"experiments", "jobs", "report", "settings"},
    "api": {
        "artifacts",
        "cluster_report",
        "dashboard",
        "errors",
        "experiments",
        "figures",
        "jobs",
        "logs",
        "report",
        "settings",
        "store",
        "validation",
    },
    "report": {"experiments", "figures"},
    "figures": {"experiments"},
    "store": {"errors", "experiments", "jobs", "settings"},
    "artifacts": {"errors"},
    "experiments": {"errors", "jobs", "validation"},
    "settings": {"quotas", "secret_files"},
}
"""What each package of `service` imports of the others. Add a new import here and to the diagram above."""
SQL = ("service.store",)
"""The packages that may import SQLAlchemy."""
WITHOUT_TORCH = ("worker.data.datasets", "worker.data.download", "worker.data.inspection")


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, at_module_level: bool = False, for_types: bool = True) -> Iterator[str]:
    """Yield the full names of imported modules; both a and a.b for `from a import b`, because b may be a module.

    `for_types` includes the imports below `if TYPE_CHECKING`, which do not run.
    """
    tree = ast.parse((ROOT / path).read_text())
    if not for_types:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and _is_type_checking(node.test))]
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    for node in _outside_of_functions(tree) if at_module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _outside_of_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _outside_of_functions(child)


def within(name: str, *roots: str) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def is_light(name: str) -> bool:
    """Return whether a module of `worker` is one that `service` may import."""
    return within(name, *LIGHT) and not within(name, HEAVY)


def room_of(name: str) -> str | None:
    """Return the package or top-level module of `service` that contains a module; None for other modules."""
    parts = name.split(".")
    return parts[1] if parts[0] == "service" and len(parts) > 1 else None


def refusal(module: str, imported: str) -> str | None:
    """Return why `module` may not import `imported`, or None if it may."""
    package = module.split(".")[0]
    if is_light(module):
        standard = imported.split(".")[0] in sys.stdlib_module_names
        if not (
            standard
            or within(imported, "pydantic", "pydantic_core", "psutil")
            or is_light(imported)
            or imported == "worker"
        ):
            return "a light module imports the standard library, pydantic, psutil and other light modules only"
    if package == "gn" and within(imported, "worker", "service"):
        return "gn imports torch and no other package of this project"
    if package == "worker" and within(imported, "service"):
        return "worker imports gn and no other package of this project"
    if package == "service" and within(imported, "gn"):
        return "service imports the light modules of worker only"
    if package == "service" and within(imported, "worker") and imported != "worker":
        processes = ("worker.process.actor", "worker.process.process_ids")
        allowed = (*processes, "worker.data.datasets") if module == CLUSTER else ()
        if not (is_light(imported) or within(imported, *allowed)):
            return (
                f"service imports {', '.join(sorted(LIGHT))}; {CLUSTER} also the actor, its processes and the datasets"
            )
    if within(imported, "ray") and module not in ("worker.process.actor", CLUSTER):
        return f"only worker.process.actor and {CLUSTER} import ray"
    if within(imported, "sqlalchemy", "alembic") and not within(module, *SQL):
        return "only service.store contains SQL: call one of its functions, or add one"
    if within(module, "service.experiments") and within(imported, "fastapi", "starlette", "uvicorn"):
        return "service.experiments is pure: it uses neither a database nor HTTP"
    routes = "service.api.routes"
    if within(module, routes) and module != routes and within(imported, routes):
        return "a router imports no other router: move shared code into a module of service.api"
    here, there = room_of(module), room_of(imported)
    if here is not None and there not in (None, here, *ARROWS.get(here, ())):
        return f"service.{here} does not import service.{there}: see ARROWS"
    if within(imported, "torch") and (package == "service" or is_light(module) or module in WITHOUT_TORCH):
        return "it must work without torch"
    return None


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_module_imports_only_what_it_may(path: Path) -> None:
    module = module_of(path)
    found = imports(path, for_types=not is_light(module))
    wrong = {imported: why for imported in found if (why := refusal(module, imported))}
    assert not wrong, f"{path} imports what it may not: {wrong}"


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("gn.module", "worker.spec"),
        ("gn.module", "service"),
        ("worker.data.batches", "service.jobs"),
        ("worker.data.batches", "ray"),
        ("worker.spec", "torch"),
        ("worker.spec", "worker.data.batches"),
        ("worker.spec", "numpy"),
        ("worker.spec", "worker.normalizations.layers"),
        ("worker.normalizations.batch", "torch"),
        ("worker.normalizations.batch", "worker.normalizations.layers"),
        ("service.app", "worker.normalizations.layers"),
        ("worker.data.datasets", "torch.utils"),
        ("service.app", "worker.training.loop"),
        ("service.app", "worker.process.actor"),
        ("service.app", "gn"),
        ("service.app", "torch"),
        ("service.dispatcher.pool", "ray"),
        ("service.dispatcher.pool", "worker.process.actor.TrainingWorker"),
        ("service.dispatcher.pool", "worker.data.datasets"),
        ("service.dispatcher.cluster", "worker.training.loop"),
        ("service.dispatcher.cluster", "torch"),
        ("service.api.routes.reports", "sqlalchemy"),
        ("service.api.tailer", "sqlalchemy.ext.asyncio"),
        ("service.cli.jobs", "sqlalchemy"),
        ("service.api.routes.reports", "service.api.routes.results"),
        ("service.api.routes.reports", "service.api.routes"),
        ("service.experiments.results", "service.store"),
        ("service.experiments.results", "service.api.filters"),
        ("service.experiments.results", "sqlalchemy"),
        ("service.experiments.results", "fastapi"),
        ("service.experiments.results", "ray"),
        ("service.store.jobs", "service.api.schemas.job"),
        ("service.api.context", "service.app"),
        ("service.api.context", "service.dispatcher"),
        ("service.cli.jobs", "service.store"),
        ("service.client.client", "service.api"),
        ("service.dispatcher.pool", "service.api"),
    ],
)
def test_the_rules_refuse_every_other_import(module: str, imported: str) -> None:
    assert refusal(module, imported)


def test_the_rule_reads_imports_however_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = Path("service/api/jobs.py")
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(
        "import ray\nfrom worker import training\nfrom ..store import jobs as j\nfrom . import paging\n"
        "if True:\n    import gn.module as g\ndef f():\n    import torch\n"
    )
    found = set(imports(path))
    assert {"ray", "worker.training", "service.store.jobs", "service.api.paging", "gn.module", "torch"} <= found
    assert "torch" not in set(imports(path, at_module_level=True))
    assert "gn.module" in set(imports(path, at_module_level=True))
    (tmp_path / path).write_text("if TYPE_CHECKING:\n    import torch\nif True:\n    import ray\n")
    assert set(imports(path)) == {"torch", "ray"}
    assert set(imports(path, for_types=False)) == {"ray"}


def test_every_import_between_packages_leads_to_a_lower_layer() -> None:
    floor = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    assert set(floor) == {room for path in FILES if (room := room_of(module_of(path)))}, (
        "LAYERS names each package once"
    )
    for room, targets in ARROWS.items():
        for target in targets:
            assert floor[room] < floor[target], f"{room} imports {target}, which is not in a lower layer"


def test_every_allowed_import_between_packages_is_used() -> None:
    found: dict[str, set[str]] = {}
    for path in FILES:
        if (room := room_of(module_of(path))) is not None:
            found.setdefault(room, set()).update(filter(None, map(room_of, imports(path))))
    unused = {room: targets - found[room] for room, targets in ARROWS.items() if targets - found[room]}
    assert not unused, f"remove them from ARROWS: {unused}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_of(path): path for path in FILES}
    graph = {
        module: {name for name in imports(path, for_types=False) if name in modules and name != module}
        for module, path in modules.items()
    }
    for imported in graph.values():
        # `from package import module` depends on the module, not on the other imports of the package.
        imported -= {name for name in imported if any(other.startswith(f"{name}.") for other in imported)}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_no_module_outside_of_the_store_runs_a_statement() -> None:
    methods = {"execute", "scalar", "scalars", "get", "add", "add_all", "delete", "flush", "merge", "stream"}
    for path in FILES:
        if within(module_of(path), *SQL):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="session"), attr=method)) if method in methods:
                    pytest.fail(f"{path}:{node.lineno} calls session.{method}: only service.store contains SQL")


def test_an_actor_starts_before_torch_is_imported() -> None:
    assert not [
        name for name in imports(Path("worker/process/actor.py"), at_module_level=True) if within(name, "torch")
    ]


@pytest.mark.parametrize(
    "module", ["service.app", "service.cli", "service.client", "service.dispatcher", "service.store.migrate", *LIGHT]
)
def test_importing_a_part_of_the_service_leaves_torch_out(module: str) -> None:
    program = (
        f"import importlib, sys; importlib.import_module({module!r}); "
        "print(*sorted({'torch', 'gn', 'ray', 'worker.training.loop'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() in ([], ["ray"] if module == "service.dispatcher" else [])


SLOW = {
    *("torch", "gn", "ray", "numpy", "scipy", "plotly", "mlflow", "tensorboard", "pyarrow"),
    *("s3fs", "botocore", "alembic", "mako", "psycopg", "yaml"),
}
"""Packages that take long to import, and that neither the api nor a command needs to start."""
START_OF_THE_API = """
import asyncio, sys
from pathlib import Path
from service.app import create_app
from service.settings import Settings

async def start():
    app = create_app(Settings(home=Path(sys.argv[1])))
    async with app.router.lifespan_context(app):
        pass

asyncio.run(start())
"""


@pytest.mark.parametrize(
    ("program", "unused"),
    [
        (START_OF_THE_API, SLOW | {"typer", "rich", "httpx2"}),
        ("import normlab", SLOW | {"sqlalchemy", "fastapi", "uvicorn", "typer", "rich", "psutil", "pandas", "polars"}),
        ("import service.cli", SLOW - {"yaml"} | {"sqlalchemy", "fastapi", "uvicorn", "psutil"}),
    ],
    ids=["api", "client", "command"],
)
def test_a_start_does_not_import_what_it_does_not_need(
    sqlite_template: Path, tmp_path: Path, program: str, unused: set[str]
) -> None:
    shutil.copy(sqlite_template, tmp_path / "normlab.db")
    program += f"\nimport sys; print(*sorted(set({unused!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_short_and_named_after_what_is_in_it(path: Path) -> None:
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= 400, f"{path} has {lines} lines: split it by its nouns"
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "core", "base"}


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=str)
def test_a_package_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert docstring, f"{path} has no docstring"
    assert len(docstring) > 30, docstring
