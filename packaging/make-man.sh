#!/bin/sh
# make-man.sh PROGRAM VERSION: the manual page of a ropebits program on stdout, from its own --help. So a page never
# differs from the program.
#
# It takes the place of help2man: the help of all programs comes from one function (core/program.c), so its layout is
# known here. An option's text begins where two blanks or more end its name, or on the next line. sh and awk are enough,
# so `make install` works wherever the build does.
set -eu
program=$1
version=$2
name=$(basename "$program")

# The line of NAME is what the front command says of the program. The front command says nothing of itself: there it
# is the summary of its help.
title=$("$(dirname "$program")/ropebits" --complete | awk -F '\t' -v name="${name#ropebits-}" '$1 == name { print $5 }')
[ -n "$title" ] || title=$("$program" --help |
    awk 'title && NF { sub(/\.$/, ""); print tolower(substr($0, 1, 1)) substr($0, 2); exit } !NF { title = 1 }')

"$program" --help | awk -v name="$name" -v version="$version" -v title="$title" '
# Nothing of the text is markup: a dash is a dash that can be pasted into a shell, a line never begins with a dot or a
# quote.
function escape(text)
{
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    if (text ~ /^[.\047]/) text = "\\\\&" text
    return text
}
function emit(text) { print escape(text) }
function section(title) { print ".SH " title }

# "usage: ropebits run [options] FILE" is a line of the synopsis. Its continuations are indented deeper.
function usage(line)
{
    sub(/^usage: /, "       ", line)
    if (line ~ /^        /) { sub(/^ +/, "", line); printf "%s\n", escape(line); return }
    sub(/^ +/, "", line)
    print ".HP"
    if (!match(line, /^ropebits( [a-z]+)?/)) { emit(line); return }
    printf "\\fB%s\\fR%s\n", escape(substr(line, 1, RLENGTH)), escape(substr(line, RLENGTH + 1))
}
# "  -o, --output FILE  the result": names in bold, its argument in italics.
function option(line,    n, words, i, out, text)
{
    sub(/^ +/, "", line)
    text = ""
    if (match(line, /  +/)) { text = substr(line, RSTART + RLENGTH); line = substr(line, 1, RSTART - 1) }
    n = split(line, words, " ")
    out = ""
    for (i = 1; i <= n; i++) {
        if (words[i] ~ /^-.*,$/) out = out "\\fB" escape(substr(words[i], 1, length(words[i]) - 1)) "\\fR, "
        else if (words[i] ~ /^-/ || listing) out = out "\\fB" escape(words[i]) "\\fR"
        else out = out " \\fI" escape(words[i]) "\\fR"
    }
    print ".TP"
    print out
    if (text != "") emit(text)
}

{ lines[NR] = $0 }
END {
    # The parts, in their order: usage, summary, and sections whose title ends with a colon.
    n = 0
    while (++n <= NR && lines[n] != "") ;
    first_summary = n + 1
    for (n = first_summary; n <= NR && lines[n] != ""; n++) summary = summary (summary == "" ? "" : " ") lines[n]
    after_summary = n + 1

    printf ".TH %s 1 \"\" \"ropebits %s\" \"ropebits\"\n", toupper(escape(name)), version
    print ".nh"         # no hyphen within an option or a file name
    print ".ad l"
    section("NAME")
    printf "%s \\- %s\n", escape(name), escape(title)
    section("SYNOPSIS")
    for (n = 1; n < first_summary - 1; n++) usage(lines[n])
    section("DESCRIPTION")
    emit(summary)
    for (n = after_summary; n <= NR; n++) {
        line = lines[n]
        if (line ~ /^[A-Z][A-Za-z ]*:$/) {
            listing = line == "Programs:"
            sub(/:$/, "", line)
            section(toupper(line))
        } else if (line ~ /^Exit codes: /) {
            section("EXIT STATUS")
            sub(/^Exit codes: /, "", line)
            sub(/\.$/, "", line)
            n_codes = split(line, codes, "; ")
            for (i = 1; i <= n_codes; i++) {
                print ".TP"
                printf "\\fB%s\\fR\n", substr(codes[i], 1, 1)
                emit(substr(codes[i], 3))
            }
            section("NOTES")
            notes = 1
        } else if (line ~ /^(  |      )-/ || (listing && line ~ /^  [a-z]/)) option(line)
        else if (line == "") { if (notes) print ".PP" }
        else { sub(/^ +/, "", line); emit(line) }
    }
    if (!notes) section("NOTES")
    print "ropebits(1) names all programs; the pages under share/doc/ropebits tell more of each."
    print "License: Apache\\-2.0."
    section("SEE ALSO")
    print name == "ropebits" ? ".BR ropebits\\-run (1)" : ".BR ropebits (1)"
}'
