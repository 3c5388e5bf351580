/* See core/json_fault.h. */
#include "core/json_fault.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/file_kind.h"

enum { EXCERPT_BYTES = 24 };

size_t rb_json_line(const char *text, const char *at)
{
    size_t line = 1;
    for (; text < at; text++) line += *text == '\n';
    return line;
}

/* Characters, not bytes, from 1: what an editor shows. */
static size_t column_number(const char *text, const char *at)
{
    const char *start = at;
    size_t column = 1;
    while (start > text && start[-1] != '\n') start--;
    for (; start < at; start++) column += ((unsigned char)*start & 0xC0) != 0x80;
    return column;
}

/* How many brackets are open at `at`, not counting those inside strings; *innermost is the last of them, NUL for none
 * or too many. */
static int nesting_depth(const char *text, const char *at, char *innermost)
{
    char open[CJSON_NESTING_LIMIT];
    int depth = 0;
    bool in_string = false;
    for (; text < at; text++) {
        if (in_string && *text == '\\') text++;
        else if (*text == '"') in_string = !in_string;
        else if (!in_string && (*text == '[' || *text == '{')) {
            if (depth >= 0 && depth < CJSON_NESTING_LIMIT) open[depth] = *text;
            depth++;
        } else if (!in_string && (*text == ']' || *text == '}')) depth--;
    }
    *innermost = depth > 0 && depth <= CJSON_NESTING_LIMIT ? open[depth - 1] : '\0';
    return depth;
}

static bool is_continuation(char byte) { return ((unsigned char)byte & 0xC0) == 0x80; }

void rb_json_excerpt(char *out, size_t size, const char *at)
{
    size_t n = 0;
    while (n + 1 < size && !iscntrl((unsigned char)at[n])) n++;
    while (n > 0 && is_continuation(at[n])) n--; /* no half of a character */
    memcpy(out, at, n);
    out[n] = '\0';
}

static const char *skip_space_back(const char *text, const char *at)
{
    while (at > text && isspace((unsigned char)at[-1])) at--;
    return at;
}

/* cJSON stops one byte too far where it looks for the name of a member and finds something else than a quote. */
static const char *first_wrong(const char *text, const char *at)
{
    char innermost;
    if (at == text || isspace((unsigned char)at[-1]) || at[-1] == '"') return at;
    const char *before = skip_space_back(text, at - 1);
    if (before == text || (before[-1] != ',' && before[-1] != '{')) return at;
    nesting_depth(text, at - 1, &innermost);
    return innermost == '{' ? at - 1 : at;
}

static rb_status fail_here(rb_error *err, const char *name, const char *text, const char *at, const char *what)
{
    return rb_fail(err, RB_EFORMAT, "%s: line %zu, column %zu: %s", name, rb_json_line(text, at),
                   column_number(text, at), what);
}

/* A word that other languages have as a value; NULL for none of them. */
static const char *foreign_word(const char *at)
{
    static const char *const words[] = {"NaN", "Infinity", "-Infinity", "True", "False", "None", "nan", "undefined"};
    for (size_t i = 0; i < RB_COUNT(words); i++) {
        const size_t length = strlen(words[i]);
        if (strncmp(at, words[i], length) == 0 && !isalnum((unsigned char)at[length])) return words[i];
    }
    return NULL;
}

/* What people write that JSON does not have; NULL for anything else. */
static const char *known_fault(const char *text, const char *at)
{
    const char *before = skip_space_back(text, at);
    const char last = before > text ? before[-1] : '\0';
    if ((at[0] == '/' && (at[1] == '/' || at[1] == '*')) || at[0] == '#') return "a comment, which JSON does not have";
    if (at[0] == '\'') return "a single quote, expected a double quote";
    if (last == ',' && at[0] == ',') return "two commas, expected one";
    if ((last == '"' || last == '}' || last == ']' || isalnum((unsigned char)last))
        && (at[0] == '"' || at[0] == '{' || at[0] == '['))
        return "a comma or colon is missing before this";
    return NULL;
}

/* "a trailing comma", "None" and the like, at their place; false for anything else. */
static bool fail_with_reason(rb_error *err, const char *name, const char *text, const char *at)
{
    const char *before = skip_space_back(text, at), *fault = known_fault(text, at), *word = foreign_word(at);
    char what[64];
    if ((*at == '}' || *at == ']') && before > text && before[-1] == ',') {
        snprintf(what, sizeof what, "a trailing comma before '%c', expected none", *at);
        fail_here(err, name, text, before - 1, what);
    } else if (fault) {
        fail_here(err, name, text, at, fault);
    } else if (word) {
        snprintf(what, sizeof what, "%s, which JSON does not have", word);
        fail_here(err, name, text, at, what);
    } else {
        return false;
    }
    return true;
}

rb_status rb_json_fault(rb_error *err, const char *name, const char *text, const char *at)
{
    char excerpt[EXCERPT_BYTES], what[EXCERPT_BYTES + 32], innermost;
    const char *kind = text[0] ? rb_file_kind(text, strlen(text)) : NULL;
    if (kind) return rb_fail(err, RB_EFORMAT, "%s: expected JSON, found %s", name, kind);
    if (*at == '\0')
        return rb_fail(err, RB_EFORMAT, "%s: line %zu: the JSON ends too early", name, rb_json_line(text, at));
    if (nesting_depth(text, at, &innermost) >= CJSON_NESTING_LIMIT)
        return rb_fail(err, RB_EFORMAT, "%s: line %zu: JSON nested deeper than %d levels", name, rb_json_line(text, at),
                       CJSON_NESTING_LIMIT);
    at = first_wrong(text, at);
    if (fail_with_reason(err, name, text, at)) return RB_EFORMAT;
    rb_json_excerpt(excerpt, sizeof excerpt, at);
    snprintf(what, sizeof what, "not valid JSON at: %s", excerpt);
    return fail_here(err, name, text, at, what);
}
