"""The page of a dissection in a real browser: shown without a network, searched, filtered, sorted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from client.dissected import (
    activations_answer,
    answer,
    dictionary_answer,
    picture,
    projection_answer,
    table,
    tuning_answer,
    visualised_answer,
)
from deploy.browser import Page, browser_page
from pellucid.dissections import Dissection

pytestmark = pytest.mark.deploy

UNITS = 40
EVIL = "<img src=x onerror='window.broken = 1'></script><script>window.broken = 2</script>"


@pytest.fixture
def page() -> Iterator[Page]:
    with browser_page() as opened:
        yield opened


@pytest.fixture
def found() -> Dissection:
    return dictionary_answer(UNITS)


@pytest.fixture
def shown(page: Page, found: Dissection, tmp_path: Path) -> Page:
    """The page of a dictionary, opened."""
    return opened(page, found, tmp_path)


def opened(page: Page, found: Dissection, folder: Path, **more: Any) -> Page:
    file = folder / "page.html"
    found.to_html(file)
    page.open(file.as_uri(), **more)
    return page


def texts(page: Page, selector: str) -> list[str]:
    return list(page.evaluate(f"[...document.querySelectorAll({selector!r})].map((each) => each.textContent)"))


def seen(page: Page, selector: str) -> list[str]:
    """Return the texts that are seen, without those for screen readers alone."""
    return list(page.evaluate(f"[...document.querySelectorAll({selector!r})].map((each) => each.innerText)"))


def column(page: Page, name: str) -> list[str]:
    """Return what the shown page of the units' table has in a column."""
    place = page.evaluate(
        f"[...document.querySelectorAll('#table thead th')].findIndex((each) => each.dataset.column === {name!r})"
    )
    return seen(page, f"#table tbody tr > :nth-child({place + 1})")


def search(page: Page, text: str) -> None:
    page.evaluate("document.getElementById('search').value = ''; document.getElementById('search').focus()")
    page.type(text)


def choose(page: Page, field: str, value: str) -> None:
    page.evaluate(
        f"document.getElementById({field!r}).value = {value!r};"
        f"document.getElementById({field!r}).dispatchEvent(new Event('change'))"
    )


def as_table(page: Page) -> None:
    page.evaluate(
        "[...document.querySelectorAll('.switch button')].find((each) => each.textContent === 'Table').click()"
    )


def sort(page: Page, name: str) -> None:
    page.evaluate(f"document.querySelector('#table th[data-column={name}] button').click()")


def test_the_page_is_shown_without_errors_and_without_a_network(shown: Page, found: Dissection) -> None:
    detectors = found.dictionary.detectors

    assert texts(shown, "h1") == ["photos version 3"]
    assert texts(shown, ".tiles b")[:2] == [str(2 * UNITS), str(len(detectors))]
    assert texts(shown, "#count") == [f"{2 * UNITS} units"]
    assert shown.errors == []
    assert [address for address in shown.asked if not address.startswith("file:")] == []
    assert len(shown.asked) == 1


def test_the_chart_has_a_bar_for_each_category_of_each_layer(shown: Page, found: Dissection) -> None:
    said = texts(shown, "#category-chart .segment title")

    for layer in found.dictionary.layers:
        for category, count in found.dictionary.counts(layer).items():
            assert any(text.startswith(f"{layer}, {category}: {count} unit") for text in said)


def test_cards_have_the_pictures_and_the_best_units_come_first(shown: Page, found: Dissection) -> None:
    best = max(found.dictionary.detectors, key=lambda each: each.iou or 0)

    first = texts(shown, ".card")[0]
    assert f"{best.layer} · unit {best.unit}" in first
    assert f"IoU {best.iou:.3f} ± 0.004" in first
    shown.until("document.querySelector('.card img').naturalWidth === 24")
    assert shown.evaluate("document.querySelector('.card .meter').getAttribute('aria-label')").startswith("IoU 0.")
    # Only what is seen is made: the rest of many units waits on the pages after.
    assert len(texts(shown, ".card")) == 24
    assert texts(shown, "#cards .pager span") == ["Page 1 of 4"]


def test_a_search_leaves_the_units_that_match(shown: Page, found: Dissection) -> None:
    search(shown, "circle")
    as_table(shown)

    expected = {(each.layer, str(each.unit)) for each in found.dictionary.search("circle")}
    assert set(zip(column(shown, "layer"), column(shown, "unit"), strict=True)) == expected
    assert texts(shown, "#count") == [f"{len(expected)} of {2 * UNITS} units"]

    search(shown, "no such concept")
    assert texts(shown, "#table tbody tr") == ["Nothing matches."]


def test_layer_category_and_detectors_filter_together(shown: Page, found: Dissection) -> None:
    as_table(shown)
    choose(shown, "layer", "conv1")
    choose(shown, "category", "color")
    shown.evaluate("document.getElementById('detectors').click()")

    expected = [each for each in found.dictionary.layer("conv1").detectors if each.category == "color"]
    assert sorted(column(shown, "unit")) == sorted(str(each.unit) for each in expected)
    assert set(column(shown, "category")) == {"color"}


