#!/bin/bash
# stage.sh BUILD VERSION CUDA_LIBRARY PC_PREFIX FOLDER SONAME...: lays out in FOLDER what an installation has (bin, lib,
# include, share), for `make install`, the Debian package and the bundle alike. CUDA_LIBRARY is empty in a build without
# CUDA. PC_PREFIX is what pkg-config files call their prefix: the place of the installation, or ${pcfiledir}/../..
# where it may be moved. SONAMEs are those of the libraries for other programs, libNAME.so.N.
set -euo pipefail
build=$1 version=$2 cuda_library=$3 pc_prefix=$4 folder=$5
sonames=("${@:6}")
umask 022

rm -rf "$folder"
doc=$folder/share/doc/ropebits
completions=$folder/share/bash-completion/completions
mkdir -p "$folder"/{bin,include,lib/pkgconfig,lib/ropebits/hdf5-plugin,share/man/man1,share/zsh/site-functions}
mkdir -p "$doc/docs" "$completions"

install -m 755 "$build"/bin/ropebits* "$folder/bin"
# Header and pkg-config file lie beside the sources of a library.
for soname in "${sonames[@]}"; do
    library=${soname%.so.*}
    name=${library#lib}
    install -m 644 "$build/lib/$library.a" "$folder/lib"
    install -m 755 "$build/lib/$library.so" "$folder/lib/$soname"
    ln -s "$soname" "$folder/lib/$library.so"
    install -m 644 ./*/library/"$name.h" "$folder/include"
    sed -e "s|@PREFIX@|$pc_prefix|" -e "s|@VERSION@|$version|" \
        ./*/library/"$name.pc.in" >"$folder/lib/pkgconfig/$name.pc"
done
install -m 755 "$build"/lib/hdf5-plugin/*.so "$folder/lib/ropebits/hdf5-plugin"
if [ -n "$cuda_library" ]; then install -m 755 "$cuda_library" "$folder/lib/ropebits"; fi

install -m 644 "$build"/man/*.1 "$folder/share/man/man1"
install -m 644 README.md CHANGELOG.md SECURITY.md LICENSE "$doc"
cp -r --no-preserve=mode docs/. "$doc/docs"

# What runs inside other programs, which know the library's place from their own.
mkdir -p "$folder/share/ropebits"
cp -r --no-preserve=mode integrations "$folder/share/ropebits"
find "$folder/share/ropebits" -name __pycache__ -prune -exec rm -r {} +

# bash loads a completion by the name of the command: one file under all names.
install -m 644 packaging/completion.bash "$completions/ropebits"
for program in "$folder"/bin/ropebits-*; do ln -s ropebits "$completions/${program##*/}"; done
install -m 644 packaging/completion.zsh "$folder/share/zsh/site-functions/_ropebits"
