# The program tests source this file. It has TAP output, a scratch folder, and checks of stdout, stderr and exit code.
# Tests run from the repository root.
#
#   . tests/programs/tap.sh
#   expect "profile without a capture is a usage error" 2 "$bin/ropebits-profile"
#   stderr_has "profile: error:"
#   finish
# shellcheck shell=bash disable=SC2034  # the tests use bin and shared
set -u
build=${RB_BUILD:-build}
bin=$build/bin
shared=${RB_SHARED:-../shared}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/ropebits-programs-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
tap_n=0 tap_failed=0

ok() { tap_n=$((tap_n + 1)); echo "ok $tap_n - $1"; }
skip_case() { tap_n=$((tap_n + 1)); echo "ok $tap_n - $1 # SKIP $2"; }

# not_ok NAME DETAIL...
not_ok() {
    tap_n=$((tap_n + 1)) tap_failed=$((tap_failed + 1))
    echo "not ok $tap_n - $1"
    printf '%s\n' "${@:2}" | sed 's/^/# /'
}

# check NAME COMMAND...: passes when the command succeeds.
check() {
    local name=$1; shift
    if "$@" >"$scratch/check.out" 2>&1; then
        ok "$name"
    else
        not_ok "$name" "command: $*" "$(head -c 2000 "$scratch/check.out")"
    fi
}

# none NAME FOUND: passes when nothing was found, and otherwise shows what.
none() { if [ -z "$2" ]; then ok "$1"; else not_ok "$1" "$2"; fi; }

# equal NAME WANTED GOT DETAIL...: passes when both are the same text.
equal() { if [ "$3" = "$2" ]; then ok "$1"; else not_ok "$1" "got $3, expected $2" "${@:4}"; fi; }

# Three commands for check. no_output PATH: succeeds when neither the file nor a temporary one of it is there.
no_output() { ! ls "$1" "$1".*.tmp 2>/dev/null; }
# lacks PATTERN FILE...: succeeds when the files are there and no line matches.
lacks() { grep -E -- "$@"; [ $? -eq 1 ]; }
# holds CONDITION A B: succeeds when both numbers are given and awk finds the condition on a and b true.
holds() { local a=$2 b=${3-0}; [ -n "$a" ] && [ -n "$b" ] && awk -v a="$a" -v b="$b" "BEGIN { exit !($1) }"; }

# expect NAME EXIT_CODE COMMAND...: runs it, keeps stdout and stderr in $scratch/stdout and $scratch/stderr.
expect() {
    local name=$1 want=$2 got; shift 2
    "$@" >"$scratch/stdout" 2>"$scratch/stderr" </dev/null
    got=$?
    if [ "$got" -eq "$want" ]; then
        ok "$name"
    else
        not_ok "$name" "command: $*" "exit code $got, expected $want" "$(head -c 2000 "$scratch/stderr")"
    fi
}
stdout_has() { check "  stdout has: $1" grep -qF -- "$1" "$scratch/stdout"; }
stderr_has() { check "  stderr has: $1" grep -qF -- "$1" "$scratch/stderr"; }
stderr_lines() { equal "  stderr has $1 lines" "$1" "$(wc -l <"$scratch/stderr")" "$(cat "$scratch/stderr")"; }

finish() { echo "1..$tap_n"; [ "$tap_failed" -eq 0 ]; exit; }
