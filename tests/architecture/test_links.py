"""Every relative link of the documentation leads to a file, and every anchor to a heading, as code hosts make them."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
    ]
)
_FENCED = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)")


def links(text: str) -> list[str]:
    """Return the targets of links that lead to no other site."""
    found = _LINK.findall(_CODE.sub("`", _FENCED.sub("", text)))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", _FENCED.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\[\]]*)\]\([^()]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        number = 1
        unique = slug
        while unique in found:
            unique, number = f"{slug}-{number}", number + 1
        found.add(unique)
    return found


def broken(page: Path, text: str) -> list[str]:
    """Return the links of a page's text that lead nowhere."""
    missing = []
    for link in links(text):
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or (anchor and anchor not in anchors(text if target == page else target.read_text("utf-8"))):
            missing.append(link)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken(page, page.read_text("utf-8")) == []


def test_there_are_links_to_check() -> None:
    assert sum(len(links(page.read_text("utf-8"))) for page in PAGES) > 100


@pytest.mark.parametrize(
    ("link", "leads"),
    [
        ("client.md", True),
        ("client.md#tables", True),
        ("clients.md", False),
        ("client.md#table", False),
        ("#one-and--two", True),
        ("#one-and-two", False),
        ("#again-1", True),
        ("#again-2", False),
        ("#in-a-listing", False),
        ("../../outside.md", False),
        ("https://site.example/anything", True),
    ],
)
def test_a_link_that_leads_nowhere_is_found(link: str, leads: bool) -> None:
    headings = "# One and & two\n\n## Again\n\n## Again\n\n```sh\n# In a listing\n```\n"
    text = f"{headings}\n[label\nof two lines]({link}) and `[no](link)`\n"

    assert broken(ROOT / "docs" / "errors.md", text) == ([] if leads else [link])
