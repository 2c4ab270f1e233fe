"""Everything that the documents name exists, and every command, route and module is documented."""

import ast
import importlib
import json
import pkgutil
import re
import shlex
import subprocess
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from service.cli.application import app
from service.experiments.request import ExperimentRequest, expand
from service.settings import PREFIX, Settings
from tests.documents import (
    DOCUMENTS,
    FOLDERS,
    ROOT,
    anchors,
    blocks,
    commands,
    inline,
    layout,
    links,
    normlab_arguments,
    read,
    section,
)

COMMAND: Any = typer.main.get_command(app)
ROUTES = {
    (method.upper(), path)
    for path, methods in json.loads(read("service/api/openapi.json"))["paths"].items()
    for method in methods
}
OUTSIDE_OF_THE_DESCRIPTION = {("GET", "/docs"), ("GET", "/openapi.json")}
SOURCES = (".py", ".sh", ".yml", ".yaml", ".md", ".js", ".css", ".toml", ".lock", ".h", ".cpp", ".Dockerfile")

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def sources() -> str:
    """Return all sources, the configuration of the deployments and the Makefile, as one text."""
    files = (file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".yml", ".sh"))
    return "".join(file.read_text() for file in files) + read("docker-compose.yml") + read("Makefile")


@cache
def targets() -> set[str]:
    """Return the targets that `make help` lists."""
    described = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^ +make ([a-z-]+) ", described, re.MULTILINE))


def leaves(command: Any, *names: str) -> list[str]:
    """Return the full names of all subcommands of a command."""
    if not hasattr(command, "commands"):
        return [" ".join(names)]
    return [leaf for name, below in command.commands.items() for leaf in leaves(below, *names, name)]


def parse(arguments: list[str]) -> None:
    """Parse the arguments of `normlab`, down to the last subcommand. Raises the error of the parser."""
    command, name = COMMAND, "normlab"
    while True:
        context = command.make_context(name, list(arguments))
        if not hasattr(command, "commands"):
            return
        arguments = [*context._protected_args, *context.args]
        name = arguments.pop(0)
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]


def requests(text: str) -> set[tuple[str, str]]:
    """Return method and path of each request in a document, from curl commands and from inline `GET /path`."""
    found = set()
    for command in commands(text):
        words = shlex.split(command)
        if words[0] == "curl":
            url = next(word for word in words if word.startswith("localhost:"))
            method = words[words.index("-X") + 1] if "-X" in words else "POST" if "-d" in words else "GET"
            found.add((method, url.partition("/")[2]))
    for word in inline(text):
        if request := re.fullmatch(r"(GET|HEAD|POST|PATCH|DELETE) /(\S+)", word):
            found.add((request[1], request[2]))
    return {(method, "/" + path.partition("?")[0]) for method, path in found}


def is_route(method: str, path: str) -> bool:
    templates = ROUTES | OUTSIDE_OF_THE_DESCRIPTION
    patterns = [re.sub(r"\{\w+\}", r"[^/]+", template) for verb, template in templates if verb == method]
    return (method, path) in templates or any(re.fullmatch(pattern, path) for pattern in patterns)


@every_document
def test_every_link_leads_somewhere(path: Path) -> None:
    broken = []
    for link in links(path.read_text()):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", target):
            continue
        file = path.parent / target if target else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(link)
    assert not broken


@every_document
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    shown = " ; ".join(word for word in [*commands(text), *inline(text)] if re.match(r"(\w+=\S+ )*make ", word))
    named = {target for line in re.findall(r"\bmake ([a-z -]+)", shown) for target in line.split() if target[0] != "-"}
    assert named <= targets()


def test_the_front_page_names_the_targets_to_begin_with() -> None:
    assert {"`make test`", "`make up`"} <= {f"`{word}`" for word in inline(read("README.md"))}
    assert {"make demo", "docker compose up --build"} <= set(commands(read("README.md")))


@every_document
def test_every_command_line_that_is_shown_is_understood(path: Path) -> None:
    refused = {}
    for arguments in normlab_arguments(path.read_text()):
        # In a sentence a command is named without its required arguments.
        if " ".join(arguments) in [*leaves(COMMAND), *COMMAND.commands]:
            continue
        try:
            parse(arguments)
        except (typer.TyperException, AssertionError) as error:
            refused[" ".join(arguments)] = repr(error)
    assert not refused


