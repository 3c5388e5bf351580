# calibrate --dry-run: it says what the run would do, and fails where and as the run would.
. tests/programs/tap.sh

calibrate=$bin/ropebits-calibrate
model=configs/demo-llama text=configs/demo-text/calibration.txt test_text=configs/demo-text/heldout.txt
demo=(--device cpu --model "$model" --text "$text" --test-text "$test_text" --n-tokens 300 --context 128)

expect "without a text it tells whether the model is supported" 0 "$calibrate" --device cpu --model $model --dry-run
stdout_has "supported: a run would work"
stdout_has "LlamaForCausalLM: hidden_size 192, intermediate_size 512, vocab_size 4096"
stdout_has "split-half pairing, 32 blocks of 32 turn, theta 10000"
stdout_has "inv_freq 1 to 0.0001334"
stdout_has "32 to read, 4.5 MiB of BF16: model.embed_tokens.weight and 31 in 4 layers"
stdout_has "none given: no token ids were looked at"
stdout_has "tokenizer    4096 tokens"
stdout_has "time         about"
stderr_lines 0

expect "with texts it reads them" 0 "$calibrate" "${demo[@]}" --dry-run
stdout_has "$text: 300 tokens used"
stdout_has "test text    $test_text"
expect "it needs no output, and leaves none" 0 "$calibrate" "${demo[@]}" --dry-run -o "$scratch/a.h5"
none "  nothing is in the folder of the output" "$(find "$scratch" -name 'a.h5*')"
expect "it lists tensors, and gives warnings as JSON" 0 "$calibrate" "${demo[@]}" --dry-run --json
stdout_has '"model.layers.3.self_attn.k_proj.weight"'
stdout_has '"warnings": []'
stdout_has '"device": "cpu"'
check "  the last layer's MLP is not read" lacks 'layers\.3\.mlp' "$scratch/stdout"
expect "with values it is read, and the head is not" 0 "$calibrate" "${demo[@]}" --values --dry-run --json
stdout_has '"model.layers.3.mlp.down_proj.weight"'
check "  but not the last norm" lacks '"model\.norm' "$scratch/stdout"

# same NAME OPTIONS...: the dry run fails with the run's exit code and sentence.
same() {
    local name=$1 code; shift
    "$calibrate" --device cpu "$@" -o "$scratch/x.h5" >/dev/null 2>"$scratch/wanted" </dev/null
    code=$?
    check "$name: the run fails" test $code -ne 0
    expect "$name: the dry run fails as the run does" $code "$calibrate" --device cpu "$@" -o "$scratch/x.h5" --dry-run
    equal "  with the same words" "$(cat "$scratch/wanted")" "$(cat "$scratch/stderr")"
    none "  and no file is left" "$(find "$scratch" -name 'x.h5*')"
}
copy() { rm -rf "$scratch/model"; cp -r $model "$scratch/model"; chmod -R u+w "$scratch/model"; }

same "a text that is not there" --model $model --text "$scratch/absent.txt"
same "a text that is too short" --model $model --text $text --n-tokens 1000000
same "a test text that is too short" --model $model --text $text --test-text $test_text --n-test-tokens 1000000
same "a text that is not UTF-8" --model $model --text $model/model.safetensors
same "a test text that repeats the text" --model $model --text $text --test-text $text --n-tokens 300
same "a context that is too long" --model $model --text $text --context 4096
same "needles in too short a context" --model $model --text $text --n-tokens 300 --with-needles --context 64
same "two kinds of calibration text" --model $model --text $text --tokens $text
printf '[1, 2, 4096]' >"$scratch/ids.json"
same "an id outside the vocabulary" --model $model --tokens "$scratch/ids.json" --n-tokens 2 --n-test-tokens 1
expect "an output that cannot be written: the dry run fails too" 1 "$calibrate" "${demo[@]}" --dry-run \
    -o "$scratch/absent/x.h5"
stderr_has "$scratch/absent"

