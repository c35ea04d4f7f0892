"""Write docs/settings.md from the server's settings: `python scripts/settings_page.py`, when they have changed."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid_server.config import Config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

_FOR_TESTS = "faults"
_OF_EACH_CLASS = "classes"
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}

_BEGINNING = """# Settings

Every setting of the server, with its default. [operating.md](operating.md) says how to choose them.

- A settings file is TOML: `port = 50051` under `[server]`. `--config FILE` or the variable `PELLUCID_CONFIG` names it.
- A variable has the section and the name: `PELLUCID_SERVER__PORT=50051`, `PELLUCID_CLASSES__BULK__WEIGHT=2`.
- Options of the command win over variables, and variables over the file.
- An unknown name or a wrong value stops the start, with the setting's name and the exit status 2.
- Times are in seconds and sizes in bytes. Settings are read at the start alone.

`python scripts/settings_page.py` writes this page from the server's code.
"""


def page() -> str:
    """Return the page's text."""
    schema = Config.model_json_schema()
    parts = [_BEGINNING]
    for name, found in schema["properties"].items():
        if name != _FOR_TESTS:
            reference = found.get("$ref") or found["additionalProperties"]["$ref"]
            parts.append(_section(name, schema["$defs"][reference.rsplit("/", 1)[1]]))
    return "\n".join(parts)


def main() -> int:
    """Write the page, or with `--check` only say whether it is out of date; the exit status is then 1 if it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    checking = parser.parse_args().check
    text = page()
    stale = not PAGE.is_file() or PAGE.read_text("utf-8") != text
    if stale and not checking:
        PAGE.write_text(text, "utf-8")
    if stale:
        sys.stdout.write(f"{'out of date' if checking else 'written'}: {PAGE.name}\n")
    return int(checking and stale)


def _section(name: str, found: Mapping[str, Any]) -> str:
    title = f"{name}.NAME" if name == _OF_EACH_CLASS else name
    rows = [
        f"| `{setting}` | {_default(setting, each)} | {_cell(each['description'])}{_range(each)} |"
        for setting, each in found["properties"].items()
    ]
    table = "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])
    return f"## [{title}]\n\n{found['description']}\n\n{table}\n"


def _default(setting: str, found: Mapping[str, Any]) -> str:
    default = found.get("default")
    if default is None or default == "":
        return ""
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    size = f" ({default >> 20} MiB)" if setting.endswith("_bytes") and default else ""
    return f"`{json.dumps(default)}`{size}"


def _range(found: Mapping[str, Any]) -> str:
    words = [f"{text} {_number(found[bound])}" for bound, text in _BOUNDS.items() if bound in found]
    if values := found.get("enum"):
        words.append("one of " + ", ".join(f"`{json.dumps(each)}`" for each in values))
    return f" ({', '.join(words)})" if words else ""


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
