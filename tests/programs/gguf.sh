# A GGUF where a program takes a model: the toy model of tests/model/gguf_toy_model.h in both forms gives the same
# results. Files made with the Python package gguf are read with the values that it gives, bit for bit.
. tests/programs/tap.sh

calibrate=$bin/ropebits-calibrate
maker=$build/tests/model/test_gguf_checkpoint
gguf=$scratch/toy.gguf folder=$scratch/toy
awk 'BEGIN {
    for (i = 0; i < 8000; i++) {
        x = (x * 1103 + 12345) % 65536
        printf "%s", substr("abc a\nbcab", 1 + int(x / 64) % 9, 1)
    }
}' >"$scratch/text.txt"
warning="quantized weights (Q8_0): energies, errors and perplexity are those of the quantized model"

expect "the toy model is written in both forms" 0 "$maker" --write "$gguf" "$folder"

expect "a dry run says that a GGUF is supported" 0 "$calibrate" --model "$gguf" --dry-run --text "$scratch/text.txt" \
    --n-tokens 256
stdout_has "supported: a run would work"
stdout_has "(llama), 2 layers, 4 query and 2 KV heads of 16 dims"
stderr_has "$warning"
expect "a folder in f32 is not quantized" 0 "$calibrate" --model "$folder" --dry-run
check "  nothing is said" lacks "quantized" "$scratch/stderr"
expect "with -q nothing is said of a GGUF" 0 "$calibrate" -q --model "$gguf" --dry-run
stderr_lines 0

# ---- the same results from both ----
facts='model_type|config_sha256|weights_sha256|weights_sample_sha256|"model"|seconds|_s"|tool|capture'

