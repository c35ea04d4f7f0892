#!/usr/bin/env bash
# Builds the image of Pellucid's server, with docker (BuildKit) or buildah.
# usage: build.sh [--flavour cpu|cuda] [--tag NAME] [--offline] [arguments of the engine's build]
#   --offline  installs from the wheels in deploy/image/wheels alone, see wheels.sh
#   for example: build.sh --tag registry.example/pellucid:1 --build-arg BASE=registry.example/python:3.11
# ENGINE names the program, `docker` by default; `ENGINE="buildah --storage-driver vfs"` has arguments.
set -euo pipefail
cd "$(dirname "$0")/../.."
flavour=cpu tag='' arguments=()
while (($#)); do
    case $1 in
        --flavour) flavour=$2; shift 2 ;;
        --tag) tag=$2; shift 2 ;;
        --offline) arguments+=(--build-arg PIP_NO_INDEX=1); shift ;;
        *) arguments+=("$1"); shift ;;
    esac
done
case $flavour in
    cpu | cuda) ;;
    *) echo "build.sh: there is no flavour '$flavour'; take cpu or cuda" >&2; exit 2 ;;
esac
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=unknown created=1970-01-01T00:00:00Z
if git rev-parse --git-dir > /dev/null 2>&1; then
    revision=$(git rev-parse HEAD)
    created=$(git show --no-patch --format=%cI HEAD)
    # An image of changed files must not pass for one of the commit.
    [[ -z $(git status --porcelain) ]] || revision+=-changed
fi
read -ra engine <<< "${ENGINE:-docker}"
case $(basename "${engine[0]}") in
    buildah) build=(bud --layers --format docker) ;;
    *) export DOCKER_BUILDKIT=1; build=(build) ;;
esac
suffix=''
[[ $flavour = cpu ]] || suffix=-$flavour
exec "${engine[@]}" "${build[@]}" --file deploy/image/Dockerfile --tag "${tag:-pellucid:$version$suffix}" \
    --build-arg FLAVOUR="$flavour" --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    --build-arg CREATED="$created" "${arguments[@]}" .
