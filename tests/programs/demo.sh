# The promise of the README, as a test: the whole pipeline on the bundled model, its numbers against the committed
# baseline, the same bytes for any number of threads, resuming, and a planted fault that the gate must see. The last
# stage has a test of its own: run_evaluate.sh.
. tests/programs/tap.sh

ropebits=$bin/ropebits
run_demo() { "$ropebits" run configs/demo.json -o "$1" "${@:2}"; }

expect "the demo runs" 0 run_demo "$scratch/demo"
stdout_has "logit MAE on the test text"
for plan in "unquantized " "uniform K2V2 " "block-gtq K2V2 " "uniform K3V3 " "block-gtq K3V3 " \
    "optimal-center K3V3 "; do
    check "  the judge's table has $plan" grep -qE "^$plan.* of 8\$" "$scratch/stdout"
done
equal "it ends with the path of the page" "report    $scratch/demo/plan.html" "$(tail -n 1 "$scratch/stdout")"
check "  which shows the plan that was judged" grep -q 'tr class="own"><th scope="row">optimal-center K3V3' \
    "$scratch/demo/plan.html"
check "  and has less error than uniform at the same bytes" grep -qaE '[0-9]+[^<]*% less</b> logit error than uniform' \
    "$scratch/demo/plan.html"
files=(capture.h5 profile.h5 summary.json plan.json plan.rbp plan.h plan.safetensors plan.html)
for file in "${files[@]}" plan-uniform-2.json plan-block-gtq-3.json evaluation.json; do
    check "  $file is there" test -s "$scratch/demo/$file"
    stdout_has "$scratch/demo/$file"
done
check "no partial file is left" bash -c '! ls "$1"/*.tmp 2>/dev/null' - "$scratch/demo"
check "it greets nobody with a warning" bash -c '! grep -i warning "$1"' - "$scratch/stderr"
stdout_has "note      the test text is not all like the calibration text"

expect "the summary holds against the committed baseline" 0 "$bin/ropebits-compare" \
    tests/fixtures/demo-baseline.json "$scratch/demo/summary.json" --max-regression 1

expect "a second run finds everything up to date" 0 run_demo "$scratch/demo"
for stage in calibrate profile allocate export evaluate report; do stderr_has "$stage is up to date"; done
stdout_has "note      the test text is not all like the calibration text"

# What follows leaves the judge out, which takes the longest: tests/programs/run_evaluate.sh runs it.
sed -e '/"evaluate"/d' -e 's/, "optimal-center"\]/]/' -e 's|"demo-|"'"$PWD"'/configs/demo-|' configs/demo.json \
    >"$scratch/pipeline.json"
thread_counts=(1 2 4)
# Sanitizers have seen the demo in its full size above. From here on a quarter of its tokens takes the same paths, and
# four threads the paths of two.
if [ "${RB_SANITIZED:-0}" = 1 ]; then
    sed -i -e 's/"n_tokens": 2048/"n_tokens": 512/' -e 's/"context": 1024/"context": 256/' "$scratch/pipeline.json"
    thread_counts=(1 2)
fi
run_pipeline() { "$ropebits" run "$scratch/pipeline.json" -o "$1" "${@:2}"; }
for threads in "${thread_counts[@]}"; do
    expect "with $threads threads the pipeline runs" 0 run_pipeline "$scratch/threads$threads" --threads "$threads" -q
    for file in "${files[@]}"; do
        check "  $file has the same bytes" cmp "$scratch/threads1/$file" "$scratch/threads$threads/$file"
    done
done
if [ "${RB_SANITIZED:-0}" = 0 ]; then
    check "the demo's plan is the same too" cmp "$scratch/demo/plan.rbp" "$scratch/threads1/plan.rbp"
fi

# ---- resuming ----
expect "a second run without the judge finds everything up to date" 0 run_pipeline "$scratch/threads1"
for stage in calibrate profile allocate export report; do stderr_has "$stage is up to date"; done
check "  and speaks of no evaluation" bash -c '! grep -q evaluat "$1" "$2"' - "$scratch/stdout" "$scratch/stderr"
rm "$scratch/threads1/plan.json"
expect "a lost plan is made again" 0 run_pipeline "$scratch/threads1"
stderr_has "profile is up to date"
stderr_has "allocate took"
stderr_has "export is up to date"
rm "$scratch/threads2/plan.json"
expect "with --device cuda the stages that have no CUDA side run all the same" 0 \
    run_pipeline "$scratch/threads2" --device cuda
