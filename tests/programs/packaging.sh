# What leaves the build folder: an installation and its removal, the library as others link it, manual pages, the
# bundle, the Debian package, the release tarball.
. tests/programs/tap.sh

if [ "${RB_SANITIZED:-0}" = 1 ]; then
    skip_case "packaging" "plain build only"
    finish
fi
cc=${CC:-gcc}
# The options of make are those of the build, so that nothing is compiled here.
cuda_arch=$(cat "$build/gen/cuda-arch" 2>/dev/null)
cuda=$([ -e "$build/lib/ropebits_cuda.so" ] && echo 1 || echo 0)
make_target() { make --no-print-directory BUILD="$build" CUDA="$cuda" CUDA_ARCH="$cuda_arch" "$@"; }
version=$("$bin/ropebits" --version | sed -n '1s/ropebits //p')

"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt \
    --n-tokens 128 --context 64 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null
"$bin/ropebits-allocate" -q "$scratch/p.h5" --method block-gtq --avg-bits 3 -o "$scratch/plan.json" >/dev/null
"$bin/ropebits-export" -q "$scratch/plan.json" --format rbp -o "$scratch/out" >/dev/null

# ---- an installation ----
root=$scratch/root
mkdir -p "$root/usr/lib"                                    # not ours, and so not ours to remove
echo theirs >"$root/usr/lib/other"
check "make install" make_target install DESTDIR="$root" PREFIX=/usr
for file in bin/ropebits include/ropebits_plan.h lib/libropebits_plan.a lib/libropebits_plan.so \
            lib/pkgconfig/ropebits_plan.pc include/ropebits_kv.h lib/libropebits_kv.a lib/libropebits_kv.so \
            lib/pkgconfig/ropebits_kv.pc share/doc/ropebits/docs/examples/kv_example.c \
            lib/ropebits/hdf5-plugin/libropebits_h5zstd.so \
            share/doc/ropebits/LICENSE share/doc/ropebits/README.md share/doc/ropebits/docs/method.md \
            share/ropebits/integrations/transformers/ropebits_cache.py share/ropebits/integrations/blockgtq/replay.py \
            share/bash-completion/completions/ropebits-run share/zsh/site-functions/_ropebits; do
    check "  has $file" test -s "$root/usr/$file"
done
check "  has the CUDA side where the build has" test "$cuda" = 1 -o ! -e "$root/usr/lib/ropebits/ropebits_cuda.so"
expect "installed programs find each other" 0 "$root/usr/bin/ropebits" inspect "$scratch/out/plan.rbp"
if [ "$cuda" = 1 ]; then
    expect "and their CUDA side" 0 "$root/usr/bin/ropebits" --version
    stdout_has "root/usr/bin/../lib/ropebits/ropebits_cuda.so"
else
    skip_case "and their CUDA side" "not in this build"
fi

# ---- the library, as others link it ----
cat >"$scratch/reader.c" <<'EOF'
#include <ropebits_plan.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    ropebits_plan *plan;
    char error[256];
    if (argc < 2) return 2;
    if (ropebits_plan_open(&plan, argv[1], error, sizeof error) != 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    const ropebits_plan_info *info = ropebits_plan_get_info(plan);
    printf("%s %u layers, %g bytes a token, ", info->method, info->n_layers, info->bytes_per_token);
    printf("%u bits a key\n", ropebits_plan_head(plan, 0, 0)->key_bits);
    ropebits_plan_close(plan);
    return 0;
}
EOF
# links_library WHERE LIB_FOLDER PKG_CONFIG_VARIABLES...
links_library() {
    local flags
    read -r -d '' -a flags < <(env "${@:3}" pkg-config --cflags --libs ropebits_plan)
    check "the library of $1 links by pkg-config" "$cc" "$scratch/reader.c" -o "$scratch/reader" "${flags[@]}"
    expect "and reads the plan" 0 env LD_LIBRARY_PATH="$2" "$scratch/reader" "$scratch/out/plan.rbp"
    stdout_has "block-gtq 4 layers"
    expect "and refuses another file" 1 env LD_LIBRARY_PATH="$2" "$scratch/reader" "$scratch/plan.json"
    stderr_has "wrong magic"
    read -r -d '' -a flags < <(env "${@:3}" pkg-config --cflags --libs ropebits_kv)
    check "and the library of caches" "$cc" docs/examples/kv_example.c -o "$scratch/example" "${flags[@]}" -lm
    expect "and attends" 0 env LD_LIBRARY_PATH="$2" "$scratch/example" "$scratch/out/plan.rbp"
    stdout_has "bytes of pages, fp16 takes"
}
links_library "an installation" "$root/usr/lib" PKG_CONFIG_PATH="$root/usr/lib/pkgconfig" \
    PKG_CONFIG_SYSROOT_DIR="$root"

# ---- manual pages ----
pages=$root/usr/share/man/man1
names_every_option() {      # names_every_option PROGRAM PAGE
    "$1" --help | grep -oE -- '^(  |      )(-[a-z], )?--[a-z-]+' | grep -oE -- '--[a-z-]+' | while read -r option; do
        grep -qF -- "\\fB${option//-/\\-}\\fR" "$2" || { echo "no $option"; exit 1; }
    done
}
names_itself() { [[ $(sed -n '/^.SH NAME/{n;p}' "$2") == "${1//-/\\-} \\- "[a-z]???????????????* ]]; }
for program in "$root"/usr/bin/*; do
    name=${program##*/}
    page=$pages/$name.1
    check "$name has a page" test -s "$page"
    check "  that names every option" names_every_option "$program" "$page"
    check "  and says what it is in one line" names_itself "$name" "$page"
