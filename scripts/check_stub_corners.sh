#!/usr/bin/env bash
# Try the light client at the corners of the versions it promises: the oldest protobuf and gRPC, and the newest.
# Each corner is a virtual environment in a temporary folder: the client is installed there as users install it,
# the golden messages and a call over the wire are tried. Takes a minute or two and the package index.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

corner() { # NAME REQUIREMENT...
  local name=$1
  shift
  echo "== $name: ${*:-the newest}"
  "${PYTHON:-python3}" -m venv "$work/$name"
  "$work/$name/bin/pip" install --quiet --disable-pip-version-check . pytest "$@"
  "$work/$name/bin/pip" list --disable-pip-version-check 2>/dev/null | grep -iE '^(grpcio|protobuf|numpy|googleapis)'
  "$work/$name/bin/python" scripts/stub_corner.py
  "$work/$name/bin/pytest" -q -p no:cacheprovider -c /dev/null --rootdir . tests/contract/test_golden_messages.py
}

corner oldest protobuf==5.29.5 grpcio==1.71.2
corner newest
echo "The stubs work at both corners."
