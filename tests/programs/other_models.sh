# Models whose heads are not Llama's, through every program: interleaved pairs of which half turn (glm), layers with a
# RoPE of their own (gemma3), a latent cache (deepseek_v2), an attention factor over some dims only (phi3 with
# longrope). Their checkpoints are random (tests/fixtures/models), so it is about sizes and pairs, not about who errs
# less.
. tests/programs/tap.sh

cc=${CC:-gcc}
python=$(command -v python3 || true)
text=configs/demo-text
methods="uniform block-gtq optimal optimal-center block-codebook"

# A tokenizer of single characters for the 64 ids of the checkpoints; a model of merges needs one of them.
cat >"$scratch/tokenizer.json" <<'JSON'
{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
 "post_processor": null, "decoder": null,
 "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {"<unk>": 0, " ": 1, "a": 2, "b": 3,
  "c": 4, "d": 5, "e": 6, "f": 7, "g": 8, "h": 9, "i": 10, "j": 11, "k": 12, "l": 13, "m": 14, "n": 15, "o": 16,
  "p": 17, "q": 18, "r": 19, "s": 20, "t": 21, "u": 22, "v": 23, "w": 24, "x": 25, "y": 26, "z": 27, ".": 28,
  "th": 29}, "merges": [["t", "h"]]}}
JSON

# prepare MODEL: its capture, profile and plans in $scratch/MODEL.
prepare() {
    local at=$scratch/$1 method
    mkdir -p "$at/model"
    cp "tests/fixtures/models/$1/config.json" "tests/fixtures/models/$1/model.safetensors" "$scratch/tokenizer.json" \
        "$at/model"
    expect "$1 is captured" 0 "$bin/ropebits-calibrate" -q --device cpu --model "$at/model" \
        --text $text/calibration.txt --test-text $text/heldout.txt --n-tokens 128 --context 32 --values -o "$at/c.h5"
    expect "$1 is profiled" 0 "$bin/ropebits-profile" -q --device cpu "$at/c.h5" --budgets 3 -o "$at/p.h5"
    for method in $methods; do
        mkdir "$at/$method"
        expect "$1 gets a plan of $method" 0 "$bin/ropebits-allocate" -q "$at/p.h5" --method "$method" --avg-bits 3 \
            --value-bits 4 -o "$at/$method/plan.json"
        expect "  in every format" 0 "$bin/ropebits-export" -q "$at/$method/plan.json" \
            --format rbp,header,safetensors,report -o "$at/$method"
        expect "  plan.rbp is the same plan" 0 "$bin/ropebits-diff" "$at/$method/plan.json" "$at/$method/plan.rbp"
        check "  head by head" grep -q "^the plans are equal: their [0-9]* heads" "$scratch/stdout"
        mkdir "$at/$method/again"
        expect "  and reads as one" 0 "$bin/ropebits-inspect" --json "$at/$method/plan.rbp"
        cp "$scratch/stdout" "$at/$method/again/plan.json"
        "$bin/ropebits-export" -q "$at/$method/again/plan.json" --format rbp -o "$at/$method/again" >"$scratch/stdout"
        check "  that has the same bytes" cmp "$at/$method/plan.rbp" "$at/$method/again/plan.rbp"
    done
}

# ---- every program ----
for model in glm gemma3 deepseek-lite phi3-longrope-partial; do
    at=$scratch/$model
    prepare $model
    plans=()
    for method in $methods; do plans+=(--plan "$at/$method/plan.rbp"); done
    expect "$model is evaluated under all of them" 0 "$bin/ropebits-evaluate" -q --device cpu --model "$at/model" \
        --text $text/heldout.txt --n-tokens 64 --context 32 "${plans[@]}" -o "$at/e.json"
    for method in $methods; do
        expect "$model's $method is explained" 0 "$bin/ropebits-explain" "$at/$method/plan.json" --profile "$at/p.h5" \
            --layer 1 --kv-head 0
    done
done
for method in uniform optimal block-codebook; do
    expect "the kernels' arrangement of glm's $method is validated" 0 "$bin/ropebits-validate" -q --device cpu \
        "$scratch/glm/$method/plan.json" "$scratch/glm/c.h5"
done

