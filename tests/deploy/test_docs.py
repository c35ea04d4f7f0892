"""The documentation as a site: it builds strictly, without a network, and its links lead somewhere."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from deploy.tools import ROOT
from e2e.serving import LONG_SECONDS

pytestmark = pytest.mark.deploy


def build(configuration: Path, site: Path, repository: str = "") -> subprocess.CompletedProcess[str]:
    """Build the site strictly."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", configuration, "--site-dir", site],
        capture_output=True,
        text=True,
        timeout=LONG_SECONDS,
        check=False,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "PELLUCID_REPOSITORY_URL": repository},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """The links and the anchors of a page, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in {"script", "img", "iframe"} and "src" in given:
            self.loaded.append(given["src"])
        elif tag == "link" and given.get("rel") != "canonical":
            self.loaded.append(given.get("href", ""))


def test_every_link_of_the_site_leads_to_a_page_and_an_anchor_of_it(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    missing = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in pages[target].anchors):
                missing.append(f"{path.relative_to(site)}: {link}")
    assert missing == []


def test_a_reader_s_browser_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = {link for path in site.rglob("*.html") for link in Page(path).loaded}

    assert loaded
    assert {link for link in loaded if urlsplit(link).netloc} == set()


def test_every_page_of_docs_is_in_the_site_and_the_readme_is_its_home(site: Path) -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        assert (site / path.relative_to(ROOT / "docs").with_suffix("") / "index.html").is_file(), path
    assert "translucently clear" in (site / "index.html").read_text("utf-8")
    assert (site / "images" / "chelsea.png").is_file()


def test_the_alerts_runbook_has_an_anchor_for_each_alert_as_the_rules_link_to_it(site: Path) -> None:
    rules = (ROOT / "deploy" / "monitoring" / "rules").glob("*.yaml")
    wanted = {anchor for path in rules for anchor in re.findall(r"/runbook/#([\w-]+)", path.read_text())}

    assert wanted
    assert wanted <= Page(site / "runbook" / "index.html").anchors


def test_with_a_repository_links_out_of_the_docs_lead_there(tmp_path: Path) -> None:
    done = build(ROOT / "mkdocs.yml", tmp_path, "https://code.example/pellucid")

    assert done.returncode == 0, done.stdout + done.stderr
    links = Page(tmp_path / "kubernetes" / "index.html").links
    assert "https://code.example/pellucid/tree/main/deploy/kubernetes/base" in links
    assert "https://code.example/pellucid/blob/main/deploy/helm/pellucid/values.yaml" in links


@pytest.mark.parametrize("link", ["absent.md", "client.md#absent"])
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path, link: str) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "SECURITY.md"):
        shutil.copy(ROOT / name, copied / name)
    shutil.copytree(ROOT / "docs", copied / "docs")
    shutil.copytree(ROOT / "scripts", copied / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    page = copied / "docs" / "errors.md"
    page.write_text(page.read_text("utf-8") + f"\nSee [this]({link}).\n")

    done = build(copied / "mkdocs.yml", tmp_path / "site")

    assert done.returncode != 0
    assert link in done.stdout + done.stderr
