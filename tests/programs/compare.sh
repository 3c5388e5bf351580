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

finish
