#!/usr/bin/env bash
# Gathers in deploy/image/wheels what the image installs, so that `build.sh --offline` needs no network.
# usage: wheels.sh [cpu|cuda] [arguments of pip download]
# PYTHON names the Python whose pip is used, PYTHON_VERSION the image's Python (3.11), TORCH_INDEX the package index with
# torch's CPU wheels (PyTorch's own), which is asked where pip's indexes have torch for CUDA only.
set -euo pipefail
cd "$(dirname "$0")/../.."
flavour=${1:-cpu}
shift $(($# > 0))
python=${PYTHON:-python3}
folder=deploy/image/wheels
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" deploy/image/requirements.py "$flavour" > "$scratch/requirements.txt"
# The server's own wheel is built in the image's build, and takes this.
echo hatchling >> "$scratch/requirements.txt"
wheels=(--only-binary :all: --python-version "${PYTHON_VERSION:-3.11}" --constraint constraints.txt)
if [[ $flavour = cpu ]]; then
    "$python" -m pip install --quiet --dry-run --no-deps --ignore-installed --target "$scratch" \
        --report "$scratch/report.json" "${wheels[@]}" torch
    if ! grep -q '"version": *"[^"]*+cpu"' "$scratch/report.json"; then
        wheels+=(--extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}")
    fi
fi
"$python" -m pip download --dest "$scratch/wheels" --find-links "$folder" "${wheels[@]}" \
    --requirement "$scratch/requirements.txt" "$@"
# Wheels of other versions would only make the build's context larger.
find "$folder" -name '*.whl' -delete
mv "$scratch"/wheels/*.whl "$folder"