stderr_has "profile is up to date"
stderr_has "allocate took"
sed 's/"avg_bits": 3/"avg_bits": 2/' "$scratch/pipeline.json" >"$scratch/two.json"
expect "another budget runs from allocate on" 0 "$ropebits" run "$scratch/two.json" -o "$scratch/threads2"
stderr_has "profile is up to date"
stderr_has "allocate took"
expect "and the same again runs nothing" 0 "$ropebits" run "$scratch/two.json" -o "$scratch/threads2"
stderr_has "export is up to date"

# ---- several texts, and needles ----
cp configs/demo-text/calibration.txt "$scratch/one.txt"
sed -e 's|"demo-text/calibration.txt"|["one.txt", "demo-text/calibration.txt:3"]|' \
    -e 's/"context": 1024/"context": 256, "with_needles": true/' \
    -e 's|"demo-|"'"$PWD"'/configs/demo-|g' -e '/"evaluate"/d' configs/demo.json >"$scratch/texts.json"
n_tokens=2048
if [ "${RB_SANITIZED:-0}" = 1 ]; then
    n_tokens=512
    sed -i "s/\"n_tokens\": 2048/\"n_tokens\": $n_tokens/" "$scratch/texts.json"
fi
run_texts() { "$ropebits" run "$scratch/texts.json" -o "$scratch/texts"; }
expect "a pipeline of two texts with needles runs" 0 run_texts
stdout_has "$n_tokens calibration tokens of $scratch/one.txt, $PWD/configs/demo-text/calibration.txt:3, with needles"
expect "a second run finds it up to date" 0 run_texts
stderr_has "calibrate is up to date"
echo "Another beginning." | cat - configs/demo-text/calibration.txt >"$scratch/one.txt"
expect "a change of one text calibrates again" 0 run_texts
stderr_has "calibrate took"

# ---- the gate sees a planted fault: bits given to the blocks that need them least ----
python=$(command -v python3 || true)
if [ -n "$python" ]; then
    "$bin/ropebits-allocate" -q "$scratch/threads1/profile.h5" --method block-gtq --avg-bits 3 \
        -o "$scratch/good.json" >/dev/null
    "$python" - "$scratch/good.json" "$scratch/wrong.json" <<'EOF'
import json, sys
plan = json.load(open(sys.argv[1]))
for layer in plan["layers"]:
    for head in layer["kv_heads"]:
        # The widths in reverse order of energy: what a wrong sign in the greedy step does. Group sizes, and so true
        # bits, stay.
        blocks = [b for g in head["groups"] for b in g["blocks"]]
        bits = head["bits"]
        order = sorted(range(len(bits)), key=lambda b: (bits[b], b))
        swapped = list(bits)
        for low, high in zip(order, reversed(order)):
            swapped[low] = bits[high]
        head["bits"] = swapped
        for g in head["groups"]:
            g["blocks"] = [b for b in range(len(swapped)) if swapped[b] == g["width"]]
json.dump(plan, open(sys.argv[2], "w"))
EOF
    score() { "$bin/ropebits-profile" "$scratch/threads1/capture.h5" --plan "$1" --json; }
    expect "a plan with its bits the wrong way round is still a plan" 0 score "$scratch/wrong.json"
    cp "$scratch/stdout" "$scratch/wrong-summary.json"
    expect "the good plan is scored" 0 score "$scratch/good.json"
    cp "$scratch/stdout" "$scratch/good-summary.json"
    compare_good() { "$bin/ropebits-compare" "$scratch/good-summary.json" "$1"; }
    expect "the gate says no to the wrong one" 3 compare_good "$scratch/wrong-summary.json"
    expect "and yes to the good one" 0 compare_good "$scratch/good-summary.json"
else
    skip_case "the gate says no to bits the wrong way round" "no python3 to plant the fault"
fi

# ---- usage ----
expect "run without a pipeline is a usage error" 2 "$bin/ropebits-run"
expect "a pipeline that is not there is named" 1 "$bin/ropebits-run" "$scratch/absent.json"
stderr_has "absent.json"
sed 's|"demo-llama"|"'"$scratch"'/no-model"|' configs/demo.json >"$scratch/no-model.json"
expect "a stage that fails fails the run" 1 "$bin/ropebits-run" "$scratch/no-model.json" -o "$scratch/failed"
check "  and leaves no capture" test ! -e "$scratch/failed/capture.h5"

finish
