# bench/judge.sh: the two tables of docs/evaluate.md, on the bundled model.
. tests/programs/tap.sh

if ! command -v python3 >/dev/null; then
    skip_case "the tables of retrieval and understanding" "no python3 to print them"
    finish
fi
model=configs/demo-llama
text=configs/demo-text/heldout.txt
judge() {
    env BIN="$bin" N=1 DOCUMENT=320 CONTEXT=256 TOKENS=256 TEMPLATE=secret-number OPTIONS="-q --device cpu" \
        bash bench/judge.sh "$model" configs/demo-text/calibration.txt "$text" "$scratch/out" "$@"
}
expect "plans are made and judged" 0 judge
stdout_has "| plan, true bits | single | distractor | multi | multikey | multivalue | multiquery | all |"
stdout_has "| plan, true bits | cloze | passage | common-word | few-shot | key-value | copy | mean |"
stdout_has "Retrieval: right answers of 1 a task, template secret-number."
equal "  every table has a row for the model and each of five plans" 18 \
    "$(grep -cE '^\| (exact|block-gtq-k3|block-codebook-k(3|2.25)-v)' "$scratch/stdout")"
cp "$scratch/stdout" "$scratch/tables.txt"
stamp=$(stat -c %Y%i "$scratch/out/judge.json")
expect "a second time the tables are printed again" 0 judge
check "  which are the same" cmp "$scratch/stdout" "$scratch/tables.txt"
equal "  from the result that is there" "$stamp" "$(stat -c %Y%i "$scratch/out/judge.json")"
rm "$scratch/out/judge.json"
expect "a plan that is given is judged by itself" 0 judge "$scratch/out/block-gtq-k3-v3.json"
equal "  with the model" 6 "$(grep -cE '^\| (exact|block)' "$scratch/stdout")"
expect "without arguments it says how it is called" 2 bash bench/judge.sh
stderr_has "judge.sh MODEL CALIBRATION TEXT OUT"

finish
