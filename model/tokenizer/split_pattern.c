/* Oniguruma patterns in PCRE2: see split_pattern.h. */
#include "model/tokenizer/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct split_pattern {
    pcre2_code *code;
};

/* Steps that the patterns of one text may take. PCRE2 bounds the backtracking of a match from one place only, so a
 * pattern made for it could take a text's length squared, or longer. A real pattern takes 4 steps a byte. */
static const uint64_t STEPS_OF_ANY_TEXT = 10 * 1000 * 1000, STEPS_A_BYTE = 200;

struct split_scratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    uint64_t n_bytes, n_steps, max_steps; /* of the text at hand */
    size_t position;                      /* in it, of the last step */
};

/* White_Space (PropList.txt), and everything else, as the inside of a set. */
static const char SPACE_SET[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char NOT_SPACE_SET[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

/* ---- from Oniguruma to PCRE2 ----------------------------------------------------------------- */

typedef struct translation {
    const char *where;
    const char *at; /* next character of the pattern */
    char *out;      /* next character of the result */
    bool in_set;
    bool in_caseless; /* inside (?i:...) */
} translation;

static void put(translation *t, const char *text, size_t length)
{
    memcpy(t->out, text, length);
    t->out += length;
}

static void copy(translation *t, size_t length)
{
    put(t, t->at, length);
    t->at += length;
}

static rb_status refuse(const translation *t, const char *what, rb_error *err)
{
    return rb_fail(err, RB_EUNSUPPORTED, "%s: %s at \"%.24s\" is not supported", t->where, what, t->at);
}

static void put_space_class(translation *t, bool negated)
{
    if (!t->in_set) put(t, "[", 1);
    if (negated) put(t, NOT_SPACE_SET, sizeof NOT_SPACE_SET - 1);
    else put(t, SPACE_SET, sizeof SPACE_SET - 1);
    if (!t->in_set) put(t, "]", 1);
    t->at += 2;
}

/* \p{Lu}, \p{^L}: a general category has one or two letters. A script would mean Script_Extensions to PCRE2. */
static rb_status translate_property(translation *t, rb_error *err)
{
    size_t n = 3;
    if (t->at[2] != '{') return refuse(t, "a property without braces", err);
    if (t->at[n] == '^') n++;
    const size_t name = n;
    while (isalpha((unsigned char)t->at[n])) n++;
    if (t->at[n] != '}' || n - name < 1 || n - name > 2)
        return refuse(t, "a property other than a general category", err);
    copy(t, n + 1);
    return RB_OK;
}

static rb_status translate_escape(translation *t, rb_error *err)
{
    const char letter = t->at[1];
    if (letter == 's' || letter == 'S') {
        put_space_class(t, letter == 'S');
        return RB_OK;
    }
    if (letter == 'p' || letter == 'P') return translate_property(t, err);
    const bool is_code = letter == 'x' && t->at[2] == '{';
    const bool is_same = letter != '\0' && strchr("rntfaedD", letter) != NULL;
    const bool is_literal = letter != '\0' && !isalnum((unsigned char)letter);
    if (!is_code && !is_same && !is_literal) return refuse(t, "an escape that engines read differently", err);
    if (is_code) {
        const size_t digits = strspn(t->at + 3, "0123456789abcdefABCDEF");
        if (t->at[3 + digits] != '}') return refuse(t, "a character code", err);
        copy(t, 3 + digits + 1);
    } else {
        copy(t, 2); /* the first byte of a character beyond ASCII; the others follow as literals */
    }
    return RB_OK;
}

static rb_status translate_in_set(translation *t, rb_error *err)
{
    if (*t->at == '[') return refuse(t, "a set inside a set", err);
    if (t->at[0] == '&' && t->at[1] == '&') return refuse(t, "an intersection of sets", err);
    if (*t->at == ']') t->in_set = false;
    copy(t, 1);
    return RB_OK;
}

/* Oniguruma folds strings, not characters: (?i:ss) finds U+00DF, and (?i:fi) finds the ligature. It also folds sets and
 * properties in its own way. What remains are ASCII literals that are not part of a longer folding (CaseFolding.txt,
 * status F), sets of them, alternatives and quantifiers. */
static rb_status check_caseless(const translation *t, rb_error *err)
{
    static const char *const FOLDED[] = {"ff", "fi", "fl", "ss", "st"};
    const char c = *t->at;
    if ((unsigned char)c >= 0x80 || c == '\\' || c == '(' || (c == '[' && t->at[1] == '^'))
        return refuse(t, "in (?i:...) what is no plain ASCII", err);
    if (t->in_set) return RB_OK;
    for (size_t i = 0; i < RB_COUNT(FOLDED); i++)
        if (strncasecmp(t->at, FOLDED[i], 2) == 0)
            return refuse(t, "in (?i:...) a string that is also the folding of one character", err);
    return RB_OK;
}

static void open_set(translation *t)
{
    t->in_set = true;
    copy(t, 1);
    if (*t->at == '^') copy(t, 1);
    if (*t->at == ']') copy(t, 1); /* here a literal in both engines */
}

/* (...), (?:...), (?i:...), look-around, atomic. */
static rb_status translate_group(translation *t, rb_error *err)
{
    static const char *const KNOWN[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    if (t->at[1] == '*') return refuse(t, "a verb", err);
    if (t->at[1] == '?') {
        for (size_t i = 0; i < RB_COUNT(KNOWN); i++) {
            const size_t length = strlen(KNOWN[i]);
            if (strncmp(t->at, KNOWN[i], length) == 0) {
                copy(t, length);
                t->in_caseless = strcmp(KNOWN[i], "(?i:") == 0;
                return RB_OK;
            }
        }
        return refuse(t, "a group", err);
    }
    copy(t, 1);
    return RB_OK;
}

/* {n}, {n,}, {n,m}. With + or ? after it, Ruby's syntax repeats the interval, while Perl's makes it possessive or
 * lazy. */
static rb_status translate_interval(translation *t, rb_error *err)
{
    size_t n = 1 + strspn(t->at + 1, "0123456789");
    if (n == 1) return refuse(t, "a brace that starts no interval", err);
    if (t->at[n] == ',') n += 1 + strspn(t->at + n + 1, "0123456789");
    if (t->at[n] != '}') return refuse(t, "a brace that starts no interval", err);
    if (t->at[n + 1] == '+' || t->at[n + 1] == '?') return refuse(t, "a quantifier behind an interval", err);
    copy(t, n + 1);
    return RB_OK;
}

static rb_status translate_next(translation *t, rb_error *err)
{
    if (t->in_caseless) {
        const rb_status st = check_caseless(t, err);
        if (st != RB_OK) return st;
        if (*t->at == ')' && !t->in_set) t->in_caseless = false;
    }
    if (*t->at == '\\') return translate_escape(t, err);
    if (t->in_set) return translate_in_set(t, err);
    if (*t->at == '(') return translate_group(t, err);
    if (*t->at == '{') return translate_interval(t, err);
    if (*t->at == '[') open_set(t);
    else copy(t, 1);
    return RB_OK;
}

/* `out` has room for strlen(pattern) * sizeof NOT_SPACE_SET: the longest replacement of two characters. */
static rb_status translate(const char *pattern, const char *where, char *out, rb_error *err)
{
    translation t = {.where = where, .at = pattern, .out = out};
    rb_status st = RB_OK;
    while (*t.at && st == RB_OK) st = translate_next(&t, err);
    *t.out = '\0';
    return st;
}

/* ---- PCRE2 ----------------------------------------------------------------------------------- */

static rb_status fail_pcre2(int code, const char *where, const char *what, rb_error *err)
{
    char reason[256];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    return rb_fail(err, code == PCRE2_ERROR_NOMEMORY ? RB_ENOMEM : RB_EUNSUPPORTED, "%s: %s: %s", where, what, reason);
}

static rb_status compile(split_pattern *pattern, const char *text, const char *where, rb_error *err)
{
    int code;
    PCRE2_SIZE offset;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return rb_fail(err, RB_ENOMEM, "%s: out of memory", where);
    /* In Oniguruma only LF ends a line, and ^ and $ always match at lines. */
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pattern->code =
        pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_AUTO_CALLOUT, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!pattern->code) return fail_pcre2(code, where, "PCRE2 does not take the pattern", err);
    /* Without JIT (another CPU, no executable memory) pcre2_match interprets. */
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    return RB_OK;
}

rb_status split_pattern_compile(split_pattern **out, const char *pattern, const char *where, rb_error *err)
{
    split_pattern *p = NULL;
    char *translated = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&translated, strlen(pattern) + 1, sizeof NOT_SPACE_SET, "pattern", err), done);
    RB_TRY(st, translate(pattern, where, translated, err), done);
    RB_TRY(st, rb_alloc(&p, 1, sizeof *p, "pattern", err), done);
    RB_TRY(st, compile(p, translated, where, err), done);
    *out = p;
    p = NULL;
done:
    free(translated);
    split_pattern_free(p);
    return st;
}

