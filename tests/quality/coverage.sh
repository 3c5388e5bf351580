#!/bin/bash
# coverage.sh BUILD [TEST...]: which lines the tests run, in a build with gcc's --coverage. A TEST is core/test_order or
# programs/limits; without any, every cmocka test and every script that runs code of ours. Prints the lines of every
# room and of all, and the files of which less than 80 % is run; BUILD/html has a page for each file.
#
# The counted code is the CPU side: no tests, no benchmarks, no CUDA sources. What drives a GPU from the host (*_cuda.c,
# *_gpu.c, model/cuda, cache/cuda) is a room of its own, `gpu`, outside of the total: `make check-gpu` runs it. Tests
# that check the sources, the packages or other programs are left out, for they add minutes and no line. A test
# that fails here is named, and its lines are counted all the same: limits of time and memory are not made for this
# build.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1; shift
left_out=" arrows format completion packaging integrations tap faults fuzz_seeds hardened "
[ -n "${RB_COVERAGE_GOAL:-}" ] || RB_COVERAGE_GOAL=88
jobs=${JOBS:-$(nproc 2>/dev/null || echo 1)}
export RB_BUILD=$build RB_SANITIZED=0 OMP_WAIT_POLICY=passive GCOV_ERROR_FILE=/dev/null

tests=("$@")
if [ ${#tests[@]} -eq 0 ]; then
    for file in "$build"/tests/*/test_*; do
        case $file in */gpu/*) ;; *) tests+=("${file#"$build"/tests/}") ;; esac
    done
    for file in tests/programs/*.sh; do
        name=$(basename "$file" .sh)
        [[ $left_out == *" $name "* ]] || tests+=("programs/$name")
    done
fi

run_test() {    # run_test NAME
    local command=("$RB_BUILD/tests/$1")
    case $1 in programs/*) command=(bash "tests/$1.sh") ;; esac
    timeout 900 "${command[@]}" >"$RB_BUILD/coverage-logs/${1//\//_}" 2>&1 </dev/null || echo "coverage: $1 fails here"
}
export -f run_test
mkdir -p "$build/coverage-logs"
find "$build/obj" -name '*.gcda' -delete
printf '%s\n' "${tests[@]}" | xargs -P "$jobs" -I{} bash -c 'run_test {}'

# Objects that no program links have no counters of their own: the first capture has them, with 0.
lcov_quietly() {
    lcov -q --rc geninfo_unexecuted_blocks=1 "$@" 2>"$build/lcov.log" && return
    cat "$build/lcov.log" >&2
    exit 1
}
capture() { lcov_quietly --capture --no-external --base-directory "$PWD" --directory "$build/obj" "$@"; }
capture --initial --output-file "$build/none.info"
capture --output-file "$build/run.info"
lcov_quietly -a "$build/none.info" -a "$build/run.info" -o "$build/both.info"
lcov_quietly --remove "$build/both.info" "$PWD/tests/*" "$PWD/bench/*" "$PWD/build/*" -o "$build/lines.info"
genhtml -q --title "ropebits: lines that the tests run" --prefix "$PWD" -o "$build/html" "$build/lines.info"

awk -v root="$PWD/" -v goal="$RB_COVERAGE_GOAL" '
    function told(name, hit, all) {
        return sprintf("%-44s %6d of %6d lines  %5.1f %%", name, hit, all, 100 * hit / all)
    }
    /^SF:/ { file = substr($0, 4); sub(root, "", file); room = file; sub(/\/.*/, "", room)
        if (file ~ /_(cuda|gpu)\.c$|^(model|cache)\/cuda\// && room != "export") room = "gpu" }
    /^LF:/ {
        n = substr($0, 4) + 0; lines[file] += n; of_room[room] += n
        if (room != "gpu") total += n; else of_gpu[file]
    }
    /^LH:/ { n = substr($0, 4) + 0; run[file] += n; run_room[room] += n; if (room != "gpu") hit += n }
    END {
        sort = "sort"
        for (file in lines)
            if (!(file in of_gpu) && lines[file] > 0 && run[file] < 0.8 * lines[file])
                print told("  " file, run[file], lines[file]) | sort
        close(sort)
        for (room in of_room) print told(room, run_room[room], of_room[room]) | sort
        close(sort)
        print told("all but gpu", hit, total)
        exit 100 * hit < goal * total
    }' "$build/lines.info" ||
    { echo "coverage: less than $RB_COVERAGE_GOAL % of the lines" >&2; exit 1; }
