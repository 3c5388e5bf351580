# The gate: every way a summary can be worse, and what it refuses to compare.
. tests/programs/tap.sh

compare=$bin/ropebits-compare
base=tests/fixtures/demo-baseline.json
python=$(command -v python3 || true)

expect "a summary is not worse than itself" 0 "$compare" $base $base
stdout_has "yes: none of"
expect "one argument is a usage error" 2 "$compare" $base
expect "a plan is no summary" 1 "$compare" $base configs/demo.json
stderr_has "ropebits-pipeline"
expect "a file that is not there is named" 1 "$compare" $base "$scratch/absent.json"
stderr_has "absent.json"

if [ -z "$python" ]; then
    skip_case "changed summaries are judged" "no python3 to change them"
    finish
fi
# changed NAME CODE: a copy of the base with one change.
changed() { "$python" -c "import json,sys
s=json.load(open('$base'))
m={(x['method'],x['avg_bits']): x for x in s['methods']}
$2
json.dump(s,open('$scratch/$1.json','w'))"; }

changed worse "m['block-gtq',3]['logit_mae']*=1.02"
expect "a mean error 2 % larger is a regression" 3 "$compare" $base "$scratch/worse.json"
stdout_has "WORSE"
check "  told in the table, not as an error" test ! -s "$scratch/stderr"
expect "but not with a limit of 3 %" 0 "$compare" --max-regression 3 $base "$scratch/worse.json"
expect "nor the other way round" 0 "$compare" "$scratch/worse.json" $base
stdout_has "better"
changed layer "m['uniform',2]['logit_mae_by_layer'][1]*=1.05"
expect "one layer 5 % worse is a regression" 3 "$compare" $base "$scratch/layer.json"
stdout_has "layer 1"
changed lost "m['uniform',4]['logit_mae_by_layer'][2]=m['block-gtq',4]['logit_mae_by_layer'][2]"
expect "a layer lost to uniform is a regression" 3 "$compare" $base "$scratch/lost.json"
stdout_has "LOST TO UNIFORM"
changed bits "m['block-gtq',2]['true_bits']+=0.001"
expect "true bits that grow are a regression" 3 "$compare" --max-regression 50 $base "$scratch/bits.json"
changed missing "s['methods'].remove(m['block-gtq',4])"
expect "a missing method is a regression" 3 "$compare" $base "$scratch/missing.json"
stdout_has "MISSING"
expect "a method more is none" 0 "$compare" "$scratch/missing.json" $base
expect "JSON has the verdicts" 3 "$compare" --json $base "$scratch/worse.json"
stdout_has '"n_regressions": 1'
stdout_has '"verdict": "worse"'
expect "every layer is shown on demand" 0 "$compare" -v $base $base
stdout_has "layer 3"

changed model "s['model']['config_sha256']='0'*64"
expect "another model is refused" 1 "$compare" $base "$scratch/model.json"
stderr_has "config_sha256"
changed text "s['test']['tokens_sha256']='0'*64"
expect "another test text is refused" 1 "$compare" $base "$scratch/text.json"
stderr_has "not the same text"
changed context "s['calibration']['context']=512"
expect "another context is refused with both values" 1 "$compare" $base "$scratch/context.json"
stderr_has "1024 and 512"
changed negative "m['uniform',2]['logit_mae']=-1"
expect "a negative error is refused" 1 "$compare" $base "$scratch/negative.json"
changed empty "s['methods'].clear()"
expect "a base without methods is refused, not passed" 1 "$compare" "$scratch/empty.json" $base
stderr_has "0 methods"
changed twice "s['methods'].append(m['uniform',2])"
expect "a method listed twice is refused" 1 "$compare" $base "$scratch/twice.json"
stderr_has "uniform at 2 bits is there twice"
changed short "m['uniform',2]['logit_mae_by_layer'].pop()"
expect "a layer too few is refused" 1 "$compare" $base "$scratch/short.json"
stderr_has "expected the model's 4 layers"


# ---- limits ----
expect "a limit of its own for one metric" 0 "$compare" --max-regression logit_mae=3 $base "$scratch/worse.json"
expect "  leaves those of the others" 3 "$compare" --max-regression causal_mae=3 $base "$scratch/worse.json"
expect "  and may stand beside the general one" 0 "$compare" --max-regression 0.5,logit_mae=3 $base \
    "$scratch/worse.json"
expect "true bits may grow where that is allowed" 0 "$compare" --max-growth 1 $base "$scratch/bits.json"
expect "  also by their own name" 0 "$compare" --max-regression true_bits=1 $base "$scratch/bits.json"
expect "a metric that there is not is a usage error" 2 "$compare" --max-regression logit_mea=1 $base $base
stderr_has 'did you mean "logit_mae"?'
expect "  with all names where none is near" 2 "$compare" --max-regression speed=1 $base $base
stderr_has "expected one of logit_mae, true_bits"
expect "a limit that is no number is a usage error" 2 "$compare" --max-regression logit_mae=much $base $base
stderr_has "expected PERCENT or METRIC=PERCENT"
changed tiny "for x in s['methods']: x['attention_kl']=1e-9"
cp "$scratch/tiny.json" "$scratch/tiny-base.json"
changed tiny "for x in s['methods']: x['attention_kl']=2e-9"
expect "2e-9 nats are not worse than 1e-9" 0 "$compare" "$scratch/tiny-base.json" "$scratch/tiny.json"
expect "  unless nothing at all is allowed" 3 "$compare" --max-regression 0 "$scratch/tiny-base.json" \
    "$scratch/tiny.json"

# ---- weights ----
changed weights "s['model']['weights_sample_sha256']='1'*64"
cp "$scratch/weights.json" "$scratch/weights-base.json"
changed weights "s['model']['weights_sample_sha256']='2'*64"
expect "other weights are refused" 1 "$compare" "$scratch/weights-base.json" "$scratch/weights.json"
stderr_has "other weights under the same config.json: weights_sample_sha256 1111"
changed untold "s['model'].pop('weights_sample_sha256',None)"
expect "weights that BASE does not tell are noted" 0 "$compare" "$scratch/untold.json" "$scratch/weights.json"
stdout_has "note: BASE does not say which weights it is of"

# ---- formats: what stands in a file means nothing in any of them ----
cat >"$scratch/nasty.py" <<'PY'
import json, sys
s = json.load(open(sys.argv[1]))
for r in s["runs"][1:]:
    r["name"] = sys.argv[3]
json.dump(s, open(sys.argv[2], "w"))
PY
texts=(--text configs/demo-text/calibration.txt --test-text configs/demo-text/heldout.txt)
"$bin/ropebits-calibrate" -q --device cpu --model configs/demo-llama "${texts[@]}" --n-tokens 256 \
    --n-test-tokens 256 --context 128 -o "$scratch/capture.h5" >/dev/null
"$bin/ropebits-profile" -q --device cpu "$scratch/capture.h5" --no-curves --budgets 2 --methods uniform,block-gtq \
    --seeds 2 -o "$scratch/profile.h5" --json >"$scratch/full.json"
"$bin/ropebits-allocate" -q "$scratch/profile.h5" --method block-gtq --avg-bits 2 -o "$scratch/plan.json" >/dev/null
expect "a small evaluation is made" 0 "$bin/ropebits-evaluate" -q --device cpu --model configs/demo-llama \
    --text configs/demo-text/heldout.txt --plan "$scratch/plan.json" --n-tokens 256 --context 128 --needles 1 \
    --understanding 1 -o "$scratch/evaluation.json"
nasty='<b>&"x'"'"' %0A::error::a|b`c*_[d](e) ]]> é'
"$python" "$scratch/nasty.py" "$scratch/evaluation.json" "$scratch/nasty.json" "$nasty"
sed 's/"perplexity": \([0-9]\)/"perplexity": 1\1/g' "$scratch/nasty.json" >"$scratch/nasty-worse.json"
format() { "$compare" --format "$1" "$scratch/nasty.json" "$scratch/nasty-worse.json"; }
expect "JUnit" 3 format junit
check "  is XML with a case for every number, and the name as it is" "$python" -c '
import sys, xml.dom.minidom
d = xml.dom.minidom.parse(sys.argv[1])
suite = d.getElementsByTagName("testsuite")[0]
cases = d.getElementsByTagName("testcase")
assert len(cases) == int(suite.getAttribute("tests")) > 20
assert len(d.getElementsByTagName("failure")) == int(suite.getAttribute("failures")) > 0
assert sys.argv[2] in [c.getAttribute("classname") for c in cases]' "$scratch/stdout" "$nasty"
expect "GitHub" 3 env GITHUB_STEP_SUMMARY="$scratch/page.md" "$compare" --format github "$scratch/nasty.json" \
    "$scratch/nasty-worse.json"
check "  gets commands, of which the name is no part" bash -c '
    grep -qF "::error title=ropebits compare::WORSE: perplexity of <b>&\"x" "$1" && grep -qF "%250A::error" "$1" &&
    ! grep -E "^::" "$1" | grep -vE "^::(error|warning) title=ropebits compare::"' - "$scratch/stdout"
check "  and a page" grep -qF '### ropebits compare: no: ' "$scratch/page.md"
expect "markdown" 3 format markdown
check "  has seven cells in every row, whatever a name has" "$python" -c '
import re, sys
rows = [l for l in open(sys.argv[1]) if l.startswith("| `")]
assert len(rows) > 10
for l in rows:
    assert len(re.findall(r"(?<!\\)\|", l)) == 9, l
    assert "<b>" not in l' "$scratch/stdout"
expect "a format that there is not is a usage error" 2 "$compare" --format html $base $base

# ---- every number is judged, or named with the reason why not ----
cat >"$scratch/leaves.py" <<'PY'
# leaves.py COMPARE DOCUMENT LIST: every number of an entry, ten times as large and a tenth, must fail the gate, unless
# the gate says that it is not judged.
import copy, json, subprocess, sys
compare, path, key = sys.argv[1:]
base = json.load(open(path))
run = lambda: subprocess.run([compare, "--json", path, path + ".changed"], capture_output=True, text=True)
def leaves(value, at=()):
    if isinstance(value, dict):
        for k, v in value.items():
            yield from leaves(v, at + (k,))
    elif isinstance(value, list):
        for i, v in list(enumerate(value))[:1]:
            yield from leaves(v, at + (i,))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield at
def with_factor(at, factor):
    changed = copy.deepcopy(base)
    entry = changed[key][-1]
    for step in at[:-1]:
        entry = entry[step]
    entry[at[-1]] = entry[at[-1]] * factor if entry[at[-1]] else 1
    json.dump(changed, open(path + ".changed", "w"))
    return run().returncode
json.dump(base, open(path + ".changed", "w"))
answer = run()
assert answer.returncode == 0, answer.stderr
unjudged = [m["member"] for m in json.loads(answer.stdout)["not_judged"]]
silent = []
for at in leaves(base[key][-1]):
    name = ".".join(str(s) for s in at)
    named = any(name == m or name.startswith(m + ".") for m in unjudged)
    if not named and not {with_factor(at, 10), with_factor(at, 0.1)} & {1, 3}:
        silent.append(name)
docs = open("docs/compare.md").read()
missing = [n for n in unjudged + [l["member"] for l in json.loads(answer.stdout)["limits"]] if "`%s`" % n not in docs]
print("silent:", silent, "not in docs/compare.md:", missing)
sys.exit(bool(silent or missing))
PY
check "of a summary" "$python" "$scratch/leaves.py" "$compare" "$scratch/full.json" methods
check "of an evaluation" "$python" "$scratch/leaves.py" "$compare" "$scratch/evaluation.json" runs
expect "--json lists what is not judged" 0 "$compare" --json $base $base
stdout_has '"member": "reduction_vs_uniform"'

finish
