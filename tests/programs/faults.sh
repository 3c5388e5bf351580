# Faults that the system has and a machine rarely shows: no memory, a full disk, disk errors, reads that give less than
# asked for. tests/faults/faults.c makes one call of a program fail. Whichever it is, the program ends with 0 and the
# output it has without the fault, or with 1 and one sentence; an output is absent or whole, and no temporary file is
# left. calibrate may leave OUTPUT.parts, and then the same command without the fault goes on to the same output.
#
# Which calls fail is drawn from RB_FAULTS_SEED (printed; another one every time unless it is given). RB_FAULTS: how
# many calls of each program and kind, 2 unless said; `all` is all calls but of memory, of which it is RB_FAULTS_MEMORY
# (100).
. tests/programs/tap.sh

faults=$(realpath "$build/tests/libfaults.so" 2>/dev/null || true)
if [ "${RB_SANITIZED:-0}" = 1 ] || [ ! -e "$faults" ]; then
    skip_case "faults" "a sanitizer has an allocator of its own"
    finish
fi
RANDOM=$((${RB_FAULTS_SEED:=$(($(date +%s) % 32768))}))
echo "# RB_FAULTS_SEED=$RB_FAULTS_SEED"

model=configs/demo-llama text=configs/demo-text/calibration.txt
common=(-q --threads 1)
calibrate=("$bin/ropebits-calibrate" "${common[@]}" --device cpu --model "$model" --text "$text" --context 64 --values)
expect "a capture to work with" 0 "${calibrate[@]}" --n-tokens 128 -o "$scratch/c.h5"
profile=("$bin/ropebits-profile" "${common[@]}" --device cpu "$scratch/c.h5")
expect "a profile to work with" 0 "${profile[@]}" --no-coverage-warning --budgets 2,3 --methods uniform,block-gtq \
    -o "$scratch/p.h5"
"${profile[@]}" --budgets 2,3 --methods uniform,block-gtq --json >"$scratch/summary.json" 2>/dev/null
allocate=("$bin/ropebits-allocate" "${common[@]}" "$scratch/p.h5")
expect "a plan to work with" 0 "${allocate[@]}" --method optimal --avg-bits 2 --value-bits 2 -o "$scratch/plan.json"
expect "and another" 0 "${allocate[@]}" --method block-gtq --avg-bits 3 -o "$scratch/gtq.json"
expect "as plan.rbp" 0 "$bin/ropebits-export" -q --format rbp "$scratch/plan.json" -o "$scratch"
expect "vectors to import" 0 "$build/tests/calibrate/test_import" --export "$scratch/c.h5" "$scratch/c.safetensors"
cat >"$scratch/pipeline.json" <<JSON
{ "schema": "ropebits-pipeline", "version": 1, "model": "$PWD/$model", "text": "$PWD/$text",
  "test_text": "$PWD/configs/demo-text/heldout.txt", "calibrate": { "n_tokens": 128, "context": 64 },
  "profile": { "budgets": [3], "methods": ["uniform", "block-gtq"] },
  "allocate": { "method": "block-gtq", "avg_bits": 3, "value_bits": 3 }, "export": { "formats": ["rbp"] } }
JSON

out=$scratch/out wanted=$scratch/wanted mark=$scratch/mark
injected=0 parts=0
declare -A kind_injected=()

# What a program says, without how long it took.
told() { sed -E -e 's/[0-9.]+ s\b//g' -e '/_s"/d' "$1"; }

same_words() { cmp <(told "$scratch/wanted.stdout") <(told "$scratch/stdout"); }
# A stage's JSON and stamp tell times.
same_files() { diff -rq -x .stages -x calibrate.json "$wanted" "$out"; }

# inject KIND:N COMMAND...: adds to $wrong what should not be; to $injected when the fault came about.
inject() {
    local fault=$1 code lines; shift
    rm -rf "${out:?}" "$mark"
    mkdir "$out"
    RB_FAULT=$fault RB_FAULT_MARK=$mark LD_PRELOAD=$faults timeout 60 "$@" >"$scratch/stdout" 2>"$scratch/stderr" \
        </dev/null
    code=$?
    if [ -e "$mark" ]; then
        injected=$((injected + 1))
        kind_injected[${fault%%:*}]=$((${kind_injected[${fault%%:*}]:-0} + 1))
    fi
    lines=$(grep -c . "$scratch/stderr")
    if [ $code -gt 1 ]; then
        wrong+=" $fault ends with $code ($(head -c 200 "$scratch/stderr"));"
    elif [ $code -eq 1 ] && { [ "$lines" -gt "$max_lines" ] || ! grep -q ': error: ' "$scratch/stderr"; }; then
        wrong+=" $fault says $lines lines ($(head -c 300 "$scratch/stderr"));"
    elif [ $code -eq 0 ] && ! { same_files && same_words; } >/dev/null; then
        wrong+=" $fault gives another result without a word;"
    fi
    if [ -n "$(find "$out" -name '*.parts')" ]; then
        parts=$((parts + 1))
        if ! "$@" >"$scratch/stdout" 2>"$scratch/stderr" </dev/null || ! same_files >/dev/null; then
            wrong+=" $fault is not continued ($(head -c 300 "$scratch/stderr"));"
        fi
    fi
    left=$(find "$out" -name '*.tmp*')
    [ -z "$left" ] || wrong+=" $fault leaves $(echo "$left" | xargs basename -a | tr '\n' ' ');"
    while IFS= read -r file; do
        cmp -s "$file" "$wanted/${file#"$out/"}" || wrong+=" $fault leaves a broken ${file#"$out/"};"
    done < <(find "$out" -type f -not -name '*.tmp*' -not -path '*/.stages/*' -not -path '*.parts/*')
}

