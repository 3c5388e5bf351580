#!/bin/bash
# stage.sh BUILD VERSION PLAN_FOLDER PLAN_SONAME CUDA_LIBRARY PC_PREFIX FOLDER: lays out in FOLDER what an installation
# has (bin, lib, include, share), for `make install`, the Debian package and the bundle alike. CUDA_LIBRARY is empty in
# a build without CUDA. PC_PREFIX is what the pkg-config file calls its prefix: the place of the installation, or
# ${pcfiledir}/../.. where it may be moved.
set -euo pipefail
build=$1 version=$2 plan_folder=$3 plan_soname=$4 cuda_library=$5 pc_prefix=$6 folder=$7
umask 022

rm -rf "$folder"
doc=$folder/share/doc/ropebits
completions=$folder/share/bash-completion/completions
mkdir -p "$folder"/{bin,include,lib/pkgconfig,lib/ropebits/hdf5-plugin,share/man/man1,share/zsh/site-functions}
mkdir -p "$doc/docs" "$completions"

install -m 755 "$build"/bin/ropebits* "$folder/bin"
install -m 644 "$build"/lib/libropebits_plan.a "$folder/lib"
install -m 755 "$build"/lib/libropebits_plan.so "$folder/lib/$plan_soname"
ln -s "$plan_soname" "$folder/lib/libropebits_plan.so"
install -m 644 "$plan_folder/ropebits_plan.h" "$folder/include"
sed -e "s|@PREFIX@|$pc_prefix|" -e "s|@VERSION@|$version|" \
    "$plan_folder/ropebits_plan.pc.in" >"$folder/lib/pkgconfig/ropebits_plan.pc"
install -m 755 "$build"/lib/hdf5-plugin/*.so "$folder/lib/ropebits/hdf5-plugin"
if [ -n "$cuda_library" ]; then install -m 755 "$cuda_library" "$folder/lib/ropebits"; fi

install -m 644 "$build"/man/*.1 "$folder/share/man/man1"
install -m 644 README.md CHANGELOG.md LICENSE "$doc"
cp -r --no-preserve=mode docs/. "$doc/docs"

# What runs inside other programs, which know the library's place from their own.
mkdir -p "$folder/share/ropebits"
cp -r --no-preserve=mode integrations "$folder/share/ropebits"
find "$folder/share/ropebits" -name __pycache__ -prune -exec rm -r {} +

# bash loads a completion by the name of the command: one file under all names.
install -m 644 packaging/completion.bash "$completions/ropebits"
for program in "$folder"/bin/ropebits-*; do ln -s ropebits "$completions/${program##*/}"; done
install -m 644 packaging/completion.zsh "$folder/share/zsh/site-functions/_ropebits"
