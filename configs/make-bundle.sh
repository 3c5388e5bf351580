#!/bin/bash
# make-bundle.sh BUILD VERSION [gpu]: a relocatable folder BUILD/bundle/ropebits-VERSION (bin, lib, configs) with every shared library that is not part of a bare
# x86-64 Linux, and the same as BUILD/ropebits-VERSION-linux-x86_64.tar.xz. Programs find the libraries through their rpath $ORIGIN/../lib.
# gpu: ropebits-VERSION-gpu instead, with the tests and benchmarks of the CUDA side in checks/, to be run on a GPU host by checks/check-gpu.sh and
# checks/bench-gpu.sh.
set -euo pipefail
build=$1
version=$2
name=ropebits-$version${3:+-$3}
folder=$build/bundle/$name

# What every Linux host has, and must come from it: the C library and its loader.
system_libraries='^(ld-linux.*|linux-vdso.*|libc|libm|libdl|libpthread|librt|libresolv|libutil|libnsl|libcuda|libnvidia-ml)\.so'

rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib/hdf5-plugin" "$folder/configs"
cp "$build"/bin/ropebits* "$folder/bin/"
cp "$build"/lib/libropebits_plan.so "$folder/lib/libropebits_plan.so.3"
cp "$build"/lib/hdf5-plugin/*.so "$folder/lib/hdf5-plugin/"
for device_library in "$build"/lib/ropebits_cuda.so; do
    if [ -f "$device_library" ]; then cp "$device_library" "$folder/lib/"; fi
done
if [ "${3:-}" = gpu ]; then
    mkdir -p "$folder/checks"
    cp "$build"/tests/gpu/test_* tests/gpu/*.sh tests/programs/tap.sh "$folder/checks/"
    cp "$build"/bench/bench_* "$build"/bench/make_checkpoint "$build"/bench/measure bench/bench-gpu.sh "$folder/checks/"
fi
cp -r configs/demo.json configs/demo-llama configs/demo-text configs/needles "$folder/configs/"
cp README.md "$folder/"

# ldd lists the whole closure; a library that is not found is an error of the build.
for file in "$folder"/bin/* "$folder"/lib/hdf5-plugin/*.so $(find "$folder" -path '*/checks/*' -type f ! -name '*.sh'); do ldd "$file"; done | sed -nE 's/^[[:space:]]*([^ ]+) => ([^ ]+).*/\1 \2/p' | sort -u >"$build/bundle/libraries.txt"
while read -r library path; do
    if [ "$path" = not ]; then echo "make bundle: $library is not found" >&2; exit 1; fi
    if [[ $library =~ $system_libraries ]]; then continue; fi
    cp -L "$path" "$folder/lib/$library"
done <"$build/bundle/libraries.txt"
chmod -R u+w "$folder"
find "$folder" -type f ! -name "*.sh" ! -path "*/configs/*" -exec strip --strip-unneeded {} + 2>/dev/null || true

tar -C "$build/bundle" -c "$name" | xz -T0 -6 >"$build/$name-linux-x86_64.tar.xz.tmp"
mv "$build/$name-linux-x86_64.tar.xz.tmp" "$build/$name-linux-x86_64.tar.xz"
echo "$folder ($(du -sm "$folder" | cut -f1) MiB)"
echo "$build/$name-linux-x86_64.tar.xz ($(du -sm "$build/$name-linux-x86_64.tar.xz" | cut -f1) MiB)"