done
show_page() { MANPATH=$root/usr/share/man man -P cat ropebits-run >"$scratch/stdout" 2>"$scratch/stderr"; }
groff_is_silent() { test -z "$(man --warnings=all -l "$1" 2>&1 >/dev/null)"; }
if command -v man >/dev/null 2>&1 && show_page; then
    check "man finds and shows them, without a warning" test ! -s "$scratch/stderr"
    stdout_has "PIPELINE.json"
    check "  each option on a line of its own" grep -qE '^ +-o, --output DIR$' "$scratch/stdout"
    for page in "$pages"/*.1; do check "  ${page##*/} has no warning of groff" groff_is_silent "$page"; done
else
    skip_case "man finds and shows them" "no man here"
fi

# ---- its removal ----
list() { (cd "$1" && find . | sort); }
list "$root" >"$scratch/before"
touch "$root/usr/share/man/man1/ropebits-old.1"
echo share/man/man1/ropebits-old.1 >>"$root/usr/lib/ropebits/installed-files"
check "a second installation takes what an earlier one left" make_target install DESTDIR="$root" PREFIX=/usr
list "$root" >"$scratch/after"
check "  and is the same" cmp "$scratch/before" "$scratch/after"
touch "$root/usr/share/doc/theirs"
check "make uninstall" make_target uninstall DESTDIR="$root" PREFIX=/usr
list "$root" >"$scratch/after"
printf '%s\n' . ./usr ./usr/lib ./usr/lib/other ./usr/share ./usr/share/doc ./usr/share/doc/theirs >"$scratch/want"
check "  removes what was installed, and nothing else" cmp "$scratch/want" "$scratch/after"
expect "a second make uninstall says that nothing is there" 2 make_target uninstall DESTDIR="$root" PREFIX=/usr
stderr_has "is not installed in $root/usr"

# ---- the bundle ----
check "make bundle" env XZ_LEVEL=0 make --no-print-directory BUILD="$build" CUDA=0 bundle
mkdir "$scratch/moved"
check "  unpacks anywhere" tar -C "$scratch/moved" -xf "$build/ropebits-$version-linux-x86_64.tar.xz"
moved=$scratch/moved/ropebits-$version
for file in README.md CHANGELOG.md LICENSE docs/plan-rbp.md include/ropebits_plan.h share/man/man1/ropebits.1 \
            configs/demo.json; do
    check "  has $file" test -s "$moved/$file"
done
expect "its programs run" 0 "$moved/bin/ropebits" inspect "$scratch/out/plan.rbp"
hdf5_of() { ldd "$1/bin/ropebits-run" | grep libhdf5; }
check "  with the libraries they brought" grep -qF "$moved/bin/../lib/" <(hdf5_of "$moved")
links_library "the bundle" "$moved/lib" PKG_CONFIG_PATH="$moved/lib/pkgconfig"

# ---- the Debian package ----
if command -v dpkg-deb >/dev/null 2>&1 && command -v dpkg-shlibdeps >/dev/null 2>&1; then
    check "make deb" make_target deb
    package=$build/ropebits_${version}_$(dpkg --print-architecture).deb
    check "  unpacks" dpkg-deb -x "$package" "$scratch/deb"
    expect "  its programs run" 0 "$scratch/deb/usr/bin/ropebits" inspect "$scratch/out/plan.rbp"
    check "  and are hardened" bash -c 'readelf -dW "$1"/ropebits-run | grep -q "Flags:.* NOW PIE"' - \
        "$scratch/deb/usr/bin"
    expect "  it says what it needs" 0 dpkg-deb -f "$package" Depends
    for library in libc6 libhdf5 libopenblas libzstd; do stdout_has "$library"; done
    check "  its files belong to root" bash -c '! dpkg-deb -c "$1" | grep -v " root/root "' - "$package"
    dpkg-deb --ctrl-tarfile "$package" | tar -xO ./md5sums >"$scratch/md5sums"
    check "  and have their sums" bash -c 'cd "$1" && md5sum -c --quiet "$2"' - "$scratch/deb" "$scratch/md5sums"
    equal "    all of them" "$(dpkg-deb -c "$package" | grep -c '^-')" "$(wc -l <"$scratch/md5sums")"
else
    skip_case "make deb" "no dpkg-dev here"
fi

# ---- the release tarball ----
if [ "$(git rev-parse --show-cdup 2>/dev/null || echo none)" ]; then
    skip_case "make dist" "not a git checkout"
else
    check "make dist" env XZ_LEVEL=0 make --no-print-directory BUILD="$build" dist
    mkdir "$scratch/source"
    check "  unpacks" tar -C "$scratch/source" -xf "$build/ropebits-$version.tar.xz"
    source=$scratch/source/ropebits-$version
    git ls-tree -r --name-only HEAD | sort >"$scratch/want"
    (cd "$source" && find . ! -type d | sed 's|^\./||' | sort) >"$scratch/have"
    check "  has every file of the commit" cmp "$scratch/want" "$scratch/have"
    check "  knows its commit without git" make -C "$source" --no-print-directory build/gen/version.h
    commit=$(git rev-parse --short=12 HEAD)
    check "    which is this one" grep -qF "RB_COMMIT \"$commit\"" "$source/build/gen/version.h"
    expect "  cannot be packed again" 2 env GIT_CEILING_DIRECTORIES="$scratch" make -C "$source" dist
    stderr_has "here is none"
    # A tarball that was made without git has no commit.
    printf '$For''mat:%%H$\n' >"$source/packaging/commit"
    check "  without the commit it is of an unknown one" env GIT_CEILING_DIRECTORIES="$scratch" \
        make -C "$source" --no-print-directory build/gen/version.h
    check "    and says so" grep -qF 'RB_COMMIT "unknown"' "$source/build/gen/version.h"
fi

finish
