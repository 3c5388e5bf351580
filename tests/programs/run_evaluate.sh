# The evaluate stage of `ropebits run`: the table it prints, resuming, the same bytes for any number of threads, and a
# worse plan that the gate must see.
. tests/programs/tap.sh

python=$(command -v python3 || true)
text=$PWD/configs/demo-text/calibration.txt test_text=$PWD/configs/demo-text/heldout.txt
# pipeline NAME MEMBERS: a small pipeline whose evaluate object has these members.
pipeline() {
    cat >"$scratch/$1.json" <<EOF
{
  "schema": "ropebits-pipeline", "version": 1,
  "model": "$PWD/configs/demo-llama",
  "text": "$text",
  "test_text": "$test_text",
  "calibrate": { "n_tokens": 1024, "context": 512 },
  "profile": { "budgets": [2], "methods": ["uniform", "block-gtq"] },
  "allocate": { "method": "block-gtq", "avg_bits": 3, "rotation": "hadamard" },
  "evaluate": { $2 }
}
EOF
}
run() { "$bin/ropebits-run" "$scratch/$1.json" -o "$scratch/$2" "${@:3}"; }
took() { check "  $1 runs" grep -q "$1 took" "$scratch/stderr"; }

pipeline small '"budgets": [2, 3], "methods": ["uniform", "block-gtq"], "n_tokens": 512, "context": 256,
    "needles": 2, "haystack": "'"$text"'", "understanding": 1, "needle_template": "secret-number"'
expect "a pipeline with an evaluate object runs" 0 run small a
for plan in uniform-2 block-gtq-2 uniform-3 block-gtq-3; do
    check "  plan-$plan.json is there" test -s "$scratch/a/plan-$plan.json"
    stdout_has "$scratch/a/plan-$plan.json"
    stdout_has "$scratch/a/allocate-$plan.json"
done
stdout_has "$scratch/a/evaluation.json"
stdout_has "what the plans do to the model: 512 tokens of text, sequences of 256, 510 tokens predicted; 2 needle"
stdout_has "2 needle questions; 6 understanding"
cp "$scratch/stdout" "$scratch/table.txt"

if [ -n "$python" ]; then
    cat >"$scratch/table.py" <<'EOF'
# table.py FOLDER TEXT: every number of the printed table is that of the files, and its rows stand in their order.
import json, sys
folder, rows = sys.argv[1], {}
lines = open(sys.argv[2]).read().split("\nplan ")[-1].split("\n")[1:6]
runs = json.load(open(folder + "/evaluation.json"))["runs"]
mae = {(m["method"], m["avg_bits"]): m["logit_mae"] for m in json.load(open(folder + "/summary.json"))["methods"]}
assert [r["method"] for r in runs] == ["none", "uniform", "block-gtq", "uniform", "block-gtq"], runs
assert [r["avg_bits"] for r in runs] == [None, 2, 2, 3, 3], runs
for line, run in zip(lines, runs):
    if run["method"] == "none":
        name, logit_mae = "unquantized", "0.0000"
    else:
        name = "%s K%gV%g" % (run["method"], run["avg_bits"], run["value_bits"])
        # The profile scored 2 bits only: at 3 the table has no error.
        logit_mae = "%.4f" % mae[run["method"], 2] if run["avg_bits"] == 2 else "-"
    bits = ["-" if run[k] is None else "%.3f" % run[k] for k in ("key_true_bits", "value_true_bits")]
    want = name.split() + bits + [logit_mae, "%.4f" % run["kl_mean"], "%.3f" % run["kl_p999"]]
    want += ["%.1f" % (100 * run["top1_agreement"]), "%.3f" % run["perplexity"]]
    want += ["%.1f" % (100 * run["understanding"]["agreement"])]
    want += [str(run["needles"]["n_right"]), "of", "2"]
    assert line.split() == want, (line, want)
assert runs[1]["key_true_bits"] == 2.25 and runs[3]["key_true_bits"] == 3.25 and runs[2]["key_true_bits"] > 2.25
assert runs[2]["kl_mean"] < runs[1]["kl_mean"] and runs[4]["kl_mean"] < runs[2]["kl_mean"]
EOF
    check "the table has the numbers of the evaluation and of the profile" \
        "$python" "$scratch/table.py" "$scratch/a" "$scratch/table.txt"
    check "the plans have the pipeline's rotation and as many bits for values as for keys" "$python" -c "import json
p = json.load(open('$scratch/a/plan-block-gtq-2.json'))
assert p['values']['width'] == 2, p['values']
assert p['layers'][0]['kv_heads'][0]['groups'][0]['rotation']['kind'] == 'hadamard'"
else
    skip_case "the numbers of the table" "no python3 to read them"
fi

# ---- the same bytes, resuming ----
expect "one thread runs it too" 0 run small b --threads 1 -q
for file in evaluation.json plan-uniform-2.json plan-block-gtq-3.json; do
    check "  and gives the same $file" cmp "$scratch/a/$file" "$scratch/b/$file"
