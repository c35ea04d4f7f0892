#!/bin/sh
# Removes from a virtual environment what a server never uses: headers, tools and tests of the libraries.
# usage: trim.sh FOLDER
set -eu
packages=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$packages/torch/include" "$packages/torch/test" "$packages/torch/share" "$packages/onnx/backend/test"
# torch looks for this one program.
find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
find "$packages" -type d -name tests -prune -exec rm -rf {} +
# Commands of libraries.
find "$1/bin" -type f ! -name 'python*' -delete
