#!/usr/bin/env bash
# Try the project at a corner of the torch versions that it supports (2.11 to 2.13).
#
#   scripts/torch_corner.sh [--venv FOLDER] VERSION [PYTEST ARGUMENT...]
#   scripts/torch_corner.sh 2.12
#   scripts/torch_corner.sh --venv build/torch-2.11 2.11.0 tests/server/engine -x
#
# It makes a virtual environment with torch VERSION and, otherwise, the pinned versions of constraints.txt, and runs
# pytest there. The environment is in a temporary folder that is removed at the end, or in FOLDER, which is kept and
# used again. Without arguments for pytest, all tests run, which takes the demo's models (make demo-models). Needs the
# package index; pip fetches some gigabytes where its index has CUDA builds of torch (PIP_INDEX_URL names another).
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  echo "usage: scripts/torch_corner.sh [--venv FOLDER] VERSION [PYTEST ARGUMENT...]; VERSION is like 2.12 or 2.12.1" >&2
  exit 2
}

folder=
if [ "${1:-}" = --venv ]; then
  folder=${2:-}
  [ -n "$folder" ] || usage
  shift 2
fi
[[ "${1:-}" =~ ^[0-9]+\.[0-9]+(\.[0-9]+)?$ ]] || usage
version=$1
shift
[[ "$version" == *.*.* ]] || version=$version.*

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
folder=${folder:-$scratch/venv}
# Each version of torch has bounds of its own for setuptools.
grep -vE '^(torch|setuptools)==' constraints.txt >"$scratch/constraints.txt"
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
echo "== Installing torch $version and what the tests need into $folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c "$scratch/constraints.txt" \
  "torch==$version" -e ".[server,cli,demo,test]"
"$folder/bin/python" -c 'import torch; print("== Tests with torch", torch.__version__)'
# As in `make test`: several processes share the cores.
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1
"$folder/bin/python" -m pytest -p no:cacheprovider "$@"