for model in "$gguf" "$folder"; do
    name=$(basename "$model")
    expect "$name is captured" 0 "$calibrate" --model "$model" --text "$scratch/text.txt" --n-tokens 256 \
        --n-test-tokens 128 --context 64 --dtype f32 --hash-weights -o "$scratch/$name.h5"
    expect "$name is profiled" 0 "$bin/ropebits-profile" "$scratch/$name.h5" --budgets 2,3 --json -o "$scratch/$name.p"
    grep -vE "$facts" "$scratch/stdout" >"$scratch/$name.profile"
    expect "$name gets a plan" 0 "$bin/ropebits-allocate" "$scratch/$name.p" --method block-gtq --avg-bits 3 \
        -o "$scratch/$name.json"
    expect "$name is evaluated" 0 "$bin/ropebits-evaluate" --model "$model" --plan "$scratch/$name.json" \
        --text "$scratch/text.txt" --n-tokens 256 --context 64 --json
    grep -vE "$facts|$name" "$scratch/stdout" >"$scratch/$name.evaluation"
    expect "$name gets a plan with scales" 0 "$bin/ropebits-allocate" "$scratch/$name.p" --method optimal \
        --true-bits 4 -o "$scratch/$name-optimal.json"
    expect "$name is folded" 0 "$bin/ropebits-export" --format folded --model "$model" "$scratch/$name-optimal.json" \
        -o "$scratch/$name-folded"
    mv "$scratch/$name-folded"/*.safetensors "$scratch/$name-folded.safetensors"
done
check "both give the same profile" cmp "$scratch/toy.gguf.profile" "$scratch/toy.profile"
check "  which has errors in it" grep -q logit_mae "$scratch/toy.profile"
check "both give the same folded weights" cmp "$scratch/toy.gguf-folded.safetensors" "$scratch/toy-folded.safetensors"
check "both give the same evaluation" cmp "$scratch/toy.gguf.evaluation" "$scratch/toy.evaluation"
check "  which has a perplexity in it" grep -q perplexity "$scratch/toy.evaluation"
expect "the worst tokens have their text from a GGUF" 0 "$bin/ropebits-profile" "$scratch/toy.gguf.h5" --model "$gguf" \
    -o "$scratch/named.p"
expect "a plan for the folder is not one for the GGUF" 1 "$bin/ropebits-evaluate" --model "$gguf" \
    --plan "$scratch/toy.json" --text "$scratch/text.txt" --n-tokens 128 --context 64
stderr_has "config_sha256"

tail -c 2000 "$scratch/text.txt" >"$scratch/test.txt"
cat >"$scratch/run.json" <<JSON
{"schema": "ropebits-pipeline", "version": 1, "model": "$gguf", "text": "$scratch/text.txt",
 "test_text": "$scratch/test.txt", "calibrate": {"n_tokens": 128, "context": 64},
 "profile": {"budgets": [3], "methods": ["block-gtq"]}, "allocate": {"method": "block-gtq", "avg_bits": 3},
 "evaluate": {"n_tokens": 128, "context": 64, "budgets": [3], "methods": ["block-gtq"]}, "export": {"formats": ["rbp"]}}
JSON
expect "a pipeline runs from a GGUF" 0 "$bin/ropebits" run "$scratch/run.json" -o "$scratch/run"

# ---- what is refused, in one line ----
refused() {     # refused NAME MESSAGE
    expect "$1 is refused" 1 "$calibrate" --model "$scratch/bad.gguf" --dry-run
    stderr_has "$2"
    stderr_lines 1
}
head -c 5000 "$gguf" >"$scratch/bad.gguf"
refused "a GGUF that was cut" "truncated"
head -c 4000 "$folder/model.safetensors" >"$scratch/bad.gguf"
refused "a file of another kind" "not a GGUF: it does not start with \"GGUF\"; a model is a folder with config.json or"
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n' >"$scratch/bad.gguf"
refused "a Git LFS pointer" "a Git LFS pointer, expected the file itself"
{ printf 'GGUF\0\0\0\3'; head -c 64 /dev/zero; } >"$scratch/bad.gguf"
refused "a big-endian GGUF" "a big-endian GGUF, expected a little-endian one"
sed 's/blk\.1\.ffn_up/blk.7.ffn_up/' "$gguf" >"$scratch/bad.gguf"
refused "a GGUF without one of its tensors" "no tensor \"model.layers.1.mlp.up_proj.weight\""
LC_ALL=C sed 's/general\.architecture\(.\{12\}\)llama/general.architecture\1gpt-2/' "$gguf" >"$scratch/bad.gguf"
refused "another architecture" "general.architecture is \"gpt-2\", expected llama, qwen2, qwen3 or gemma3"

# ---- against the Python package ----
python=
for candidate in python3 /usr/bin/python3; do
    if [ -z "$python" ] && "$candidate" -c 'import gguf, numpy' 2>/dev/null; then python=$candidate; fi
done
if [ -z "$python" ]; then
    skip_case "values are those of the Python package gguf" "no python3 with gguf and numpy (pip install gguf)"
    finish
fi

# make.py FILE ARCHITECTURE: blocks of random bytes in every type. check.py FILE FOLDER: the folder has gguf's values,
# under Hugging Face names and in its order.
cat >"$scratch/make.py" <<'PYTHON'
import sys
import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES

path, arch = sys.argv[1:]
rng = np.random.default_rng(5)
hidden, heads, kv_heads, d, mlp, layers, vocab = 256, 4, 2, 64, 512, 4, 300
types = [T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q4_K, T.Q5_K, T.Q6_K, T.F16, T.BF16, T.F32]
f16_at = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2],
          T.Q6_K: [208]}
w = GGUFWriter(path, arch)
w.add_block_count(layers); w.add_context_length(512); w.add_embedding_length(hidden); w.add_feed_forward_length(mlp)
w.add_head_count(heads); w.add_head_count_kv(kv_heads); w.add_key_length(d); w.add_value_length(d)
w.add_layer_norm_rms_eps(1e-6); w.add_rope_freq_base(1e6)
w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("qwen2")
w.add_token_list([chr(0x4e00 + i) for i in range(vocab)]); w.add_token_merges(["a b"])

n = 0
def matrix(name, rows, columns):
    global n
    kind = types[n % len(types)]; n += 1
    if kind in f16_at:
        elements, size = GGML_QUANT_SIZES[kind]
        x = rng.integers(0, 256, (rows, columns // elements, size), dtype=np.uint8)
        for at in f16_at[kind]:
            scale = (rng.normal(size=x.shape[:2]) * 10.0 ** rng.integers(-5, 0, x.shape[:2])).astype(np.float16)
            x[..., at:at + 2] = scale[..., None].view(np.uint8)
        w.add_tensor(name, x.reshape(rows, -1), raw_dtype=kind)
    elif kind == T.BF16:
        bits = rng.normal(size=(rows, columns)).astype("<f4").view("<u4") >> 16
        w.add_tensor(name, bits.astype("<u2").view(np.uint8), raw_dtype=kind)
    else: w.add_tensor(name, rng.normal(size=(rows, columns)).astype("<f2" if kind == T.F16 else "<f4"))
def vector(name, size): w.add_tensor(name, rng.normal(size=size).astype("<f4"))

matrix("token_embd.weight", vocab, hidden); vector("output_norm.weight", hidden); matrix("output.weight", vocab, hidden)
for layer in range(layers):
    b = f"blk.{layer}."
    for part, rows, columns in (("attn_q", heads * d, hidden), ("attn_k", kv_heads * d, hidden),
                                ("attn_v", kv_heads * d, hidden), ("attn_output", hidden, heads * d),
                                ("ffn_gate", mlp, hidden), ("ffn_up", mlp, hidden), ("ffn_down", hidden, mlp)):
        matrix(b + part + ".weight", rows, columns)
        if arch == "qwen2" and part in ("attn_q", "attn_k", "attn_v"): vector(b + part + ".bias", rows)
    for part in ("attn_norm", "ffn_norm"): vector(b + part + ".weight", hidden)
    if arch == "qwen3":
        for part in ("attn_q_norm", "attn_k_norm"): vector(b + part + ".weight", d)
w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
PYTHON
cat >"$scratch/check.py" <<'PYTHON'
import json, sys
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

reader = GGUFReader(sys.argv[1])
get = lambda key: reader.fields[key].contents()
arch = get("general.architecture")
heads = {"attn_q": get(f"{arch}.attention.head_count"), "attn_k": get(f"{arch}.attention.head_count_kv")}
data = open(sys.argv[2] + "/model.safetensors", "rb").read()
n = int.from_bytes(data[:8], "little")
header = json.loads(data[8:8 + n])
names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
kinds = set()
for t in reader.tensors:
    *layer, part, kind = t.name.split(".")
    x = np.asarray(dequantize(t.data, t.tensor_type), dtype="<f4").reshape(t.shape[::-1])
    if arch == "llama" and part in heads:
        x = x.reshape(heads[part], -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
    entry = header.pop((f"model.layers.{layer[1]}." if layer else "") + f"{names[part]}.{kind}")
    begin, end = entry["data_offsets"]
    assert entry["shape"] == list(x.shape), t.name
    assert data[8 + n + begin:8 + n + end] == np.ascontiguousarray(x).tobytes(), t.name
    kinds.add(t.tensor_type.name)
header.pop("__metadata__", None)
assert not header, header.keys()
print(" ".join(sorted(kinds)))
PYTHON
for arch in llama qwen2 qwen3; do
    check "$arch: gguf makes a file of every type" "$python" "$scratch/make.py" "$scratch/$arch.gguf" $arch
    expect "$arch: it is read" 0 "$maker" --convert "$scratch/$arch.gguf" "$scratch/$arch"
    expect "$arch: values are those of the Python package gguf, bit for bit" 0 "$python" "$scratch/check.py" \
        "$scratch/$arch.gguf" "$scratch/$arch"
    stdout_has "BF16 F16 F32 Q4_0 Q4_1 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0"
done

finish