def test_columns_sort_both_ways_and_what_is_missing_comes_last(shown: Page, found: Dissection) -> None:
    as_table(shown)
    sort(shown, "precision")
    sort(shown, "iou")
    falling = [float(each.split(" ")[0]) for each in column(shown, "iou")]
    sort(shown, "iou")
    rising = [float(each.split(" ")[0]) for each in column(shown, "iou")]

    known = sorted((each.iou for each in found.dictionary if each.iou is not None), reverse=True)
    assert falling == pytest.approx(known[: len(falling)], abs=0.0006)
    assert rising == pytest.approx(known[::-1][: len(rising)], abs=0.0006)
    assert shown.evaluate("document.querySelector('#table th[aria-sort]').getAttribute('aria-sort')") == "ascending"

    sort(shown, "concept")
    concepts = [each for each in column(shown, "concept") if each]
    assert concepts == sorted(concepts)
    dead = len(found.dictionary.dead)
    while not shown.evaluate("document.querySelector('#table .pager button:last-child').disabled"):
        shown.evaluate("document.querySelector('#table .pager button:last-child').click()")
    assert column(shown, "concept")[-dead:] == [""] * dead


def test_a_category_of_the_chart_shows_its_detectors(shown: Page, found: Dissection) -> None:
    shown.evaluate(
        "[...document.querySelectorAll('.legend button')].find((b) => b.textContent.startsWith('shape')).click()"
    )

    assert texts(shown, "#count") == [f"{found.dictionary.counts()['shape']} of {2 * UNITS} units"]
    assert set(texts(shown, ".card .chip")) == {"shape"}


def test_a_concept_shows_the_units_that_detect_it_and_no_others(shown: Page, found: Dissection) -> None:
    shown.evaluate("[...document.querySelectorAll('#concepts ~ * .link')].find((b) => b.textContent === 'red').click()")

    expected = len(found.dictionary.units_of("red"))
    assert texts(shown, "#count") == [f"{expected} of {2 * UNITS} units"]
    assert set(texts(shown, ".card h3")) == {"red"}
    search(shown, "blue")
    assert "red" not in texts(shown, ".card h3")[0]


def test_changes_and_an_audit_are_shown_where_they_are_asked_for(page: Page, found: Dissection, tmp_path: Path) -> None:
    before = dictionary_answer(UNITS, seed=1).dictionary
    file = tmp_path / "page.html"
    found.to_html(file, before=before, allowed=["red", "blue"])
    page.open(file.as_uri())

    change = before.compare(found.dictionary)
    audited = found.dictionary.audit(["red", "blue"])
    assert f"{len(change.changed)} units changed" in texts(page, "#comparison ~ .lead")[0]
    assert f"{len(audited)} units detect" in texts(page, "#audit ~ .lead")[0]
    first = [str(each) for each in (audited[0].layer, audited[0].unit, audited[0].concept)]
    assert texts(page, "#audit ~ .panel tbody tr:first-child > *")[:3] == first
    assert page.errors == []


def test_columns_that_the_page_does_not_know_are_in_the_table_too(page: Page, tmp_path: Path) -> None:
    rows = table("dictionary", layer=["a", "a"], unit=[0, 1], concept=["red", None], plateau=[0.5, None])
    opened(page, answer("network-dissection", tables=[rows]), tmp_path)
    as_table(page)

    sort(page, "plateau")

    assert column(page, "plateau") == ["0.5", ""]
    assert page.errors == []


def test_it_can_be_used_by_keys_alone(shown: Page) -> None:
    shown.press("/")
    assert shown.evaluate("document.activeElement.id") == "search"
    shown.type("red")
    assert texts(shown, "#count")[0].endswith(f"of {2 * UNITS} units")

    as_table(shown)
    shown.evaluate("document.querySelector('#table th[data-column=unit] button').focus()")
    shown.press("Enter", "\r")
    assert (
        shown.evaluate("document.querySelector('#table th[data-column=unit]').getAttribute('aria-sort')")
        == "descending"
    )


def test_a_picture_is_enlarged_and_closed_again(shown: Page) -> None:
    shown.evaluate("document.querySelector('.card .picture').click()")
    assert shown.evaluate("document.getElementById('zoom').open") is True
    assert shown.evaluate("document.querySelector('#zoom img').alt") == "What it answers to."

    shown.press("Escape")
    shown.until("!document.getElementById('zoom').open")


def test_every_control_and_picture_has_a_name_for_screen_readers(shown: Page) -> None:
    as_table(shown)
    nodes = shown.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "searchbox", "combobox", "checkbox", "image", "link", "table", "columnheader"}

    named = [
        (each["role"]["value"], each.get("name", {}).get("value", ""))
        for each in nodes
        if not each.get("ignored") and each.get("role", {}).get("value") in roles
    ]

    assert len(named) > 30
    assert [role for role, name in named if not name.strip()] == []


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_the_ground_in_both_themes(
    page: Page, found: Dissection, tmp_path: Path, dark: bool
) -> None:
    opened(page, found, tmp_path, dark=dark)

    # WCAG 2.2, 1.4.3: at least 4.5 to 1.
    for selector in ("h1", ".facts dt", ".lead", ".card h3", ".card .numbers", ".count", ".tiles span", ".kicker"):
        assert page.evaluate(CONTRAST.replace("SELECTOR", selector)) >= 4.5, selector