copy && rm "$scratch/model/tokenizer.json"
same "a tokenizer that is not there" --model "$scratch/model" --text $text
expect "without a text it is no error that there is none" 0 "$calibrate" --device cpu --model "$scratch/model" --dry-run
stdout_has "none: ids from --tokens only"
printf '[1, 2, 3, 4, 5, 6]' >"$scratch/ids.json"
expect "ids need none" 0 "$calibrate" --device cpu --model "$scratch/model" --tokens "$scratch/ids.json" --n-tokens 3 \
    --n-test-tokens 3 --dry-run
stdout_has "ids from $scratch/ids.json"
copy && printf '{"model": {"type": "Riddle"}}' >"$scratch/model/tokenizer.json"
same "a tokenizer that is not understood" --model "$scratch/model" --text $text
expect "  is an error without a text too" 1 "$calibrate" --device cpu --model "$scratch/model" --dry-run
if ! "$calibrate" -q --model $model --dry-run --device cuda >/dev/null 2>&1; then
    same "a GPU that is not there" --model $model --text $text --n-tokens 300 --device cuda
else
    skip_case "a GPU that is not there" "there is one"
fi

# ---- files that are something else ----
lfs='version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456789\n'
for file in model.safetensors config.json tokenizer.json; do
    copy && printf '%b' "$lfs" >"$scratch/model/$file"
    expect "$file that is a Git LFS pointer is named as one" 1 "$calibrate" --model "$scratch/model" --dry-run
    stderr_has "$file: expected"
    stderr_has "found a Git LFS pointer, not the file itself: fetch it with git lfs pull"
    equal "  in one line" 1 "$(grep -vc info: "$scratch/stderr")"
done
copy && sed -i 's/\("vocab_size": [0-9]*\)/\1,/' "$scratch/model/config.json"
expect "a trailing comma is named with its place" 1 "$calibrate" --model "$scratch/model" --dry-run
stderr_has "a trailing comma before '}', expected none"
stderr_lines 1
copy && sed -i 's/"use_cache": true/"use_cache": true, "use_qk_norm": true/' "$scratch/model/config.json"
expect "a field of a fork is named" 1 "$calibrate" --model "$scratch/model" --dry-run
stderr_has "use_qk_norm is true, which llama does not have"
stderr_lines 1
copy && sed -i 's/"num_hidden_layers": 4/"num_hidden_layers": 3/' "$scratch/model/config.json"
expect "layers past the last are named" 1 "$calibrate" --model "$scratch/model" --dry-run
stderr_has "1 layer past the last one (3 to 3, 9 tensors"
stderr_lines 1
copy && printf '{}' >"$scratch/model/adapter_config.json"
expect "an adapter beside the weights is named" 1 "$calibrate" --model "$scratch/model" --dry-run
stderr_has "an adapter (adapter_config.json) beside the weights"
stderr_lines 1

# ---- the cases that people reported ----
refuse() { # refuse CASE WORDS...
    local case=$shared/cases/$1 words; shift
    if [ ! -d "$case" ]; then skip_case "$case" "not there"; return; fi
    expect "${case#"$shared"/} is refused" 1 "$calibrate" --model "$case" --dry-run
    for words in "$@"; do stderr_has "$words"; done
    stderr_lines 1
}
refuse unread-tensors/qk-layernorm "2 tensors are not read" '"model.layers.0.self_attn.key_layernorm.weight"'
refuse unread-tensors/extra-layer "1 layer past the last one" "num_hidden_layers is 2"
refuse unread-tensors/adapter-beside "an adapter (adapter_config.json)"
refuse unclear-messages/lfs-weights "a Git LFS pointer"
refuse unclear-messages/stray-single-file "model.safetensors: beside model.safetensors.index.json"
refuse unclear-messages/trailing-comma "line 16, column 29: a trailing comma"
case=$shared/cases/dry-run-tokenizer
if [ -d "$case" ]; then
    expect "no tokenizer is the run's error" 1 "$calibrate" --device cpu --model "$case/no-tokenizer" \
        --text "$case/text.txt" --n-tokens 300 --context 100 --dry-run
    stderr_has "tokenizer.json: No such file"
    expect "the plain model is supported" 0 "$calibrate" --device cpu --model "$shared/cases/unread-tensors/plain" \
        --dry-run
else
    skip_case "the run's error" "no $case"
fi

finish
