"""Unit tests of the dashboard's modules that compute, run in the browser."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect
from scipy import stats

from service.store.metrics import summarize
from tests.dashboard.conftest import standing

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def page(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> AsyncIterator[Page]:
    """One page for all tests, because the functions under test have no state."""
    with standing(tmp_path_factory.mktemp("home"), sqlite_template) as api:
        context = await browser.new_context()
        page = await context.new_page()
        await page.goto(f"{api.url}/cluster")
        await expect(page.get_by_role("heading", name="Cluster", exact=True)).to_be_visible()
        yield page
        await context.close()


@pytest.fixture
def call(page: Page) -> Callable[..., Any]:
    """Return a function that calls a function of a module: `await call("format", "duration", 90)`."""

    async def call(module: str, function: str, *arguments: Any) -> Any:
        return await page.evaluate(
            """async ([module, name, given]) => {
                const base = document.querySelector("script[type=module]").src.replace("app.js", "");
                return (await import(`${base}${module}.js`))[name](...given);
            }""",
            [module, function, list(arguments)],
        )

    return call


async def test_durations_read_as_people_say_them(call: Callable[..., Any]) -> None:
    said = {seconds: await call("format", "duration", seconds) for seconds in (0, 0.84, 9.96, 42, 90, 3725, 90000)}
    assert said == {
        0: "0 s",
        0.84: "0.8 s",
        9.96: "10 s",
        42: "42 s",
        90: "1 min 30 s",
        3725: "1 h 2 min",
        90000: "1 d 1 h",
    }
    assert await call("format", "duration", None) == "–"


async def test_numbers_keep_what_counts(call: Callable[..., Any]) -> None:
    assert await call("format", "significant", 0.000012345) == "1.23e\u22125"
    assert await call("format", "significant", -0.5) == "\u22120.5"
    assert await call("format", "significant", 1e-5) == "1e\u22125"
    assert await call("format", "whole", 1234567.4) == "1\u202f234\u202f567"
    assert await call("format", "bytes", 999) == "999 B"
    assert await call("format", "bytes", 1_250_000) == "1.3 MB"
    assert await call("format", "metricValue", "test_error", 0.12345) == "12.35 %"
    assert await call("format", "metricValue", "test_error", -0.01) == "\u22121.00 %"
    assert await call("format", "metricValue", "test_loss", None) == "–"


async def test_a_row_that_is_reported_again_takes_the_place_of_the_first(call: Callable[..., Any]) -> None:
    rows = [
        {"kind": "eval", "step": 10, "v": 1},
        {"kind": "train", "step": 15, "v": 2},
        {"kind": "eval", "step": 20, "v": 3},
    ]
    replaced = await call("curves", "withRow", rows, {"kind": "eval", "step": 10, "v": 4})
    assert [row["v"] for row in replaced] == [4, 2, 3]
    added = await call("curves", "withRow", rows, {"kind": "eval", "step": 30, "v": 5})
    assert [row["v"] for row in added] == [1, 2, 3, 5]


async def test_a_band_goes_from_the_least_to_the_greatest_seed(call: Callable[..., Any]) -> None:
    curves = [[{"x": 1, "y": 2}, {"x": 2, "y": 4}], [{"x": 1, "y": 4}, {"x": 2, "y": None}]]
    assert await call("curveset", "banded", curves) == [
        {"x": 1, "y": 3, "low": 2, "high": 4},
        {"x": 2, "y": 4},
    ]


async def test_a_band_is_of_all_seeds_also_where_they_were_thinned_to_different_steps(call: Callable[..., Any]) -> None:
    curves = [[{"x": 0, "y": 0}, {"x": 4, "y": 4}], [{"x": 0, "y": 2}, {"x": 2, "y": 2}, {"x": 4, "y": 6}]]
    assert await call("curveset", "banded", curves) == [
        {"x": 0, "y": 1, "low": 0, "high": 2},
        {"x": 2, "y": 2, "low": 2, "high": 2},
        {"x": 4, "y": 5, "low": 4, "high": 6},
    ]
    assert await call("curveset", "banded", [[{"x": 1, "y": 3, "raw": 9}], []]) == [{"x": 1, "y": 3}]


async def test_a_band_is_the_interval_of_the_mean(call: Callable[..., Any]) -> None:
    curves = [[{"x": 1, "y": y}] for y in (2.0, 3.0, 7.0)]
    (point,) = await call("curveset", "banded", curves, "interval")
    low, high = stats.t.interval(0.95, 2, loc=4.0, scale=stats.sem([2.0, 3.0, 7.0]))
    assert (point["y"], point["low"], point["high"]) == (4, pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4))


async def test_quantiles_are_those_of_the_t_distribution(call: Callable[..., Any]) -> None:
    for df in (*range(1, 40), 200):
        assert await call("student", "t975", df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-4)


async def test_axes_have_round_numbers(call: Callable[..., Any]) -> None:
    assert await call("lines", "ticks", [0, 10], False, 5) == [0, 2, 4, 6, 8, 10]
    assert await call("lines", "ticks", [0.13, 0.41], False, 6) == [0.15, 0.2, 0.25, 0.3, 0.35, 0.4]
    assert await call("lines", "ticks", [1, 1e6], True, 4) == [1, 100, 10_000, 1e6]
    assert await call("lines", "ticks", [3, 40], True, 5) == [5, 10, 20]
    linear = {"logX": False, "logY": False}
    points = [{"x": 1, "y": 5, "low": 2, "high": 9}, {"x": 3, "y": None}, {"x": 2, "y": 0}]
    assert await call("lines", "extent", [{"points": points}], linear) == {"x": [1, 2], "y": [0, pytest.approx(9.36)]}
    assert (await call("lines", "extent", [{"points": points}], {**linear, "logY": True}))["y"][0] > 0
    assert await call("lines", "extent", [], linear) == {"x": [0, 1], "y": [0, 1]}


async def test_server_sent_events_are_read_as_the_standard_says(call: Callable[..., Any]) -> None:
    assert await call("stream", "parse", 'event: log\nid: 7\ndata: {"a":\ndata: 1}') == {
        "type": "log", "id": "7", "data": '{"a":\n1}',
    }  # fmt: skip
    assert await call("stream", "parse", ": keepalive") == {"type": "message", "id": None, "data": ""}
    assert (await call("stream", "parse", "id: 9\nretry: 1000"))["id"] == "9"


@pytest.mark.parametrize(
    ("pointer", "field"),
    [
        ("/batch_size", "batch_size"),
        ("/normalization/num_groups", "normalization.num_groups"),
        ("/grid/normalization/0/num_groups", "grid.normalization"),
        ("/labels/a~1b", "labels"),
        ("/nothing", None),
    ],
)
async def test_a_pointer_of_the_service_finds_its_field(
    call: Callable[..., Any], pointer: str, field: str | None
) -> None:
    paths = ["batch_size", "normalization", "normalization.num_groups", "grid.normalization", "labels"]
    assert await call("schema", "fieldAt", pointer, paths) == field


async def test_a_view_keeps_the_elements_whose_keys_stay(page: Page) -> None:
    kept = await page.evaluate("""async () => {
        const base = document.querySelector("script[type=module]").src.replace("app.js", "");
        const { h, render } = await import(`${base}view.js`);
        const root = document.body.appendChild(document.createElement("div"));
        const list = (keys) => keys.map((key) => h("input", { key, "data-key": key }));
        render(root, list(["a", "b", "c"]));
        const [, b] = root.children;
        b.value = "typed";
        b.focus();
        render(root, list(["b", "d"]));
        const keys = [...root.children].map((element) => element.dataset.key);
        return [root.children[0] === b, b.value, document.activeElement === b, keys];
    }""")
    assert kept == [True, "typed", True, ["b", "d"]]


async def test_long_names_keep_their_ends_and_drop_what_they_share(call: Callable[..., Any]) -> None:
    assert await call("format", "cut", "short") == ["short", ""]
    head, tail = await call("format", "cut", "GroupNorm and BatchNorm at small batches: batch, batch size 2, seed 0")
    assert (head, tail) == ("GroupNorm and BatchNorm at small batches:", " batch, batch size 2, seed 0")
    assert await call("format", "cut", "a name that goes on and on without an end that is told apart") == [
        "a name that goes on and on without",
        " an end that is told apart",
    ]
    assert await call("format", "distinct", ["a study: batch, seed 0", "a study: group, seed 0"]) == [
        "batch, seed 0",
        "group, seed 0",
    ]
    assert await call("format", "distinct", ["same", "same"]) == ["same", "same"]
    assert await call("format", "distinct", ["alone in here"]) == ["alone in here"]
    assert await call("format", "distinct", ["a b", "a"]) == ["a b", "a"]


@pytest.mark.parametrize(
    "request_",
    [
        {"name": "4", "labels": {"a.b": "c", "n": "true"}, "batch_size": 4},
        {"name": ' "quoted" \\ ü \n', "base": {"telemetry": {}, "recipe": None, "epochs": 1.5}, "grid": {}},
        {
            "name": "",
            "grid": {"optimizer.learning_rate": [1e-7, 3], "model": ["vgg"], "schedule": [{"type": "cosine"}]},
        },
        {"name": "null", "base": {}, "outcome": {"metric": None}, "seeds": {"min": 2}},
    ],
    ids=["labels", "texts", "grid", "nulls"],
)
async def test_a_request_comes_back_from_the_address_as_it_was(page: Page, request_: dict[str, Any]) -> None:
    found = await page.evaluate(
        """async (given) => {
            const base = document.querySelector("script[type=module]").src.replace("app.js", "");
            const { toParameters, fromParameters } = await import(`${base}request.js`);
            return fromParameters(new URLSearchParams(toParameters(given)).toString());
        }""",
        request_,
    )
    assert found == request_


async def test_a_link_may_list_the_values_of_an_axis_without_brackets(call: Callable[..., Any]) -> None:
    assert await call("request", "fromParameters", "grid.batch_size=4,none&grid.seed=3&grid.model=vgg") == {
        "grid": {"batch_size": [4, "none"], "seed": [3], "model": ["vgg"]}
    }


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([32, 2], "32, 2"),
        (["resnet20", "vgg"], "resnet20, vgg"),
        (["4", "vgg"], '"4", "vgg"'),
        (["a, b", True], '"a, b", true'),
        ([[0.8, 0.9], None], "[0.8,0.9], null"),
        ([{"type": "sgd"}, "x"], '{"type":"sgd"}, "x"'),
    ],
)
async def test_a_list_of_values_is_read_back_from_its_text(
    call: Callable[..., Any], values: list[Any], text: str
) -> None:
    assert await call("request", "listText", values) == text
    assert await call("request", "listOf", text) == values


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({}, ""),
        ({"study": "paper", "at": "10:30"}, "study:paper, at:10:30"),
        ({"study.of": "a, b", "a,b": "c"}, 'study.of:"a, b", "a,b":c'),
        ({"quoted": '"x"', "inner": 'x"y'}, 'quoted:"\\"x\\"", inner:"x\\"y"'),
        ({"lines": "one\ntwo", "space": " x", "back": "\\"}, 'lines:"one\\ntwo", space:" x", back:"\\\\"'),
    ],
)
async def test_labels_are_a_text_that_can_be_read_back(call: Callable[..., Any], labels: Any, text: str) -> None:
    assert await call("labels", "labelsText", labels) == text
    assert await call("labels", "labelsOf", text) == labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (" a : b:c , d:e,", {"a": "b:c", "d": "e"}),
        ("study", {"study": ""}),
        ('a:"x', {"a": '"x'}),
        ('a:"x" y, b:c', {"a": '"x" y', "b": "c"}),
    ],
)
async def test_labels_are_read_as_they_are_typed(call: Callable[..., Any], text: str, labels: Any) -> None:
    assert await call("labels", "labelsOf", text) == labels


@pytest.mark.parametrize("holdout", [True, False])
async def test_the_best_epoch_of_a_running_job_is_that_of_the_service(call: Callable[..., Any], holdout: bool) -> None:
    errors = [(0.3, 0.25), (0.2, 0.4), (0.2, 0.1), (0.4, 0.05)]
    job: dict[str, Any] = {"id": "job_1", "summary": {}}
    stored: dict[str, Any] = {}
    for step, (held, tested) in enumerate(errors, 1):
        values = {"test_error": tested} | ({"holdout_error": held} if holdout else {})
        row = {"job": "job_1", "kind": "eval", "epoch": step, "step": step, **values}
        job = await call("live", "advance", job, {"type": "metrics", "data": row})
        stored = summarize(stored, step, values)
    for name, entry in stored.items():
        assert {part: job["summary"][name][part] for part in ("best", "best_step", "last")} == {
            part: entry[part] for part in ("best", "best_step", "last")
        }
    assert stored["test_error"]["best_step"] == (2 if holdout else 4)
