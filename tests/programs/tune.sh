# tune: the least bytes that hold a limit, on the bundled model; what its log keeps, and what it refuses.
. tests/programs/tap.sh

python=$(command -v python3 || true)
model=configs/demo-llama
text=configs/demo-text/heldout.txt

"$bin/ropebits-calibrate" -q --device cpu --model $model --text configs/demo-text/calibration.txt --test-text $text \
    --n-tokens 512 --context 256 -o "$scratch/c.h5" >/dev/null
"$bin/ropebits-profile" -q --device cpu "$scratch/c.h5" --budgets 2 --no-curves -o "$scratch/p.h5" >/dev/null 2>&1
tune() { "$bin/ropebits-tune" "$scratch/p.h5" --device cpu --model $model --text $text --context 128 "$@"; }
small() { tune -q --n-tokens 256 --method block-codebook "$@"; }       # small OPTION...
# is NAME EXPRESSION: a Python expression of t, the log $scratch/t.json, and what is made of it.
is() {
    if [ -z "$python" ]; then skip_case "$1" "no python3 to read it"; return; fi
    check "$1" "$python" -c "import json
t = json.load(open('$scratch/t.json'))
points, answer = t['points'], t['answer']
best = points[answer] if answer is not None else None
assert ($2), (answer, points)"
}

expect "no limit is a usage error" 2 small -o "$scratch/plan.json"
stderr_has "no limit is given, expected --kl, --perplexity-increase or --max-needles-lost, or several"
expect "needles lost without needles are a usage error" 2 small --max-needles-lost 1 -o "$scratch/plan.json"
stderr_has "--max-needles-lost needs documents, expected --needles with it"
expect "a range the wrong way round is a usage error" 2 small --kl 0.1 --from 5 --to 4 -o "$scratch/plan.json"
stderr_has "--from is 5 and --to 4"
expect "a limit of 0 is a usage error" 2 small --kl 0 -o "$scratch/plan.json"
expect "no output is a usage error" 2 small --kl 0.1
expect "an option of another method is a usage error" 2 tune --method block-gtq --gain-bits 2 --kl 0.1 \
    -o "$scratch/plan.json"
expect "a budget below what the method stores is refused" 1 small --kl 0.1 --from 0.5 --to 1 -o "$scratch/plan.json"
stderr_has "budget is"
expect "a profile that is none is refused" 1 "$bin/ropebits-tune" "$scratch/c.h5" --device cpu --model $model \
    --text $text --kl 0.1 -o "$scratch/plan.json"
check "  and no plan is left behind" no_output "$scratch/plan.json"

log=(--log "$scratch/t.json" -o "$scratch/plan.json")
expect "a plan that holds a limit of KL is found" 0 small --kl 0.1 "${log[@]}"
stdout_has "hold: the answer"
stdout_has "limits: KL at most 0.1"
is "  within the evaluations" "3 < len(points) <= 8"
is "  it holds" "best['holds'] and best['kl_mean'] <= 0.1"
is "  what was evaluated below it misses" \
    "all(p['kl_mean'] > 0.1 and not p['holds'] for p in points if p['total_bits'] < best['total_bits'])"
is "  something was, and something larger" \
    "min(p['total_bits'] for p in points) < best['total_bits'] < max(p['total_bits'] for p in points)"
is "  three plans a pass, and at most three passes" \
    "all(sum(p['pass'] == k for p in points) <= 3 for k in range(3)) and points[-1]['pass'] <= 2"
if [ -n "$python" ]; then
    asked=$("$python" -c "import json; t = json.load(open('$scratch/t.json'))
print(t['points'][t['answer']]['asked_total_bits'])")
    "$bin/ropebits-allocate" -q "$scratch/p.h5" --method block-codebook --total-bits "$asked" \
        -o "$scratch/again.json" >/dev/null
    check "  allocate makes the same plan" cmp "$scratch/plan.json" "$scratch/again.json"
    "$bin/ropebits-evaluate" -q --device cpu --model $model --text $text --context 128 --n-tokens 256 \
        --plan "$scratch/plan.json" -o "$scratch/e.json" >/dev/null
    is "  evaluate measures the same" "abs(json.load(open('$scratch/e.json'))['runs'][1]['kl_mean'] / best['kl_mean']
        - 1) < 1e-6"
else
    skip_case "  allocate makes the same plan" "no python3 to read its budget"
    skip_case "  evaluate measures the same" "no python3 to read it"
fi
expect "JSON is the log" 0 small --kl 0.1 "${log[@]}" --json
check "  byte for byte" cmp "$scratch/stdout" "$scratch/t.json"

cp "$scratch/t.json" "$scratch/first.json"
cp "$scratch/plan.json" "$scratch/first-plan.json"
rm "$scratch/plan.json"
expect "a second run goes on from the log" 0 tune --n-tokens 256 --method block-codebook --kl 0.1 "${log[@]}"
check "  without evaluating" lacks "evaluate:" "$scratch/stderr"
check "  and leaves the log as it is" cmp "$scratch/first.json" "$scratch/t.json"
check "  with the same plan" cmp "$scratch/first-plan.json" "$scratch/plan.json"
if [ -n "$python" ]; then
    # As if killed after the first pass.
    "$python" -c "import json; t = json.load(open('$scratch/first.json'))
t['points'] = [p for p in t['points'] if p['pass'] == 0]
t['answer'] = None
json.dump(t, open('$scratch/t.json', 'w'))"
    expect "a run that was stopped goes on" 0 small --kl 0.1 "${log[@]}"
    check "  to the same points" cmp "$scratch/first.json" "$scratch/t.json"
    check "  and the same plan" cmp "$scratch/first-plan.json" "$scratch/plan.json"
else
    skip_case "a run that was stopped goes on" "no python3 to stop it"
