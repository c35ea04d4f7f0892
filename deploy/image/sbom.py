"""Prints a bill of materials (CycloneDX 1.6, JSON) of the system that it runs in: its Debian and Python packages.

The same packages give the same bytes: there is neither a time nor a random number in it.
"""

import json
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

PROJECT = "pellucid"

_DPKG_FORMAT = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${source:Package}\n"


def debian_packages() -> Iterator[dict[str, Any]]:
    """Yield the installed packages of the distribution."""
    release = platform.freedesktop_os_release()
    vendor = release["ID"]
    distribution = quote(f"{vendor}-{release.get('VERSION_ID', '')}".rstrip("-"))
    command = ["dpkg-query", "-W", "-f", _DPKG_FORMAT]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        status, name, version, architecture, source = line.split("\t")
        if status == "installed":
            locator = f"pkg:deb/{vendor}/{quote(name)}@{quote(version)}?arch={architecture}&distro={distribution}"
            properties = [{"name": "dpkg:source", "value": source}]
            yield {**_component(name, version, locator), "properties": properties}


def python_packages() -> Iterator[dict[str, Any]]:
    """Yield the distributions of this environment, and those of the Python that it stands on."""
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
    places = {
        sysconfig.get_path(kind, scheme, variables)
        for kind in ("purelib", "platlib")
        for scheme, variables in ((sysconfig.get_default_scheme(), None), ("posix_prefix", base))
    }
    for distribution in metadata.distributions(path=sorted(places)):
        name, version = _canonical(distribution.metadata["Name"]), distribution.version
        component = _component(name, version, f"pkg:pypi/{quote(name)}@{quote(version)}")
        yield {**component, **_licence(distribution)}


def interpreter() -> Iterator[dict[str, Any]]:
    """Yield Python itself, where it is not a package of the distribution."""
    if Path(sys.base_prefix) != Path("/usr"):
        version = platform.python_version()
        yield _component("cpython", version, f"pkg:generic/cpython@{version}")


def bill() -> dict[str, Any]:
    """Return the bill; its subject is the project's own distribution."""
    found = {each["bom-ref"]: each for each in (*debian_packages(), *python_packages(), *interpreter())}
    (subject,) = (each for each in found.values() if each["purl"].startswith(f"pkg:pypi/{PROJECT}@"))
    components = [each for reference, each in sorted(found.items()) if each is not subject]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**subject, "type": "application"}},
        "components": components,
    }


def _component(name: str, version: str, locator: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": locator, "name": name, "version": version, "purl": locator}


def _licence(distribution: metadata.Distribution) -> dict[str, Any]:
    """Return the licence as an SPDX expression, where the distribution states one."""
    expression = distribution.metadata.get("License-Expression")
    return {"licenses": [{"expression": expression}]} if expression else {}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Print the bill."""
    json.dump(bill(), sys.stdout, indent=1, sort_keys=True, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
