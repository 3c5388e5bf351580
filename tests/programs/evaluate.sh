# The judge, end to end on the bundled model: what it measures, what it keeps unquantized, what it refuses.
. tests/programs/tap.sh

evaluate=$bin/ropebits-evaluate
python=$(command -v python3 || true)
model=configs/demo-llama
text=configs/demo-text/heldout.txt

"$bin/ropebits-calibrate" -q --device cpu --model $model --text configs/demo-text/calibration.txt --test-text $text \
    --n-tokens 1024 --context 512 -o "$scratch/c.h5" >/dev/null
"$bin/ropebits-profile" -q --device cpu "$scratch/c.h5" --budgets 2 --no-curves -o "$scratch/p.h5" >/dev/null 2>&1
for method in uniform block-gtq; do
    "$bin/ropebits-allocate" -q "$scratch/p.h5" --method $method --avg-bits 2 --value-bits 2 \
        -o "$scratch/$method.json" >/dev/null
done
plans=(--plan "$scratch/uniform.json" --plan "$scratch/block-gtq.json")
run() { "$evaluate" -q --device cpu --model $model --text $text --n-tokens 512 --context 256 "$@"; }

expect "two plans are evaluated" 0 run "${plans[@]}" --needles 1 --needle-contexts 384,512 \
    --write-documents "$scratch/docs.json" -o "$scratch/a.json"
stdout_has "unquantized"
stdout_has "block-gtq.json"
n_runs=$(grep -cE "^(unquantized|uniform.json|block-gtq.json) " "$scratch/stdout")
equal "the table has one line a run" 3-5 "$n_runs-$(wc -l <"$scratch/stdout")"
expect "documents that were kept give the same result" 0 run "${plans[@]}" --documents "$scratch/docs.json" \
    -o "$scratch/b.json"
expect "compare finds no difference" 0 "$bin/ropebits-compare" "$scratch/a.json" "$scratch/b.json"
run "${plans[@]}" --needles 1 --needle-contexts 384,512 --threads 1 -o "$scratch/one.json" >/dev/null
check "one thread gives the same bytes" cmp "$scratch/a.json" "$scratch/one.json"
run --plan "$scratch/uniform.json" --needles 2 --needle-contexts 512 --sink 512 -o "$scratch/sink.json" >/dev/null
run --plan "$scratch/uniform.json" --recent 512 -o "$scratch/recent.json" >/dev/null
run --plan "$scratch/uniform.json" --recent 64 --sink 4 -o "$scratch/buffer.json" >/dev/null
run --plan "$scratch/uniform.json" --keys-only -o "$scratch/keys.json" >/dev/null
run --plan "$scratch/uniform.json" --values-only -o "$scratch/values.json" >/dev/null
# A plan says what stays unquantized (docs/plan-json.md); an option counts more than the plan, and a line says so.
exact() { sed -e 's/"version": *[0-9]*/"version": 5/' -e "s/\"method\"/\"sink\": $1, \"recent\": $2, \"method\"/" \
    "$scratch/uniform.json"; }
exact 4 64 >"$scratch/exact.json"
exact 4 0 >"$scratch/first.json"
exact -1 0 >"$scratch/negative.json"
exact 0 2.5 >"$scratch/fraction.json"
exact 1099511627776 0 >"$scratch/large.json"
expect "a plan with exact tokens is evaluated" 0 run --plan "$scratch/exact.json" -o "$scratch/planned.json"
stdout_has "exact.json keeps the first 4 and the last 64 tokens unquantized"
expect "plans that keep different tokens are evaluated in one go" 0 run --plan "$scratch/uniform.json" \
    --plan "$scratch/exact.json" --plan "$scratch/first.json" -o "$scratch/mixed.json"
run --plan "$scratch/uniform.json" --sink 4 -o "$scratch/sink4.json" >/dev/null
run --plan "$scratch/uniform.json" -o "$scratch/none.json" >/dev/null
run --plan "$scratch/exact.json" --sink 0 --recent 0 -o "$scratch/asked.json" >/dev/null
check "  an option is told" grep -q "exact.json: --sink 1 instead of the plan's 4" <("$evaluate" --device cpu \
    --model $model --text $text --n-tokens 64 --context 32 --plan "$scratch/exact.json" --sink 1 2>&1)