fi
expect "another limit uses the same points" 0 small --kl 0.6 --max-evaluations 3 "${log[@]}"
is "  without more of them" "points == [dict(p, holds=p['kl_mean'] <= 0.6) for p in points] and
    len(points) == len(json.load(open('$scratch/first.json'))['points'])"
cp "$scratch/first.json" "$scratch/t.json"

expect "another method is another request" 1 tune -q --n-tokens 256 --method block-gtq --kl 0.1 "${log[@]}"
stderr_has 't.json is of another request: options.method is "block-codebook", and here "block-gtq"; give another --log'
stderr_lines 1
expect "another text is another request" 1 tune -q --n-tokens 300 --method block-codebook --kl 0.1 "${log[@]}"
stderr_has "t.json is of another request: text."
expect "needles are another request" 1 small --kl 0.1 --needles 1 --needle-contexts 128 "${log[@]}"
stderr_has "is of another request: options."
check "  and the log stays" cmp "$scratch/first.json" "$scratch/t.json"
sed 's/"kl_mean": [0-9.e-]*/"kl_mean": "low"/' "$scratch/first.json" >"$scratch/damaged.json"
expect "a damaged log is refused" 1 small --kl 0.1 --log "$scratch/damaged.json" -o "$scratch/plan.json"
stderr_has "damaged.json: points[0]"
sed 's/"plan_sha256": "[0-9a-f]\{8\}/"plan_sha256": "00000000/' "$scratch/first.json" >"$scratch/other.json"
expect "a plan that is no longer the same is refused" 1 small --kl 0.1 --max-evaluations 3 \
    --log "$scratch/other.json" -o "$scratch/plan.json"
stderr_has "another version of ropebits made it"
expect "a plan is no log" 1 small --kl 0.1 --log "$scratch/first-plan.json" -o "$scratch/plan.json"
stderr_has "ropebits-plan"

rm "$scratch/plan.json"
expect "where none holds the answer is no" 3 small --kl 0.00001 --to 4 --max-evaluations 3 --log "$scratch/t2.json" \
    -o "$scratch/plan.json"
stderr_has "tune: error: none of 3 plans holds KL at most 1e-05: the nearest, of "
stderr_lines 1
check "  and no plan is written" no_output "$scratch/plan.json"
check "  the log says so" grep -q '"answer": null' "$scratch/t2.json"
expect "a larger plan of the log is no answer" 3 small --kl 0.1 --to 3 --max-evaluations 8 "${log[@]}"
stdout_has "beyond --to"

cp "$scratch/first.json" "$scratch/t.json"
expect "several limits hold together" 0 tune -q --n-tokens 256 --method uniform --kl 0.5 --perplexity-increase 60 \
    --needles 4 --needle-tasks single --needle-contexts 200 --max-needles-lost 1 --log "$scratch/t3.json" \
    -o "$scratch/plan.json"
stdout_has "limits: KL at most 0.5, perplexity at most 60 % up, 1 needles lost at most"
cp "$scratch/t3.json" "$scratch/t.json"
is "  all of them" "best['kl_mean'] <= 0.5 and best['perplexity_increase_percent'] <= 60 and
    best['n_needles_right'] >= t['unquantized']['n_needles_right'] - 1"
is "  and what is smaller misses one" \
    "all(p['kl_mean'] > 0.5 or p['perplexity_increase_percent'] > 60 or
         p['n_needles_right'] < t['unquantized']['n_needles_right'] - 1
         for p in points if p['total_bits'] < best['total_bits'])"
is "  no plan is evaluated twice" "len({p['plan_sha256'] for p in points}) == len(points)"
small --kl 0.1 --threads 1 --log "$scratch/one.json" -o "$scratch/plan.json" >/dev/null
check "one thread gives the same bytes" cmp "$scratch/first.json" "$scratch/one.json"

# The sweep of allocate shows what was evaluated.
# shellcheck disable=SC2119,SC2120  # without options, too
sweep() { "$bin/ropebits-allocate" -q "$scratch/p.h5" --method uniform --sweep 2:4:1 "$@" -o "$scratch/sweep.json"; }
"$bin/ropebits-evaluate" -q --device cpu --model $model --text $text --context 128 --n-tokens 256 \
    --plan "$scratch/first-plan.json" -o "$scratch/e.json" >/dev/null
expect "a sweep shows KL of a log and of an evaluation" 0 sweep --evaluation "$scratch/first.json" \
    --evaluation "$scratch/e.json"
n_points=$(($(grep -c '"kl_mean"' "$scratch/first.json") + 1))
equal "  all plans of both" $n_points "$(grep -c '"kl_mean"' "$scratch/sweep.json")"
equal "  in the picture too" $((n_points + 1)) "$(grep -c '<circle .*r="4"' "$scratch/sweep.svg")"
stdout_has "evaluated"
sed 's/"head_dim": 64/"head_dim": 32/; s/"config_sha256": "[0-9a-f]\{4\}/"config_sha256": "0000/' "$scratch/e.json" \
    >"$scratch/other-model.json"
expect "  of another model is refused" 1 sweep --evaluation "$scratch/other-model.json"
stderr_has "other-model.json"
expect "  a plan is no evaluation" 1 sweep --evaluation "$scratch/first-plan.json"
stderr_has 'schema is "ropebits-plan", expected "ropebits-evaluation" or "ropebits-tune"'
expect "an evaluation without a sweep is a usage error" 2 "$bin/ropebits-allocate" "$scratch/p.h5" --method uniform \
    --avg-bits 2 --evaluation "$scratch/e.json" -o "$scratch/x.json"
# shellcheck disable=SC2119
sweep >/dev/null
check "a sweep without evaluations has none" lacks measured "$scratch/sweep.json"

finish
