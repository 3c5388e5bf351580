# What `run` runs again, and what it says: on a small pipeline, every cause that makes a stage run again makes exactly
# that stage run, and the table and the report say what the files say.
. tests/programs/tap.sh
if [ "${RB_SANITIZED:-0}" = 1 ]; then
    skip_case "what run says" "demo.sh takes its code's paths in this build"
    finish
fi

# Programs in a folder of their own, so that a test can change one: the stages are started through scripts.
mkdir -p "$scratch/bin" "$scratch/out"
ln "$bin/ropebits-run" "$scratch/bin" 2>/dev/null || cp "$bin/ropebits-run" "$scratch/bin"
for stage in calibrate profile allocate export; do
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$(realpath "$bin")/ropebits-$stage" >"$scratch/bin/ropebits-$stage"
    chmod +x "$scratch/bin/ropebits-$stage"
done
head -c 20000 configs/demo-text/calibration.txt >"$scratch/text.txt"
cat >"$scratch/pipeline.json" <<JSON
{ "schema": "ropebits-pipeline", "version": 1, "model": "$PWD/configs/demo-llama", "text": "text.txt",
  "test_text": "$PWD/configs/demo-text/heldout.txt",
  "calibrate": { "n_tokens": 512, "context": 128 },
  "profile": { "budgets": [3], "methods": ["uniform", "block-gtq"] },
  "allocate": { "method": "block-gtq", "avg_bits": 3, "value_bits": 3 },
  "export": { "formats": ["rbp"] } }
JSON
out=$scratch/out
run() { "$scratch/bin/ropebits-run" "$scratch/pipeline.json" -o "$out" --threads 1; }

# ran NAME STAGE...: runs, and exactly these stages were not up to date.
ran() {
    local name=$1 stage; shift
    expect "$name" 0 run
    for stage in calibrate profile allocate export; do
        if [[ " $* " == *" $stage "* ]]; then stderr_has "$stage took"; else stderr_has "$stage is up to date"; fi
    done
}

ran "a small pipeline runs" calibrate profile allocate export
cp "$scratch/stdout" "$scratch/table"
ran "a second run finds everything up to date"

# ---- what makes a stage run again ------------------------------------------------------------------------------------
# Its results are the same bytes, so the stages after it stay.
for stage in calibrate profile allocate export; do
    echo "# another build" >>"$scratch/bin/ropebits-$stage"
    ran "another ropebits-$stage runs again" "$stage"
done
cp "$out/profile.h5" "$scratch/profile.h5"
rm "$out/summary.json"
ran "a lost output is made again" profile
printf x >>"$out/profile.h5"
ran "a changed output is made again" profile
check "  and is what it was" cmp "$out/profile.h5" "$scratch/profile.h5"
echo '{' >"$out/.stages/allocate.json"
ran "a stage with a damaged stamp runs again" allocate
sed -i 's/"avg_bits": 3/"avg_bits": 2/' "$scratch/pipeline.json"
ran "another option runs its stage and what reads it" allocate export
sed -i 's/"avg_bits": 2/"avg_bits": 3/' "$scratch/pipeline.json"
ran "and back" allocate export
touch "$scratch/text.txt"
ran "a text that was only touched is the same text"
{ echo "Another beginning."; head -c 20000 configs/demo-text/calibration.txt; } >"$scratch/text.txt"
ran "another text runs everything again" calibrate profile allocate export
cp "$scratch/stdout" "$scratch/table"

# ---- what it says ----------------------------------------------------------------------------------------------------
python=$(command -v python3 || true)
if [ -z "$python" ]; then
    skip_case "what run and the report say" "no python3 to read the files"
    finish
fi
"$bin/ropebits-profile" -q "$out/capture.h5" --budgets 3 --methods uniform,block-gtq -o "$scratch/p.h5" \
    >"$scratch/profile"
says() {    # says NAME CONDITION: in Python, with summary, plan (JSON), table, profile and report (text) at hand
    check "$1" "$python" - "$out" "$scratch/table" "$scratch/profile" "$2" <<'PY'
import html, json, re, sys
out, table, profile, condition = sys.argv[1:]
summary, plan, table = json.load(open(out + "/summary.json")), json.load(open(out + "/plan.json")), open(table).read()
profile = open(profile).read()
report = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", open(out + "/plan.html").read())))
uniform, gtq = summary["methods"]
assert (uniform["method"], gtq["method"]) == ("uniform", "block-gtq")
more = 100 * (gtq["logit_mae"] / uniform["logit_mae"] - 1)      # negative: less than uniform
won = sum(g < u for g, u in zip(gtq["logit_mae_by_layer"], uniform["logit_mae_by_layer"]))
blocks = [bits for layer in plan["layers"] for head in layer["kv_heads"] for bits in head["bits"]]
nominal, true = sum(blocks) / len(blocks), plan["true_bits"]
def row(name, text=table): return re.search(r"^%s +(.*)$" % re.escape(name), text, re.M).group(1)
# a value, as it is printed, within `near` characters of a word, before or after
def beside(text, word, value, near=40):
    return any(value in text[max(0, m.start() - near):m.end() + near] for m in re.finditer(re.escape(word), text))
assert eval(condition), (condition, more, won, nominal, true)
PY
}
says "block-gtq is better here, or the signs below would not be tested" "more < -1"
says "the table's difference to uniform is negative where the error is less" \
    "row('vs uniform').split()[-2] == '%+.1f' % more"
says "  and the layers won are counted" "row('layers won').split()[-3] == str(won)"
says "  and the errors are in their columns" \
    "[float(x) for x in row('mean').split()] == [round(m['logit_mae'], 4) for m in (uniform, gtq)]"
says "  and so are the true bits" "row('true bits').split() == ['%.3f' % m['true_bits'] for m in (uniform, gtq)]"
says "what profile prints is the share that is less than uniform" \
    "float(row('less than uniform, %', profile)) == round(-more, 1)"
says "true bits are more than nominal ones, or a swap would not be tested" "true - nominal > 0.05"
says "the report's true bits are the plan's" "beside(report, '%.3f true bits a dim' % true, '')"
says "  in its headline, too" "re.search(r'Keys %.3f true bits a dim; %.3f nominal' % (true, nominal), report)"
says "the report's nominal bits are the plan's" "beside(report, '%.3f nominal' % nominal, '%.3f' % true)"
says "  and are not said to be true" "not re.search(r'%.3f true' % nominal, report)"
says "the report says how much less than uniform, with its sign" \
    "beside(report, 'against uniform at equal nominal bits, %', '%+.1f' % more)"
says_bits=$("$bin/ropebits-inspect" "$out/plan.json" |
    sed -nE 's/^keys +([0-9.]+) true bits a dim \(([0-9.]+) nominal\).*/\1 \2/p')
says "inspect says the same bits" "'%.3f %.3f' % (true, nominal) == '$says_bits'"

finish