void split_pattern_free(split_pattern *pattern)
{
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    free(pattern);
}

/* Before every item of the pattern. What an item passed over is work too: a step for each of its bytes. */
static int count_step(pcre2_callout_block *block, void *user)
{
    split_scratch *scratch = user;
    const size_t at = block->current_position, before = scratch->position;
    const uint64_t n_steps = 1 + (at > before ? at - before : before - at);
    if (n_steps > scratch->max_steps - scratch->n_steps) return PCRE2_ERROR_CALLOUT;
    scratch->n_steps += n_steps;
    scratch->position = at;
    return 0;
}

rb_status split_scratch_new(split_scratch **out, rb_error *err)
{
    split_scratch *scratch;
    const rb_status st = rb_alloc(&scratch, 1, sizeof *scratch, "match data", err);
    *out = NULL;
    if (st != RB_OK) return st;
    scratch->match = pcre2_match_data_create(1, NULL); /* the whole match; groups are not asked for */
    scratch->context = pcre2_match_context_create(NULL);
    if (!scratch->match || !scratch->context) {
        split_scratch_free(scratch);
        return rb_fail(err, RB_ENOMEM, "match data: out of memory");
    }
    pcre2_set_callout(scratch->context, count_step, scratch);
    split_scratch_begin(scratch, 0);
    *out = scratch;
    return RB_OK;
}

