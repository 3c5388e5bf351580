# Files made to do harm: HDF5 that ends libhdf5 by a signal, and names that would write C or steer a terminal.
. tests/programs/tap.sh

# HDF5 whose metadata are damaged and whose checksums are good: captures and profiles.
for file in tests/fixtures/damaged-h5/*.h5 "$shared"/cases/h5/*.h5; do
    [ -e "$file" ] || continue
    expect "$(basename "$file") as a capture is refused" 1 "$bin/ropebits-profile" "$file" --budgets 2 \
        --methods uniform -o "$scratch/x.h5"
    stderr_lines 1
    expect "$(basename "$file") as a profile is refused" 1 "$bin/ropebits-allocate" "$file" --method uniform \
        --avg-bits 2 -o "$scratch/x.json"
    stderr_lines 1
    none "  and no file is left" "$(ls "$scratch"/x.* 2>/dev/null)"
done
expect "what libhdf5 does not survive is told" 1 "$bin/ropebits-allocate" tests/fixtures/damaged-h5/damaged-18.h5 \
    --method uniform --avg-bits 2 -o "$scratch/x.json"
stderr_has "damaged-18.h5: damaged HDF5 file (libhdf5 ended"

# Names that a plan carries.
plan_with() { sed -E "s|\"$1\": *\"[^\"]*\"|\"$1\": \"$2\"|" tests/fixtures/plan-mixed-layer.json >"$scratch/$3.json"; }
plan_with model_type '*/\\n#include \\"x.h\\"\\n/*' type-comment
plan_with model_type 'll\\u001b]0;pwned\\u0007\\u001b[2J' type-escape
plan_with model_type 'llama qwen' type-space
plan_with model_type '' type-empty
plan_with method '*/ int evil; /*' method-comment
plan_with method 'opt\\u202eimal' method-turned
for plan in "$scratch"/*-*.json "$shared"/cases/strings/*.json; do
    [ -e "$plan" ] || continue
    for format in header report safetensors rbp; do
        expect "export --format $format of $(basename "$plan") is refused" 1 "$bin/ropebits-export" --format $format \
            "$plan" -o "$scratch/out"
    done
    stderr_lines 1
    check "  and nothing is written" test ! -e "$scratch/out"
    expect "inspect of it is refused" 1 "$bin/ropebits-inspect" "$plan"
    stderr_lines 1
    check "  and no control character reaches the terminal" lacks '[[:cntrl:]]' "$scratch/stderr" "$scratch/stdout"
done
expect "what it says is shown escaped" 1 "$bin/ropebits-inspect" "$scratch/type-escape.json"
stderr_has 'model_type is "ll\x1b]0;pwned\x07\x1b[2J", expected a name of letters'

# Names of files, which --json shows as UTF-8 and a terminal without control characters.
plan=tests/fixtures/plan-block-codebook.json
odd=$(printf '%s/p\033[2J\n\377*' "$scratch")
cp $plan "$odd.json"
expect "a plan of an odd name is exported" 0 "$bin/ropebits-export" --format rbp "$odd.json" -o "$scratch/odd"
check "  and shown without control characters" lacks '[^[:print:]]' "$scratch/stdout"
expect "  and as JSON" 0 "$bin/ropebits-export" --json --format rbp "$odd.json" -o "$scratch/odd"
check "  that is UTF-8" iconv -f UTF-8 -t UTF-8 "$scratch/stdout"
check "  without control characters" lacks '[[:cntrl:]]' "$scratch/stdout"
expect "  also for another runtime" 0 "$bin/ropebits-export" --format vllm --allow-larger "$odd.json" -o "$scratch/odd"
check "  whose comments end where they should" lacks '^[*]' "$scratch"/odd/*

finish
