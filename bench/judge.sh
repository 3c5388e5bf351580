#!/bin/bash
# judge.sh MODEL CALIBRATION TEXT OUT [PLAN.json ...]: two tables of what plans do to a model, retrieval (needles) and
# understanding, six tasks each, in Markdown. Without plans it makes those of docs/evaluate.md from CALIBRATION:
# block-gtq K3V3, and block-codebook with keys of 3 and 2.25 true bits and values of 3 and 2 bits. Plans and results
# stay in the folder OUT; what is there is not made again.
#
#   N        documents for each task (16)
#   DOCUMENT tokens of a document (384)
#   CONTEXT  tokens of a sequence of text, in calibration and evaluation (1024)
#   TOKENS   of TEXT, for perplexity and KL (2048)
#   SINK     first tokens that stay unquantized (1)
#   TEMPLATE of the needles (auto)
#   BIN      folder of the programs (build/bin)
#   OPTIONS  more options of evaluate, such as "--threads 2"
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
model=$1 calibration=$2 text=$3 out=$4
shift 4
bin=${BIN:-build/bin}
mkdir -p "$out"

make_plans() {
    local context=${CONTEXT:-1024}
    [ -s "$out/capture.h5" ] || "$bin/ropebits-calibrate" --model "$model" --text "$calibration" --n-tokens 2048 \
        --context "$context" -o "$out/capture.h5" >/dev/null
    [ -s "$out/profile.h5" ] || "$bin/ropebits-profile" "$out/capture.h5" --budgets 3 --methods block-gtq \
        -o "$out/profile.h5" >/dev/null
    "$bin/ropebits-allocate" "$out/profile.h5" --method block-gtq --avg-bits 3 --value-bits 3 \
        -o "$out/block-gtq-k3-v3.json" >/dev/null
    for keys in 3 2.25; do
        for values in 3 2; do
            "$bin/ropebits-allocate" "$out/profile.h5" --method block-codebook --true-bits $keys --value-bits $values \
                -o "$out/block-codebook-k$keys-v$values.json" >/dev/null
        done
    done
}

if [ $# -eq 0 ]; then
    make_plans
    set -- "$out/block-gtq-k3-v3.json" "$out"/block-codebook-k{3-v3,2.25-v3,3-v2,2.25-v2}.json
fi
plans=()
for plan in "$@"; do plans+=(--plan "$plan"); done
# shellcheck disable=SC2086  # OPTIONS is several words
[ -s "$out/judge.json" ] || "$bin/ropebits-evaluate" --model "$model" "${plans[@]}" --text "$text" \
    --n-tokens "${TOKENS:-2048}" --context "${CONTEXT:-1024}" --sink "${SINK:-1}" \
    --needles "${N:-16}" --needle-contexts "${DOCUMENT:-384}" --needle-template "${TEMPLATE:-auto}" \
    --needle-tasks single,distractor,multi,multikey,multivalue,multiquery \
    --understanding "${N:-16}" --understanding-contexts "${DOCUMENT:-384}" ${OPTIONS:-} -o "$out/judge.json" >/dev/null

python3 - "$out/judge.json" <<'END'
import json, sys

result = json.load(open(sys.argv[1]))
runs = result["runs"]

def name(run):
    if run["method"] == "none": return "exact"
    return "%s, %.3g + %.3g" % (run["name"].removesuffix(".json"), run["key_true_bits"], run["value_true_bits"])

def table(title, member, last, cell, end):
    if runs[0][member] is None: return
    tasks = [group["task"] for group in runs[0][member]["by_task"]]
    print("\n%s\n\n| plan, true bits | %s | %s |" % (title, " | ".join(tasks), last))
    print("|---|" + "---|" * (len(tasks) + 1))
    for run in runs:
        cells = [cell(group) for group in run[member]["by_task"]] + [end(run[member])]
        print("| %s | %s |" % (name(run), " | ".join(cells)))

print("| plan, true bits | KL | perplexity |\n|---|---|---|")
for run in runs: print("| %s | %.4f | %.3f |" % (name(run), run["kl_mean"], run["perplexity"]))
table("Retrieval: right answers of %d a task, template %s." % (runs[0]["needles"]["by_task"][0]["n"],
      result["options"]["needle_template"]), "needles", "all",
      lambda g: "%d" % g["n_right"], lambda m: "%d of %d" % (m["n_right"], m["n"]))
percent = lambda g: "%.0f (%.0f)" % (100 * g["agreement"], 100 * g["accuracy"])
table("Understanding: agreement with the exact model, and in brackets accuracy, in percent of answer tokens; %d "
      "documents a task." % runs[0]["understanding"]["by_task"][0]["n"], "understanding", "mean", percent, percent)
END