void split_scratch_begin(split_scratch *scratch, size_t n_bytes)
{
    scratch->n_bytes = n_bytes;
    scratch->n_steps = 0;
    scratch->max_steps = STEPS_OF_ANY_TEXT + STEPS_A_BYTE * n_bytes;
}

static rb_status fail_steps(const split_scratch *scratch, rb_error *err)
{
    return rb_fail(err, RB_EUNSUPPORTED,
                   "the tokenizer's patterns take more than %llu steps on a text of %llu bytes, the most that are "
                   "allowed",
                   (unsigned long long)scratch->max_steps, (unsigned long long)scratch->n_bytes);
}

rb_status split_scratch_take(split_scratch *scratch, uint64_t n_steps, rb_error *err)
{
    if (n_steps > scratch->max_steps - scratch->n_steps) return fail_steps(scratch, err);
    scratch->n_steps += n_steps;
    return RB_OK;
}

void split_scratch_free(split_scratch *scratch)
{
    if (!scratch) return;
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    free(scratch);
}

rb_status split_pattern_next(const split_pattern *pattern, split_scratch *scratch, const char *text, size_t length,
                             size_t from, bool *found, size_t *start, size_t *end, rb_error *err)
{
    scratch->position = from;
    int rc = pcre2_match(pattern->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, scratch->match,
                         scratch->context);
    /* The interpreter backtracks on the heap where the JIT ran out of its small stack. */
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(pattern->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         scratch->match, scratch->context);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return RB_OK;
    if (rc == PCRE2_ERROR_CALLOUT) return fail_steps(scratch, err);
    if (rc < 0) return fail_pcre2(rc, "pre_tokenizer", "PCRE2 could not split the text", err);
    const PCRE2_SIZE *match = pcre2_get_ovector_pointer(scratch->match);
    *start = match[0];
    *end = match[1];
    return RB_OK;
}
