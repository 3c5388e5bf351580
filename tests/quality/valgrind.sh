# The demo's programs under valgrind's memcheck, on a short text: no invalid read or write, nothing that depends on what
# was never set, nothing lost. Minutes, so it is a target of its own (make check-valgrind).
. tests/programs/tap.sh

if ! command -v valgrind >/dev/null; then
    skip_case "valgrind" "it is not installed"
    finish
fi
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
memcheck=(valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite
    --trace-children=yes --trace-children-skip='*/sh,*/env' --suppressions=tests/quality/valgrind.supp)
model=configs/demo-llama text=configs/demo-text/calibration.txt
clean() {   # clean NAME PROGRAM ARGUMENT...: ends with 0 and memcheck says nothing
    local name=$1 program=$2; shift 2
    expect "$name" 0 "${memcheck[@]}" "$bin/ropebits-$program" "$@"
    none "  and memcheck has nothing to say" "$(grep -E '^==' "$scratch/stderr" | head -40)"
}

clean calibrate calibrate -q --threads 1 --device cpu --model $model --text $text --n-tokens 32 --context 32 --values \
    -o "$scratch/c.h5"
clean profile profile -q --threads 1 --device cpu --no-curves "$scratch/c.h5" --budgets 2 --methods uniform,block-gtq \
    --json -o "$scratch/p.h5"
cp "$scratch/stdout" "$scratch/summary.json"
clean allocate allocate -q --threads 1 "$scratch/p.h5" --method block-gtq --avg-bits 2 -o "$scratch/plan.json"
clean export export -q --format rbp,header,safetensors,report --summary "$scratch/summary.json" "$scratch/plan.json" \
    -o "$scratch/out"
clean inspect inspect "$scratch/plan.json"
clean "inspect of plan.rbp" inspect "$(find "$scratch/out" -name '*.rbp')"
clean diff diff "$scratch/plan.json" "$scratch/plan.json"
clean explain explain "$scratch/plan.json" --profile "$scratch/p.h5" --layer 0 --kv-head 0
clean encode encode -q --threads 1 "$scratch/plan.json" "$scratch/c.h5" --layer 0 --n-vectors 8 -o "$scratch/codes.npz"
clean evaluate evaluate -q --threads 1 --device cpu --model $model --plan "$scratch/plan.json" --text $text \
    --n-tokens 32 --context 32 -o "$scratch/evaluation.json"
clean generate generate -q --threads 1 --device cpu --model $model --plan "$scratch/plan.json" --prompt "a b" \
    --max-tokens 2
clean compare compare "$scratch/summary.json" "$scratch/summary.json"
finish
