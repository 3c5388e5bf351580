# Limits that the system sets: memory, size of files, two runs at once, an end half way. Every run ends with 0, or with
# 1 and one sentence, and leaves no half-written file.
. tests/programs/tap.sh

out=$scratch/out
mkdir "$out"
model=configs/demo-llama text=configs/demo-text/calibration.txt
calibrate=("$bin/ropebits-calibrate" -q --device cpu --model "$model" --text "$text" --context 64)
expect "a capture to work with" 0 "${calibrate[@]}" --n-tokens 256 -o "$scratch/c.h5"
profile=("$bin/ropebits-profile" -q --device cpu "$scratch/c.h5" --budgets 2 --methods uniform)
expect "a profile to work with" 0 "${profile[@]}" -o "$scratch/p.h5"
allocate=("$bin/ropebits-allocate" -q "$scratch/p.h5" --method uniform --avg-bits 2)
expect "a plan to work with" 0 "${allocate[@]}" -o "$scratch/plan.json"

# ends_well NAME COMMAND...: 0, or 1 with one line on stderr and nothing under $out; in 60 seconds.
ends_well() {
    local name=$1 code; shift
    timeout 60 "$@" >/dev/null 2>"$scratch/stderr" </dev/null
    code=$?
    if [ $code -eq 0 ]; then
        none "$name: done, nothing half-written" "$(find "$out" -name '*.tmp')"
    else
        equal "$name: refused in one line, nothing left" "1 1 " \
            "$code $(wc -l <"$scratch/stderr") $(find "$out" -type f)" "$(head -c 1000 "$scratch/stderr")"
    fi
    rm -rf "${out:?}"/*
}

# ---- memory ----------------------------------------------------------------------------------------------------------
# OpenBLAS asks for 128 MiB a thread, again and again where there are none.
if [ "$RB_SANITIZED" = 1 ]; then
    skip_case "limits on memory" "a sanitizer takes terabytes of addresses"
else
    # RB_MEMORY_KIB: other limits to try. Below 80000 the loader does not find room for the libraries.
    for kib in ${RB_MEMORY_KIB:-90000 150000 200000 215000 250000 400000}; do
        limited=(bash -c "ulimit -v $kib; exec \"\$@\"" -)
        for threads in 1 2; do
            ends_well "calibrate --threads $threads in $kib KiB" "${limited[@]}" "${calibrate[@]}" --n-tokens 128 \
                --threads $threads -o "$out/c.h5"
            ends_well "profile --threads $threads in $kib KiB" "${limited[@]}" "${profile[@]}" --no-curves \
                --threads $threads -o "$out/p.h5"
            ends_well "evaluate --threads $threads in $kib KiB" "${limited[@]}" "$bin/ropebits-evaluate" -q \
                --device cpu --model $model --text $text --n-tokens 64 --context 64 --plan "$scratch/plan.json" \
                --threads $threads -o "$out/e.json"
            ends_well "generate --threads $threads in $kib KiB" "${limited[@]}" "$bin/ropebits-generate" -q \
                --device cpu --model $model --plan "$scratch/plan.json" --prompt "The house" --max-tokens 4 \
                --threads $threads
        done
        ends_well "allocate in $kib KiB" "${limited[@]}" "${allocate[@]}" -o "$out/plan.json"
        ends_well "inspect in $kib KiB" "${limited[@]}" "$bin/ropebits-inspect" "$scratch/plan.json"
    done
    expect "too little memory is refused" 1 bash -c 'ulimit -v 100000; exec "$@"' - "${calibrate[@]}" --n-tokens 128 \
        -o "$out/c.h5"
    stderr_has "calibrate: error: the limit on memory (ulimit -v or -d) leaves no room"
    stderr_lines 1
    expect "where fewer threads fit, fewer work" 0 bash -c 'ulimit -v 600000; exec "$@"' - \
        "$bin/ropebits-calibrate" "${calibrate[@]:2}" --n-tokens 256 --threads 64 -o "$out/c.h5"
    check "  with the same bytes" cmp "$out/c.h5" "$scratch/c.h5"
    stderr_has "of 64 threads"
    rm -rf "${out:?}"/*
fi

# ---- size of files ---------------------------------------------------------------------------------------------------
# SIGXFSZ, which this raises, ends a program that does not ignore it.
for kib in 1 10 100; do
    limited=(bash -c "ulimit -f $kib; exec \"\$@\"" -)
    ends_well "calibrate with files of $kib KiB" "${limited[@]}" "${calibrate[@]}" --n-tokens 256 -o "$out/c.h5"
    ends_well "profile with files of $kib KiB" "${limited[@]}" "${profile[@]}" -o "$out/p.h5"
    ends_well "allocate with files of $kib KiB" "${limited[@]}" "${allocate[@]}" -o "$out/plan.json"
    for format in header report safetensors rbp; do
        ends_well "export --format $format with files of $kib KiB" "${limited[@]}" "$bin/ropebits-export" \
            --format $format "$scratch/plan.json" -o "$out/plan"
    done
done
expect "a file past its limit is one sentence" 1 bash -c 'ulimit -f 10; exec "$@"' - "${calibrate[@]}" --n-tokens 256 \
    -o "$out/c.h5"
stderr_has "File too large"
stderr_has "$out/c.h5: "
stderr_lines 1
none "  and nothing is left" "$(ls "$out")"
expect "a full device is one sentence" 1 bash -c 'exec "$@" >/dev/full' - "$bin/ropebits-inspect" "$scratch/plan.json"
stderr_lines 1

# ---- two runs at once ------------------------------------------------------------------------------------------------
# A run holds what it can be continued from; without that, each has a temporary file of its own.
expect "the capture of the other run" 0 "${calibrate[@]}" --n-tokens 512 -o "$scratch/other.h5"
for option in "" --no-resume; do
    lost=""
    for _ in 1 2 3; do
        "${calibrate[@]}" $option --n-tokens 256 -o "$out/c.h5" >/dev/null 2>"$scratch/first" &
        first=$!
        "${calibrate[@]}" $option --n-tokens 512 -o "$out/c.h5" >/dev/null 2>"$scratch/second" &
        second=$!
        codes=""
        wait $first; codes+=$?
        wait $second; codes+=$?
        case $codes in # one that succeeds has left its own, unless the other came after it
        00) cmp -s "$out/c.h5" "$scratch/c.h5" || cmp -s "$out/c.h5" "$scratch/other.h5" || lost+=" mixed" ;;
        01) cmp -s "$out/c.h5" "$scratch/c.h5" && grep -q "c.h5: another run is" "$scratch/second" || lost+=" first" ;;
        10) cmp -s "$out/c.h5" "$scratch/other.h5" && grep -q "c.h5: another run is" "$scratch/first" || lost+=" 2nd" ;;
        *) lost+=" both" ;;
        esac
        [ "$option" = "" ] || [ "$codes" = 00 ] || lost+=" $codes"
    done
    none "two runs with one output publish a file of their own or say why not ${option:+(}$option${option:+)}" "$lost"
    none "  and leave nothing else" "$(find "$out" -mindepth 1 -maxdepth 1 -not -name c.h5)"
done

# ---- an end half way -------------------------------------------------------------------------------------------------
# end_half_way SIGNAL FILE OPTION...: ends a run once it has written a file of such a name.
end_half_way() {
    rm -rf "${out:?}"/*
    # a background job of a script ignores SIGINT and SIGQUIT, so env sets them back
    env --default-signal=INT,QUIT "$bin/ropebits-calibrate" --device cpu --model $model --text $text --n-tokens 2048 \
        --n-test-tokens 2048 --context 1024 --threads 1 "${@:3}" -o "$out/c.h5" >/dev/null 2>"$scratch/stderr" &
    victim=$!
    for _ in $(seq 400); do find "$out" -name 'c.h5.*.tmp' -o -name 'stream.1' | grep -q "$2" && break; sleep 0.02; done
    kill -"$1" $victim
    wait $victim 2>/dev/null
}
for signal in INT TERM HUP QUIT; do
    end_half_way $signal tmp -q --no-resume
    none "a run that SIG$signal ends leaves nothing with --no-resume" "$(ls "$out")"
    end_half_way $signal stream.1 -v
    equal "  and what it can be continued from without" c.h5.parts "$(ls "$out")"
    [ $signal = QUIT ] || stderr_has "the same command continues"
done
rm -rf "${out:?}"/*

# ---- the kernels of OpenBLAS -----------------------------------------------------------------------------------------
core_of() { "$@" "$bin/ropebits-evaluate" --version | sed -n 's/^OpenBLAS .* \([A-Za-z0-9]*\) MAX_THREADS.*/\1/p'; }
if grep -qw avx2 /proc/cpuinfo 2>/dev/null && [ -n "$(core_of env OPENBLAS_CORETYPE=Prescott)" ]; then
    check "a CPU with AVX2 is not left to OpenBLAS's oldest kernels" \
        holds 'a != "Prescott" && a != ""' "$(core_of env -u OPENBLAS_CORETYPE)"
    equal "  unless someone asks for them" Prescott "$(core_of env OPENBLAS_CORETYPE=Prescott)"
else
    skip_case "the kernels of OpenBLAS" "no AVX2, or one kind of kernels only"
fi

# ---- how OpenMP waits ------------------------------------------------------------------------------------------------
# libgomp shows what it found when it was loaded.
spins_of() { env OMP_DISPLAY_ENV=verbose "$@" --version 2>&1 | sed -n "s/^ *GOMP_SPINCOUNT = '\(.*\)'/\1/p" | tail -1; }
unset OMP_WAIT_POLICY GOMP_SPINCOUNT
if [ "${RB_SANITIZED:-0}" = 0 ] && [ -n "$(spins_of "$bin/ropebits-generate")" ]; then
    for program in generate evaluate calibrate; do
        equal "threads of $program sleep while they wait" 0 "$(spins_of "$bin/ropebits-$program")"
    done
    equal "  unless someone counts their spins" 7 "$(GOMP_SPINCOUNT=7 spins_of "$bin/ropebits-generate")"
    check "  or wants them awake" test "$(OMP_WAIT_POLICY=active spins_of "$bin/ropebits-generate")" -gt 0
else
    skip_case "how OpenMP waits" "another OpenMP than libgomp, or a build with sanitizers"
fi

finish
