# The calibrate program: what it prints, what it refuses, and which files it leaves.
. tests/programs/tap.sh

calibrate=$bin/ropebits-calibrate
model=configs/demo-llama text=configs/demo-text/calibration.txt test_text=configs/demo-text/heldout.txt
demo=(--model "$model" --text "$text" --test-text "$test_text" --n-tokens 300 --context 128)

expect "help is a success on stdout" 0 "$calibrate" --help
stdout_has "--n-tokens N"
stdout_has "(default 2048)"
expect "no model is a usage error" 2 "$calibrate" --text x
stderr_has "calibrate: error: --model MODEL is missing"
stderr_lines 2
expect "no output is a usage error" 2 "$calibrate" --model $model --text x
stderr_has "no output"
expect "text and tokens together are a usage error" 2 "$calibrate" --model $model --text x --tokens y -o z.h5
stderr_has "either --text or --tokens"

expect "a dry run says that the checkpoint is supported" 0 "$calibrate" --model $model --dry-run
stdout_has "supported: a run would work"
expect "a dry run gives JSON" 0 "$calibrate" --model $model --dry-run --json
stdout_has '"ropebits-calibrate-result"'

expect "the demo is captured" 0 "$calibrate" "${demo[@]}" -o "$scratch/a.h5"
stdout_has "300 calibration, 300 test"
check "the capture is there" test -s "$scratch/a.h5"
for threads in 1 2 4; do
    expect "with $threads threads it is captured too" 0 "$calibrate" "${demo[@]}" --threads $threads -o "$scratch/b.h5"
    check "  with the same bytes" cmp "$scratch/a.h5" "$scratch/b.h5"
done
expect "without a test text, the tokens after the calibration tokens are used" 0 "$calibrate" --model $model \
    --text $text --n-tokens 300 --context 128 -o "$scratch/c.h5"

# Beginning of text: nothing by default, since this model's tokenizer puts nothing in front.
expect "every sequence may begin with the model's token" 0 "$calibrate" "${demo[@]}" --bos sequence -o "$scratch/bos.h5"
stdout_has "bos          token 0 in front of every sequence"
expect "  which changes the capture" 1 cmp -s "$scratch/a.h5" "$scratch/bos.h5"
expect "no beginning is the default" 0 "$calibrate" "${demo[@]}" --bos none --json -o "$scratch/none.h5"
stdout_has '"bos": "none"'
cp -r $model "$scratch/no-bos" && sed -i 's/"bos_token_id": 0/"bos_token_id": null/' "$scratch/no-bos/config.json"
expect "a token that the model does not have is refused" 1 "$calibrate" --device cpu --model "$scratch/no-bos" \
    --text $text --bos text -o "$scratch/d.h5"
stderr_has "no-bos names no beginning-of-text token"
stderr_lines 1

# Several texts, and needles.
head -c 20000 $test_text | head -n -1 >"$scratch/second,text"
two=(--model "$model" --text "$text" --text "$scratch/second,text:2")
two+=(--n-tokens 1024 --n-test-tokens 300 --context 128)
tail -c +20000 $test_text | tail -n +2 >"$scratch/test.txt"
expect "two texts share the tokens by their weights" 0 "$calibrate" "${two[@]}" --test-text "$scratch/test.txt" \
    -o "$scratch/two.h5"
stdout_has "$text: 384 tokens, weight 1"
stdout_has "second,text: 640 tokens, weight 2"
expect "two texts without a test text are a usage error" 2 "$calibrate" "${two[@]}" -o "$scratch/d.h5"
stderr_has "no test text: 2 calibration texts leave none behind them"
needles=("${demo[@]}" --context 256 --n-tokens 1024 --with-needles)
expect "needles are planted" 0 "$calibrate" "${needles[@]}" --json -o "$scratch/needles.h5"
stdout_has '"template": "secret-number"'
stdout_has '"n_sequences": 1'
for threads in 1 2; do
    expect "with $threads threads they are too" 0 "$calibrate" "${needles[@]}" --threads $threads -o "$scratch/again.h5"
    check "  with the same bytes" cmp "$scratch/needles.h5" "$scratch/again.h5"
done
stdout_has "needles      in 1 of 4 calibration sequences"
expect "a template of one's own is used" 0 "$calibrate" "${needles[@]}" \
    --needle-template configs/needles/secret-number.json --needle-share 1 -o "$scratch/own.h5"
stdout_has "needles      in 4 of 4 calibration sequences"
expect "a context too small for needles is refused with both numbers" 1 "$calibrate" "${demo[@]}" --with-needles \
    --context 64 -o "$scratch/d.h5"
stderr_has "a context of 64 tokens is too small for task multikey, expected at least"
expect "a template that is not there is refused with those that are" 1 "$calibrate" "${needles[@]}" \
    --needle-template secret -o "$scratch/d.h5"
stderr_has "needle template is 'secret', expected a file or one of completion, plain, secret-number"

expect "the same text for both sets is refused" 1 "$calibrate" --model $model --text $text --test-text $text \
    --n-tokens 300 -o "$scratch/d.h5"
stderr_has "test text repeats the calibration text"
check "  and no file is left" no_output "$scratch/d.h5"
expect "a text that is too short is refused with both numbers" 1 "$calibrate" "${demo[@]}" --n-tokens 1000000 \
    -o "$scratch/d.h5"
stderr_has "expected at least 1000000"
expect "a context beyond the model's is refused" 1 "$calibrate" "${demo[@]}" --context 4096 -o "$scratch/d.h5"
stderr_has "max_position_embeddings of 1024"
printf '[1, 2, 4096]' >"$scratch/ids.json"
expect "an id outside the vocabulary is named" 1 "$calibrate" --model $model --tokens "$scratch/ids.json" \
    --test-tokens "$scratch/ids.json" --n-tokens 3 -o "$scratch/d.h5"
stderr_has "token 2 is 4096"
expect "a model that is not there is named" 1 "$calibrate" --model "$scratch/absent" --dry-run
stderr_has "$scratch/absent"
stderr_lines 1

cp -r $model "$scratch/broken" && head -c 3000000 $model/model.safetensors >"$scratch/broken/model.safetensors"
expect "truncated weights end in one sentence" 1 "$calibrate" --model "$scratch/broken" --text $text -o "$scratch/d.h5"
stderr_lines 1
stderr_has "model.safetensors"
check "  and no file is left" no_output "$scratch/d.h5"

# A full disk: the kernel refuses to let the file grow beyond 200 KiB.
expect "a full disk is an error" 1 bash -c 'trap "" XFSZ; ulimit -f 200; exec "$@"' - \
    "$calibrate" "${demo[@]}" -o "$scratch/full.h5"
check "  and leaves no file under the final name" test ! -e "$scratch/full.h5"

# Killed half way.
"$calibrate" -q --model $model --text $text --n-tokens 2048 --n-test-tokens 2048 --context 1024 --threads 1 \
    -o "$scratch/killed.h5" >/dev/null 2>&1 &
victim=$!
for _ in $(seq 200); do compgen -G "$scratch/killed.h5.*" >/dev/null && break; sleep 0.02; done
kill -9 $victim 2>/dev/null
wait $victim 2>/dev/null
check "a killed run leaves no file under the final name" test ! -e "$scratch/killed.h5"

finish
