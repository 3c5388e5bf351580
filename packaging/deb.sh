#!/bin/bash
# deb.sh STAGE BUILD VERSION MAINTAINER: a Debian package BUILD/ropebits_VERSION_ARCH.deb of a tree staged for /usr.
# dpkg-shlibdeps finds the packages its programs need, so the package fits the release of Debian or Ubuntu that it was
# made on.
set -euo pipefail
stage=$1 build=$2 version=$3 maintainer=$4
for tool in dpkg-deb dpkg-shlibdeps; do
    command -v $tool >/dev/null 2>&1 ||
        { echo "make deb: $tool is missing; Debian's package dpkg-dev has it" >&2; exit 1; }
done
umask 022
architecture=$(dpkg --print-architecture)
root=$build/deb/root
package=$build/ropebits_${version}_$architecture.deb

rm -rf "$build/deb"
mkdir -p "$root/DEBIAN" "$build/deb/debian"
cp -a "$stage" "$root/usr"

# Debian has places and forms of its own: completions of packages, compressed pages, the licence named copyright.
share=$root/usr/share
mkdir -p "$share/zsh/vendor-completions"
mv "$share/zsh/site-functions/_ropebits" "$share/zsh/vendor-completions/"
rmdir "$share/zsh/site-functions"
gzip -9n "$share"/man/man1/*.1
mv "$share/doc/ropebits/LICENSE" "$share/doc/ropebits/copyright"
find "$root/usr" -type f \( -path '*/bin/*' -o -name '*.so*' \) -exec strip --strip-unneeded {} +
strip --strip-debug "$root"/usr/lib/*.a

printf 'Source: ropebits\n\nPackage: ropebits\nArchitecture: any\n' >"$build/deb/debian/control"
mapfile -t binaries < <(cd "$root/usr" && find "$PWD" -type f \( -path '*/bin/*' -o -name '*.so*' \))
depends=$(cd "$build/deb" && dpkg-shlibdeps -O --warnings=0 "${binaries[@]}" | sed -n 's/^shlibs:Depends=//p')
cat >"$root/DEBIAN/control" <<EOF
Package: ropebits
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Depends: $depends
Installed-Size: $(du -sk "$root/usr" | cut -f1)
Section: science
Priority: optional
Description: RoPE-aware KV-cache quantization, offline
 Runs a text through a checkpoint, measures what every bit of its keys costs in
 attention-logit error, decides which RoPE block gets how many bits, and writes
 compact bit plans that runtimes read and execute through small C libraries.
EOF
# With this trigger the loader knows the libraries for runtimes.
echo "activate-noawait ldconfig" >"$root/DEBIAN/triggers"
(cd "$root" && find usr -type f -printf '%P\n' | sort | sed 's|^|usr/|' | xargs -d '\n' md5sum) >"$root/DEBIAN/md5sums"
dpkg-deb --root-owner-group --build "$root" "$package.tmp" >/dev/null
mv "$package.tmp" "$package"
echo "$package ($(du -sk "$package" | cut -f1) KiB)"
