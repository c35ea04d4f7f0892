"""Write what the Helm chart takes from elsewhere: `python scripts/chart_files.py`, when that has changed.

Copies of the rules and dashboards of deploy/monitoring, as Helm reads nothing outside of a chart; and the server's
settings in the schema of the chart's values, so that Helm refuses unknown ones.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pellucid_server.config import Config

ROOT = Path(__file__).resolve().parent.parent
MONITORING = Path("deploy/monitoring")
CHART = Path("deploy/helm/pellucid")
_SCHEMA = CHART / "values.schema.json"
_FOR_TESTS = "faults"


def written() -> dict[Path, str]:
    """Return the text of each file that this script writes, by its path below the repository's root."""
    copied = {**_texts("rules", ".yaml"), **_texts("dashboards", ".json")}
    return {_SCHEMA: _schema(), **{CHART / "files" / path: text for path, text in copied.items()}}


def leftovers() -> list[Path]:
    """Return files of the chart that this script would not write again."""
    folder = ROOT / CHART / "files"
    there = {path.relative_to(ROOT) for path in folder.rglob("*") if path.is_file()}
    return sorted(there - set(written()))


def main() -> int:
    """Write the files, or with `--check` only say which are out of date; the exit status is then 1 if any are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    checking = parser.parse_args().check
    texts = written()
    stale = [path for path, text in texts.items() if not _is(ROOT / path, text)]
    for path in [*stale, *leftovers()]:
        sys.stdout.write(f"{'out of date' if checking else 'written' if path in texts else 'removed'}: {path}\n")
        if not checking:
            _put(ROOT / path, texts.get(path))
    return int(checking and bool(stale or leftovers()))


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text


def _put(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def _texts(folder: str, suffix: str) -> dict[Path, str]:
    files = sorted((ROOT / MONITORING / folder).glob(f"*{suffix}"))
    return {file.relative_to(ROOT / MONITORING): file.read_text("utf-8") for file in files}


def _schema() -> str:
    """Return the chart's schema with what the server says of its settings."""
    schema: dict[str, Any] = json.loads((ROOT / _SCHEMA).read_text("utf-8"))
    settings = Config.model_json_schema()
    definitions = {f"settings.{name}": _renamed(each) for name, each in settings["$defs"].items()}
    definitions["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _renamed(each) for name, each in settings["properties"].items() if name != _FOR_TESTS},
    }
    schema["$defs"] = {**{k: v for k, v in schema["$defs"].items() if not k.startswith("settings")}, **definitions}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _renamed(part: Any) -> Any:
    """Return a part of the settings' schema: references renamed, and defaults left to the server."""
    if isinstance(part, list):
        return [_renamed(each) for each in part]
    if not isinstance(part, dict):
        return part
    kept = {name: _renamed(each) for name, each in part.items() if not (name == "default" and "title" in part)}
    if "$ref" in kept:
        kept["$ref"] = kept["$ref"].replace("#/$defs/", "#/$defs/settings.")
        kept.pop("default", None)
    return kept


if __name__ == "__main__":
    sys.exit(main())
