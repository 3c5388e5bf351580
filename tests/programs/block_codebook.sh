# Plans with heads of block-codebook: every form holds them, and inspect, diff and explain tell of them.
. tests/programs/tap.sh

cc=${CC:-gcc}
# It is the plan of tests/plan/some_plan.h without scales: 2 layers of 2 heads of 8 blocks, layer 0 in block-codebook
# with 0, 1, 6, 8 and 10 bits a block, layer 1 in groups.
plan=tests/fixtures/plan-block-codebook.json
# Older builds wrote plans with both families in each layer. This is one, as .json and .rbp.
mixed=tests/fixtures/plan-mixed-layer
same() { grep -v tool_version "$1" >"$scratch/a"; grep -v tool_version "$2" | cmp - "$scratch/a"; }

expect "every format is written" 0 \
    "$bin/ropebits-export" "$plan" --format rbp,header,safetensors,json,report -o "$scratch/out"
check "the JSON copy is the plan" same "$plan" "$scratch/out/plan-block-codebook.json"
expect "inspect gives plan.json back from plan.rbp" 0 \
    "$bin/ropebits-inspect" --json "$scratch/out/plan-block-codebook.rbp"
check "  the very same plan" same "$plan" "$scratch/stdout"
expect "inspect shows the bits of blocks" 0 "$bin/ropebits-inspect" "$scratch/out/plan-block-codebook.rbp"
stdout_has "family       block-codebook in 2 of 4 heads"
stdout_has "0.0    081A1A60  2.500 in block-codebook, 2 bits of gain"
stdout_has "0.1    608081A1  2.500 in block-codebook, 0 bits of gain"
stdout_has "1.0    23023023  4.000 in 2 groups"
expect "in colour too" 0 "$bin/ropebits-inspect" --color always "$plan"
expect "nothing of it can be folded" 1 \
    "$bin/ropebits-export" "$plan" --format folded --model configs/demo-llama -o "$scratch/out"
stderr_has "has no scales to fold"
sed 's/"version": 3/"version": 2/' "$plan" >"$scratch/old.json"
expect "a plan that promises groups only is refused" 1 "$bin/ropebits-inspect" "$scratch/old.json"
stderr_has "layer 0 kv_head 0: family is block-codebook, expected groups in version 2"
stderr_lines 1

rest="that of kv_head 0 is block-codebook, expected one family a layer"
for form in json rbp; do
    expect "a layer of two families is refused, as plan.$form" 1 "$bin/ropebits-inspect" "$mixed.$form"
    stderr_has "layer 0 kv_head 1: codec family is groups, $rest"
    stderr_lines 1
done

# ---- plan.h: what it holds is what the library reads ----
mv "$scratch/out/plan-block-codebook.h" "$scratch/out/plan.h"
cat >"$scratch/app.c" <<'CODE'
#include <stdio.h>
#include "plan.h"
static int n_block_codebook, n_groups, bits, n_tables;
static int read_head(int l, int h)
{
    n_groups += ropebits_n_groups[l][h];
    if (ropebits_k_family[l][h] == 0) return 0;
    n_block_codebook++;
    bits += ropebits_k_gain_bits[l][h];
    for (int i = 0; i < ROPEBITS_N_BLOCKS; i++) {
        const int own = ropebits_k_bits[l][h][i];
        bits += own;
        if (own == 0) continue;
        if (!ropebits_points[own] || ropebits_k_maps[l][h][i][0] < 1 || !(ropebits_k_weights[l][h][i] > 0)) return 1;
    }
    return 0;
}
int main(void)
{
    const double others = ropebits_k_norm_exponent[0][0][0] + ropebits_k_coherence[0][0][0] + ropebits_inv_freq[0];
    for (int b = 0; b < 11; b++) n_tables += ropebits_points[b] != 0;
    for (int l = 0; l < ROPEBITS_N_LAYERS; l++)
        for (int h = 0; h < ROPEBITS_N_KV_HEADS; h++)
            if (read_head(l, h)) return 1;
    printf("%d of block-codebook, %d groups, %d bits, %d tables, ", n_block_codebook, n_groups, bits, n_tables);
    printf("%g\n", others);
    return 0;
}
CODE
check "plan.h compiles as C99 without warnings" \
    "$cc" -std=c99 -Wall -Wextra -Werror -I"$scratch/out" "$scratch/app.c" -o "$scratch/app"