CONTRAST = """
(() => {
  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (colour) => {
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    const [red, green, blue] = [...brush.getImageData(0, 0, 1, 1).data].map((each) => {
      const share = each / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const node = document.querySelector("SELECTOR");
  let ground = node;
  while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
  const [ink, paper] = [getComputedStyle(node).color, getComputedStyle(ground).backgroundColor].map(light);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
})()
"""


def test_the_theme_can_be_chosen(shown: Page) -> None:
    before = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    for _ in range(2):
        shown.evaluate("document.getElementById('theme').click()")

    assert texts(shown, "#theme span") == ["dark"]
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_a_narrow_window_needs_no_scrolling_to_the_side(shown: Page) -> None:
    shown.resize(380, 800)

    assert shown.evaluate("document.documentElement.scrollWidth") <= 380


def test_names_from_files_never_become_markup(page: Page, tmp_path: Path) -> None:
    def draw(name: str, colour: Any) -> Any:
        return picture(name, colour, text=EVIL)

    hostile = dictionary_answer(8, (EVIL,), rename={"red": EVIL, "dots": EVIL}, warnings=[EVIL], model=EVIL, draw=draw)
    before = dictionary_answer(8, (EVIL,), seed=1, rename={"blue": EVIL, "checks": EVIL}).dictionary
    file = tmp_path / "page.html"
    replace(hostile, method=EVIL).to_html(file, before=before, allowed=["square"])
    page.open(file.as_uri())
    as_table(page)

    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert texts(page, "h1") == [f"{EVIL} version 3"]
    assert EVIL in column(page, "layer")
    assert EVIL in texts(page, "#audit ~ .panel tbody th")
    assert page.errors == []


def test_the_policy_stops_a_script_that_was_put_in_after_all(page: Page, found: Dissection, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    found.to_html(file)
    foreign = '<script>window.broken = 1</script><img src="x" onerror="window.broken = 2">'
    file.write_text(file.read_text("utf-8").replace("</main>", foreign + "</main>"), "utf-8")

    page.open(file.as_uri())

    assert page.evaluate("window.broken") is None
    assert any("Content Security Policy" in text for text in page.errors)


@pytest.mark.parametrize(
    ("found", "selector", "count"),
    [
        (activations_answer(), ".gallery img", 5),
        (activations_answer(), ".gallery .facts", 5),
        (activations_answer(), "[data-table='conv1/units'] tbody tr", 6),
        (tuning_answer(), "[data-array='conv1/orientation'] .filled", 4),
        (tuning_answer(), "[data-array='conv1/frequency'] .curve", 5),
        (tuning_answer(), "[data-array='conv1/colour'] .cell", 15),
        (visualised_answer(), "[data-array='trajectory'] .curve", 3),
        (visualised_answer(), ".gallery img", 6),
        (visualised_answer(), ".gallery .facts", 6),
        (projection_answer(rows=60), ".point", 60),
        (projection_answer(rows=60), ".legend .chip", 3),
    ],
)
def test_findings_of_other_methods_are_drawn(
    page: Page, tmp_path: Path, found: Dissection, selector: str, count: int
) -> None:
    opened(page, found, tmp_path)

    assert len(texts(page, selector)) == count
    assert page.errors == []


def test_pictures_have_the_numbers_of_their_own_rows(page: Page, tmp_path: Path) -> None:
    opened(page, visualised_answer(units=2), tmp_path)

    assert [each.split("activation")[1].split("What")[0] for each in texts(page, ".gallery figcaption")] == [
        "0",
        "1",
        "10",
        "11",
    ]
    # A column without any value is left out.
    assert texts(page, "[data-table=objectives] th[data-column=position]") == []


def test_a_table_of_another_method_can_be_filtered_and_sorted(page: Page, tmp_path: Path) -> None:
    opened(page, projection_answer(rows=60), tmp_path)
    rows = "[data-table=rows] tbody tr"

    page.evaluate("document.querySelector('[data-table=rows] input').focus()")
    page.type("owl")
    left = texts(page, f"{rows} > :nth-child(3)")
    page.evaluate("document.querySelector('[data-table=rows] th[data-column=row] button').click()")
    order = [int(each) for each in texts(page, f"{rows} > :first-child")]

    assert left
    assert set(left) == {"owl"}
    assert order == sorted(order, reverse=True)


def test_of_many_units_only_those_of_one_page_are_made(page: Page, tmp_path: Path) -> None:
    opened(page, dictionary_answer(640), tmp_path)

    assert texts(page, "#count") == ["1,280 units"]
    assert len(texts(page, ".card")) == 24
    assert page.evaluate("document.images.length") <= 24
