"""A figure has its exact width, nothing of it is cut off, and names in it are text."""

import io
import random
import re
import shutil
import subprocess
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image, ImageChops

from service.experiments.quantities import Measured, Quantity
from service.figures import (
    COLUMN_MM,
    PAGE_MM,
    Chart,
    Picture,
    Point,
    Series,
    draw,
    parallel_chart,
    results_chart,
    scatter_chart,
)
from service.figures.drawing import COLOURS, MARKERS, _drawn
from service.figures.fitting import MISSING, fitted, turned
from tests.unit.service.report.tabulated import HOSTILE, VALUES, results_of

LONG = "batch (ghost batches of 16, momentum 0.1, and a name that goes on and on) without-any-place-to-break-it"
SIZES = ("32", "16", "8", "4", "2")


def table(rows: list[str], columns: list[str], **changed: object) -> Chart:
    noise = random.Random(0)
    values = {
        (row, column): [0.1 + 0.02 * number + noise.gauss(0, 0.01) for _ in range(3)]
        for number, row in enumerate(rows)
        for column in columns
    }
    return results_chart(results_of(values, **changed))


def curves(names: list[str], *, log: bool = False) -> Chart:
    series = [
        Series(name, [Point(x, 90 / x + n, 80 / x + n, 100 / x + n) for x in range(1, 9)], n, n % 3)
        for n, name in enumerate(names)
    ]
    return Chart("Test error (%)", "Epoch", "Test error (%)", series, log_x=log, log_y=log)


def jobs(count: int, *, name: str = "batch") -> dict[str, list[Measured]]:
    """Jobs of two groups with a field that has a value in one of them alone."""
    found: dict[str, list[Measured]] = {name: [], "group (8)": []}
    for number in range(count):
        group = [name, "group (8)"][number % 2]
        normalization = {"type": "group", "num_groups": 2 ** (number % 5)} if number % 2 else {"type": "batch"}
        spec = {"normalization": normalization, "batch_size": 2 ** (number % 6), "model": "resnet20"}
        summary = {"test_error": {"last": 0.1 + number / 100, "best": 0.1}} if number % 7 else {}
        found[group].append(Measured(str(number), f"job {number}", spec, summary, {"study": name}, 10.0 + number))
    return found


SIDES = [Quantity.parse(name) for name in ("batch_size", "normalization", "normalization.num_groups", "test_error")]
X, Y, STUDY = (Quantity.parse(name) for name in ("batch_size", "test_error", "labels.study"))

AWKWARD = {
    "of points": scatter_chart(jobs(40), X, Y, log_x=True, datasets=["synthetic"]),
    "of points by names": scatter_chart(jobs(40, name=LONG), STUDY, Y),
    "of points of names": scatter_chart(jobs(40, name=LONG), X, SIDES[1]),
    "of parallel coordinates": parallel_chart(jobs(40), SIDES, datasets=["synthetic"]),
    "of parallel coordinates with long names": parallel_chart(jobs(9, name=LONG), [STUDY, *SIDES, STUDY]),
    "of one job on two axes": parallel_chart(jobs(1), [Quantity.parse("seed"), X]),
    "of the paper": table(["batch", "group (8)"], list(SIZES)),
    "of one value": results_chart(results_of({("batch", "2"): [0.1]})),
    "of ten rows": table([f"normalization {number}" for number in range(10)], list(SIZES)),
    "with long names": table([LONG, f"{LONG} 2"], [f"{LONG} {number}" for number in range(6)]),
    "of many columns": table(["batch"], [str(2**number) for number in range(24)]),
    "with names that are formulas": table(
        ["_hidden", "$x^2$ \\frac{1}{2}", "\u65e5\u672c \U0001f600\n\x00"], ["$", "%"]
    ),
    "labelled optimistic": table(["batch"], ["2"], statistic="best", statistic_title="best epoch (optimistic)"),
    "of curves": curves(["a", "b"]),
    "of logarithmic curves": curves(["a", LONG], log=True),
    "of values that are not finite": Chart("t", "x", "y", [Series("a", [Point(0, None), Point(1, 1.0)], 0)]),
    "of huge values": Chart("t", "x", "y", [Series("a", [Point(0, 1e300), Point(1, -1e300)], 0)]),
    "of zero on a logarithmic axis": Chart("t", "x", "y", [Series("a", [Point(0, 0.0), Point(1, 1.0)], 0)], log_y=True),
}


