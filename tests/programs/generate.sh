# Text with a packed cache on the bundled model: text and JSON, prompts of every kind, draws, and what is refused.
. tests/programs/tap.sh

generate=$bin/ropebits-generate
python=$(command -v python3 || true)
model=configs/demo-llama
text=configs/demo-text/heldout.txt

"$bin/ropebits-calibrate" -q --device cpu --model $model --text configs/demo-text/calibration.txt --test-text $text \
    --n-tokens 1024 --context 512 -o "$scratch/c.h5" >/dev/null
"$bin/ropebits-profile" -q --device cpu "$scratch/c.h5" --budgets 3 --no-curves -o "$scratch/p.h5" >/dev/null 2>&1
"$bin/ropebits-allocate" -q "$scratch/p.h5" --method block-gtq --avg-bits 3 --value-bits 3 -o "$scratch/plan.json" \
    >/dev/null
"$bin/ropebits-export" -q "$scratch/plan.json" -o "$scratch" --formats rbp >/dev/null 2>&1
plan=(--plan "$scratch/plan.json")
run() { "$generate" -q --device cpu --threads 1 --model $model --max-tokens 24 "$@"; }
printf '%s' "$(head -c 700 $text)" >"$scratch/prompt.txt"

expect "text goes on" 0 run "${plan[@]}" --prompt-file "$scratch/prompt.txt"
cp "$scratch/stdout" "$scratch/text"
check "  with something" test -s "$scratch/text"
expect "a prompt in a file and on the command line are the same" 0 run "${plan[@]}" \
    --prompt "$(cat "$scratch/prompt.txt")"
check "  their texts too" cmp "$scratch/text" "$scratch/stdout"
expect "a cache in fp16 works without a plan" 0 run --kv fp16 --prompt-file "$scratch/prompt.txt"
for chunk in 1 10 64 1000; do
    run "${plan[@]}" --prompt-file "$scratch/prompt.txt" --chunk $chunk >"$scratch/chunk"
    check "chunks of $chunk give the same text" cmp "$scratch/text" "$scratch/chunk"
done
run "${plan[@]}" --prompt-file "$scratch/prompt.txt" --threads 2 >"$scratch/two"
check "two threads give the same text" cmp "$scratch/text" "$scratch/two"
expect "what it took is told" 0 "$generate" --device cpu --threads 1 --model $model "${plan[@]}" --prompt "The" \
    --max-tokens 3
stderr_has "new ones in"
stderr_has "times smaller; peak memory"

expect "JSON" 0 run "${plan[@]}" --prompt-file "$scratch/prompt.txt" --json
cp "$scratch/stdout" "$scratch/a.json"
if [ -n "$python" ]; then
    check "  has the text, the ids and the bytes" "$python" - "$scratch/a.json" "$scratch/text" <<'EOF'
import json, sys
a = json.load(open(sys.argv[1]))
assert a["schema"] == "ropebits.generation" and a["version"] == 1
assert a["text"].rstrip("\n") == open(sys.argv[2]).read().rstrip("\n")
assert a["n_new_tokens"] == len(a["token_ids"]) <= 24
assert 2 < a["cache_fp16_bytes"] / a["cache_bytes"] < 16
assert a["peak_bytes"] > 0 and a["prefill_s"] > 0 and a["decode_s"] > 0 and a["tokens_per_s"] > 0
assert a["options"]["kv"] == "plan" and a["options"]["device"] == "cpu"
EOF
fi

# ---- draws ----
draw() { run "${plan[@]}" --prompt-file "$scratch/prompt.txt" --temperature 1.5 --ignore-eos "$@"; }
draw --seed 3 >"$scratch/seed3"
draw --seed 3 >"$scratch/again"
draw --seed 4 >"$scratch/seed4"
draw --seed 4 --top-k 1 >"$scratch/top1"
run "${plan[@]}" --prompt-file "$scratch/prompt.txt" --ignore-eos >"$scratch/greedy"
check "a seed gives the same text" cmp "$scratch/seed3" "$scratch/again"
check "another seed another text" bash -c "! cmp -s '$scratch/seed3' '$scratch/seed4'"
check "top-k 1 is the most likely text" cmp "$scratch/top1" "$scratch/greedy"

# ---- ids ----
mkdir "$scratch/bare"
cp $model/config.json $model/model.safetensors "$scratch/bare"
echo '[1, 2, 3, 40, 500]' >"$scratch/ids.json"
expect "ids without a tokenizer give ids" 0 run --model "$scratch/bare" --kv fp16 --tokens "$scratch/ids.json" \
    --ignore-eos
equal "  a line each" 24 "$(grep -cE '^[0-9]+$' "$scratch/stdout")"

# ---- the end of a text ----
first=$(head -1 "$scratch/stdout")
echo "{\"eos_token_id\": [4000, $first]}" >"$scratch/bare/generation_config.json"
expect "generation_config.json says where a text ends" 0 run --model "$scratch/bare" --kv fp16 \
    --tokens "$scratch/ids.json"
equal "  at its first token" 0 "$(wc -l <"$scratch/stdout")"
echo '{"eos_token_id": "end"}' >"$scratch/bare/generation_config.json"
expect "  but not by a word" 1 run --model "$scratch/bare" --kv fp16 --tokens "$scratch/ids.json"
stderr_has "generation_config.json: eos_token_id is neither a token id nor a list of them"

# ---- what is refused ----
expect "no prompt is a usage error" 2 run "${plan[@]}"
stderr_has "there is no prompt, expected one of --prompt, --prompt-file and --tokens"
expect "  and so are two" 2 run "${plan[@]}" --prompt a --tokens b
stderr_has "there are several prompts"
expect "  no plan" 2 run --prompt a
stderr_has "there is no --plan, expected one, or --kv fp16"
expect "  a plan for fp16" 2 run "${plan[@]}" --kv fp16 --prompt a
stderr_has "--plan and --kv fp16 exclude each other"
expect "  top-p without a temperature" 2 run "${plan[@]}" --prompt a --top-p 0.5
stderr_has "--top-k and --top-p are of draws, and --temperature is 0"
expect "a text that is too long" 1 run "${plan[@]}" --prompt a --max-tokens 1024
stderr_has ", expected at most the model's max_position_embeddings of 1024"
: >"$scratch/empty"
expect "an empty prompt" 1 run --kv fp16 --no-bos --prompt-file "$scratch/empty"
stderr_has "empty: gives no tokens, expected at least one"
echo '[1, 5000]' >"$scratch/outside.json"
expect "an id outside the vocabulary" 1 run --kv fp16 --tokens "$scratch/outside.json"
stderr_has "5000"
sed -e 's/"head_dim": *64/"head_dim": 32/' -e 's/"n_q_heads": *6/"n_q_heads": 8/' "$scratch/plan.json" \
    >"$scratch/other.json"
expect "a plan for another model" 1 run --plan "$scratch/other.json" --prompt a
printf 'a\377b' >"$scratch/bad.txt"
expect "a prompt that is no UTF-8" 1 run "${plan[@]}" --prompt-file "$scratch/bad.txt"
stderr_has "bad.txt: "

finish