# ---- the header ----
cat >"$scratch/app.c" <<'EOF_C'
#include <stdio.h>
#include "plan.h"
/* Both dims of every block of a group stand side by side in the order of the codes, but in the natural order. */
static int pairs_are_neighbours(int l, int h)
{
    for (int g = 0; g < ropebits_n_groups[l][h]; g++) {
        const ropebits_plan_group *group = &ropebits_k_groups[l][h][g];
        const uint16_t *dims = ropebits_k_dims[l][h] + group->first_dim;
        for (int i = 0; i < group->n_dims; i += 2)
            if (dims[i] % 2 != 0 || dims[i + 1] != dims[i] + 1) return 0;
    }
    return 1;
}
int main(void)
{
    int good = 1;
    for (int l = 0; l < ROPEBITS_N_LAYERS; l++)
        for (int h = 0; h < ROPEBITS_N_KV_HEADS; h++) good &= pairs_are_neighbours(l, h);
    printf("interleaved %d, %s, %d of %d blocks turn\n", ROPEBITS_INTERLEAVED, good ? "neighbours" : "strangers",
           (int)(sizeof ropebits_inv_freq / sizeof *ropebits_inv_freq), ROPEBITS_N_BLOCKS);
#ifdef ROPEBITS_VALUE_DIM
    printf("values of %d, factor %.6f\n", ROPEBITS_VALUE_DIM, ROPEBITS_ATTENTION_FACTOR);
#endif
#ifdef ROPEBITS_LOCAL_ATTENTION_FACTOR
    for (int l = 0; l < ROPEBITS_N_LAYERS; l++)
        printf("layer %d: %.6f\n", l, (ropebits_layer_is_local[l] ? ropebits_local_inv_freq : ropebits_inv_freq)[1]);
#endif
    return 0;
}
EOF_C
# header_of MODEL METHOD: runs the program with the plan's plan.h
header_of() {
    check "plan.h of $1's $2 compiles" "$cc" -std=c99 -Wall -Wextra -Werror -I"$scratch/$1/$2" "$scratch/app.c" \
        -o "$scratch/app"
    expect "  and runs" 0 "$scratch/app"
}
for method in uniform block-gtq optimal; do
    header_of glm $method
    stdout_has "interleaved 1, neighbours, 4 of 8 blocks turn"
done
header_of deepseek-lite block-gtq
stdout_has "values of 16, factor 1.000000"
header_of gemma3 uniform
# 10000^(-1/8), 1000000^(-1/8) / 8: sliding layers turn by the first.
stdout_has "layer 0: 0.316228"
stdout_has "layer 1: 0.022228"
stdout_has "layer 2: 0.316228"
header_of phi3-longrope-partial uniform
stdout_has "values of 16, factor 1.080123"      # sqrt(1 + log 2 / log 64)

# ---- the other formats ----
if [ -n "$python" ]; then
    # shellcheck disable=SC2086  # words
    check "glm's blocks are neighbours in plan.json and plan.safetensors" "$python" - "$scratch/glm" $methods <<'PYTHON'
import json, struct, sys
def tensors(path):
    raw = open(path, "rb").read()
    n, = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8:8 + n]), raw[8 + n:]
    def get(name):
        t = header[name]
        a, b = t["data_offsets"]
        code = {"U8": "B", "I32": "i", "F32": "f", "F64": "d"}[t["dtype"]]
        flat = struct.unpack("<%d%s" % ((b - a) // struct.calcsize(code), code), data[a:b])
        width = t["shape"][-1]
        return [flat[i:i + width] for i in range(0, len(flat), width)]
    return get
for method in sys.argv[2:]:
    plan = json.load(open("%s/%s/plan.json" % (sys.argv[1], method)))
    assert plan["model"]["rope"]["pairing"] == "interleaved"
    assert plan["model"]["head_dim"] == 16 and plan["model"]["rotary_dim"] == 8
    inv_freq = plan["model"]["rope"]["inv_freq"]
    assert len(inv_freq) == 4 and all(abs(x - 10000 ** (-i / 4)) < 1e-12 for i, x in enumerate(inv_freq))
    get = tensors("%s/%s/plan.safetensors" % (sys.argv[1], method))
    assert list(get("inv_freq")[0]) == inv_freq
    for layer in plan["layers"]:
        bits = get("layers.%d.k_bits" % layer["layer"])
        order = get("layers.%d.k_permutation" % layer["layer"])
        for head in layer["kv_heads"]:
            dims = order[head["kv_head"]]
            assert list(bits[head["kv_head"]]) == head["bits"] and len(head["bits"]) == 8
            assert sorted(dims) == list(range(16))
            assert all(a % 2 == 0 and b == a + 1 for a, b in zip(dims[::2], dims[1::2])), dims
            for group in head.get("groups", []):
                assert all(head["bits"][block] == group["width"] for block in group["blocks"])
PYTHON
    check "gemma3's layers and deepseek_v2's values are in both" "$python" - "$scratch" <<'PYTHON'
import json, struct, sys
def header(path):
    raw = open(path, "rb").read()
    n, = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8:8 + n]), raw[8 + n:]
