#!/bin/bash
# plant.sh FOLDER [NAME...]: plants each fault of faults.txt in a copy of the sources under FOLDER, builds what the
# fault's tests need, and runs them. A fault is noticed when one of its tests fails. One that does not compile, and one
# whose text is no longer in its file exactly once, are errors: they say nothing about the tests.
#
# Prints one line a fault and `N planted, N noticed, N unnoticed, N errors`; exits 0 only when all are noticed.
#
# A fault in faults.txt, whose lines may be indented as you like:
#
#   fault NAME                      what would go wrong, as a name
#   file core/order.c               where
#   test core/test_order            a cmocka test, or programs/NAME for a script; several on one line
#   - const int64_t rank = ceil(p * n);     lines of the file, from here to there
#   + const int64_t rank = floor(p * n);    what stands there instead; none deletes them
set -u
cd "$(dirname "$0")/../.." || exit 1
folder=$1; shift
wanted=" $* "
list=$PWD/tests/mutants/faults.txt
export RB_SHARED=${RB_SHARED:-$PWD/../shared}       # the copy lies elsewhere
jobs=${JOBS:-$(nproc 2>/dev/null || echo 1)}
planted=0 noticed=0 unnoticed=0 errors=0

mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 1
tree=$folder/tree log=$folder/log
mkdir -p "$tree" "$log"
# Newer files only, so that a second run builds little; the last fault of a run that was ended is taken back.
git ls-files -co --exclude-standard | while IFS= read -r name; do [ -f "$name" ] && echo "$name"; done >"$folder/names"
copy() { mkdir -p "$tree/$(dirname "$1")"; cmp -s "$1" "$tree/$1" || cp -p "$1" "$tree/$1"; touch "$tree/$1"; }
while IFS= read -r name; do cmp -s "$name" "$tree/$name" || copy "$name"; done <"$folder/names"
[ -d "$tree/.git" ] || git -C "$tree" init -q 2>/dev/null      # tests ask git which files are ours

build() { make -C "$tree" -j"$jobs" CUDA=0 "$@" >"$log/build" 2>&1; }

# replace FILE OLD NEW: exactly one place of FILE, compared line by line without indentation, or exit code 3.
replace() {
    awk -v old_file="$2" -v new_file="$3" '
        function bare(text) { sub(/^[ \t]+/, "", text); sub(/[ \t]+$/, "", text); return text }
        function same_at(first,   i) {
            for (i = 1; i <= n_old; i++) if (bare(lines[first + i - 1]) != old[i]) return 0
            return 1
        }
        BEGIN {
            while ((getline text < old_file) > 0) old[++n_old] = bare(text)
            while ((getline text < new_file) > 0) new_text = new_text text "\n"
        }
        { lines[NR] = $0 }
        END {
            for (at = 1; at + n_old - 1 <= NR; at++) if (same_at(at)) { place = at; n_found++ }
            if (n_found != 1) exit 3
            for (at = 1; at <= NR; at++) {
                if (at == place) { printf "%s", new_text; at += n_old - 1 } else print lines[at]
            }
        }' "$1"
}

# run_tests TEST...: succeeds when all pass.
run_tests() {
    local test
    for test in "$@"; do
        case $test in
        programs/*) (cd "$tree" && RB_BUILD=build RB_SANITIZED=0 timeout 900 bash "tests/$test.sh") ;;
        *) (cd "$tree" && timeout 600 "build/tests/$test") ;;
        esac >"$log/test" 2>&1 </dev/null || return 1
    done
}

# targets_of TEST...: what make must build for them.
targets_of() {
    local test
    for test in "$@"; do
        case $test in
        programs/*) echo all ;;
        *) echo "build/tests/$test" ;;
        esac
    done | sort -u
}

say() { printf '%-10s %s%s\n' "$1" "$name" "${2:+: $2}"; }

plant() {
    local -a targets
    planted=$((planted + 1))
    mapfile -t targets < <(targets_of "${tests[@]}")
    if ! replace "$tree/$file" "$log/old" "$log/new" >"$log/changed"; then
        errors=$((errors + 1))
        say error "its text is not in $file exactly once"
        return
    fi
    cp "$log/changed" "$tree/$file"
    if ! build "${targets[@]}"; then
        errors=$((errors + 1))
        say error "it does not build: $(grep -m1 -E 'error|Error' "$log/build")"
    elif run_tests "${tests[@]}"; then
        unnoticed=$((unnoticed + 1))
        say UNNOTICED "by ${tests[*]}"
    else
        noticed=$((noticed + 1))
        say noticed
    fi
    copy "$file"
}

# The tests must pass before anything is planted, or they would notice everything.
name=nothing file=""
plant_end() {       # the fault that has been read
    if [ -n "$file" ] && { [ "$wanted" = "  " ] || [[ $wanted == *" $name "* ]]; }; then plant; fi
    file=""
}
mapfile -t all_tests < <(awk -v wanted="$wanted" '$1 == "fault" { is = wanted == "  " || index(wanted, " " $2 " ") }
    $1 == "test" && is { for (i = 2; i <= NF; i++) print $i }' "$list" | sort -u)
mapfile -t targets < <(targets_of "${all_tests[@]}")
if ! build "${targets[@]}"; then
    echo "plant.sh: the sources do not build: see $log/build" >&2
    exit 1
fi
for test in "${all_tests[@]}"; do
    if ! run_tests "$test"; then
        echo "plant.sh: $test fails before anything is planted: see $log/test" >&2
        exit 1
    fi
done

while IFS= read -r line; do
    case $line in
    "fault "*) plant_end; name=${line#fault } tests=(); : >"$log/old"; : >"$log/new" ;;
    "file "*) file=${line#file } ;;
    "test "*) read -ra tests <<<"${line#test }" ;;
    "- "*) printf '%s\n' "${line#- }" >>"$log/old" ;;
    "+ "*) printf '%s\n' "${line#+ }" >>"$log/new" ;;
    "" | "#"*) ;;
    *) echo "plant.sh: faults.txt: what is \"$line\"?" >&2; exit 1 ;;
    esac
done <"$list"
plant_end
echo "$planted planted, $noticed noticed, $unnoticed unnoticed, $errors errors"
[ "$planted" -gt 0 ] && [ "$noticed" -eq "$planted" ]
