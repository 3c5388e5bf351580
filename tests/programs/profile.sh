# The profile program: what it prints, refuses, and leaves behind.
. tests/programs/tap.sh

profile=$bin/ropebits-profile
"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt --test-text configs/demo-text/heldout.txt --n-tokens 200 --context 96 \
    -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/heldout.txt --test-text configs/demo-text/calibration.txt --n-tokens 200 --context 96 \
    -o "$scratch/other.h5" >/dev/null

expect "help is a success on stdout" 0 "$profile" --help
stdout_has "(default 2,3,4)"
expect "no capture is a usage error" 2 "$profile" -o "$scratch/p.h5"
stderr_has "CAPTURE.h5"
expect "no output is a usage error" 2 "$profile" "$scratch/capture.h5"
stderr_has "no output"
expect "an unknown method is a usage error" 2 "$profile" "$scratch/capture.h5" --methods magic -o "$scratch/p.h5"
stderr_has "magic"
expect "a budget beyond 8 bits is a usage error" 2 "$profile" "$scratch/capture.h5" --budgets 9 -o "$scratch/p.h5"
expect "a budget given twice is a usage error" 2 "$profile" "$scratch/capture.h5" --budgets 2,3,2 --json
stderr_has "uniform at 2 bits is asked for twice"
expect "a capture that is not there is named" 1 "$profile" "$scratch/absent.h5" -o "$scratch/p.h5"
stderr_has "absent.h5"
expect "a file that is no capture is refused" 1 "$profile" configs/demo.json -o "$scratch/p.h5"
stderr_lines 1
check "  and nothing is left behind" test ! -e "$scratch/p.h5" -a ! -e "$scratch/p.h5.tmp"

expect "two methods at three budgets are scored" 0 "$profile" -q "$scratch/capture.h5" --budgets 2,3,4 -o "$scratch/p.h5"
stdout_has "block-gtq@3"
stdout_has "layers won"
stdout_has "largest tail ratio"
stdout_has "block-gtq@2: worst tokens (position, layer.kv_head, excess): id"
expect "with the model, worst tokens have their text" 0 "$profile" -q "$scratch/capture.h5" --budgets 3 --worst-tokens 2 --model configs/demo-llama --json
check "  two of every method" test "$(grep -c '"text":' "$scratch/stdout")" = 4
expect "none are listed when none are asked for" 0 "$profile" -q "$scratch/capture.h5" --budgets 3 --worst-tokens 0 --json
check "  of any method" test "$(grep -c '"excess":' "$scratch/stdout")" = 0
expect "a model that is not the capture's is refused" 1 "$profile" -q "$scratch/capture.h5" --budgets 3 --model configs --json
stderr_has "config.json"
expect "a text that calibration did not see is told of" 0 "$profile" "$scratch/capture.h5" --budgets 3 --json      # 200 tokens are little to have seen
stderr_has "the test text lies outside what calibration saw"
expect "but not to who reads it in the summary" 0 "$profile" "$scratch/capture.h5" --budgets 3 --no-coverage-warning --json
check "  stderr does not tell it" bash -c '! grep -q "lies outside" "$1"' - "$scratch/stderr"
stdout_has '"is_covered": false'
for threads in 1 2 4; do
    expect "with $threads threads too" 0 "$profile" -q --threads $threads "$scratch/capture.h5" --budgets 2,3,4 -o "$scratch/q.h5"
    check "  with the same bytes" cmp "$scratch/p.h5" "$scratch/q.h5"
done
expect "the time it took is told on request" 0 "$profile" -v "$scratch/capture.h5" --budgets 3 --no-curves -o "$scratch/plain.h5"
stderr_has "logit errors took"
check "  and a profile without curves is enough to allocate from" "$bin/ropebits-allocate" "$scratch/plain.h5" --method block-gtq --avg-bits 3 -o "$scratch/plain.json"
expect "a fractional budget is scored for block-gtq" 0 "$profile" "$scratch/capture.h5" --budgets 2.5 --json
stderr_has "uniform is not scored at 2.5 bits"
stdout_has '"reduction_vs_uniform": null'
expect "a fractional budget for only uniform leaves nothing to score" 2 "$profile" "$scratch/capture.h5" --budgets 2.5 --methods uniform --json

"$bin/ropebits-allocate" "$scratch/p.h5" --method block-gtq --avg-bits 3 -o "$scratch/plan.json" >/dev/null
expect "a finished plan is scored" 0 "$profile" -q "$scratch/capture.h5" --plan "$scratch/plan.json" --json
cp "$scratch/stdout" "$scratch/plan-score.json"
"$profile" -q "$scratch/capture.h5" --budgets 3 --methods block-gtq --json >"$scratch/method-score.json"
check "  and has the score of the method that made it" cmp "$scratch/plan-score.json" "$scratch/method-score.json"
expect "a plan is scored on another text too" 0 "$profile" -q "$scratch/other.h5" --plan "$scratch/plan.json"
sed 's/"head_dim": 64/"head_dim": 32/' "$scratch/plan.json" >"$scratch/bad-plan.json"
expect "a plan that contradicts itself is refused" 1 "$profile" -q "$scratch/capture.h5" --plan "$scratch/bad-plan.json"
sed 's/"config_sha256": "...../"config_sha256": "00000/' "$scratch/plan.json" >"$scratch/other-plan.json"
expect "a plan of another model is refused with both values" 1 "$profile" -q "$scratch/capture.h5" --plan "$scratch/other-plan.json"
stderr_has "config_sha256"
stderr_has "capture.h5"

head -c 20000 "$scratch/capture.h5" >"$scratch/cut.h5"
expect "a truncated capture ends in one sentence" 1 "$profile" -q "$scratch/cut.h5" -o "$scratch/r.h5"
stderr_lines 1

# A full disk: the kernel refuses to let the file grow beyond 8 KiB.
expect "a full disk is an error" 1 bash -c 'trap "" XFSZ; ulimit -f 8; exec "$@"' - "$profile" -q "$scratch/capture.h5" --budgets 3 -o "$scratch/full.h5"
check "  and nothing is left behind" test ! -e "$scratch/full.h5" -a ! -e "$scratch/full.h5.tmp"

finish
