# The gate knows luck from faults: other seeds of the rotations pass, and a wrong sign, a codebook 1 % too wide, a group
# in another's place do not. GATE_SEEDS other seeds are tried, 2 unless `make check-gate` asks for 20.
. tests/programs/tap.sh

python=$(command -v python3 || true)
faulty=$build/tests/faulty/faulty_profile
n_seeds=${GATE_SEEDS:-2}
if [ -z "$python" ]; then
    skip_case "faults of the codec are noticed" "no python3 to change plans"
    finish
fi
n_tokens=512
[ "$n_seeds" -gt 2 ] && n_tokens=2048
[ "${RB_SANITIZED:-0}" = 1 ] && n_tokens=256
texts=(--text configs/demo-text/calibration.txt --test-text configs/demo-text/heldout.txt)
expect "the bundled model is calibrated" 0 "$bin/ropebits-calibrate" -q --device cpu --model configs/demo-llama \
    "${texts[@]}" --n-tokens $n_tokens --n-test-tokens $n_tokens --context 256 -o "$scratch/capture.h5"
expect "  and profiled" 0 "$bin/ropebits-profile" -q --device cpu "$scratch/capture.h5" --no-curves --budgets 3 \
    --methods block-gtq -o "$scratch/profile.h5"
expect "  and a plan is made" 0 "$bin/ropebits-allocate" -q "$scratch/profile.h5" --method block-gtq --avg-bits 3 \
    -o "$scratch/plan.json"

cat >"$scratch/change.py" <<'PY'
# change.py PLAN OUT seed SHIFT | swap: every rotation by other seeds; or two groups of one head in each other's place.
import json, sys
plan = json.load(open(sys.argv[1]))
heads = [h for layer in plan["layers"] for h in layer["kv_heads"]]
if sys.argv[3] == "seed":
    for h in heads:
        for g in h["groups"]:
            g["rotation"]["seed"] += int(sys.argv[4])
else:
    head = next(h for h in heads if len(h["groups"]) > 1)
    low, high = head["groups"][0], head["groups"][-1]
    n = min(len(low["blocks"]), len(high["blocks"]))
    a, b = low["blocks"], high["blocks"]
    low["blocks"], high["blocks"] = sorted(b[:n] + a[n:]), sorted(a[:n] + b[n:])
    for g in head["groups"]:
        for block in g["blocks"]:
            head["bits"][block] = g["width"]
json.dump(plan, open(sys.argv[2], "w"))
PY
change() { "$python" "$scratch/change.py" "$scratch/plan.json" "$scratch/changed.json" "$@"; }
# score OUT PLAN OPTIONS...: its summary, by the program that may have a fault (RB_FAULT).
score() {
    "$faulty" -q --device cpu "$scratch/capture.h5" --plan "$2" --json --worst-tokens 0 --no-coverage-warning \
        "${@:3}" >"$scratch/$1.json"
}
gate() { "$bin/ropebits-compare" "$scratch/$1.json" "$scratch/$2.json"; }
# room: how much of its room the number took that came closest to it, or went farthest beyond. For people.
room() {
    "$bin/ropebits-compare" --json "$scratch/$1.json" "$scratch/$2.json" | "$python" -c '
import json, sys
rows = [r for r in json.load(sys.stdin)["rows"] if r["allowed"] not in (None, r["base"])]
share = lambda r: (r["new"] - r["base"]) / (r["allowed"] - r["base"])
w = max(rows, key=share)
print("#   %s%s: %.2f of its room" % (w["metric"], "" if w["layer"] is None else " layer %d" % w["layer"], share(w)))'
}

expect "the plan is scored" 0 score base "$scratch/plan.json"
expect "  and under eight seeds" 0 score spread "$scratch/plan.json" --seeds 8
expect "which changes nothing of its own scores" 0 gate base spread
change seed 100000
score second "$scratch/changed.json"
score two "$scratch/plan.json" --seeds 2
check "mean and deviation of two seeds are those of the two" "$python" - "$scratch" <<'PY'
import json, sys
a, b, two = (json.load(open("%s/%s.json" % (sys.argv[1], n)))["methods"][0] for n in ("base", "second", "two"))
names = [n for n in two["seeds"] if n not in ("n", "logit_mae_by_layer")]
assert len(names) == 11 and two["seeds"]["n"] == 2, two["seeds"]
near = lambda x, y: abs(x - y) <= 1e-9 * abs(y)
def value(m, name):
    return m["token_error"][name[12:]] if name.startswith("token_error") else m[name]
for n in names:
    x, y, s = value(a, n), value(b, n), two["seeds"][n]
    assert near(s["mean"], (x + y) / 2) and near(s["standard_deviation"], abs(x - y) / 2 ** 0.5), n
layers = two["seeds"]["logit_mae_by_layer"]
for x, y, mean, sd in zip(a["logit_mae_by_layer"], b["logit_mae_by_layer"], layers["mean"],
                          layers["standard_deviation"]):
    assert near(mean, (x + y) / 2) and near(sd, abs(x - y) / 2 ** 0.5)
assert len(layers["mean"]) == 4 and two["logit_mae"] == a["logit_mae"] != b["logit_mae"]
PY
for seed in $(seq "$n_seeds"); do
    change seed $((7919 * seed))
    score seed "$scratch/changed.json"
    expect "other seeds, set $seed, pass by the measured spread" 0 gate spread seed
    room spread seed
    expect "  and by the typical one" 0 gate base seed
    stdout_has "note: the rotation seeds of BASE and NEW differ"
    room base seed
done
for fault in rotation-sign codebook-sign codebook-scale; do
    RB_FAULT=$fault score fault "$scratch/plan.json"
    expect "the gate notices the fault $fault" 3 gate base fault
    room base fault
done
change swap
score fault "$scratch/changed.json"
expect "the gate notices a swapped group" 3 gate base fault
room base fault

finish
