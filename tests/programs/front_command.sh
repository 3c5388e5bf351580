#!/bin/bash
# The front command finds programs beside itself and on PATH, and lists those that are there. At the end: what every
# program has in common.
. tests/programs/tap.sh

# A copy of the front command in a folder with programs of our own.
house=$scratch/house/bin
mkdir -p "$house" "$scratch/elsewhere"
cp "$bin/ropebits" "$house/"
for name in profile compare; do
    printf '#!/bin/sh\necho "beside: %s $#: $*"\nexit 3\n' $name >"$house/ropebits-$name"
    chmod +x "$house/ropebits-$name"
done
printf '#!/bin/sh\necho "on PATH: extra $*"\n' >"$scratch/elsewhere/ropebits-extra"
cp "$scratch/elsewhere/ropebits-extra" "$scratch/elsewhere/ropebits-profile"
chmod +x "$scratch"/elsewhere/*
touch "$house/ropebits-export"              # not executable
export PATH=$scratch/elsewhere:$PATH

expect "a program beside the front command runs with its arguments and exit code" 3 \
    "$house/ropebits" profile a.h5 "b c" --json
check "  and got them unchanged" test "$(cat "$scratch/stdout")" = "beside: profile 3: a.h5 b c --json"
expect "what is not beside is looked for on PATH" 0 "$house/ropebits" extra 7
stdout_has "on PATH: extra 7"
ln -s "$house/ropebits" "$scratch/link"
expect "a link to the front command finds the programs of its target" 3 "$scratch/link" compare
stdout_has "beside: compare 0:"
expect "help NAME asks the program" 3 "$house/ropebits" help profile
stdout_has "beside: profile 1: --help"

expect "--help lists the programs that are there" 0 "$house/ropebits" --help
stdout_has "  profile "
stdout_has "  compare "
check "  and no others" sh -c "! grep -qE '^  (run|calibrate|export) ' '$scratch/stdout'"
cp "$scratch/stdout" "$scratch/help"
expect "help is --help" 0 "$house/ropebits" help
check "  word for word" cmp "$scratch/help" "$scratch/stdout"
expect "-h is --help" 0 "$house/ropebits" -h
check "  word for word" cmp "$scratch/help" "$scratch/stdout"
expect "--version names the versions" 0 "$house/ropebits" --version
check "  first line" grep -qE '^ropebits [0-9]+\.[0-9]+\.[0-9]+$' "$scratch/stdout"
stdout_has "HDF5"

expect "no name is wrong usage" 2 "$house/ropebits"
stderr_lines 2
stderr_has "ropebits: error: no program name"
expect "a misspelt name is wrong usage" 2 "$house/ropebits" porfile
stderr_has "ropebits: error: 'porfile' is no ropebits program; did you mean profile?"
stderr_has "Try 'ropebits --help'."
stderr_lines 2
expect "a name near a program that is not there suggests nothing" 2 "$house/ropebits" rum
check "  no suggestion" sh -c "! grep -q 'did you mean' '$scratch/stderr'"
expect "help of an unknown name is wrong usage" 2 "$house/ropebits" help nothing
for name in ../elsewhere/ropebits-extra /bin/sh "" "a b"; do
    expect "'$name' is no program name" 2 "$house/ropebits" "$name"
done
expect "an option in place of a name is wrong usage" 2 "$house/ropebits" --json profile
stderr_has "unknown option --json, expected a program name first"
expect "a file that cannot be executed is a failure, not wrong usage" 1 "$house/ropebits" export
stderr_has "ropebits-export: Permission denied"
check "a full stdout is exit code 1" sh -c "'$house/ropebits' --help >/dev/full 2>/dev/null; test \$? -eq 1"

# What every program has.
for program in "$bin"/ropebits-*; do
    name=${program##*/ropebits-}
    expect "$name --help" 0 "$bin/ropebits" "$name" --help
    stdout_has "usage: ropebits $name "
    stdout_has "--threads N"
    check "  within 120 columns" sh -c "! grep -qE '^.{121}' '$scratch/stdout'"
    expect "$name --version" 0 "$program" --version
    stdout_has "ropebits $name "
    expect "$name refuses an unknown option" 2 "$program" --no-such-option
    stderr_lines 2
    stderr_has "$name: error: unknown option --no-such-option"
    stderr_has "Try 'ropebits $name --help'."
    expect "$name refuses a wrong device" 2 "$program" --device gpu
    check "$name --help to a full disk is exit code 1" sh -c "'$program' --help >/dev/full 2>/dev/null; test \$? -eq 1"
    check "the front command lists $name" sh -c "'$bin/ropebits' --help | grep -q '^  $name '"
done
finish
