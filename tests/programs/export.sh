# What export writes is what others can read: the C header compiles as C and C++ and holds the plan, inspect shows it.
# packaging.sh tests the library.
. tests/programs/tap.sh

cc=${CC:-gcc}
every=rbp,header,safetensors,json,report
# Every plan is a name in the scratch folder, and so are folders and programs.
allocate() {        # allocate PLAN METHOD OPTION...
    "$bin/ropebits-allocate" -q "$scratch/p.h5" -o "$scratch/$1.json" --method "${@:2}"
}
export_plan() { "$bin/ropebits-export" "$scratch/$1.json" --format "${@:2}"; }      # export_plan PLAN FORMATS OPTION...
inspect() { "$bin/ropebits-inspect" "$scratch/$1" "${@:2}"; }                       # inspect FILE OPTION...
compiles() {        # compiles FOLDER SOURCE PROGRAM: with the folder's plan.h
    "$cc" -std=c99 -Wall -Wextra -Werror -I"$scratch/$1" "$scratch/$2.c" -o "$scratch/$3"
}

"$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt \
    --n-tokens 128 --context 64 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5" >/dev/null
allocate plan block-gtq --avg-bits 3 >/dev/null

expect "no folder is a usage error" 2 "$bin/ropebits-export" "$scratch/plan.json"
expect "an unknown format is a usage error" 2 export_plan plan rbp,exe -o "$scratch/out"
expect "every format is written" 0 export_plan plan $every -o "$scratch/out"
for file in plan.rbp plan.h plan.safetensors plan.json plan.html; do
    check "  $file" test -s "$scratch/out/$file"
done
check "the JSON copy has the plan's bytes" cmp "$scratch/plan.json" "$scratch/out/plan.json"

# ---- plan.h ----
cat >"$scratch/app.c" <<'EOF'
#include <stdio.h>
#include "plan.h"
int main(void)
{
    int bits = 0, n_hadamard = 0;
    for (int l = 0; l < ROPEBITS_N_LAYERS; l++)
        for (int h = 0; h < ROPEBITS_N_KV_HEADS; h++)
            for (int g = 0; g < ropebits_n_groups[l][h]; g++) {
                const ropebits_plan_group *group = &ropebits_k_groups[l][h][g];
                bits += group->width * group->n_dims;
                n_hadamard += group->rotation == 1;
                if (group->centroids[0] != -group->centroids[(1 << group->width) - 1]) return 1;
                if (ropebits_k_dims[l][h][group->first_dim] >= ROPEBITS_HEAD_DIM) return 1;
            }
    printf("%d %d %g, %d hadamard\n", bits, ropebits_k_bits[0][0][0], ropebits_inv_freq[0], n_hadamard);
    return 0;
}
EOF
check "plan.h compiles as C99 without warnings" compiles out app app
expect "and the program runs" 0 "$scratch/app"
stdout_has "1536 "      # 3 bits x 64 dims x 8 heads
stdout_has ", 0 hadamard"
mkdir "$scratch/hadamard"
allocate hadamard/plan uniform --avg-bits 3 --rotation hadamard >/dev/null
export_plan hadamard/plan header,rbp -o "$scratch/hadamard" >/dev/null
check "plan.h of a hadamard plan compiles" compiles hadamard app app-hadamard
expect "and says so, a group a head" 0 "$scratch/app-hadamard"
stdout_has ", 8 hadamard"
expect "inspect shows the kind from plan.rbp" 0 inspect hadamard/plan.rbp --json
stdout_has '"hadamard"'
if command -v g++ >/dev/null 2>&1; then
    check "plan.h compiles as C++" g++ -x c++ -Wall -Wextra -I"$scratch/out" "$scratch/app.c" -o "$scratch/app++"
else
    skip_case "plan.h compiles as C++" "no g++"
fi