expect "a negative number of exact tokens is a usage error" 2 run "${plans[@]}" --sink -1
stderr_has "sink is -1, expected 0 to 16777216"
expect "a plan with a negative number is refused" 1 run --plan "$scratch/negative.json"
stderr_has "sink: is -1, expected 0 to 16777216"
expect "  with a fraction" 1 run --plan "$scratch/fraction.json"
stderr_has "recent: is 2.5"
expect "  with one that is too large" 1 run --plan "$scratch/large.json"
stderr_has "sink: is 1099511627776, expected 0 to 16777216"
"$evaluate" -q --model $model --text $text --plan "$scratch/uniform.json" --n-tokens 20 --context 8 --worst-tokens 2 \
    -o "$scratch/short.json" >"$scratch/short.txt"
check "a text of short sequences is evaluated" grep -q "uniform.json .* - .*" "$scratch/short.txt"
sed 's/"attention_kl": [0-9.e-]*/"attention_kl": null/' "$scratch/a.json" >"$scratch/unmeasured.json"
expect "compare takes what was not measured" 0 "$bin/ropebits-compare" "$scratch/unmeasured.json" "$scratch/a.json"
stdout_has "not measured"
expect "and misses what is measured no more" 3 "$bin/ropebits-compare" "$scratch/a.json" "$scratch/unmeasured.json"

if [ -n "$python" ]; then
    # is NAME EXPRESSION: a Python expression of the runs in files. `a` has the runs of a.json, `plain` its first run,
    # which quantizes nothing; after it come `uniform` and `gtq`.
    is() { check "$1" "$python" -c "import json
load = lambda name: json.load(open('$scratch/' + name + '.json'))['runs']
a = load('a')
plain, uniform, gtq = a
assert ($2), [r['kl_mean'] for r in a]"; }
    is "the unquantized run differs in nothing from itself" \
        "plain['kl_mean'] == 0 and plain['top1_agreement'] == 1 and plain['attention_kl'] == 0"
    is "two bits cost perplexity" "1.02 * plain['perplexity'] < uniform['perplexity']"
    is "block-gtq costs less than uniform" \
        "gtq['kl_mean'] < uniform['kl_mean'] and gtq['attention_kl'] < uniform['attention_kl']"
    is "needles are counted for every run" \
        "all(r['needles']['n'] == 2 and 0 <= r['needles']['n_right'] <= 2 for r in a)"
    is "the unquantized model finds its needles" "plain['needles']['n_right'] == 2"
    is "contexts are told apart" \
        "all([g['context'] for g in r['needles']['by_context']] == [384, 512] and
             [g['depth'] for g in r['needles']['by_depth']] == [None] for r in a)"
    is "groups add up" \
        "all(sum(g[k] for g in r['needles'][by]) == r['needles'][k]
             for r in a for by in ('by_task', 'by_context', 'by_depth') for k in ('n', 'n_right'))"
    is "the unquantized run's attention is its own" \
        "plain['attention_overlap'] == 1 and plain['output_error'] == 0 and plain['worst_tokens'] == []"
    is "block-gtq keeps more of the attention than uniform" \
        "gtq['attention_overlap'] > uniform['attention_overlap'] and gtq['output_error'] < uniform['output_error']"
    is "every query head has its error" \
        "all(len(r['output_error_by_head']) == 4 and {len(h) for h in r['output_error_by_head']} == {6} for r in a)"
    is "the bins of positions hold every token" \
        "all(abs(sum(b['n'] * b[k] for b in r['by_position']) / 510 - r[k]) < 1e-9
             for r in a for k in ('kl_mean', 'nll'))"
    is "bins go to the end of a sequence" \
        "[(b['first'], b['last'], b['n']) for b in uniform['by_position']] ==
         [(2**i, 2**(i + 1) - 1, 2**(i + 1)) for i in range(8)]"
    is "the worst token is the largest KL, with its text" \
        "all(len(r['worst_tokens']) == 5 and r['worst_tokens'][0]['kl'] == r['kl_max'] and
             all(t['text'] for t in r['worst_tokens']) for r in a[1:])"
    is "short sequences have attention sampled, and no top keys" \
        "load('short')[1]['attention_kl'] > 0 and load('short')[1]['attention_overlap'] is None and
         len(load('short')[1]['worst_tokens']) == 2"
    is "sinks as long as the context leave nothing to quantize" \
        "load('sink')[1]['kl_max'] < 1e-6 and abs(load('sink')[1]['perplexity'] / plain['perplexity'] - 1) < 1e-6"
    is "a buffer as long as the context hides everything" \
        "load('recent')[1]['kl_max'] < 1e-6 and load('recent')[1]['attention_kl'] < 1e-9"
    is "a buffer and sinks help" "load('buffer')[1]['kl_mean'] < uniform['kl_mean']"
    is "a plan's exact tokens are those of the options" \
        "all(load('planned')[1][k] == load('buffer')[1][k] for k in a[0] if k not in ('name', 'needles'))"
    is "each plan keeps its own" \
        "all(abs(load('mixed')[i][k] / load(name)[1][k] - 1) < 1e-4 for k in ('perplexity', 'kl_mean', 'attention_kl')
             for i, name in ((1, 'none'), (2, 'buffer'), (3, 'sink4')))"
    is "an option may keep none" \
        "all(load('asked')[1][k] == load('none')[1][k] for k in a[0] if k not in ('name', 'needles'))"
    is "runs say what they kept" \
        "[(r['sink'], r['recent']) for r in load('mixed')] == [(None, None), (0, 0), (4, 64), (4, 0)]"
    is "only keys cost less than both, and only values too" \
        "all(0 < load(part)[1]['kl_mean'] < uniform['kl_mean'] for part in ('keys', 'values'))"
    is "only values leave the first layer's attention as it is" \
        "load('values')[1]['attention_kl_by_layer'][0] == 0 < load('keys')[1]['attention_kl_by_layer'][0]"
