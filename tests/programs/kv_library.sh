# libropebits_kv as other programs link it: what it needs, what it shows, the example, shared and static.
. tests/programs/tap.sh

if [ "${RB_SANITIZED:-0}" = 1 ]; then
    skip_case "libropebits_kv" "plain build only"
    finish
fi
cc=${CC:-gcc}
lib=$build/lib

"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt --values \
    --n-tokens 512 --context 128 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null
plan_of() {     # plan_of NAME OPTIONS...: $scratch/plans/NAME.rbp
    "$bin/ropebits-allocate" -q "$scratch/p.h5" "${@:2}" -o "$scratch/$1.json" >/dev/null 2>&1
    "$bin/ropebits-export" -q "$scratch/$1.json" --format rbp -o "$scratch/plans" >/dev/null
}
plan_of block-gtq --method block-gtq --avg-bits 3 --value-bits 3
plan_of block-codebook --method block-codebook --true-bits 3 --value-bits 3 --sink 4 --recent 32
plan_of trellis --method trellis --true-bits 3 --value-bits 3

# ---- what it needs and shows ----
needed() { readelf -d "$1" | sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p' | grep -vE '^(libc|libm)\.so\.6$'; }
equal "the shared library needs that of plans, and no other but the C library's" libropebits_plan.so.5 \
    "$(needed "$lib/libropebits_kv.so")"
equal "  which needs zstd" libzstd.so.1 "$(needed "$lib/libropebits_plan.so")"
foreign_names() { nm "$@" --defined-only | awk 'NF == 3 { print $3 }' | grep -v '^ropebits_'; }
for library in libropebits_kv libropebits_plan; do
    none "$library.so shows its own names only" "$(foreign_names -D "$lib/$library.so")"
    none "$library.a shows its own names only" "$(foreign_names -g "$lib/$library.a")"
done
declared() { grep -oE '\bropebits_[a-z_0-9]+\(' "$1" | tr -d '(' | sort -u; }
shown() { nm -D --defined-only "$1" | awk '{ print $3 }' | sort; }
equal "all that the header declares" "$(declared cache/library/ropebits_kv.h)" "$(shown "$lib/libropebits_kv.so")"
check "the header is C99 and C++" bash -c '
    echo "#include <ropebits_kv.h>" | '"$cc"' -std=c99 -pedantic -Wall -Werror -fsyntax-only -xc "$@" - &&
    echo "#include <ropebits_kv.h>" | '"$cc"' -Wall -Werror -fsyntax-only -xc++ "$@" -
' - -Icache/library -Iplan/library

# ---- the example ----
read -r -d '' -a compile <<<"$cc -Wall -Wextra -Werror docs/examples/kv_example.c -Icache/library -Iplan/library"
check "the example compiles" "${compile[@]}" -o "$scratch/shared" -L"$lib" -lropebits_kv -lropebits_plan -lm
check "  and with the static libraries" "${compile[@]}" -o "$scratch/static" \
    "$lib/libropebits_kv.a" "$lib/libropebits_plan.a" -lzstd -lm -ldl -lpthread
none "    of which it keeps no shared one" "$(needed "$scratch/static" | grep ropebits)"
for name in block-gtq block-codebook trellis; do
    expect "  and attends over $name" 0 env LD_LIBRARY_PATH="$lib" "$scratch/shared" "$scratch/plans/$name.rbp"
    stdout_has "bytes of pages, fp16 takes"
    cp "$scratch/stdout" "$scratch/want"
    expect "    statically too" 0 "$scratch/static" "$scratch/plans/$name.rbp"
    check "      with the same numbers" cmp "$scratch/want" "$scratch/stdout"
done
expect "  and says what is wrong with another file" 1 "$scratch/static" "$scratch/trellis.json"
stderr_has "wrong magic"

# ---- where it looks for the CUDA side: beside itself, whatever the program ----
cat >"$scratch/gpu.c" <<'END'
#include <ropebits_kv.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    char error[512];
    ropebits_kv *kv;
    if (argc == 2 && ropebits_kv_open(&kv, argv[1], "cuda", error, sizeof error) == ROPEBITS_KV_EDEVICE) puts(error);
    return 0;
}
END
mkdir "$scratch/lib"
cp "$lib/libropebits_kv.so.1" "$lib/libropebits_plan.so.5" "$scratch/lib"
check "a program that wants a GPU" "$cc" "$scratch/gpu.c" -Icache/library -Iplan/library -o "$scratch/gpu" \
    "$scratch/lib/libropebits_kv.so.1" "$scratch/lib/libropebits_plan.so.5"
expect "  is told where the CUDA side should be" 0 env -u ROPEBITS_CUDA_LIBRARY LD_LIBRARY_PATH="$scratch/lib" \
    "$scratch/gpu" "$scratch/plans/trellis.rbp"
stdout_has "no CUDA side: $(realpath "$scratch/lib")/ropebits/ropebits_cuda.so is not there"
mkdir "$scratch/lib/ropebits"
echo "no library" >"$scratch/lib/ropebits/ropebits_cuda.so"
expect "  and finds it there" 0 env -u ROPEBITS_CUDA_LIBRARY LD_LIBRARY_PATH="$scratch/lib" \
    "$scratch/gpu" "$scratch/plans/trellis.rbp"
stdout_has "lib/ropebits/ropebits_cuda.so cannot be loaded"

finish
