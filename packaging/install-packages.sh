#!/bin/sh
# install-packages.sh "PKG-CONFIG NAMES" "DEBIAN PACKAGES": makes sure the libraries are there. Installs through apt as
# root or with sudo; elsewhere it stops and names what is missing.
set -eu
libraries=$1
packages=$2

missing=
command -v pkg-config >/dev/null 2>&1 || missing="pkg-config"
command -v gcc >/dev/null 2>&1 || missing="$missing gcc"
if [ -z "$missing" ]; then
    for library in $libraries; do
        pkg-config --exists "$library" 2>/dev/null || missing="$missing $library"
    done
fi
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "ropebits: missing:$missing. Install the equivalents of these Debian packages: $packages" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "ropebits: missing:$missing. As root: apt-get install $packages" >&2
    exit 1
fi
echo "ropebits: installing packages for:$missing" >&2
$as_root apt-get update -qq
# shellcheck disable=SC2086  # the list is meant to split
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null
