"""Every chart and every table of every page has an Export menu, and CSV is what a table shows."""

import csv

import pytest
from playwright.async_api import Page

from tests.dashboard.conftest import Visit
from tests.dashboard.pages import settled

pytestmark = pytest.mark.anyio

WITHOUT = {
    "Parameters": "documentation of the API, whose machine-readable form is /openapi.json",
    "Fields of the body": "documentation of the API, whose machine-readable form is /openapi.json",
    "slots busy": "a drawing of the numbers above it",
    "taken for": "a picture of an image",
}
"""What has no Export menu, by words of its label, and why."""

PARTS = """() => [...document.querySelectorAll("main table, main [role=figure], main [role=img]")]
    .map((part) => [
        part.closest("[role=region]")?.ariaLabel ?? part.ariaLabel ?? part.getAttribute("aria-label") ?? "no label",
        part.closest(".card")?.querySelectorAll(".exports").length ?? 0,
        part.closest(".card")?.querySelectorAll("table").length ?? 0,
    ])"""


async def test_every_chart_and_table_has_an_export_menu(visit: Visit, addresses: dict[str, str]) -> None:
    seen, missing = 0, {}
    for name, path in {**addresses, "groups": "/jobs?group=normalization"}.items():
        page = await visit.open(path)
        await settled(page)
        parts = [part for part in await page.evaluate(PARTS) if not any(words in part[0] for words in WITHOUT)]
        seen += len(parts)
        # Several tables of a card, as those of the storage, have a menu each.
        missing[name] = [label for label, menus, tables in parts if menus < max(1, tables)]
        await page.close()
    assert {name: labels for name, labels in missing.items() if labels} == {}
    assert seen > 30


async def exported(page: Page, region: str, entry: str = "CSV of this table") -> list[list[str]]:
    card = page.locator(".card").filter(has=page.get_by_role("region", name=region, exact=True))
    await card.locator(".exports summary").first.click()
    async with page.expect_download() as started:
        await card.get_by_role("button", name=entry).click()
    return list(csv.reader((await (await started.value).path()).read_text().splitlines()))


async def test_a_table_is_exported_with_exact_values_and_without_its_buttons(
    visit: Visit, addresses: dict[str, str]
) -> None:
    page = await visit.open(addresses["checkpoints"])
    [head, row] = await exported(page, "Checkpoints")
    assert head == ["Step", "Epoch", "Metrics", "Taken", "File", "Size", "SHA-256"]
    assert row[3].startswith("20")
    assert row[4:6] == ["model.safetensors", "7"]
    assert len(row[6]) == 64
    page = await visit.open(addresses["experiments"])
    head, *rows = await exported(page, "Experiments")
    assert head[0] == "Name"
    assert [row[3] for row in rows] == ["12", "16", "4"]


async def test_a_confusion_matrix_is_exported_for_a_paper(visit: Visit, addresses: dict[str, str]) -> None:
    page = await visit.open(addresses["checkpoints"])
    head, first, *_ = await exported(page, "Confusion matrix", "CSV of the confusion matrix")
    assert head[:3] == ["class", "airplane", "automobile"]
    assert first == ["airplane", "3", "1", *["0"] * 8, "4", "0.25"]
    latex = await exported(page, "Confusion matrix", "LaTeX of the confusion matrix")
    assert any("begin{tabular}" in line[0] for line in latex if line)


async def test_each_table_of_a_card_is_exported_by_its_own_menu(visit: Visit, addresses: dict[str, str]) -> None:
    page = await visit.open(addresses["cluster"])
    for label, head in (("Storage by experiment", "Experiment"), ("Storage by job", "Job")):
        header = page.locator(".card > header").filter(has=page.get_by_role("heading", name=label))
        await header.locator(".exports summary").click()
        async with page.expect_download() as started:
            await header.get_by_role("button", name="CSV of this table").click()
        download = await started.value
        assert download.suggested_filename == f"{label.lower().replace(' ', '-')}.csv"
        assert (await download.path()).read_text().startswith(f"{head},")


@pytest.mark.parametrize(
    ("where", "chart", "first"),
    [
        ("explore", "Last test error (%) by batch size", b"series,job,"),
        ("explore", "Side by side", b"series,job,Batch size,"),
        ("compared experiments", "Test error by batch size", b"series,"),
    ],
)
async def test_a_chart_is_exported_as_it_is_drawn(
    visit: Visit, addresses: dict[str, str], where: str, chart: str, first: bytes
) -> None:
    page = await visit.open(addresses[where] + ("?axes=batch_size,test_error" if where == "explore" else ""))
    card = page.locator(".card").filter(has=page.get_by_role("heading", name=chart))
    hidden = card.locator(".legend button").first
    if await hidden.count():
        await hidden.click()
    for entry, starts in (("CSV of what is drawn", first), ("PDF, one column", b"%PDF")):
        await card.locator(".exports summary").click()
        async with page.expect_download() as started:
            await card.get_by_role("button", name=entry).click()
        content = (await (await started.value).path()).read_bytes()
        assert content.startswith(starts)
        if starts == first and await hidden.count():
            name = (await hidden.inner_text()).split(",")[0]
            assert content.decode().count("\r\n") > 1, f"something but {name} is drawn"
