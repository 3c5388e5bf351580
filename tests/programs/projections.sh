# A plan on other runtimes: a file for each, in the form that the runtime reads, with the loss that was measured.
. tests/programs/tap.sh

runtimes=(vllm llama.cpp ik_llama.cpp exllamav3 mlx-lm kvtuner modelopt)
all=$(IFS=,; echo "${runtimes[*]}")
files=(vllm.yaml llama.cpp.args ik_llama.cpp.args exllamav3.py mlx-lm.py kvtuner.yaml modelopt.json)
project() { "$bin/ropebits-export" -q "$scratch/$1.json" --format "$2" -o "$scratch/out" "${@:3}"; }
python=$(for p in /usr/bin/python3 python3; do "$p" -c 'import json' 2>/dev/null && echo "$p" && break; done)

"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt \
    --n-tokens 256 --n-test-tokens 128 --context 64 --values -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null
"$bin/ropebits-allocate" -q "$scratch/p.h5" -o "$scratch/plan.json" --method block-gtq --avg-bits 5 --value-bits 5 \
    >/dev/null
"$bin/ropebits-allocate" -q "$scratch/p.h5" -o "$scratch/small.json" --method block-codebook --true-bits 2.5 \
    --value-bits 2 --sink 2 >/dev/null

# ---- usage ----
expect "a capture for nothing is a usage error" 2 project plan rbp --capture "$scratch/capture.h5"
stderr_has "--capture is for format cuda and other runtimes"
expect "so is larger for nothing" 2 project plan rbp --allow-larger
stderr_has "--allow-larger is for other runtimes"

# ---- refused ----
# 4 layers of 2 heads, 36 bytes of iq4_nl for a key and as many for a value.
expect "a plan smaller than anything the runtime has is refused" 1 project small llama.cpp
stderr_has "llama.cpp: takes 576 bytes a token at least, the plan "
stderr_lines 1
check "  and nothing is written" no_output "$scratch/out/small-llama.cpp.args"
expect "so is one among others, before any is written" 1 project small exllamav3,llama.cpp
check "  no exllamav3 either" no_output "$scratch/out/small-exllamav3.py"
expect "vLLM keeps the four layers of this model in 16 bits" 1 project plan vllm
stderr_has "vllm: takes 2048 bytes a token at least"
sed 's/"config_sha256": "..../"config_sha256": "0000/' "$scratch/plan.json" >"$scratch/other.json"
expect "a capture of another model is refused" 1 project other llama.cpp --capture "$scratch/capture.h5"
stderr_has "config_sha256"
check "  and nothing is written" no_output "$scratch/out/other-llama.cpp.args"

# ---- written, without a capture ----
expect "every runtime has a file" 0 project plan "$all" --allow-larger
stdout_has "the loss was not measured: --capture CAPTURE.h5 measures it"
for file in "${files[@]}"; do
    check "  $file says that the loss was not measured" grep -q "the loss was not measured" "$scratch/out/plan-$file"
    check "  $file says what it cannot carry" grep -q "cannot carry: the codec groups" "$scratch/out/plan-$file"
done

# ---- written, with a capture ----
expect "the loss is measured" 0 project plan "$all" --allow-larger --capture "$scratch/capture.h5"
stdout_has "logit MAE"
stdout_has "value error"
check "the file says what it was written for" grep -q "for vllm (0.33.0)" "$scratch/out/plan-vllm.yaml"
numbers='^# +[0-9]+ +[0-9]+ +[0-9]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+$'
equal "its layers are in the comments" 4 "$(grep -cE "$numbers" "$scratch/out/plan-exllamav3.py")"
project plan "$all" --allow-larger --capture "$scratch/capture.h5" --json --threads 1 >"$scratch/one.json"
cp -r "$scratch/out" "$scratch/once"
expect "--json holds it by layer" 0 project plan "$all" --allow-larger --capture "$scratch/capture.h5" --json \
    --threads 2
check "the same for any number of threads" cmp "$scratch/one.json" "$scratch/stdout"
check "  and so are the files" diff -r "$scratch/once" "$scratch/out"
project small "$all" --allow-larger --capture "$scratch/capture.h5" --json >"$scratch/small-result.json"
for plan in plan small; do
    "$bin/ropebits-profile" -q "$scratch/capture.h5" --plan "$scratch/$plan.json" --json >"$scratch/$plan-profile.json"
done

if [ -n "$python" ]; then
    check "the plan's loss is that of profile, the others' are in proportion" "$python" - "$scratch" <<'EOF'
