#!/bin/bash
# bundle.sh STAGE BUILD VERSION [gpu]: a relocatable folder BUILD/bundle/ropebits-VERSION of a staged tree (bin, lib,
# include, share; docs at the top), with the demo's files and every shared library that is not part of a bare x86-64
# Linux, and the same as BUILD/ropebits-VERSION-linux-x86_64.tar.xz. Programs find the libraries through their rpath
# $ORIGIN/../lib. With gpu the name is ropebits-VERSION-gpu, and checks/ has the tests and benchmarks of the CUDA side;
# checks/check-gpu.sh and checks/bench-gpu.sh run them on a GPU host, from the folder itself.
set -euo pipefail
stage=$1 build=$2 version=$3 kind=${4:-}
name=ropebits-$version${kind:+-$kind}
folder=$build/bundle/$name

# Every Linux host has the C library and its loader, and a GPU's driver has its own libraries. They must come from the
# host.
system_libraries='^(ld-linux.*|linux-vdso.*|libc|libm|libdl|libpthread|librt|libresolv|libutil|libnsl)\.so'
driver_libraries='^(libcuda|libnvidia-ml)\.so'

rm -rf "$folder"
mkdir -p "$build/bundle"
cp -a "$stage" "$folder"
mv "$folder"/share/doc/ropebits/* "$folder/"
rm -r "$folder/share/doc"
mkdir "$folder/configs"
cp -r configs/demo.json configs/demo-llama configs/demo-text configs/needles configs/presets "$folder/configs/"
if [ "$kind" = gpu ]; then
    mkdir -p "$folder/checks" "$folder/tests/fixtures"
    cp -r tests/fixtures/models "$folder/tests/fixtures/"
    cp "$build"/tests/gpu/test_* tests/gpu/*.sh tests/programs/tap.sh "$folder/checks/"
    cp "$build"/bench/bench_* "$build"/bench/make_checkpoint "$build"/bench/measure bench/bench-gpu.sh \
        bench/bench_sdpa.py "$folder/checks/"
fi

# ldd lists the whole closure; a library that is not found is an error of the build.
find_binaries() {
    find "$folder"/bin "$folder"/lib "$folder"/checks -type f \
        ! -name '*.sh' ! -name '*.py' ! -name '*.a' ! -name '*.pc' \
        2>/dev/null || true
}
mapfile -t binaries < <(find_binaries)
for file in "${binaries[@]}"; do ldd "$file"; done |
    sed -nE 's/^[[:space:]]*([^ ]+) => ([^ ]+).*/\1 \2/p' | sort -u >"$build/bundle/libraries.txt"
while read -r library path; do
    if [ "$path" = not ]; then echo "make bundle: $library is not found" >&2; exit 1; fi
    if [[ $library =~ $system_libraries || $library =~ $driver_libraries ]]; then continue; fi
    if [ "$path" -ef "$folder/lib/$library" ]; then continue; fi        # ours
    cp -L "$path" "$folder/lib/$library"
done <"$build/bundle/libraries.txt"
chmod -R u+w "$folder"
find_binaries | xargs -d '\n' strip --strip-unneeded 2>/dev/null || true
strip --strip-debug "$folder"/lib/*.a

tar -C "$build/bundle" -c "$name" | xz -T0 "-${XZ_LEVEL:-6}" >"$build/$name-linux-x86_64.tar.xz.tmp"
mv "$build/$name-linux-x86_64.tar.xz.tmp" "$build/$name-linux-x86_64.tar.xz"
echo "$folder ($(du -sm "$folder" | cut -f1) MiB)"
echo "$build/$name-linux-x86_64.tar.xz ($(du -sm "$build/$name-linux-x86_64.tar.xz" | cut -f1) MiB)"