done
expect "a second run finds everything up to date" 0 run small a
for stage in calibrate profile allocate export evaluate; do stderr_has "$stage is up to date"; done
check "  and prints the same summary" cmp "$scratch/stdout" "$scratch/table.txt"
rm "$scratch/a/evaluation.json"
expect "a lost evaluation is made again" 0 run small a
stderr_has "export is up to date"
took evaluate
check "  with the same bytes" cmp "$scratch/a/evaluation.json" "$scratch/b/evaluation.json"
rm "$scratch/a/plan-block-gtq-2.json"
expect "so is a lost plan of it" 0 run small a
check "  with the same bytes" cmp "$scratch/a/plan-block-gtq-2.json" "$scratch/b/plan-block-gtq-2.json"
stderr_has "evaluate is up to date"
expect "--json has the evaluation" 0 run small a --json
stdout_has '"evaluate": "up to date"'
stdout_has '"schema": "ropebits-evaluation"'
stdout_has "plan-uniform-3.json"
stderr_has "run: warning: the test text is not all like the calibration text"

pipeline fewer '"budgets": [2], "methods": ["uniform", "block-gtq"], "n_tokens": 512, "context": 256'
expect "another evaluate object evaluates again, without needles" 0 run fewer b
stderr_has "export is up to date"
took evaluate
check "  and has no needles in its table" bash -c '! grep -qE "needle questions|  needles" "$1"' - "$scratch/stdout"

# ---- the gate ----
pipeline gate '"budgets": [2], "methods": ["block-gtq"], "n_tokens": 512, "context": 256, "needles": 2'
expect "a run to compare with" 0 run gate good
compare_good() { "$bin/ropebits-compare" "$scratch/good/evaluation.json" "$1"; }
if [ -n "$python" ]; then
    mkdir "$scratch/worse"
    "$python" - "$scratch/good/plan-block-gtq-2.json" "$scratch/worse/plan-block-gtq-2.json" <<'EOF'
import json, sys
plan = json.load(open(sys.argv[1]))
for layer in plan["layers"]:
    for head in layer["kv_heads"]:
        # The widths in reverse order of energy, block by block: a wrong sign in the allocator. The count of each width
        # stays, and so do the true bits.
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
    evaluate_as_run() {     # evaluate_as_run PLAN RESULT
        "$bin/ropebits-evaluate" -q --model "$PWD/configs/demo-llama" --plan "$1" --text "$test_text" \
            --n-tokens 512 --context 256 --needles 2 -o "$2"
    }
    expect "the good plan is evaluated by hand" 0 \
        evaluate_as_run "$scratch/good/plan-block-gtq-2.json" "$scratch/by-hand.json"
    check "  with the bytes that run gave" cmp "$scratch/by-hand.json" "$scratch/good/evaluation.json"
    expect "a plan with its bits the wrong way round is evaluated" 0 \
        evaluate_as_run "$scratch/worse/plan-block-gtq-2.json" "$scratch/worse/evaluation.json"
    expect "the gate says no to it" 3 compare_good "$scratch/worse/evaluation.json"
    stdout_has "WORSE"
    expect "and yes to the good one" 0 compare_good "$scratch/by-hand.json"
    expect "an evaluation is not compared with a profile's summary" 1 compare_good "$scratch/good/summary.json"
else
    skip_case "the gate says no to bits the wrong way round" "no python3 to plant the fault"
fi
expect "an evaluation of other questions is refused" 1 compare_good "$scratch/a/evaluation.json"
stderr_has "not the same questions"
expect "a plan that is gone from the evaluation is a regression" 3 \
    "$bin/ropebits-compare" "$scratch/b/evaluation.json" "$scratch/good/evaluation.json"
stdout_has "MISSING"

# ---- tokens that stay fp16 ----
pipeline plain '"budgets": [2], "methods": ["block-gtq"], "n_tokens": 256, "context": 128'
sed -e 's/"avg_bits": 3,/"avg_bits": 3, "sink": 2, "recent": 8,/' "$scratch/plain.json" >"$scratch/sinks.json"
expect "a pipeline may say which tokens stay fp16" 0 run sinks sinks
stdout_has "the first 2 and the last 8 tokens fp16"
for plan in plan plan-block-gtq-2; do
    check "  $plan.json says so" grep -q '^  "recent": 8,$' "$scratch/sinks/$plan.json"
done
check "  and the judge keeps them" grep -qE '"sink": *2,' "$scratch/sinks/evaluation.json"

# ---- what it refuses ----
pipeline misspelt '"budgets": [2], "methods": ["uniform"], "kneedles": 2'
expect "a misspelt member is named" 1 run misspelt good
stderr_has 'evaluate has no member "kneedles"'
pipeline long '"budgets": [2], "methods": ["uniform"], "context": 4096'
expect "a context longer than the model's fails the run" 1 run long good
stderr_has "max_position_embeddings of 1024"
stderr_has "stage evaluate failed"

finish