import json, sys
def read(name): return json.load(open("%s/%s" % (sys.argv[1], name)))
for result, profile in (("one.json", "plan-profile.json"), ("small-result.json", "small-profile.json")):
    score = read(profile)["methods"][0]
    rows = {p["runtime"]: p for p in read(result)["projections"]}
    assert len(rows) == 7
    for row in rows.values():
        assert abs(row["plan_logit_mae"] - score["logit_mae"]) < 1e-9 * score["logit_mae"], (row, score)
        for name in ("logit_mae", "value_error"):
            by_layer = row[name + "_by_layer"]
            assert len(by_layer) == 4 and abs(sum(by_layer) / 4 - row[name]) < 1e-12
        assert sum(row["bytes_by_layer"]) == row["bytes_per_token"] and row["cannot_carry"] and row["version"]
    # All of vLLM's layers are forced to 16 bits here.
    assert rows["vllm"]["logit_mae"] < 0.01 * rows["llama.cpp"]["logit_mae"]
rows = {p["runtime"]: p for p in read("one.json")["projections"]}
for name in ("llama.cpp", "ik_llama.cpp", "exllamav3", "mlx-lm", "kvtuner", "modelopt"):
    assert rows[name]["bytes_per_token"] <= rows[name]["plan_bytes_per_token"], name
    assert 0.2 < rows[name]["logit_mae"] / rows[name]["plan_logit_mae"] < 8, (name, rows[name]["logit_mae"])
EOF
    check "the Python files run, and have a width a layer" "$python" - "$scratch/out" <<'EOF'
import runpy, sys, types
made = []
class Layer:
    def __init__(self, *args, **kwargs): made.append(kwargs)
package, cache = types.ModuleType("exllamav3"), types.ModuleType("exllamav3.cache")
cache.CacheLayer_quant = Layer
sys.modules.update({"exllamav3": package, "exllamav3.cache": cache})
exl = runpy.run_path(sys.argv[1] + "/plan-exllamav3.py")
for layer in range(4): exl["cache_layer"](None, types.SimpleNamespace(layer_idx=layer), 0, 256)
assert [m["k_bits"] for m in made] == exl["K_BITS"] and [m["v_bits"] for m in made] == exl["V_BITS"]
assert all(2 <= b <= 8 for b in exl["K_BITS"] + exl["V_BITS"])
made.clear()
models = types.ModuleType("mlx_lm.models.cache")
models.KVCache, models.QuantizedKVCache = list, Layer
sys.modules.update({"mlx_lm": types.ModuleType("mlx_lm"), "mlx_lm.models": types.ModuleType("mlx_lm.models"),
                    "mlx_lm.models.cache": models})
mlx = runpy.run_path(sys.argv[1] + "/plan-mlx-lm.py")
assert len(mlx["make_cache"]()) == 4 and [m["bits"] for m in made] == [b for b in mlx["KV_BITS"] if b]
assert all(m["group_size"] == 64 for m in made)
EOF
    check "ModelOpt's map has layers by their names" "$python" - "$scratch/out/plan-modelopt.json" <<'EOF'
import json, sys
quantization = json.load(open(sys.argv[1]))["quantization"]
layers = quantization["kv_cache_quantized_layers"]
assert set(layers) <= {"model.layers.%d.self_attn" % i for i in range(4)} and layers
kinds = {v["quant_algo"] for v in layers.values()}
assert kinds <= {"FP8", "NVFP4", "FP8_K_NVFP4_V"}
assert quantization["kv_cache_quant_algo"] == (kinds.pop() if len(kinds) == 1 else "MIXED_PRECISION")
EOF
else
    skip_case "the contents of the files" "no python3"
fi

# ---- the forms ----
no_comments() { grep -v '^#' "$scratch/out/plan-$1" | sed '/^$/d'; }
check "vLLM: all layers of this model stay" grep -qx 'kv-cache-dtype-skip-layers: \["0", "1", "2", "3"\]' \
    "$scratch/out/plan-vllm.yaml"
equal "llama.cpp: one line of options" 1 "$(no_comments llama.cpp.args | wc -l)"
type='(f16|q8_0|q6_0|q5_1|q5_0|q4_1|iq4_nl|q4_0)' ends='( -ct[kv]-(first|last) [a-z0-9_]+,[0-9]+)*'
check "  of types" grep -qE "^-ctk $type -ctv $type -fa on$" "$scratch/out/plan-llama.cpp.args"
check "ik_llama.cpp: its ends and its transforms" grep -qE "^-ctk $type$ends -ctv $type$ends -khad -vhad -fa on$" \
    "$scratch/out/plan-ik_llama.cpp.args"
equal "KVTuner: two widths a head" 16 "$(no_comments kvtuner.yaml | grep -cE '^    nbits_(key|value): [2-8]$')"
equal "  of 8 heads" 8 "$(no_comments kvtuner.yaml | grep -cE '^  [01]:$')"
check "a plan with sinks says that they are lost" grep -q "cannot carry: the first 2 tokens in fp16" \
    "$scratch/out/small-mlx-lm.py"
check "  and its centre" grep -q "cannot carry: the mean key" "$scratch/out/small-mlx-lm.py"

finish