@pytest.mark.parametrize("width", [COLUMN_MM, PAGE_MM])
@pytest.mark.parametrize("name", AWKWARD)
def test_nothing_of_a_figure_is_cut_off_and_its_width_is_exact(name: str, width: float) -> None:
    image = Image.open(io.BytesIO(draw(AWKWARD[name], "png", width_mm=width, titled=True))).convert("RGB")
    assert image.width == pytest.approx(width / 25.4 * 300, abs=1)
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    drawn = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    assert drawn is not None
    left, top, right, bottom = drawn
    assert min(left, top, image.width - right, image.height - bottom) >= 3, "ink touches the border"


@pytest.mark.parametrize("picture", ["svg", "pdf", "png"])
def test_the_same_chart_gives_the_same_bytes_in_any_thread(picture: Picture) -> None:
    expected = draw(AWKWARD["of the paper"], picture)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(draw(AWKWARD["of the paper"], picture))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 2


def test_svg_is_a_vector_image_with_a_description_and_without_fonts() -> None:
    svg = draw(table([HOSTILE, "b"], ["2", "4"]), "svg", width_mm=84).decode()
    root = ElementTree.fromstring(svg)
    assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(84 / 25.4 * 72, abs=0.01)
    assert root.attrib["role"] == "img"
    assert HOSTILE in root.attrib["aria-label"]
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"text", "image", "script"}
    assert re.findall(r'href="(?!#)', svg) == []


@pytest.mark.skipif(shutil.which("pdftoppm") is None, reason="needs pdftoppm: install poppler-utils")
def test_another_program_reads_a_pdf_and_sees_its_colours(tmp_path: Path) -> None:
    (tmp_path / "figure.pdf").write_bytes(draw(AWKWARD["of parallel coordinates"], "pdf", width_mm=COLUMN_MM))
    command = ["pdftoppm", "-png", "-r", "150", "-singlefile", "figure.pdf", "figure"]
    subprocess.run(command, cwd=tmp_path, check=True)
    image = Image.open(tmp_path / "figure.png").convert("RGB")
    assert image.width == pytest.approx(COLUMN_MM / 25.4 * 150, abs=1)
    red, _, blue = image.split()
    assert ImageChops.subtract(blue, red).getextrema()[1] > 80, "the lines of the first group"  # type: ignore[operator]
    assert ImageChops.subtract(red, blue).getextrema()[1] > 80, "those of the second"  # type: ignore[operator]


def test_epochs_are_whole_numbers_at_their_axis() -> None:
    figure = _drawn(Chart("t", "Epoch", "y", [Series("a", [Point(1, 1.0), Point(2, 2.0)], 0)]), 3.3, False)
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1, 2]


def test_pdf_embeds_its_font_and_has_no_date() -> None:
    pdf = draw(AWKWARD["of the paper"], "pdf")
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf


def test_rows_differ_in_colour_or_marker() -> None:
    styles = {(number % len(COLOURS), number % len(MARKERS)) for number in range(20)}
    assert len(styles) == 20


def test_a_title_makes_a_figure_higher_and_leaves_its_width() -> None:
    without, with_title = (
        ElementTree.fromstring(draw(AWKWARD["of the paper"], "svg", titled=titled)).attrib for titled in (False, True)
    )
    assert without["width"] == with_title["width"]
    assert float(without["height"][:-2]) < float(with_title["height"][:-2])


def test_text_is_broken_into_lines_and_never_lost() -> None:
    assert fitted("one two three", 0.5, 8) == "one two\nthree"
    assert fitted("Donaudampfschifffahrt", 0.5, 8).replace("\n", "") == "Donaudampfschifffahrt"
    assert fitted("a\x00b \u65e5", 9, 8) == f"a{MISSING}b {MISSING}"
    assert turned(["32", "16"], 0.5, 8) == (["32", "16"], 0)
    assert turned(["group (8)", "b"], 0.5, 8) == (["group\n(8)", "b"], 0)
    labels, angle = turned(["group-normalization", "b"], 0.3, 8)
    assert (labels[0].replace("\n", ""), angle) == ("group-normalization", 90)


def test_an_empty_cell_breaks_the_line() -> None:
    results = results_of(VALUES | {("batch", "8"): [0.2], ("group", "8"): [0.2]})
    results["cells"] = [cell for cell in results["cells"] if (cell["row"], cell["column"]) != ("batch", "2")]
    chart = results_chart(results)
    assert [point.x for point in chart.series[0].points] == [0, 2]
    assert draw(chart, "svg") != draw(results_chart(results_of(VALUES)), "svg")
