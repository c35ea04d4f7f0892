"""Gathers the wheels that a bare CUDA machine lacks: `python scripts/gpu/gather.py FOLDER`, where there is a network.

Such a machine has a CUDA build of torch, NumPy, ONNX, scikit-learn and scikit-image, for Python 3.12 on x86-64. The
versions are those of constraints.txt; what the machine has in another version is covered by the wheels.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = (
    "annotated-types",
    "efficientnet-lite-pytorch",
    "googleapis-common-protos",
    "greenlet",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "grpcio-status",
    "msgpack",
    "onnxruntime",
    "pluggy",
    "prometheus-client",
    "protobuf",
    "pydantic",
    "pydantic-core",
    "pydantic-settings",
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "python-dotenv",
    "typing-extensions",
    "typing-inspection",
)

# pip takes a wheel for exactly these, and not for those that they include.
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux1")


def main() -> int:
    """Download the wheels, and say what they take."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where to")
    parser.add_argument("--python", default="3.12", help="Python of the machine")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", arguments.python, "--implementation", "cp"]
    for platform in _PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    command += ["--dest", str(arguments.folder), *(f"{name}=={pinned[name]}" for name in PACKAGES)]
    code = subprocess.run(command, check=False).returncode
    size = sum(path.stat().st_size for path in arguments.folder.glob("*.whl"))
    print(f"{len(list(arguments.folder.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB, in {arguments.folder}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
