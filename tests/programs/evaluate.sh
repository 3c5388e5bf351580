# The judge, end to end on the bundled model: what it measures, what it keeps unquantized, what it refuses.
. tests/programs/tap.sh

evaluate=$bin/ropebits-evaluate
python=$(command -v python3 || true)
model=configs/demo-llama
text=configs/demo-text/heldout.txt

"$bin/ropebits-calibrate" -q --device cpu --model $model --text configs/demo-text/calibration.txt --test-text $text --n-tokens 1024 --context 512 -o "$scratch/c.h5" >/dev/null
"$bin/ropebits-profile" -q --device cpu "$scratch/c.h5" --budgets 2 --no-curves -o "$scratch/p.h5" >/dev/null 2>&1
for method in uniform block-gtq; do
    "$bin/ropebits-allocate" -q "$scratch/p.h5" --method $method --avg-bits 2 --value-bits 2 -o "$scratch/$method.json" >/dev/null
done
plans=(--plan "$scratch/uniform.json" --plan "$scratch/block-gtq.json")
run() { "$evaluate" -q --model $model --text $text --n-tokens 512 --context 256 "$@"; }

expect "two plans are evaluated" 0 run "${plans[@]}" --needles 2 --needle-contexts 512 --write-documents "$scratch/docs.json" -o "$scratch/a.json"
stdout_has "unquantized"
stdout_has "block-gtq.json"
expect "documents that were kept give the same result" 0 run "${plans[@]}" --documents "$scratch/docs.json" -o "$scratch/b.json"
expect "compare finds no difference" 0 "$bin/ropebits-compare" "$scratch/a.json" "$scratch/b.json"
run "${plans[@]}" --needles 2 --needle-contexts 512 --threads 1 -o "$scratch/one.json" >/dev/null
check "one thread gives the same bytes" cmp "$scratch/a.json" "$scratch/one.json"
run --plan "$scratch/uniform.json" --needles 2 --needle-contexts 512 --sink 512 -o "$scratch/sink.json" >/dev/null
run --plan "$scratch/uniform.json" --recent 512 -o "$scratch/recent.json" >/dev/null
run --plan "$scratch/uniform.json" --recent 64 --sink 4 -o "$scratch/buffer.json" >/dev/null
run --plan "$scratch/uniform.json" --keys-only -o "$scratch/keys.json" >/dev/null
run --plan "$scratch/uniform.json" --values-only -o "$scratch/values.json" >/dev/null

if [ -n "$python" ]; then
    is() { check "$1" "$python" -c "import json
load=lambda name: json.load(open('$scratch/'+name+'.json'))['runs']
a=load('a')
assert $2, [r['kl_mean'] for r in a]"; }
    is "the unquantized run differs in nothing from itself" "a[0]['kl_mean']==0 and a[0]['top1_agreement']==1 and a[0]['attention_kl']==0"
    is "two bits cost perplexity" "1.02*a[0]['perplexity']<a[1]['perplexity']"
    is "block-gtq costs less than uniform" "a[2]['kl_mean']<a[1]['kl_mean'] and a[2]['attention_kl']<a[1]['attention_kl']"
    is "needles are counted for every run" "all(r['needles']['n']==2 and 0<=r['needles']['n_right']<=2 for r in a)"
    is "the unquantized model finds its needles" "a[0]['needles']['n_right']==2"
    is "sinks as long as the context leave nothing to quantize" "load('sink')[1]['kl_max']<1e-6 and abs(load('sink')[1]['perplexity']/a[0]['perplexity']-1)<1e-6"
    is "a buffer as long as the context hides everything" "load('recent')[1]['kl_max']<1e-6 and load('recent')[1]['attention_kl']<1e-9"
    is "a buffer and sinks help" "load('buffer')[1]['kl_mean']<a[1]['kl_mean']"
    is "keys and values alone each cost less than both" "0<load('keys')[1]['kl_mean']<a[1]['kl_mean'] and 0<load('values')[1]['kl_mean']<a[1]['kl_mean']"
    is "values alone leave the first layer's attention as it is" "load('values')[1]['attention_kl_by_layer'][0]==0<load('keys')[1]['attention_kl_by_layer'][0]"
else
    skip_case "numbers of the results" "no python3 to read them"
fi

sed "s/\"head_dim\": 64/\"head_dim\": 32/" "$scratch/uniform.json" >"$scratch/other.json"
expect "a plan of another model is refused" 1 run --plan "$scratch/other.json"
stderr_has "other.json"
expect "keys-only and values-only exclude each other" 2 run "${plans[@]}" --keys-only --values-only
expect "a context beyond the model's is refused" 1 "$evaluate" --model $model "${plans[@]}" --text $text --context 4096
stderr_has "max_position_embeddings of 1024"
expect "documents must fit the model" 1 run "${plans[@]}" --needles 1 --needle-contexts 2000
stderr_has "max_position_embeddings of 1024"
check "nothing half-written is left" sh -c "! ls '$scratch'/*.tmp 2>/dev/null"

finish
