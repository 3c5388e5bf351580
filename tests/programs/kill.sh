# Programs that are ended half way: run with its stages, every writer, two at once, inputs that change while they are
# read. RB_RUN_KILLS says how many runs are killed at random moments, RB_SEED when; both are printed.
. tests/programs/tap.sh
ulimit -c 0

kills=${RB_RUN_KILLS:-$((2 - RB_SANITIZED))} seed=${RB_SEED:-$(date +%s)}
RANDOM=$((seed % 32768))
trials=$(((kills + 1) / 2))
echo "# RB_RUN_KILLS=$kills RB_SEED=$seed"
text=configs/demo-text/calibration.txt heldout=configs/demo-text/heldout.txt
out=$scratch/out whole=$scratch/whole
cp -r configs/demo-llama "$scratch/model"
cp "$text" "$scratch/text.txt"

milliseconds() { echo $(($(date +%s%N) / 1000000)); }
# wait_until COMMAND...: up to 20 s.
wait_until() { for _ in $(seq 4000); do "$@" >/dev/null 2>&1 && return; sleep 0.005; done; }
# a_moment_of MILLISECONDS: sleeps for a random part of it.
a_moment_of() {
    local ms=$(((RANDOM * 32768 + RANDOM) % ($1 + 1)))
    sleep "$(printf %d.%03d $((ms / 1000)) $((ms % 1000)))"
}
# A background job of a script ignores SIGINT and SIGQUIT, so env sets them back.
start() { env --default-signal=INT,QUIT "$@" >"$scratch/stdout" 2>"$scratch/stderr" </dev/null & victim=$!; }
# stop SIGNAL: the exit code goes to code.
stop() { kill -"$1" "$victim" 2>/dev/null; wait "$victim" 2>/dev/null; code=$?; }
code_of() { case $1 in HUP) echo 129 ;; INT) echo 130 ;; QUIT) echo 131 ;; KILL) echo 137 ;; TERM) echo 143 ;; esac; }
# Programs that work in $out; grep has the path from a file, so that it does not find itself.
echo "$out" >"$scratch/pattern"
alive() { grep -lsaFf "$scratch/pattern" /proc/[0-9]*/cmdline; }
none_alive() { ! alive; }

# ---- run -------------------------------------------------------------------------------------------------------------
# pipeline N_TOKENS MORE: one whose calibrate reads as many; MORE is a further member.
pipeline() {
    cat <<JSON
{"schema": "ropebits-pipeline", "version": 1, "model": "$scratch/model", "text": "$scratch/text.txt",
 "calibrate": {"n_tokens": $1, "n_test_tokens": 256, "context": 256},
 "profile": {"budgets": [2], "methods": ["uniform"]}, "allocate": {"method": "block-gtq", "avg_bits": 2}$2}
JSON
}
evaluation='"n_tokens": 256, "context": 128, "budgets": [2], "methods": ["uniform"]'
pipeline 512 ", \"evaluate\": {\"text\": \"$PWD/$heldout\", $evaluation}" >"$scratch/short.json"
pipeline 3072 "" >"$scratch/long.json"
run() { echo "$bin/ropebits-run" --device cpu --threads 1 "$scratch/$1.json" -o "$out"; }
read -r -a short <<<"$(run short)"
read -r -a long <<<"$(run long)"
half_written() { find "$out" -name '*.tmp' -o -name '*.parts'; }

began=$(milliseconds)
expect "a run that nothing stops" 0 "${short[@]}" -q
took=$(($(milliseconds) - began))
mv "$out" "$whole"

wrong="" n_killed=0
while [ $n_killed -lt "$kills" ] && [ -z "$wrong" ]; do
    rm -rf "$out"
    start "${short[@]}" -q
    a_moment_of $took
    stop KILL
    if [ $code = 0 ]; then continue; fi
    n_killed=$((n_killed + 1))
    "${short[@]}" -q >"$scratch/stdout" 2>"$scratch/stderr" </dev/null || wrong+=" $(cat "$scratch/stderr")"
    wrong+=$(diff -rq -x lock "$whole" "$out") wrong+=$(half_written)
done
none "$kills runs killed at random moments and started again: the same files, nothing left over" "$wrong"