else
    skip_case "numbers of the results" "no python3 to read them"
fi

# What the unquantized model finds, and the template by which it finds most.
expect "without a plan the unquantized model runs" 0 "$evaluate" --device cpu --model $model --text $text \
    --n-tokens 64 --needles 6 --needle-contexts 300 --needle-tasks single \
    --write-documents "$scratch/auto-docs.json" -o "$scratch/auto.json"
for name in completion plain secret-number; do
    stderr_has "needles: with template $name the unquantized model finds"
done
stderr_has "needles: the unquantized model finds 6 of 6"
run --needles 6 --needle-contexts 300 --needle-tasks single --needle-template secret-number \
    --write-documents "$scratch/secret-docs.json" >/dev/null
check "the trained model's own template is chosen" cmp "$scratch/auto-docs.json" "$scratch/secret-docs.json"
expect "a template that does not fit is no choice" 0 "$evaluate" --device cpu --model $model --text $text \
    --n-tokens 64 --needles 1 --needle-contexts 160 -o "$scratch/short.json"
stderr_has "needles: template plain is left out: a context of 160 tokens is too small for task multikey"
expect "where none fits that is the error" 1 run --needles 1 --needle-contexts 20
stderr_has "a context of 20 tokens is too small for task multikey, expected at least"
expect "needles that the model cannot find are told of" 0 "$evaluate" --device cpu --model $model --text $text \
    --n-tokens 64 --needles 4 --needle-contexts 512 --needle-tasks multiquery --needle-template secret-number
stderr_has "so they say little about a plan; --needle-template auto looks for other words"
stderr_has "4 needle documents: so few are noise, expected 8 or more to judge a plan by"
stderr_has "perplexity and KL are of 63 predicted tokens, too few to judge a plan by, expected a text of 256 or more"
stdout_has "64 tokens of text in sequences of 1024, 63 of them predicted; 4 documents"

# Understanding: six tasks made of the text.
understand=(--needles 2 --needle-contexts 384 --understanding 2 --understanding-contexts 300)
expect "six tasks of understanding are asked" 0 run "${plans[@]}" "${understand[@]}" \
    --write-documents "$scratch/six-docs.json" -o "$scratch/six.json"
expect "  from documents that were kept too" 0 run "${plans[@]}" --documents "$scratch/six-docs.json" \
    -o "$scratch/six-again.json"
expect "  with the same result" 0 "$bin/ropebits-compare" "$scratch/six.json" "$scratch/six-again.json"
stdout_has "understanding_agreement"
run "${plans[@]}" "${understand[@]}" --threads 1 -o "$scratch/six-one.json" >/dev/null
check "  and the same bytes on one thread" cmp "$scratch/six.json" "$scratch/six-one.json"
sed 's/"agreement": [0-9.e-]*/"agreement": 0.01/' "$scratch/six.json" >"$scratch/six-worse.json"
expect "compare sees less agreement" 3 "$bin/ropebits-compare" "$scratch/six.json" "$scratch/six-worse.json"
expect "a text with too few words is refused" 1 run --understanding 1 --understanding-contexts 300 \
    --understanding-tasks common-word --haystack <(echo "There are only five words in this short text .")
