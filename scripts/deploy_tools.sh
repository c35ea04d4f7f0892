#!/usr/bin/env bash
# Installs the Debian packages that `make deploy-check` needs and that are missing. For CI machines and containers: some
# packages start a service on a system that has a service manager.
# Exit status: 0 all tools are there; 10 they are not and cannot be installed here, for want of root, of apt, or of
# a network that has the packages.
set -euo pipefail
# A program, and the package that has it.
tools=(
    amtool:prometheus-alertmanager
    chromium:chromium
    debootstrap:debootstrap
    dockerd:docker.io
    nginx:nginx-light
    node:nodejs
    npm:npm
    promtool:prometheus
    setpriv:util-linux
)
missing=()
for tool in "${tools[@]}"; do
    command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
done
if ((EUID != 0)); then
    echo "NOT CHECKED: a container engine of the checks' own takes root; run make deploy-check as root" >&2
    exit 10
fi
((${#missing[@]})) || exit 0
if ! command -v apt-get > /dev/null; then
    echo "NOT CHECKED: there is no apt-get here to install ${missing[*]}" >&2
    exit 10
fi
echo "== Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Another installation may be under way.
apt=(apt-get --quiet --quiet -o DPkg::Lock::Timeout=180 -o Dpkg::Use-Pty=0)
if ! { "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "${missing[@]}"; }; then
    echo "NOT CHECKED: apt-get cannot install ${missing[*]} here" >&2
    exit 10
fi
