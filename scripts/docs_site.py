"""What MkDocs does beside the pages of docs/: pages from files at the root, the list of decisions, links out of docs/.

MkDocs calls the functions by their names; `mkdocs.yml` names this file under `hooks`.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security-policy.md"}
"""Files at the root that are pages of the site, and the pages' names there."""
DECISIONS = "docs/adr"
_CODE = r"^ *(?P<fence>```|~~~).*?^ *(?P=fence) *$|`[^`\n]+`"
_LINK = re.compile(rf"{_CODE}|(?P<image>!?)\[(?P<label>[^\[\]]*)\]\((?P<target>[^()\s]+)\)", re.MULTILINE | re.DOTALL)
"""What is code is matched first, and is no link."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every decision below the page of decisions."""
    records = [f"adr/{path.name}" for path in _records()]
    for entry in config.nav or ():
        if "Decisions" in entry:
            entry["Decisions"] = ["adr/index.md", *records]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for name, page in PAGES.items():
        content = rewritten((ROOT / name).read_text("utf-8"), name, page, config.repo_url)
        files.append(File.generated(config, page, content=content))
    files.append(File.generated(config, "adr/index.md", content=decisions()))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, **_: Any) -> str:
    """Mend the links of a page of docs/ to what is outside."""
    source = page.file.src_uri
    if page.file.generated_by:
        return markdown
    return rewritten(markdown, f"docs/{source}", source, config.repo_url)


def rewritten(markdown: str, file: str, page: str, repository: str | None) -> str:
    """Return a file's text with its relative links as the site has them.

    Parameters
    ----------
    file
        The file's path in the repository, which its links are relative to.
    page
        The page's path below docs/, which the new links are relative to.
    repository
        The address of the repository on a code host; without it a link to what is no page leaves its label alone.
    """

    def link(match: re.Match[str]) -> str:
        if match["target"] is None:
            return match[0]
        target, mark, anchor = match["target"].partition("#")
        if not target or ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), target))
        inside = _page(path)
        if inside is not None:
            new = posixpath.relpath(inside, posixpath.dirname(page) or ".") + mark + anchor
        elif repository:
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            new = f"{repository.rstrip('/')}/{kind}/main/{path}{mark}{anchor}"
        else:
            return match["label"]
        return f"{match['image']}[{match['label']}]({new})"

    return _LINK.sub(link, markdown)


def decisions() -> str:
    """Return the page that lists the decisions."""
    heads = [(path.name, path.read_text("utf-8").split("\n", 1)[0].removeprefix("# ")) for path in _records()]
    lines = [f"- [{head}]({name})" for name, head in heads]
    return "\n".join(
        ["# Decisions", "", "The decisions that shaped the code, and what spoke for and against them.", "", *lines, ""]
    )


def _page(path: str) -> str | None:
    """Return the page of a path in the repository, below docs/."""
    if path == DECISIONS:
        return "adr/index.md"
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def _records() -> list[Path]:
    return sorted((ROOT / DECISIONS).glob("[0-9]*.md"))