wrong=""
for signal in INT TERM; do
    for _ in $(seq $trials); do
        rm -rf "$out"
        start "${short[@]}" -q
        a_moment_of $took
        stop $signal
        if [ $code = 0 ]; then continue; fi
        [ $code = "$(code_of $signal)" ] || wrong+=" SIG$signal gives $code"
        none_alive || wrong+=" SIG$signal leaves $(alive)"
        wrong+=$(find "$out" -name '*.tmp' ! -path '*.parts/*')
    done
done
none "runs that a signal ends at random moments end by it, with their stage, and leave whole files" "$wrong"

for signal in INT TERM HUP QUIT KILL; do
    rm -rf "$out"
    start "${long[@]}" -q
    wait_until test -e "$out/capture.h5.parts/run.json"
    began=$(milliseconds)
    stop $signal
    equal "SIG$signal to run while it calibrates ends it by that signal" "$(code_of $signal)" $code
    [ $signal = KILL ] && wait_until none_alive
    none "  and calibrate" "$(alive)"
    none "  which publishes nothing" "$(find "$out" -name '*.h5' -o -name '*.json' ! -name run.json)"
    [ $signal = KILL ] || none "  and leaves no temporary file" "$(find "$out" -maxdepth 1 -name '*.tmp')"
done
expect "the killed one is started again at once" 0 "${short[@]}" -q
none "  and is as if nothing had been" "$(diff -rq -x lock "$whole" "$out"; half_written)"

# ---- two runs in one folder ------------------------------------------------------------------------------------------
rm -rf "$out"
start "${long[@]}" -q
wait_until test -e "$out/capture.h5.parts/run.json"
first=$victim
expect "a second run in the folder is refused" 1 "${short[@]}"
stderr_has "$out: another run works in this folder (process $first on "
stderr_lines 1
check "  while the first goes on" kill -0 "$first"
stop KILL
expect "and takes it at once when the first is killed" 0 "${short[@]}" -q

# ---- an input that changes -------------------------------------------------------------------------------------------
rm -rf "$out"
start "${long[@]}"
wait_until test -e "$out/capture.h5.parts/run.json"
echo "One more line." >>"$scratch/text.txt"
wait "$victim"
equal "a run whose text is edited while it calibrates ends well" 0 $?
stderr_has "an input of calibrate changed while it ran: the next run does it again"
expect "  and calibrates again next time" 0 "${long[@]}"
stderr_has "calibrate took"
check "  only then it is up to date" bash -c '"$@" 2>&1 | grep -q "calibrate is up to date"' - "${long[@]}"

