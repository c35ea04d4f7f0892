#!/usr/bin/env bash
# Try the light client at the corners of the versions it promises: the oldest protobuf and gRPC, and the newest.
# Each corner is a virtual environment in a temporary folder: the client is installed there as users install it,
# calls over the wire are tried, then, with what tests need, the golden messages and the client's own tests. Takes a
# minute or two and the package index.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

corner() { # NAME REQUIREMENT...
  local name=$1
  shift
  echo "== $name: ${*:-the newest}"
  "${PYTHON:-python3}" -m venv "$work/$name"
  "$work/$name/bin/pip" install --quiet --disable-pip-version-check . "$@"
  "$work/$name/bin/pip" list --disable-pip-version-check 2>/dev/null | grep -iE '^(grpcio|protobuf|numpy|googleapis)'
  "$work/$name/bin/python" scripts/stub_corner.py
  "$work/$name/bin/pip" install --quiet --disable-pip-version-check ".[cli]" \
    pytest pytest-asyncio pytest-timeout hypothesis grpcio-health-checking "$@"
  "$work/$name/bin/pytest" -p no:cacheprovider tests/contract tests/client
}

corner oldest protobuf==5.29.5 grpcio==1.71.2
corner newest
echo "The client works at both corners."
