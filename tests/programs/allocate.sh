# The allocate program.
. tests/programs/tap.sh

allocate=$bin/ropebits-allocate
"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt --n-tokens 128 --context 64 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null

expect "no method is a usage error" 2 "$allocate" "$scratch/p.h5" --avg-bits 3 -o "$scratch/plan.json"
stderr_has "--method NAME is missing"
expect "no budget is a usage error" 2 "$allocate" "$scratch/p.h5" --method uniform -o "$scratch/plan.json"
stderr_has "--avg-bits B is missing"
expect "values of 9 bits are a usage error" 2 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 3 --value-bits 9 -o "$scratch/plan.json"
expect "uniform at a fractional budget is refused" 1 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 2.5 -o "$scratch/plan.json"
stderr_has "expected a whole number of bits"
expect "a capture is no profile" 1 "$allocate" "$scratch/capture.h5" --method uniform --avg-bits 3 -o "$scratch/plan.json"
stderr_has "ropebits-capture"
check "  and no plan is left behind" test ! -e "$scratch/plan.json" -a ! -e "$scratch/plan.json.tmp"

expect "uniform at 3 bits" 0 "$allocate" "$scratch/p.h5" --method uniform --avg-bits 3 -o "$scratch/uniform.json"
stdout_has "3.250 true bits a dim (3.000 nominal)"
stdout_has "416 bytes a token, fp16 takes 2048: 4.92 times smaller"
expect "block-gtq at 2.5 bits, values in fp16" 0 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 2.5 --value-bits 16 --json -o "$scratch/gtq.json"
stdout_has '"value_true_bits": 16'
stdout_has '"key_nominal_bits": 2.5'
cp "$scratch/gtq.json" "$scratch/first.json"
expect "the same again" 0 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 2.5 --value-bits 16 -o "$scratch/gtq.json"
check "  gives the same bytes" cmp "$scratch/first.json" "$scratch/gtq.json"

expect "hadamard rotations" 0 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 2.5 --value-bits 16 --rotation hadamard --json -o "$scratch/hadamard.json"
stdout_has '"rotation": "hadamard"'
check "  are in the plan, and no haar key group" sh -c 'grep -q "\"kind\": *\"hadamard\"" "$0" && ! grep -q "\"haar\"" "$0"' "$scratch/hadamard.json"
sed 's/"hadamard"/"haar"/' "$scratch/hadamard.json" >"$scratch/back.json"
check "  and nothing else changes" cmp "$scratch/back.json" "$scratch/gtq.json"
expect "profile scores them" 0 "$bin/ropebits-profile" -q "$scratch/capture.h5" --plan "$scratch/hadamard.json" --json
mae=$(grep -m 1 '"logit_mae"' "$scratch/stdout")
expect "  and haar" 0 "$bin/ropebits-profile" -q "$scratch/capture.h5" --plan "$scratch/gtq.json" --json
check "  with another error" test -n "$mae" -a "$mae" != "$(grep -m 1 '"logit_mae"' "$scratch/stdout")"
expect "an unknown rotation is a usage error" 2 "$allocate" "$scratch/p.h5" --method block-gtq --avg-bits 3 --rotation givens -o "$scratch/none.json"

finish