expect "and the program runs" 0 "$scratch/app"
stdout_has "2 of block-codebook, 4 groups, 72 bits, 4 tables"       # heads of 36 + 2 and of 34 bits
if command -v g++ >/dev/null 2>&1; then
    check "plan.h compiles as C++" g++ -x c++ -Wall -Wextra -I"$scratch/out" "$scratch/app.c" -o "$scratch/app++"
else
    skip_case "plan.h compiles as C++" "no g++"
fi
if [ "${RB_SANITIZED:-0}" = 1 ]; then
    skip_case "plan.h and the library hold the same" "plain build only"
else
    cat >"$scratch/both.c" <<'CODE'
#include <stdio.h>
#include <string.h>
#include "plan.h"
#include "plan/library/ropebits_plan.h"
/* The header has every table, and the library's may be absent: a head of groups has no maps. */
#define HAS(table, found) (!(found) || memcmp((found), (table), sizeof(table)) == 0)
static int is_same_points(const ropebits_plan *plan, unsigned b)
{
    const float *const here = ropebits_points[b], *const there = ropebits_plan_points(plan, b);
    if (!here || !there) return here == there;
    return memcmp(there, here, (2u << b) * sizeof(float)) == 0;
}
static int compare_head(const ropebits_head *head, unsigned l, unsigned h)
{
    if (head->family != ropebits_k_family[l][h] || head->gain_bits != ropebits_k_gain_bits[l][h]) return 3;
    if (memcmp(head->bits, ropebits_k_bits[l][h], ROPEBITS_N_BLOCKS) != 0) return 3;
    if (!HAS(ropebits_k_maps[l][h], head->maps)) return 4;
    if (head->maps && !HAS(ropebits_k_weights[l][h], head->weights)) return 5;
    if (!HAS(ropebits_k_center[l][h], head->center)) return 6;
    return 0;
}
int main(int argc, char **argv)
{
    char error[256];
    ropebits_plan *plan;
    if (argc < 2 || ropebits_plan_open(&plan, argv[1], error, sizeof error) != 0) return 1;
    for (unsigned b = 1; b < 11; b++)
        if (!is_same_points(plan, b)) return 2;
    for (unsigned l = 0; l < ROPEBITS_N_LAYERS; l++)
        for (unsigned h = 0; h < ROPEBITS_N_KV_HEADS; h++) {
            const ropebits_head *head = ropebits_plan_head(plan, l, h);
            const int difference = compare_head(head, l, h);
            if (difference) return difference;
            printf("%u.%u %s\n", l, h, head->maps ? "block-codebook" : "groups");
        }
    ropebits_plan_close(plan);
    return 0;
}
CODE
    check "plan.h and the library compile together" \
        "$cc" -std=c99 -Wall -Wextra -Werror -I"$scratch/out" -I. "$scratch/both.c" \
        "$build/lib/libropebits_plan.a" -lzstd -lm -o "$scratch/both"
    expect "and hold the same" 0 "$scratch/both" "$scratch/out/plan-block-codebook.rbp"
    stdout_has "0.1 block-codebook"
fi

# ---- diff ----
expect "a plan and itself, in both forms" 0 "$bin/ropebits-diff" "$plan" "$scratch/out/plan-block-codebook.rbp"
stdout_has "the plans are equal: their 4 heads"
# Block 0 of layer 0, head 1 gets 8 bits in place of 6. They fit in the padding to a byte, so only the nominal bits of
# the plan change with it.
sed -e 's/"bits": \[6, 0, 8, 0, 8, 1, 10, 1\]/"bits": [8, 0, 8, 0, 8, 1, 10, 1]/' \
    -e 's/"key_nominal_bits": .*/"key_nominal_bits": 2.0625,/' "$plan" >"$scratch/more.json"