plan = json.load(open(sys.argv[1] + "/gemma3/block-gtq/plan.json"))
assert plan["version"] == 4 and plan["model"]["local_rope"]["layers"] == [0, 2]
found, data = header(sys.argv[1] + "/gemma3/block-gtq/plan.safetensors")
a, b = found["layer_is_local"]["data_offsets"]
assert list(data[a:b]) == [1, 0, 1]
a, b = found["local_inv_freq"]["data_offsets"]
assert list(struct.unpack("<8d", data[a:b])) == plan["model"]["local_rope"]["inv_freq"]
plan = json.load(open(sys.argv[1] + "/deepseek-lite/uniform/plan.json"))
assert plan["version"] == 4 and plan["model"]["value_dim"] == 16 and plan["model"]["head_dim"] == 8
assert plan["cost"]["value_true_bits"] == 4 + 16 / 16        # codes, and a norm over 16 dims
assert plan["cost"]["fp16_bytes_per_token"] == 2 * 2 * (8 + 16)
assert "centroids.block-gtq.w4.d16" in header(sys.argv[1] + "/deepseek-lite/uniform/plan.safetensors")[0]
PYTHON
else
    skip_case "glm's blocks are neighbours in plan.json and plan.safetensors" "no python3"
    skip_case "gemma3's layers and deepseek_v2's values are in both" "no python3"
fi

# ---- what the queries and keys are ----
numpy=$(for p in "$python" /usr/bin/python3; do "$p" -c 'import h5py, numpy' 2>/dev/null && echo "$p" && break; done)
if [ -n "$numpy" ]; then
    for model in glm gemma3 deepseek-lite; do
        check "$model's capture holds what transformers has enter RoPE" env "HDF5_PLUGIN_PATH=$build/lib/hdf5-plugin" \
            "$numpy" - "tests/fixtures/models/$model" "$bin" "$scratch/$model" <<'PYTHON'
import json, struct, subprocess, sys
import h5py, numpy as np
folder, bin, scratch = sys.argv[1:]
raw = open(folder + "/golden.safetensors", "rb").read()
n, = struct.unpack("<Q", raw[:8])
header, data = json.loads(raw[8:8 + n]), raw[8 + n:]
def golden(name):
    t = header[name]
    a, b = t["data_offsets"]
    return np.frombuffer(data[a:b], {"I32": "<i4", "F32": "<f4"}[t["dtype"]]).reshape(t["shape"])
ids = golden("input_ids").ravel()
open(scratch + "/golden.ids", "w").write("\n".join(map(str, ids)))
capture = scratch + "/golden.h5"
subprocess.run([bin + "/ropebits-calibrate", "-q", "--device", "cpu", "--model", folder, "--tokens",
                scratch + "/golden.ids", "--test-tokens", scratch + "/golden.ids", "--n-tokens", str(len(ids)),
                "--context", str(len(ids)), "--dtype", "f32", "-o", capture], check=True, stdout=subprocess.DEVNULL)
with h5py.File(capture, "r") as f:
    for layer in range(f.attrs["n_layers"]):
        for which in "qk":
            want = golden("%s_rope.%d" % (which, layer))
            got = f["calibration/layer_%03d/%s" % (layer, which)][:]
            assert got.shape == want.shape, (got.shape, want.shape)
            assert np.abs(got - want).max() < 2e-4 * np.abs(want).max(), (layer, which)
PYTHON
    done
else
    for model in glm gemma3 deepseek-lite; do
        skip_case "$model's capture holds what transformers has enter RoPE" "no h5py"
    done
fi

# ---- folding ----
expect "glm's scales are folded" 0 "$bin/ropebits-export" "$scratch/glm/optimal/plan.json" --format folded \
    --model "$scratch/glm/model" -o "$scratch/glm"
expect "those of a latent cache are not" 1 "$bin/ropebits-export" "$scratch/deepseek-lite/optimal/plan.json" \
    --format folded --model "$scratch/deepseek-lite/model" -o "$scratch/deepseek-lite"
stderr_has "scales cannot be folded into the weights of deepseek_v2"
stderr_lines 1
finish