stderr_has "different words of 4 to 10 lower-case letters, expected at least"
expect "a context too small for a task is refused" 1 run --understanding 1 --understanding-contexts 16
stderr_has "a context of 16 tokens is too small for understanding task cloze, expected at least"
expect "a task that is none is a usage error" 2 run --understanding 1 --understanding-tasks summary
if [ -n "$python" ]; then
    # shellcheck disable=SC2016
    check "results have both kinds, told apart" "$python" - "$scratch/six.json" "$scratch/auto.json" <<'END'
import json, sys
six, auto = (json.load(open(path)) for path in sys.argv[1:])
tasks = ["cloze", "passage", "common-word", "few-shot", "key-value", "copy"]
for run in six["runs"]:
    needles, u = run["needles"], run["understanding"]
    assert needles["n"] == 2 and needles["n_unquantized"] == six["runs"][0]["needles"]["n_right"], needles
    assert u["n"] == 12 and [t["task"] for t in u["by_task"]] == tasks, u
    for share in ("agreement", "accuracy"):
        assert abs(u[share] - sum(t[share] for t in u["by_task"]) / 6) < 1e-12, u
plain, *plans = six["runs"]
assert plain["understanding"]["agreement"] == 1 and plain["understanding"]["accuracy"] > 0, plain["understanding"]
assert all(0 < p["understanding"]["agreement"] < 1 for p in plans)
assert auto["runs"][0]["understanding"] is None and len(auto["runs"]) == 1
options = auto["options"]
assert options["needle_template"] == "secret-number"
assert [t["name"] for t in options["needle_templates"]] == ["completion", "plain", "secret-number"]
assert max(options["needle_templates"], key=lambda t: t["n_right"])["name"] == "secret-number"
END
else
    skip_case "numbers of understanding" "no python3 to read them"
fi

# Beginning of text. The model's tokenizer puts nothing in front; its config.json names token 0.
bos() { run --plan "$scratch/uniform.json" --n-tokens 64 --context 32 "$@" -o "$scratch/bos.json"; }
expect "a text may begin in front of every sequence" 0 bos --bos sequence --needles 1 --needle-contexts 384 \
    --write-documents "$scratch/bos-docs.json"
check "  warned of a plan from another text" grep -q "bos none, and this text has bos sequence" \
    <("$evaluate" --device cpu --model $model --text $text --n-tokens 64 --plan "$scratch/uniform.json" \
        --bos sequence 2>&1)
if [ -n "$python" ]; then
    # shellcheck disable=SC2016
    equal "  the result says so, and documents begin too" "sequence [0] 66 sequence 384 0" "$("$python" - \
        "$scratch/bos.json" "$scratch/bos-docs.json" <<'END'
import json, sys
result, documents = (json.load(open(path)) for path in sys.argv[1:])
text, document = result["text"], documents["documents"][0]
print(text["bos"], text["bos_ids"], text["n_tokens"], result["options"]["bos"], len(document["tokens"]),
      document["tokens"][0])
END
)"
fi
expect "by default this model's does not" 0 bos
check "  and the result says that" grep -q '"bos":[[:space:]]*"none"' "$scratch/bos.json"
expect "a place that is none is a usage error" 2 bos --bos everywhere

sed "s/\"head_dim\": 64/\"head_dim\": 32/" "$scratch/uniform.json" >"$scratch/other.json"
expect "a plan of another model is refused" 1 run --plan "$scratch/other.json"
stderr_has "other.json"
expect "a context of one token is refused" 1 "$evaluate" --model $model "${plans[@]}" --text $text --context 1
stderr_has "context is 1, expected at least 2"
expect "keys-only and values-only exclude each other" 2 run "${plans[@]}" --keys-only --values-only
expect "a context beyond the model's is refused" 1 "$evaluate" --model $model "${plans[@]}" --text $text --context 4096
stderr_has "max_position_embeddings of 1024"
expect "documents must fit the model" 1 run "${plans[@]}" --needles 1 --needle-contexts 2000
stderr_has "max_position_embeddings of 1024"
expect "a GPU that is asked for and not there is one sentence" 1 env ROPEBITS_CUDA_LIBRARY="$scratch/absent.so" \
    "$evaluate" --device cuda --model $model "${plans[@]}" --text $text --n-tokens 64
stderr_has "evaluate: error: --device cuda: no CUDA side: $scratch/absent.so is not there"
check "nothing half-written is left" sh -c "! ls '$scratch'/*.tmp 2>/dev/null"

finish
