"""The tables of the documents are equal to the code and the measurements that they repeat."""

import re

import pytest

from service.cli.exits import Exit
from service.experiments import compared, confounds, table_warnings
from service.experiments.statistics import plan_analyses
from service.jobs import JobRequest
from service.settings import PREFIX, Settings
from tests.documents import ROOT, read, section
from worker.normalizations.normalization import NormalizationSpec
from worker.normalizations.registry import NORMALIZATIONS
from worker.spec import TrainingSpec

README = read("README.md")
SERVICE = read("service/README.md")
EXPERIMENTS = read("service/experiments/README.md")
WORKER = read("worker/README.md")


def row(name: str) -> str:
    """A row of the table of settings."""
    field = Settings.model_fields[name]
    default = f"`{field.default}`" if field.default not in (None, "") else ""
    return f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |"


def test_the_front_page_is_short() -> None:
    assert len(README.splitlines()) <= 160


def test_the_results_of_the_front_page_are_those_of_the_measurements() -> None:
    table = README.partition("| result | measured | n |")[2].partition("\n\n")[0]
    measured = read("gn/README.md") + read("tests/benchmarks/README.md") + EXPERIMENTS
    found = re.findall(r"\d[\d,]*\.?\d*", "".join(line.split(" | ", 1)[1] for line in table.splitlines()[2:]))
    assert len(found) > 10
    assert [number for number in found if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", measured)] == []


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    assert row(name) in SERVICE.splitlines()


def test_no_setting_is_documented_that_does_not_exist() -> None:
    rows = [line.split("`")[1] for line in SERVICE.splitlines() if line.startswith(f"| `{PREFIX}")]
    assert sorted(rows) == sorted(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)


@pytest.mark.parametrize("code", Exit)
def test_every_exit_code_is_documented(code: Exit) -> None:
    codes = SERVICE.partition("Exit codes:")[2].partition("\n\n")[0]
    assert any(word == str(int(code)) for word in codes.replace(";", " ").split())


CODES = confounds.CODES | table_warnings.CODES | compared.CODES


@pytest.mark.parametrize("code", CODES)
def test_every_warning_is_documented_with_its_meaning(code: str) -> None:
    assert f"| `{code}` | {CODES[code]} |" in EXPERIMENTS.splitlines()


def test_no_warning_is_documented_that_does_not_exist() -> None:
    assert re.findall(r"^\| `(\w+)` \|", section(EXPERIMENTS, "Warnings"), re.MULTILINE) == list(CODES)


def test_the_interim_analyses_that_are_named_are_those_that_are_planned() -> None:
    assert '"seeds": {"min": 3, "max": 10}` analyses the table after 3, 5 and 10 seeds' in EXPERIMENTS
    assert plan_analyses(3, 10) == (3, 5, 10)


def test_every_field_of_a_job_is_documented() -> None:
    table, _, rest = section(WORKER, "A job").partition("The service adds")
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", "".join(cells))) == sorted(TrainingSpec.model_fields)
    added = re.findall(r"`(\w+)`", rest.partition("\n\n")[0])
    assert sorted(added) == sorted(JobRequest.model_fields.keys() - TrainingSpec.model_fields.keys())


def test_every_normalization_is_documented() -> None:
    def row(kind: str, normalization: type[NormalizationSpec]) -> str:
        [definition, *_] = (normalization.__doc__ or "").splitlines()
        return f"| `{kind}` | {definition} | {normalization.needs} | {normalization.reference} |"

    documented = section(WORKER, "Normalizations").partition("\n### ")[0]
    table = [line for line in documented.splitlines() if line.startswith("| `")]
    assert table == [row(*entry) for entry in NORMALIZATIONS.items()]


SHOWN = [
    path
    for folder in ("gn", "worker", "service", "normlab", "docker", "tests/benchmarks")
    for kind in ("py", "md", "js", "html")
    for path in sorted((ROOT / folder).rglob(f"*.{kind}"))
] + sorted(ROOT.glob("*.md"))
METHODS = "batch|group|layer|instance"


def test_a_normalization_is_spelled_in_one_way() -> None:
    """A method is BatchNorm in prose, and a value is what `service.experiments.axes.label` makes of it: group (8)."""
    other = re.compile(rf"\b({METHODS})[ -]norm\b|\b({METHODS})norm\b", re.IGNORECASE)
    method = re.compile(rf"({METHODS.title()})Norm")
    wrong = {
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in SHOWN
        for found in other.finditer(path.read_text(encoding="utf-8"))
        if not method.fullmatch(found[0])
    }
    assert wrong == set()


@pytest.mark.parametrize("folder", ["service/cli", "service/report", "service/figures", "service/export"])
def test_what_is_shown_of_a_normalization_is_its_label(folder: str) -> None:
    read_raw = re.compile(r"""\[["']normalization["']\]\[["']type["']\](?! = )""")
    assert [path.name for path in (ROOT / folder).rglob("*.py") if read_raw.search(path.read_text())] == []