# ---- a plan beyond the published form: dropped blocks, log8 norms, scales, a center ----
mkdir "$scratch/beyond"
expect "allocate says how many blocks it dropped" 0 allocate beyond/plan optimal --center --true-bits 1.25
stdout_has "layer       0    1    2"
expect "all of it is exported" 0 export_plan beyond/plan rbp,header,safetensors,report -o "$scratch/beyond"
cat >"$scratch/beyond.c" <<'EOF'
#include <stdio.h>
#include "plan.h"
static int n_log8, n_dropped, n_scaled, n_centered, n_coded;
static int count_head(int l, int h)
{
    n_log8 += ropebits_k_norm[l][h] == 1 && ropebits_k_encoder[l][h] == 1 && ropebits_k_coherence[l][h][0] > 0;
    for (int b = 0; b < ROPEBITS_N_BLOCKS; b++) n_dropped += ropebits_k_bits[l][h][b] == 0;
    for (int b = 0; b < ROPEBITS_N_BLOCKS; b++) n_scaled += ropebits_k_scales[l][h][b] != 1;
    for (int i = 0; i < ROPEBITS_HEAD_DIM; i++) n_centered += ropebits_k_center[l][h][i] != 0;
    for (int g = 0; g < ropebits_n_groups[l][h]; g++) n_coded += ropebits_k_groups[l][h][g].n_dims;
    return ropebits_k_norm_exponent[l][h][0] < -126;
}
int main(void)
{
    for (int l = 0; l < ROPEBITS_N_LAYERS; l++)
        for (int h = 0; h < ROPEBITS_N_KV_HEADS; h++)
            if (count_head(l, h)) return 1;
    const int has_all_dims = 2 * n_dropped + n_coded == 8 * 64;
    printf("%d log8, %s, ", n_log8, n_dropped > 0 && has_all_dims ? "dropped" : "whole");
    printf("%s, %s\n", n_scaled > 200 ? "scaled" : "plain", n_centered > 400 ? "centred" : "around 0");
    return 0;
}
EOF
check "plan.h of it compiles" compiles beyond beyond app-beyond
expect "and holds all of it" 0 "$scratch/app-beyond"
stdout_has "8 log8, dropped, scaled, centred"
expect "inspect says what a runtime must do" 0 inspect beyond/plan.rbp
stdout_has "centring     a center in 8 of 8 heads"
expect "inspect gives plan.json back from plan.rbp version 2" 0 inspect beyond/plan.rbp --json
check "  the very same bytes" cmp "$scratch/stdout" "$scratch/beyond/plan.json"

# ---- its scales, folded into the model ----
to_beyond=(--model configs/demo-llama -o "$scratch/beyond")
expect "folded without a checkpoint is a usage error" 2 export_plan beyond/plan folded -o "$scratch/beyond"
expect "a checkpoint for nothing is a usage error" 2 export_plan beyond/plan rbp "${to_beyond[@]}"
expect "a plan without scales cannot be folded" 1 export_plan plan folded "${to_beyond[@]}"
stderr_has "has no scales to fold"
expect "scales are folded into q_proj and k_proj" 0 export_plan beyond/plan folded "${to_beyond[@]}"
stdout_has "plan-folded.safetensors"
expect "the plan that is left is a plan" 0 inspect beyond/plan-folded.json
check "  without scales" lacks equalizing "$scratch/stdout"
stdout_has "centring     a center in 8 of 8 heads"

# ---- plan.safetensors ----
python=$(for p in /usr/bin/python3 python3; do "$p" -c 'import numpy' 2>/dev/null && echo "$p" && break; done)
if [ -n "$python" ]; then
    check "plan.safetensors holds the plan" "$python" - "$scratch/out/plan.safetensors" "$scratch/plan.json" <<'EOF'
import json, struct, sys
import numpy as np
raw = open(sys.argv[1], "rb").read()
n, = struct.unpack("<Q", raw[:8])
header, data = json.loads(raw[8:8 + n]), raw[8 + n:]
plan = json.load(open(sys.argv[2]))
assert json.loads(header["__metadata__"]["plan"]) == plan
def tensor(name, dtype):
    t = header[name]; a, b = t["data_offsets"]
    return np.frombuffer(data[a:b], dtype).reshape(t["shape"])
for layer in plan["layers"]:
    bits = tensor("layers.%d.k_bits" % layer["layer"], np.uint8)
    permutation = tensor("layers.%d.k_permutation" % layer["layer"], np.int32)
    for head in layer["kv_heads"]:
        assert list(bits[head["kv_head"]]) == head["bits"]
        assert sorted(permutation[head["kv_head"]]) == list(range(64))
        dims = [d for g in head["groups"] for b in g["blocks"] for d in (b, b + 32)]
        assert list(permutation[head["kv_head"]]) == dims
assert np.all(np.diff(tensor("centroids.block-gtq.w3.d64", np.float32)) > 0)
EOF
else
    skip_case "plan.safetensors holds the plan" "no python3 with numpy"
fi

# ---- inspect ----
escape=$(printf '\033')
expect "inspect shows the heat map" 0 inspect out/plan.rbp
stdout_has "bits of every RoPE block"
stdout_has "3.000 nominal"
check "  without colours off a terminal" lacks "$escape" "$scratch/stdout"
expect "inspect in colour" 0 inspect out/plan.rbp --color always --layer 1
check "  with colours" grep -q "$escape" "$scratch/stdout"
expect "inspect gives plan.json back" 0 inspect out/plan.rbp --json
check "  the very same bytes" cmp "$scratch/stdout" "$scratch/plan.json"
expect "a layer beyond the plan is refused" 1 inspect out/plan.rbp --layer 4
expect "a damaged plan is refused" 1 "$bin/ropebits-inspect" configs/demo-text/heldout.txt
stderr_has "wrong magic"
stderr_lines 1

finish