def test_every_command_is_documented() -> None:
    documented = set(inline(section(read("service/README.md"), "The command line")))
    assert {f"normlab {leaf}" for leaf in leaves(COMMAND)} <= documented


@every_document
def test_every_request_that_is_shown_has_a_route(path: Path) -> None:
    assert {request for request in requests(path.read_text()) if not is_route(*request)} == set()


def test_every_route_is_documented() -> None:
    assert requests(section(read("service/README.md"), "The HTTP API")) >= ROUTES


@every_document
@pytest.mark.filterwarnings("ignore:Setuptools is replacing distutils")  # as it does where pip was imported before it
def test_every_module_that_is_run_can_be_run(path: Path) -> None:
    text = path.read_text()
    for module in re.findall(r"\bpython3? -m ([a-z_.]+)", " ; ".join([*commands(text), *inline(text)])):
        spec = find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None, module
        is_package = spec.submodule_search_locations is not None
        assert find_spec(f"{module}.__main__") if is_package else "__main__" in Path(spec.origin).read_text(), module


@every_document
def test_every_python_name_exists(path: Path) -> None:
    missing = {}
    for word in inline(path.read_text()):
        if re.fullmatch(r"(gn|worker|service|tests)(\.\w+)+(\(\))?", word) and not word.endswith(SOURCES):
            try:
                pkgutil.resolve_name(word.removesuffix("()"))
            except (ImportError, AttributeError) as error:
                missing[word] = repr(error)
    assert not missing


@every_document
def test_every_path_that_is_named_exists(path: Path) -> None:
    folders = (path.parent, ROOT, path.parent / "kubernetes", path.parent / "monitoring", ROOT / "docker/monitoring")
    missing = []
    for word in inline(path.read_text()):
        is_file = re.fullmatch(r"[\w./-]*\w" + f"({'|'.join(map(re.escape, SOURCES))})", word)
        is_folder = re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]+", word)
        if (is_file or is_folder) and not any((folder / word).exists() for folder in folders):
            missing.append(word)
    assert not missing


@every_document
def test_every_variable_that_is_named_is_read(path: Path) -> None:
    named = set(re.findall(r"\bNORMLAB_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())) - {"NORMLAB_X", "NORMLAB_X_FILE"}
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    settings |= {f"{name}_FILE" for name in settings}
    assert {name for name in named - settings if name not in sources()} == set()


@every_document
def test_every_python_block_is_valid_and_imports_what_exists(path: Path) -> None:
    for block in blocks(path.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in FOLDERS:
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_first_picture_names_the_folders_at_the_top() -> None:
    assert set(layout(read("README.md"))) == {f"{folder}/" for folder in FOLDERS}
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)


@pytest.mark.parametrize("folder", ["service", "service/experiments", "worker"])
def test_a_manual_names_the_modules_and_packages_of_its_folder(folder: str) -> None:
    modules = {path.name for path in (ROOT / folder).glob("*.py") if not path.name.startswith("__")}
    packages = {f"{path.parent.name}/" for path in (ROOT / folder).glob("*/__init__.py")}
    assert set(layout(read(f"{folder}/README.md"))) == modules | packages


def test_the_benchmarks_are_all_described() -> None:
    text = read("tests/benchmarks/README.md")
    described = re.findall(r"^\| `(\w+\.py)` \|", text, re.MULTILINE)
    assert sorted(described) == sorted(path.name for path in (ROOT / "tests/benchmarks").glob("*.py"))


def test_the_experiment_that_is_shown_can_be_submitted() -> None:
    [shown] = blocks(read("service/experiments/README.md"), "yaml")
    request = ExperimentRequest.model_validate(yaml.safe_load(shown)).resolved()
    assert len(expand(request)) == 2 * 3 * 3


def test_every_field_of_an_experiment_is_documented() -> None:
    table = section(read("service/experiments/README.md"), "Define and run an experiment")
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(ExperimentRequest.model_fields)


def test_the_newest_section_of_the_changelog_is_of_this_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    newest = re.search(r"^## (\S+) \((unreleased|\d{4}-\d{2}-\d{2})\)$", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
    assert json.loads(read("service/api/openapi.json"))["info"]["version"] == version


def test_the_lock_names_versions_and_no_place() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines), lines
    assert "torch==2.13.0" in lines
    assert len({line.partition("==")[0] for line in lines}) == len(lines)
