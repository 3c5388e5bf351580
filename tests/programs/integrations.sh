# What runs inside other programs (integrations/): a plan in transformers and in the published Block-GTQ code.
#
# RB_TRANSFORMERS_PYTHON: a python3 with torch and transformers 5; otherwise python3 if it has them. BLOCKGTQ_CHECKOUT:
# a folder with the published code.
. tests/programs/tap.sh

python=${RB_TRANSFORMERS_PYTHON:-python3}
has_transformers='import sys, torch, transformers; sys.exit(int(transformers.__version__.split(".")[0]) < 5)'
if ! "$python" -c 'import json' 2>/dev/null; then
    skip_case "a plan in other programs" "no python3"
    finish
fi

# profile_model MODEL NAME: a profile for plan_of.
profile_model() {
    "$bin/ropebits-calibrate" -q --model "$1" --text configs/demo-text/calibration.txt --test-text \
        configs/demo-text/heldout.txt --n-tokens 512 --context 256 --values -o "$scratch/$2.h5" >/dev/null &&
        "$bin/ropebits-profile" -q "$scratch/$2.h5" --budgets 3 -o "$scratch/$2-profile.h5" >/dev/null
}
# plan_of NAME PLAN OPTIONS...: $scratch/PLAN.json and PLAN.rbp, by the profile of NAME.
plan_of() {
    local name=$1 plan=$2; shift 2
    "$bin/ropebits-allocate" -q "$scratch/$name-profile.h5" "$@" -o "$scratch/$plan.json" >/dev/null &&
        "$bin/ropebits-export" -q "$scratch/$plan.json" --format rbp -o "$scratch" >/dev/null
}
demo=configs/demo-llama
check "the demo model has a profile" profile_model $demo demo
check "  and plans" plan_of demo k3v3 --method block-gtq --avg-bits 3 --value-bits 3

# ---- the published code ----------------------------------------------------------------------------------------------
replay=(tests/integrations/check_replay.py "$scratch/k3v3.json")
tell_replay() {     # tell_replay NAME COMMAND...: what check_replay.py says; 77: it had no torch for the rest
    local name=$1 code; shift
    "$@" >"$scratch/replay.out" 2>&1
    code=$?
    if [ $code -eq 77 ]; then
        ok "$name: what it refuses"
        skip_case "$name: what it makes" "no torch"
    elif [ $code -eq 0 ]; then ok "$name"
    else not_ok "$name" "$(grep -v '^ok' "$scratch/replay.out")"
    fi
}
tell_replay "a plan in the published code's objects" "$python" "${replay[@]}"
if [ -z "${BLOCKGTQ_CHECKOUT-}" ]; then
    skip_case "a plan in the published code itself" "no BLOCKGTQ_CHECKOUT"
else
    tell_replay "a plan in the published code itself" "$python" "${replay[@]}" "$BLOCKGTQ_CHECKOUT"
fi
expect "replay.py says what can be replayed" 0 "$python" integrations/blockgtq/replay.py "$scratch/k3v3.json"
stdout_has "the production cache, values of 3 bits"
expect "  and what cannot" 1 "$python" integrations/blockgtq/replay.py "$demo/config.json"
stderr_has "is not a plan.json"

# ---- transformers ----------------------------------------------------------------------------------------------------
library=$build/lib/libropebits_kv.so
if [ "${RB_SANITIZED:-0}" = 1 ]; then
    skip_case "the cache of transformers" "the library is sanitized"
    finish
elif ! "$python" -c "$has_transformers" 2>/dev/null; then
    skip_case "the cache of transformers" "no python3 with torch and transformers 5 (RB_TRANSFORMERS_PYTHON)"
    finish
fi
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1

# Each family, with exact tokens and without.
check "plans of other families" plan_of demo exact --method optimal-center --true-bits 3 --value-bits 4 --sink 2
check "  with recent tokens" plan_of demo recent --method block-codebook --true-bits 3 --value-bits 3 --sink 4 \
    --recent 20
check "  of a trellis" plan_of demo trellis --method trellis --total-bits 6
cache=("$python" integrations/transformers/check_cache.py --library "$library" --text configs/demo-text/heldout.txt
    --generate "$bin/ropebits-generate" --prompt-tokens 60 --new-tokens 6)
for plan in k3v3 exact recent trellis; do
    check "demo-llama in transformers, plan $plan" "${cache[@]}" --model $demo --plan "$scratch/$plan.rbp"
done

# A window, soft caps, a scale and RoPE of its own.
for family in gemma2 gemma3; do
    check "a model of $family" "$python" tests/integrations/make_tiny_model.py $family $demo "$scratch/$family"
    check "  has a profile" profile_model "$scratch/$family" $family
    check "  and a plan" plan_of $family $family-plan --method block-gtq --avg-bits 3 --value-bits 3 --sink 2 --recent 5
    check "  which holds in transformers" "${cache[@]}" --model "$scratch/$family" --plan "$scratch/$family-plan.rbp"
done

check "what the cache refuses" "$python" tests/integrations/check_refusals.py "$library" $demo "$scratch/k3v3.rbp" \
    "$scratch/recent.rbp" "$scratch/gemma3"
finish
