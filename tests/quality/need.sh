#!/bin/bash
# need.sh COMMAND[:PACKAGE]...: makes sure the commands are there. Installs their Debian packages (named like the
# command unless said) through apt as root or with sudo; elsewhere it stops with one sentence that names what is
# missing.
set -eu
packages=()
for wanted in "$@"; do
    command -v "${wanted%%:*}" >/dev/null 2>&1 || packages+=("${wanted##*:}")
done
[ ${#packages[@]} -gt 0 ] || exit 0

as_root=()
if ! command -v apt-get >/dev/null 2>&1; then
    echo "ropebits: install the equivalents of these Debian packages first: ${packages[*]}" >&2
    exit 1
elif [ "$(id -u)" != 0 ] && command -v sudo >/dev/null 2>&1; then
    as_root=(sudo)
elif [ "$(id -u)" != 0 ]; then
    echo "ropebits: as root, first: apt-get install ${packages[*]}" >&2
    exit 1
fi
echo "ropebits: installing ${packages[*]}" >&2
"${as_root[@]}" apt-get update -qq
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
