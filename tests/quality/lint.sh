#!/bin/bash
# lint.sh [PART...]: what tools find in the sources without running them: cppcheck, tidy, analyzer, shellcheck; all of
# them unless said. Prints what they find; exits 1 when they find anything. What is meant is named, with its reason, in
# .clang-tidy, .shellcheckrc and tests/quality/cppcheck.txt, or where it stands.
#
# The product's C sources are looked at, not tests and benchmarks, which the compilers' warnings and sanitizers see.
set -u
cd "$(dirname "$0")/../.." || exit 1
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(shellcheck cppcheck tidy analyzer)
jobs=${JOBS:-$(nproc 2>/dev/null || echo 1)}
build=${BUILD:-build}
found=0
libraries="hdf5 libcjson libzstd openblas lapacke libpcre2-8 libutf8proc libcrypto libzip"
# Sources include what the build generates.
generated=("$build"/gen/{version,needle_templates,cuda_templates,report_style}.h)
make --no-print-directory CUDA=0 BUILD="$build" "${generated[@]}" >/dev/null || exit 1
# shellcheck disable=SC2046,SC2086  # lists of words
read -ra flags <<<"-std=c11 -D_GNU_SOURCE -I. -Iplan/library -I$build/gen $(pkg-config --cflags $libraries)"
mapfile -t sources < <(git ls-files '*.c' | grep -vE '^(tests|bench|docs|export/templates)/')

# told NAME COMMAND...: runs it; anything that it prints is a finding.
told() {
    local name=$1 said started=$SECONDS; shift
    said=$("$@" 2>&1)
    if [ -n "$said" ]; then
        printf '%s\n' "$said"
        found=1
        echo "lint: $name found something ($((SECONDS - started)) s)"
    else
        echo "lint: $name found nothing ($((SECONDS - started)) s)"
    fi
}

run_cppcheck() {
    cppcheck -q -j "$jobs" --enable=warning,performance,portability --inline-suppr --std=c11 --platform=unix64 \
        -I. -Iplan/library -I"$build/gen" -D__linux__ -D_GNU_SOURCE --library=posix \
        --include=tests/quality/cppcheck.h \
        --suppressions-list=tests/quality/cppcheck.txt --suppress=unmatchedSuppression \
        --template='{file}:{line}: {severity} {id}: {message}' "${sources[@]}" | sort -u
}

run_tidy() {
    printf '%s\n' "${sources[@]}" | xargs -P "$jobs" -I{} clang-tidy --quiet {} -- "${flags[@]}" -fopenmp 2>&1 |
        grep -E '(warning|error): '
}

# gcc 12 follows what is allocated and opened well; values it loses track of in loops and OpenMP's functions. In
# hdf5_contents.c it does not see that memcpy puts the address into the caller's array.
run_analyzer() {
    local not=(-Wno-analyzer-{use-of-uninitialized-value,null-argument,null-dereference}
        -Wno-analyzer-possible-null-{dereference,argument})
    printf '%s\n' "${sources[@]}" |
        xargs -P "$jobs" -I{} gcc "${flags[@]}" -fopenmp -O1 -fanalyzer "${not[@]}" -c -o /dev/null {} 2>&1 |
        grep -E '(warning|error): ' | grep -vE '^core/hdf5/hdf5_contents\.c.*-Wanalyzer-malloc-leak'
}

run_shellcheck() {
    mapfile -t scripts < <(git ls-files '*.sh' '*.bash' .ci/run)
    shellcheck -f gcc "${scripts[@]}"
}

for part in "${parts[@]}"; do
    case $part in
    cppcheck | tidy | analyzer | shellcheck) told "$part" "run_$part" ;;
    *) echo "lint.sh: no part is called $part" >&2; exit 1 ;;
    esac
done
exit $found