expect "bits of a block that moved" 0 "$bin/ropebits-diff" "$plan" "$scratch/more.json"
stdout_has "1 of 4 heads differ"
stdout_has "layer 0, kv head 1: 2.500 -> 2.500 true bits, 1 blocks changed by 2 bits in all"
stdout_has "largest changes of the bits of blocks, both dims together"

# ---- explain ----
# It needs a profile of the plan's model, so a plan of demo-llama gets heads of block-codebook in layer 1.
python=$(for p in /usr/bin/python3 python3; do "$p" -c 'import json' 2>/dev/null && echo "$p" && break; done)
demo_plans() {
    "$bin/ropebits-calibrate" -q --model configs/demo-llama --text configs/demo-text/calibration.txt \
        --n-tokens 128 --context 64 -o "$scratch/capture.h5"
    "$bin/ropebits-profile" -q --no-curves "$scratch/capture.h5" --budgets 3 -o "$scratch/p.h5"
    "$bin/ropebits-allocate" -q "$scratch/p.h5" --method uniform --avg-bits 3 -o "$scratch/uniform.json"
    "$python" - "$scratch/uniform.json" "$scratch/demo.json" <<'CODE'
import json, sys
plan = json.load(open(sys.argv[1]))
plan["version"] = 3
stored = nominal = 0
for layer in plan["layers"]:
    for head in layer["kv_heads"]:
        n = len(head["bits"])
        if layer["layer"] == 1:
            del head["groups"]
            bits = [b % 11 for b in range(n)]
            n_bytes = (sum(bits) + 3 + 7) // 8
            head.update(bits=bits, true_bits=n_bytes * 8 / (2 * n), family="block-codebook", gain_bits=3,
                        maps=[[2, 0.5, 1]] * n, weights=[1] * n)
        stored += head["true_bits"] * 2 * n
        nominal += sum(head["bits"]) if "family" in head else 2 * sum(head["bits"])
cost, dims = plan["cost"], 2 * 32 * 8
values = cost["value_true_bits"] * dims
plan["true_bits"] = cost["key_true_bits"] = stored / dims
cost["key_nominal_bits"] = nominal / dims
cost["bytes_per_token"] = (stored + values) / 8
cost["compression"] = cost["fp16_bytes_per_token"] / cost["bytes_per_token"]
json.dump(plan, open(sys.argv[2], "w"))
CODE
}
explain() {     # explain LAYER OPTION...: of KV head 1
    "$bin/ropebits-explain" "$scratch/demo.json" --profile "$scratch/p.h5" --kv-head 1 --layer "$@"
}
block_rows() { grep -cE '^[0-9]+ +[0-9]+ +[0-9.]+ +2.08 +0.9617 +18.0 +1 ' "$1"; }
shares_make_100() {
    awk '/^block/ { on = 1; next }
        on && NF == 12 { sum += $3; n++ }
        END { exit !(n == 32 && sum > 99.9 && sum < 100.1) }' "$1"
}
if [ -n "$python" ]; then
    demo_plans >/dev/null
    expect "a head of block-codebook" 0 explain 1
    stdout_has "stores   160 bits a token, 2.500 true bits a dim"
    family="block-codebook: one code for both dims of a block, no norm; 3 bits for the gain of a key, 0.5 to 5.66"
    stdout_has "family   $family"
    check "  every block has a row" test "$(block_rows "$scratch/stdout")" -eq 32
    check "  whose shares of the codes are all of them" shares_make_100 "$scratch/stdout"
    expect "  as JSON" 0 explain 1 --json
    stdout_has '"family": "block-codebook"'
    stdout_has '"kv_head": 1'
    expect "a head of groups beside it" 0 explain 0 --json
    stdout_has '"family": "groups"'
    expect "diff of the two" 0 "$bin/ropebits-diff" "$scratch/uniform.json" "$scratch/demo.json"
    stdout_has "2 in their family, 0 in their maps"
else
    skip_case "a head of block-codebook" "no python3"
fi

finish