# ---- each program by itself ------------------------------------------------------------------------------------------
rm -rf "${out:?}" && mkdir "$out"
profile=$whole/profile.h5 capture=$whole/capture.h5 plan=$whole/plan.json
# ends_at_any_moment N_TRIALS NAME COMMAND...: SIGINT at random moments; every file in $out is whole or absent.
ends_at_any_moment() {
    local n=$1 name=$2 began took file wrong=""; shift 2
    rm -rf "${out:?}"/* "$scratch/complete"
    began=$(milliseconds)
    "$@" >/dev/null 2>"$scratch/stderr" </dev/null || wrong+=" $(cat "$scratch/stderr")"
    took=$(($(milliseconds) - began))
    cp -r "$out" "$scratch/complete"
    for _ in $(seq "$n"); do
        rm -rf "${out:?}"/*
        start "$@"
        a_moment_of $took
        stop INT
        [ $code = 130 ] || [ $code = 0 ] || wrong+=" exit code $code: $(cat "$scratch/stderr")"
        wrong+=$(diff -rq "$out" "$scratch/complete" | grep -v "Only in $scratch/complete")
    done
    none "$name ends by SIGINT at any moment, and leaves whole files" "$wrong"
}
read -r -a on_cpu <<<"-q --device cpu --threads 1"
ends_at_any_moment $trials calibrate "$bin/ropebits-calibrate" "${on_cpu[@]}" --model configs/demo-llama --text $text \
    --n-tokens 512 --context 256 --no-resume -o "$out/c.h5"
ends_at_any_moment $trials profile "$bin/ropebits-profile" "${on_cpu[@]}" "$capture" --budgets 2 --methods uniform \
    --no-curves -o "$out/p.h5"
ends_at_any_moment $((3 * trials)) allocate "$bin/ropebits-allocate" -q "$profile" --method block-gtq --avg-bits 2 \
    -o "$out/plan.json"
ends_at_any_moment $((3 * trials)) export "$bin/ropebits-export" -q --format rbp,header,safetensors,report,cuda \
    "$plan" -o "$out"
ends_at_any_moment $trials evaluate "$bin/ropebits-evaluate" "${on_cpu[@]}" --model configs/demo-llama --plan "$plan" \
    --text $heldout --n-tokens 256 --context 128 -o "$out/e.json"
ends_at_any_moment $trials tune "$bin/ropebits-tune" "${on_cpu[@]}" "$profile" --model configs/demo-llama \
    --text $heldout --n-tokens 128 --context 128 --method block-gtq --kl 0.1 -o "$out/plan.json"
ends_at_any_moment $trials generate "$bin/ropebits-generate" "${on_cpu[@]}" --model configs/demo-llama --plan "$plan" \
    --prompt "The house" --max-tokens 20

# ---- two writers of one file -----------------------------------------------------------------------------------------
read -r -a export <<<"$bin/ropebits-export -q --format rbp,header,safetensors"
mkdir "$scratch/a" "$scratch/b" "$scratch/uniform"
other=$scratch/uniform/plan.json
cp "$whole/plan-uniform-2.json" "$other"
"${export[@]}" "$plan" -o "$scratch/a" >/dev/null
"${export[@]}" "$other" -o "$scratch/b" >/dev/null
rm -rf "${out:?}"/*
mixed=""
for _ in 1 2 3 4 5; do
    "${export[@]}" "$plan" -o "$out" >/dev/null 2>&1 &
    first=$!
    "${export[@]}" "$other" -o "$out" >/dev/null 2>&1 || mixed+=" second"
    wait $first || mixed+=" first"
    for file in "$scratch"/a/*; do
        file=${file##*/}
        cmp -s "$out/$file" "$scratch/a/$file" || cmp -s "$out/$file" "$scratch/b/$file" || mixed+=" $file"
    done
done
mixed+=$(diff <(ls "$scratch/a") <(ls "$out"))
none "two exports into one folder each leave whole files, and nothing else" "$mixed"

# A writer that is killed leaves its file; the next one of that name removes it, and no other.
touch "$out/plan.rbp.aB3xY9.tmp" "$out/plan.rbp.old.tmp" "$out/other.rbp.aB3xY9.tmp"
"${export[@]}" "$plan" -o "$out" >/dev/null
equal "what a killed writer left is removed by the next one of the same file" "other.rbp.aB3xY9.tmp plan.rbp.old.tmp" \
    "$(cd "$out" && echo *.tmp)"

# ---- weights that are cut while they are read ------------------------------------------------------------------------
# is_cut NAME FILE COMMAND...: cuts the weights when FILE has something in it.
is_cut() {
    local name=$1 file=$2; shift 2
    cp configs/demo-llama/model.safetensors "$scratch/model/"
    rm -rf "${out:?}"/*
    start "$@"
    wait_until test -s "$file"
    truncate -s 2000000 "$scratch/model/model.safetensors"
    wait "$victim"
    equal "$name says that its weights were cut" 1 $?
    stderr_has "$name: error: $scratch/model/model.safetensors: ends at byte 2000000, expected "
    stderr_lines 1
    none "  and leaves nothing" "$(find "$out" -mindepth 1 -maxdepth 1 ! -name '*.parts')"
}
is_cut calibrate "$out/c.h5.parts/run.json" "$bin/ropebits-calibrate" "${on_cpu[@]}" --model "$scratch/model" \
    --text $text --n-tokens 4096 --n-test-tokens 512 --context 512 -o "$out/c.h5"
is_cut generate "$scratch/stdout" "$bin/ropebits-generate" "${on_cpu[@]}" --model "$scratch/model" --plan "$plan" \
    --prompt "The house" --max-tokens 800 --ignore-eos

finish
