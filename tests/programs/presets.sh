# Every preset of configs/presets is a pipeline that runs. Its model and text, the two places that are the user's,
# become the demo's; its numbers of tokens become those of a small model.
. tests/programs/tap.sh

presets=(configs/presets/*.json)
equal "there are ten presets" 10 "${#presets[@]}"
for preset in "${presets[@]}"; do
    name=$(basename "$preset" .json)
    equal "$name has a row in docs/run.md" 1 "$(grep -cF "| \`$name\` |" docs/run.md)"
    equal "  one model and one text, each on a line of its own" 2 "$(grep -cE '^  "(model|text)": "/.*",$' "$preset")"
    sed -E -e "s|^  \"model\": .*|  \"model\": \"$PWD/configs/demo-llama\",|" \
        -e "s|^  \"text\": .*|  \"text\": \"$PWD/configs/demo-text/calibration.txt\",|" \
        -e 's/"(n_tokens|n_test_tokens|context)": [0-9]+/"\1": 256/g' "$preset" >"$scratch/$name.json"
    if [ "${RB_SANITIZED:-0}" = 1 ] && [ "$preset" != "${presets[0]}" ]; then
        skip_case "  it runs" "plain build only, all but the first"
        continue
    fi
    expect "  it runs" 0 "$bin/ropebits" run --device cpu "$scratch/$name.json" -o "$scratch/$name"
    stdout_has "plan.rbp"
    check "  and leaves a plan" test -s "$scratch/$name/plan.rbp"
done

finish
