# Runs of calibrate that are killed at random moments and started again: the same bytes, no layer computed twice,
# nothing left over. RB_KILLS says how many kills (5), RB_SEED when they come; both are printed.
. tests/programs/tap.sh

calibrate=$bin/ropebits-calibrate out=$scratch/out
kills=${RB_KILLS:-5} seed=${RB_SEED:-$(date +%s)}
RANDOM=$((seed % 32768))
echo "# RB_KILLS=$kills RB_SEED=$seed"
mkdir "$out"
demo=(--device cpu --threads 2 --model configs/demo-llama --text configs/demo-text/calibration.txt --values)
demo+=(--n-tokens 1024 --context 512)

# ---- kills at random moments -----------------------------------------------------------------------------------------
milliseconds() { echo $(($(date +%s%N) / 1000000)); }
started=$(milliseconds)
expect "a run that nothing stops" 0 "$calibrate" "${demo[@]}" -q -o "$scratch/whole.h5"
took=$(($(milliseconds) - started))
expect "parts do not change the bytes" 0 "$calibrate" "${demo[@]}" -q --no-resume -o "$scratch/plain.h5"
check "  of a capture" cmp "$scratch/whole.h5" "$scratch/plain.h5"

# An output and its parts have one life: from the first run to the one that publishes. Its log has what all runs said.
n_killed=0 n_lives=0 n_continued=0 wrong=""
end_life() {
    n_lives=$((n_lives + 1))
    cmp -s "$out/c.h5" "$scratch/whole.h5" || wrong+=" life $n_lives: other bytes;"
    [ "$(ls "$out")" = c.h5 ] || wrong+=" life $n_lives left $(ls "$out");"
    local twice damaged
    twice=$(grep -o 'layer [0-9]*, ' "$scratch/log" | sort | uniq -d | tr '\n' ' ')
    damaged=$(grep -cE 'damaged|anew' "$scratch/log")
    [ -z "$twice" ] || wrong+=" life $n_lives computed again: $twice;"
    [ "$damaged" = 0 ] || wrong+=" life $n_lives: $(grep -E 'damaged|anew' "$scratch/log");"
    n_continued=$((n_continued + $(grep -c 'continues after layer' "$scratch/log")))
    rm -rf "${out:?}"/* "$scratch/log"
}
# one_run MILLISECONDS: kills it then; 0: lets it end.
one_run() {
    "$calibrate" "${demo[@]}" -v -o "$out/c.h5" >/dev/null 2>>"$scratch/log" &
    local victim=$! code
    if [ "$1" -gt 0 ]; then
        sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"
        kill -KILL $victim 2>/dev/null
    fi
    wait $victim 2>/dev/null
    code=$?
    case $code in
    0) end_life ;;
    137) n_killed=$((n_killed + 1))
        # killed on its last way out, the capture published and the parts gone
        if [ -e "$out/c.h5" ] && [ ! -e "$out/c.h5.parts" ]; then end_life; fi ;;
    *) wrong+=" exit code $code: $(tail -1 "$scratch/log");" ;;
    esac
}
while [ $n_killed -lt "$kills" ] && [ -z "$wrong" ]; do one_run $((1 + (RANDOM * 32768 + RANDOM) % took)); done
if [ -e "$scratch/log" ]; then one_run 0; fi
none "a capture has the same bytes, computes no layer twice and leaves nothing" "$wrong"
echo "# $n_killed kills in $n_lives captures, $n_continued runs continued after some layer"

# ---- a kill at a known moment ----------------------------------------------------------------------------------------
# kill_after_first_layer SIGNAL OPTION...: in the middle of a capture, which saves a second layer just then
kill_after_first_layer() {
    rm -rf "${out:?}"/*
    env --default-signal=INT "$calibrate" "${demo[@]}" "${@:2}" -o "$out/c.h5" >/dev/null 2>"$scratch/stderr" &
    local victim=$!
    for _ in $(seq 2000); do [ -s "$out/c.h5.parts/stream.1" ] && break; sleep 0.005; done
    kill -"$1" $victim
    wait $victim 2>/dev/null
}
kill_after_first_layer INT -v
stderr_has "interrupted: $out/c.h5.parts keeps the finished layers"
expect "an interrupted run is continued" 0 "$calibrate" "${demo[@]}" -v -o "$out/c.h5"
stderr_has "c.h5.parts: continues after layer"
check "  to the same bytes" cmp "$out/c.h5" "$scratch/whole.h5"

kill_after_first_layer KILL -q
expect "other options do not continue it" 0 "$calibrate" "${demo[@]}" --dtype f32 -o "$out/c.h5"
stderr_has "c.h5.parts: belongs to a run with other options: begins anew"
equal "  and leave nothing of it" c.h5 "$(ls "$out")"
expect "  but write what they say" 0 "$calibrate" "${demo[@]}" -q --dtype f32 --no-resume -o "$scratch/f32.h5"
check "  to the byte" cmp "$out/c.h5" "$scratch/f32.h5"

cp -r configs/demo-llama "$scratch/model"
demo[5]=$scratch/model
kill_after_first_layer KILL -q
touch "$scratch/model/model.safetensors"
expect "weights that were written since do not continue it" 0 "$calibrate" "${demo[@]}" -o "$out/c.h5"
stderr_has "belongs to a run with other weights"
demo[5]=configs/demo-llama

# ---- a full disk -----------------------------------------------------------------------------------------------------
# full_disk MIB: the run on a disk of that size, then, with more room, again
# shellcheck disable=SC2016  # expanded by the inner shell
full_disk='mount -t tmpfs -o size=$1 none "$2" || exit 77
    shift; out=$1; shift
    "$@" -o "$out/c.h5" >/dev/null 2>"$out.first"; code=$?
    ls "$out" >"$out.left"
    mount -o remount,size=64m "$out" && "$@" -o "$out/c.h5" >/dev/null 2>"$out.second" || exit 1
    cp "$out/c.h5" "$out.h5"; ls "$out" >>"$out.left"; exit $((code + 10))'
mkdir "$scratch/disk"
unshare -rm bash -c "$full_disk" - 4m "$scratch/disk" "$calibrate" "${demo[@]}" >/dev/null 2>&1
case $? in
11) ok "a full disk ends a run in an orderly way"
    check "  with one sentence" grep -q "error: .*disk/c.h5.*: .*No space left on device" "$scratch/disk.first"
    check "  says before what is needed" grep -q "MiB are free there, and up to" "$scratch/disk.first"
    equal "  keeps the finished layers" "c.h5.parts c.h5" "$(paste -sd' ' "$scratch/disk.left")"
    check "  from which it continues" grep -q "continues after layer" "$scratch/disk.second"
    check "  to the same bytes" cmp "$scratch/disk.h5" "$scratch/whole.h5" ;;
10) not_ok "a full disk ends a run" "it had room enough" ;;
*) skip_case "a full disk" "this user may not mount one" ;;
esac

# ---- ropebits run ----------------------------------------------------------------------------------------------------
cat >"$scratch/pipeline.json" <<END
{ "schema": "ropebits-pipeline", "version": 1, "model": "$PWD/configs/demo-llama",
  "text": "$PWD/configs/demo-text/calibration.txt", "test_text": "$PWD/configs/demo-text/heldout.txt",
  "calibrate": { "n_tokens": 1024, "context": 1024 }, "profile": { "budgets": [3], "methods": ["block-gtq"] },
  "allocate": { "method": "block-gtq", "avg_bits": 3 }, "export": { "formats": ["rbp"] } }
END
pipeline=("$bin/ropebits" run "$scratch/pipeline.json" --device cpu --threads 2)
expect "a pipeline that nothing stops" 0 "${pipeline[@]}" -q -o "$scratch/pipeline"
setsid "${pipeline[@]}" -q -o "$scratch/killed" >/dev/null 2>&1 &
victim=$!
for _ in $(seq 2000); do [ -s "$scratch/killed/capture.h5.parts/stream.1" ] && break; sleep 0.005; done
kill -KILL -- -$victim
wait $victim 2>/dev/null
expect "a pipeline killed while it calibrates continues" 0 "${pipeline[@]}" -v -o "$scratch/killed"
check "  after the layers that it had" grep -q "continues after layer" "$scratch/stderr"
for file in capture.h5 plan.rbp; do
    check "  to the same $file" cmp "$scratch/pipeline/$file" "$scratch/killed/$file"
done
none "  and leaves nothing" "$(diff <(ls "$scratch/pipeline") <(ls "$scratch/killed"))"

finish
