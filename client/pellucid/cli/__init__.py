"""The `pellucid` command. Needs `pellucid[cli]`; without it, `main` says so."""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        sys.exit(f"The pellucid command needs {' and '.join(missing)}: pip install 'pellucid[cli]'")
    from pellucid.cli.commands import run  # noqa: PLC0415 - what it imports is an extra

    run()
