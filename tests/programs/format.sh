# The text of the repository: lines of 120 columns, files of a readable size, and code in the format of .clang-format.
. tests/programs/tap.sh

columns=120 lines=500
export LC_ALL=C.UTF-8       # a column is a character, not a byte

# The files that git has. Without git, as in a release tarball, they are all files but the build.
files=$(git ls-files 2>/dev/null)
all_files() { find ./* \( -path ./build -o -path "./$build" \) -prune -o -type f -print | sed 's|^\./||' | sort; }
[ -n "$files" ] || files=$(all_files)
named() { grep -E "$1" <<<"$files"; }
mapfile -t code < <(named '\.(c|h|cu|cuh)$')
mapfile -t scripts < <(named '\.(sh|mk)$|(^|/)Makefile$')
mapfile -t pages < <(named '\.md$')
# Without this check, no files at all would pass every other one.
check "there are code, scripts and pages to look at" test "${code[0]:-}" -a "${scripts[0]:-}" -a "${pages[0]:-}"

wide_lines() { grep -nHE "^.{$((columns + 1))}" "$@" | cut -d: -f1,2; }
none "no line of code is wider than $columns columns" "$(wide_lines "${code[@]}" "${scripts[@]}")"

# Rows of tables are as wide as their cells, links as their addresses, and examples are what a program printed.
prose() {   # prose PAGE: its lines, an empty one for each of those
    awk '/^```/ { is_example = !is_example } { print is_example || /^ *\|/ || /^    / || /\]\(/ ? "" : $0 }' "$1"
}
wide_prose() {
    local page
    for page in "${pages[@]}"; do prose "$page" | wide_lines --label="$page" -; done
}
none "no line of a page is wider than $columns columns" "$(wide_prose)"

long_files() {
    printf '%s\n' "${code[@]}" | grep -v '^tests/' | xargs wc -l |
        awk -v most=$lines '$2 != "total" && $1 > most { print $2 ": " $1 " lines" }'
}
none "no file of the product has more than $lines lines" "$(long_files)"

has_format() { clang-format --dry-run -Werror "${code[@]}"; }
name="the code has the format of .clang-format (make format)"
if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    check "$name" has_format
else
    skip_case "$name" "clang-format 14 is not installed"
fi

finish
