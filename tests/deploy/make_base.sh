#!/usr/bin/env bash
# Makes a base image's file system, for machines that reach no registry of images: Debian 12 with Python 3.11 and pip,
# as in python:3.11-slim-bookworm but for where Python lies.
# usage: make_base.sh FILE.tar, as root
set -euo pipefail
file=$(realpath -m "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$folder/root" \
    > "$folder/log" 2>&1 || { tail -20 "$folder/log" >&2; exit 1; }
rm -f "$folder"/root/usr/lib/python3*/EXTERNALLY-MANAGED
rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/*
tar -C "$folder/root" -c . > "$file.part"
mv "$file.part" "$file"
