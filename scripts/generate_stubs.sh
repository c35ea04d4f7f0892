#!/usr/bin/env bash
# Write the Python stubs for proto/: the project's own into the folder $1 (default: client/), and those of the Open
# Inference Protocol, which the server alone needs, into the folder $2 (default: server/).
# The generator needs protobuf below 6 and so has a virtual environment of its own: its interpreter is $PYTHON.
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-python3}" -m grpc_tools.protoc --proto_path=proto \
  --python_out="${1:-client}" --pyi_out="${1:-client}" --grpc_python_out="${1:-client}" \
  proto/pellucid/v1/*.proto
"${PYTHON:-python3}" -m grpc_tools.protoc --proto_path=proto/open \
  --python_out="${2:-server}" --pyi_out="${2:-server}" \
  proto/open/pellucid_server/*.proto