# draw HOW_MANY CALLS: so many numbers of calls, the last among them; all where there are no more.
draw() {
    local n=$1 calls=$2 i
    if [ "$calls" -le "$n" ]; then seq 1 "$calls"; return; fi
    {
        echo "$calls"
        for ((i = 1; i < n; i++)); do echo $((1 + (RANDOM * 32768 + RANDOM) % calls)); done
    } | sort -nu
}

# faulty NAME COMMAND...: every kind of fault in a program that writes to $out, or to stdout only.
faulty() {
    local name=$1 kind calls n how_many; shift
    local wrong before=$injected
    rm -rf "${out:?}" "${wanted:?}"
    mkdir "$out"
    RB_FAULT_COUNTS=$scratch/counts LD_PRELOAD=$faults "$@" >"$scratch/wanted.stdout" 2>"$scratch/stderr" </dev/null ||
        { not_ok "$name works without a fault" "$(cat "$scratch/stderr")"; return; }
    mv "$out" "$wanted"
    for kind in memory write open sync rename close read; do
        wrong=""
        calls=$(sed -n "s/^$kind //p" "$scratch/counts")
        [ "$calls" -gt 0 ] || continue
        how_many=${RB_FAULTS:-2}
        if [ "$how_many" = all ]; then
            how_many=$calls
            [ $kind != memory ] || how_many=${RB_FAULTS_MEMORY:-100}
        fi
        for n in $(draw "$how_many" "$calls"); do inject "$kind:$n" "$@"; done
        none "$name, $kind: done, or refused in one sentence with nothing half-written" "$wrong"
    done
    wrong=""
    inject memory-on:$((1 + RANDOM % 50)) "$@"
    none "$name, no memory from some call on" "$wrong"
    # Reads that give less than asked for are no fault: the result is the same.
    rm -f "$mark"
    RB_FAULT=short LD_PRELOAD=$faults "$@" >"$scratch/stdout" 2>"$scratch/stderr" </dev/null
    equal "$name, short reads: the same result" "0 " "$? $(same_files 2>&1)" "$(cat "$scratch/stderr")"
    echo "# $name: $((injected - before)) faults"
}

max_lines=1
faulty calibrate "${calibrate[@]}" --n-tokens 128 -o "$out/c.h5"
faulty import "$bin/ropebits-import" "${common[@]}" "$scratch/c.safetensors" --context 64 \
    --config $model/config.json -o "$out/i.h5"
faulty profile "${profile[@]}" --budgets 2 --methods block-gtq -o "$out/p.h5" --json
faulty "profile --plan" "${profile[@]}" --plan "$scratch/gtq.json" --json
faulty allocate "${allocate[@]}" --method optimal --avg-bits 2 --value-bits 2 -o "$out/plan.json"
faulty "allocate --sweep" "${allocate[@]}" --sweep 2:3:0.5 --method block-gtq -o "$out/sweep.json"
faulty export "$bin/ropebits-export" -q --format rbp,header,safetensors,report,folded,cuda --model $model \
    --summary "$scratch/summary.json" "$scratch/plan.json" -o "$out"
faulty encode "$bin/ropebits-encode" "${common[@]}" "$scratch/plan.rbp" "$scratch/c.h5" --layer 0 -o "$out/codes.npz"
faulty evaluate "$bin/ropebits-evaluate" "${common[@]}" --device cpu --model $model --plan "$scratch/gtq.json" \
    --text $text --n-tokens 64 --context 64 -o "$out/evaluation.json"
cp "$wanted/evaluation.json" "$scratch/evaluation.json" 2>/dev/null
faulty generate "$bin/ropebits-generate" "${common[@]}" --device cpu --model $model --plan "$scratch/gtq.json" \
    --prompt "a b" --max-tokens 3
faulty tune "$bin/ropebits-tune" "${common[@]}" --device cpu --model $model --text $text --n-tokens 64 --context 64 \
    --method uniform --kl 0.5 --max-evaluations 2 "$scratch/p.h5" -o "$out/plan.json"
faulty inspect "$bin/ropebits-inspect" "$scratch/plan.rbp"
faulty explain "$bin/ropebits-explain" "$scratch/plan.json" --profile "$scratch/p.h5" --layer 0 --kv-head 0
faulty diff "$bin/ropebits-diff" "$scratch/plan.json" "$scratch/gtq.json"
faulty compare "$bin/ropebits-compare" "$scratch/summary.json" "$scratch/summary.json"
faulty validate "$bin/ropebits-validate" "${common[@]}" --device cpu "$scratch/plan.rbp" "$scratch/c.h5"
max_lines=2     # the stage's sentence and run's
faulty run "$bin/ropebits-run" "${common[@]}" --device cpu "$scratch/pipeline.json" -o "$out/run"

for kind in "${!kind_injected[@]}"; do echo "# $kind: ${kind_injected[$kind]} faults"; done | sort
echo "# $injected faults injected, $parts of them left finished layers to continue after"
check "some left layers of calibrate" test "$parts" -gt 0
check "faults came about" test "$injected" -gt 100
finish
