# Every fuzz target over its seeds, and over a few changed copies of each, the same every time. `make fuzz` does it for
# longer, with a mutator that looks at coverage.
. tests/programs/tap.sh

export ASAN_OPTIONS=allocator_may_return_null=1
for source in tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c) seeds=tests/fuzz/seeds/$(basename "${source#tests/fuzz/fuzz_}" .c)
    expect "$name withstands its seeds" 0 timeout 300 "$build/tests/fuzz/$name" "$seeds"
    check "  and there are some" holds 'a >= b' "$(cat "$scratch/stdout")" 20
done

finish
