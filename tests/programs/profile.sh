# The profile program: what it prints, refuses, and leaves after it.
. tests/programs/tap.sh

# Every capture is a name in the scratch folder. The text and the test text are files of configs/demo-text.
calibrate() {   # calibrate CAPTURE TEXT TEST_TEXT
    "$bin/ropebits-calibrate" -q --model configs/demo-llama --n-tokens 200 --context 96 \
        --text "configs/demo-text/$2.txt" --test-text "configs/demo-text/$3.txt" -o "$scratch/$1.h5" >/dev/null
}
profile() { "$bin/ropebits-profile" "$scratch/capture.h5" "$@"; }
score() { profile -q --plan "$scratch/$1.json" --json; }     # score PLAN
block_gtq() {   # block_gtq PROFILE PLAN
    "$bin/ropebits-allocate" "$scratch/$1.h5" --method block-gtq --avg-bits 3 -o "$scratch/$2.json"
}

calibrate capture calibration heldout
calibrate other heldout calibration

expect "help is a success on stdout" 0 "$bin/ropebits-profile" --help
stdout_has "(default 2,3,4)"
expect "no capture is a usage error" 2 "$bin/ropebits-profile" -o "$scratch/p.h5"
stderr_has "CAPTURE.h5"
expect "no output is a usage error" 2 profile
stderr_has "no output"
expect "an unknown method is a usage error" 2 profile --methods magic -o "$scratch/p.h5"
stderr_has "magic"
expect "a budget beyond 8 bits is a usage error" 2 profile --budgets 9 -o "$scratch/p.h5"
expect "a budget given twice is a usage error" 2 profile --budgets 2,3,2 --json
stderr_has "uniform at 2 bits is asked for twice"
expect "a capture that is not there is named" 1 "$bin/ropebits-profile" "$scratch/absent.h5" -o "$scratch/p.h5"
stderr_has "absent.h5"
expect "a file that is no capture is refused" 1 "$bin/ropebits-profile" configs/demo.json -o "$scratch/p.h5"
stderr_lines 1
check "  and nothing is left behind" no_output "$scratch/p.h5"

expect "two methods at three budgets are scored" 0 profile -q --budgets 2,3,4 -o "$scratch/p.h5"
stdout_has "block-gtq@3"
stdout_has "layers won"
stdout_has "largest tail ratio"
stdout_has "block-gtq@2: worst tokens (position, layer.kv_head, excess): id"
expect "with the model, worst tokens have their text" 0 \
    profile -q --budgets 3 --worst-tokens 2 --model configs/demo-llama --json
check "  two of every method" test "$(sed '/"sinks"/,/^  },/d' "$scratch/stdout" | grep -c '"text":')" = 4
check "sinks are told, and why" grep -q '"gain_bits"' "$scratch/stdout"
expect "none are listed when none are asked for" 0 profile -q --budgets 3 --worst-tokens 0 --json
check "  of any method" test "$(grep -c '"excess":' "$scratch/stdout")" = 0
expect "a model that is not the capture's is refused" 1 profile -q --budgets 3 --model configs --json
stderr_has "config.json"
# 200 tokens of calibration do not cover the test text.
expect "a text that calibration did not see is told of" 0 profile --budgets 3 --json
stderr_has "the test text lies outside what calibration saw"
expect "but not to who reads it in the summary" 0 profile --budgets 3 --no-coverage-warning --json
check "  stderr does not tell it" lacks "lies outside" "$scratch/stderr"
stdout_has '"is_covered": false'
for threads in 1 2 4; do
    expect "with $threads threads too" 0 profile -q --threads $threads --budgets 2,3,4 -o "$scratch/q.h5"
    check "  with the same bytes" cmp "$scratch/p.h5" "$scratch/q.h5"
done
expect "the time it took is told on request" 0 profile -v --budgets 3 --no-curves -o "$scratch/plain.h5"
stderr_has "logit errors took"
check "  and a profile without curves is enough to allocate from" block_gtq plain plain
expect "a fractional budget is scored for block-gtq" 0 profile --budgets 2.5 --json
stderr_has "uniform is not scored at 2.5 bits"
stdout_has '"reduction_vs_uniform": null'
expect "a fractional budget for only uniform leaves nothing to score" 2 profile --budgets 2.5 --methods uniform --json

block_gtq p plan >/dev/null
expect "a finished plan is scored" 0 score plan
profile -q --budgets 3 --methods block-gtq --json >"$scratch/method-score.json"
check "  and told by its name" grep -qF "\"plan\": \"$scratch/plan.json\"" "$scratch/stdout"
grep -v '"plan":' "$scratch/stdout" >"$scratch/plan-score.json"
check "  and has the score of the method that made it" cmp "$scratch/plan-score.json" "$scratch/method-score.json"
"$bin/ropebits-allocate" -q "$scratch/p.h5" --method uniform --avg-bits 4 -o "$scratch/uniform.json" >/dev/null
expect "every plan that is given is scored" 0 \
    profile -q --plan "$scratch/plan.json" --plan "$scratch/uniform.json" --json
check "  the first and the second" test "$(grep -c '"plan": ' "$scratch/stdout")" = 2
expect "  with a column each" 0 profile -q --plan "$scratch/plan.json" --plan "$scratch/uniform.json"
check "  under their names" grep -qE "^layer +plan.json +uniform.json$" "$scratch/stdout"
"$bin/ropebits-export" -q "$scratch/plan.json" --format rbp -o "$scratch/out" >/dev/null
expect "a plan.rbp is scored too" 0 profile --plan "$scratch/plan.json" --plan "$scratch/out/plan.rbp"
stderr_has "are both block-gtq at 3 bits"
expect "a plan is scored on another text too" 0 \
    "$bin/ropebits-profile" -q "$scratch/other.h5" --plan "$scratch/plan.json"
sed 's/"head_dim": 64/"head_dim": 32/' "$scratch/plan.json" >"$scratch/bad-plan.json"
expect "a plan that contradicts itself is refused" 1 score bad-plan
sed 's/"config_sha256": "...../"config_sha256": "00000/' "$scratch/plan.json" >"$scratch/other-plan.json"
expect "a plan of another model is refused with both values" 1 score other-plan
stderr_has "config_sha256"
stderr_has "capture.h5"

head -c 20000 "$scratch/capture.h5" >"$scratch/cut.h5"
expect "a truncated capture ends in one sentence" 1 "$bin/ropebits-profile" -q "$scratch/cut.h5" -o "$scratch/r.h5"
stderr_lines 1

# This stands for a full disk: the kernel refuses to let the file grow beyond 8 KiB.
on_full_disk() { (trap "" XFSZ; ulimit -f 8; "$@"); }
expect "a full disk is an error" 1 on_full_disk profile -q --budgets 3 -o "$scratch/full.h5"
check "  and nothing is left behind" no_output "$scratch/full.h5"

finish
