#!/bin/bash
# dist.sh BUILD VERSION: the release tarball BUILD/ropebits-VERSION.tar.xz of the commit that is checked out. It builds
# without git: packaging/commit tells its programs from which commit they are.
set -euo pipefail
build=$1 version=$2
tarball=$build/ropebits-$version.tar.xz
if [ "$(git rev-parse --show-cdup 2>/dev/null || echo none)" ]; then
    echo "make dist: packs a commit of a git checkout, and here is none" >&2
    exit 1
fi
git diff --quiet HEAD -- || echo "make dist: warning: changes that are not committed are left out" >&2
mkdir -p "$build"
git archive --prefix="ropebits-$version/" HEAD | xz -T0 "-${XZ_LEVEL:-6}" >"$tarball.tmp"
mv "$tarball.tmp" "$tarball"
echo "$tarball ($(du -sk "$tarball" | cut -f1) KiB)"
