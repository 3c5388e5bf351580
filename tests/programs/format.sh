# One hand for the eye: 120 columns, files of a readable size, and the format of .clang-format.
. tests/programs/tap.sh

columns=120 lines=500
sources() { git ls-files "$@" 2>/dev/null || find . -path ./build -prune -o -type f -print | sed 's|^\./||' | grep -E "$(pattern "$@")"; }
# Outside a git checkout (a release tarball) the names are matched by hand.
pattern() { printf '%s\n' "$@" | sed -e 's/\./\\./g' -e 's/\*/.*/g' -e 's/^/^/' -e 's/$/$/' | paste -sd '|'; }

code=$(sources '*.c' '*.h' '*.cu' '*.cuh')
too_long() { awk -v most=$columns 'length($0) > most { print FILENAME ":" FNR ": " length($0) " columns" }' "$@"; }

# Characters, not bytes.
export LC_ALL=C.UTF-8

found=$(too_long $code $(sources '*.sh' 'Makefile' '*.mk'))
if [ -z "$found" ]; then ok "no line of code is wider than $columns columns"; else not_ok "no line of code is wider than $columns columns" "$found"; fi

# Rows of tables are as wide as their cells; what stands between ``` is an example.
found=$(for page in $(sources '*.md'); do
    awk -v most=$columns -v page="$page" '/^```/ { is_example = !is_example; next }
        !is_example && !/^ *\|/ && !/^    / && !/\]\(/ && length($0) > most { print page ":" FNR ": " length($0) " columns" }' "$page"
done)
if [ -z "$found" ]; then ok "no line of a page is wider than $columns columns"; else not_ok "no line of a page is wider than $columns columns" "$found"; fi

found=$(echo "$code" | grep -v '^tests/' | xargs wc -l | awk -v most=$lines '$2 != "total" && $1 > most { print $2 ": " $1 " lines" }')
if [ -z "$found" ]; then ok "no file of the product has more than $lines lines"; else not_ok "no file of the product has more than $lines lines" "$found"; fi

if command -v clang-format >/dev/null && clang-format --version | grep -q 'version 14\.'; then
    found=$(clang-format --dry-run $code 2>&1 | grep -E 'warning:' | cut -d: -f1 | sort | uniq -c)
    if [ -z "$found" ]; then ok "code has the format of .clang-format"; else not_ok "code has the format of .clang-format (make format)" "$found"; fi
else
    skip_case "code has the format of .clang-format" "clang-format 14 is not installed"
fi

finish
