# integrations/ropebits_plan.py reads plan.rbp and restores what `encode` coded: equal to the C library's numbers.
. tests/programs/tap.sh

export PYTHONDONTWRITEBYTECODE=1
reader=integrations/ropebits_plan.py
if ! python3 -c 'import numpy' 2>/dev/null; then
    skip_case "ropebits_plan.py restores vectors" "python3 has no numpy"
    finish
    exit
fi
"$bin/ropebits-calibrate" -q --values --model configs/demo-llama --text configs/demo-text/calibration.txt \
    --n-tokens 256 --context 128 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null
plan_of() { # plan_of NAME OPTION...: NAME.json and NAME.rbp
    "$bin/ropebits-allocate" -q "$scratch/p.h5" "${@:2}" -o "$scratch/$1.json" >/dev/null
    "$bin/ropebits-export" -q "$scratch/$1.json" --format rbp -o "$scratch" >/dev/null
}

# The reader computes in double, as the definition, and rounds once: at most a step of f32 of the largest number apart,
# where its QR is another LAPACK's. Codes are those of every layer and head.
# shellcheck disable=SC2015,SC2086  # any of the three may fail, and $what may be no word
restores() { # restores PLAN N_LAYERS: all its heads, keys and values
    local layer head what
    for layer in $(seq 0 $(($2 - 1))); do
        for head in 0 1; do
            for what in "" --values; do
                "$bin/ropebits-encode" -q "$scratch/$1.json" "$scratch/vectors-$layer.npz" --tensor vectors \
                    --layer "$layer" --kv-head $head $what -o "$scratch/codes.npz" >"$scratch/said" &&
                    python3 $reader "$scratch/$1.rbp" --layer "$layer" --kv-head $head $what \
                        --restore "$scratch/codes.npz" -o "$scratch/x.npy" >>"$scratch/said" &&
                    grep -qE 'difference from .restored. ([0-9.]+e-(0[7-9]|[1-9][0-9])|0\.0e\+00) ' "$scratch/said" ||
                    { cat "$scratch/said"; return 1; }
            done
        done
    done
}
plan_of first --method uniform --avg-bits 3
for layer in 0 1 2 3; do
    "$bin/ropebits-encode" -q "$scratch/first.json" "$scratch/capture.h5" --layer $layer --n-vectors 30 \
        -o "$scratch/vectors-$layer.npz" >/dev/null
done

# name, lines of the plan's own, and what makes it
while read -r name options; do
    # shellcheck disable=SC2086  # options are words
    plan_of "$name" $options
    check "$name: every head's keys and values come back as in C" restores "$name" 4
done <<'PLANS'
uniform --method uniform --avg-bits 3
hadamard --method uniform --avg-bits 2 --rotation hadamard
block-gtq --method block-gtq --avg-bits 3
optimal --method optimal --true-bits 3 --sink 2 --recent 5
fp16-norms --method optimal --true-bits 2.5 --norm fp16 --widths 0,1,2,3,4
center --method optimal-center --true-bits 3
block-codebook --method block-codebook --true-bits 3
levels --method block-codebook --true-bits 6
trellis --method trellis --true-bits 3 --value-bits 3
mixed --method block-codebook --true-bits 2.25 --value-codec trellis --value-bits 2.25
PLANS
check "some block of the plan named levels has more than 10 bits" python3 - "$scratch/levels.json" <<'CODE'
import json, sys
plan = json.load(open(sys.argv[1]))
assert any(b > 10 for layer in plan["layers"] for head in layer["kv_heads"] for b in head["bits"])
CODE

expect "it tells what a plan is" 0 python3 $reader "$scratch/optimal.rbp"
stdout_has "plan.rbp of version 5"
stdout_has "model      llama, 4 layers, 6 query heads, 2 KV heads, head_dim 64"
stdout_has "the first 2, the last 5"
bytes=$("$bin/ropebits-inspect" "$scratch/optimal.rbp" | sed -nE 's/.* ([0-9]+) bytes a token.*/\1/p')
stdout_has "cache      $bytes bytes a token"

"$bin/ropebits-inspect" --json "$scratch/optimal.rbp" >"$scratch/plan"
check "keys are turned as RoPE does" python3 - "$scratch/optimal.rbp" "$scratch/plan" <<'CODE'
import json, sys
import numpy as np
sys.path.insert(0, "integrations")
import ropebits_plan
plan, facts = ropebits_plan.read(sys.argv[1]), json.load(open(sys.argv[2]))["model"]
x, positions = np.random.default_rng(1).standard_normal((9, 64)).astype("f4"), np.arange(9) * 37
turned = plan.turn(0, x, positions)
for t in range(9):
    for i, freq in enumerate(facts["rope"]["inv_freq"]):
        c, s = np.cos(positions[t] * freq), np.sin(positions[t] * freq)
        assert abs(turned[t, i] - (c * x[t, i] - s * x[t, i + 32])) < 1e-6
        assert abs(turned[t, i + 32] - (s * x[t, i] + c * x[t, i + 32])) < 1e-6
assert np.abs(plan.turn(0, turned, positions, back=True) - x).max() < 1e-6
CODE

# ---- what is refused ----
refused() { # refused NAME FILE PATTERN
    expect "$1" 1 python3 $reader "$2"
    stderr_has "$3"
    stderr_lines 1
}
head -c 200 "$scratch/trellis.rbp" >"$scratch/short.rbp"
python3 -c 'import sys; d = bytearray(open(sys.argv[1], "rb").read()); d[90] ^= 4; open(sys.argv[2], "wb").write(d)' \
    "$scratch/trellis.rbp" "$scratch/flipped.rbp"
refused "a plan that is cut off" "$scratch/short.rbp" "plan is 200 bytes, expected"
refused "a flipped bit" "$scratch/flipped.rbp" "plan is damaged: CRC-32 is"
refused "another file" "$scratch/capture.h5" "not a plan.rbp: wrong magic"
refused "a plan that mixes families in a layer" tests/fixtures/plan-mixed-layer.rbp "its family is not that of"
"$bin/ropebits-encode" -q "$scratch/center.json" "$scratch/vectors-0.npz" --tensor vectors \
    -o "$scratch/codes.npz" >/dev/null
expect "codes of another head" 1 python3 $reader "$scratch/trellis.rbp" --restore "$scratch/codes.npz"
stderr_has "bytes of codes, expected"

finish
