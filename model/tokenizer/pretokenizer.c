/* Cutting text into pieces: see pretokenizer.h. */
#include "model/tokenizer/pretokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "model/tokenizer/unicode_text.h"

enum { MAX_PATTERNS = 16 };

struct pretokenizer {
    split_pattern *patterns[MAX_PATTERNS]; /* each cuts the pieces of the pattern before it */
    int n_patterns;
    bool add_prefix_space;
};

/* What ByteLevel splits by with use_regex. Source: `pat` in https://github.com/openai/gpt-2/blob/master/src/encoder.py
 */
static const char GPT2_PATTERN[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- reading --------------------------------------------------------------------------------- */

static rb_status add_pattern(pretokenizer *p, const char *pattern, const char *where, rb_error *err)
{
    if (p->n_patterns == MAX_PATTERNS)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: more than %d patterns", where, MAX_PATTERNS);
    const rb_status st = split_pattern_compile(&p->patterns[p->n_patterns], pattern, where, err);
    if (st == RB_OK) p->n_patterns++;
    return st;
}

static rb_status read_split(pretokenizer *p, const cJSON *split, const char *where, rb_error *err)
{
    const cJSON *pattern;
    const char *behavior, *regex;
    bool invert;
    rb_status st;

    RB_TRY(st, rb_json_get_string(split, "behavior", where, &behavior, err), done);
    RB_TRY(st, rb_json_get_bool(split, "invert", where, &invert, err), done);
    RB_TRY(st, rb_json_get_object(split, "pattern", where, &pattern, err), done);
    if (strcmp(behavior, "Isolated") != 0)
        return rb_fail(err, RB_EUNSUPPORTED, "%s.behavior: found %s, supported is Isolated", where, behavior);
    if (invert) return rb_fail(err, RB_EUNSUPPORTED, "%s.invert: found true, supported is false", where);
    if (!rb_json_find(pattern, "Regex"))
        return rb_fail(err, RB_EUNSUPPORTED, "%s.pattern: found %s, supported is Regex", where,
                       pattern->child ? pattern->child->string : "nothing");
    RB_TRY(st, rb_json_get_string(pattern, "Regex", where, &regex, err), done);
    st = add_pattern(p, regex, where, err);
done:
    return st;
}

static rb_status read_byte_level(pretokenizer *p, const cJSON *byte_level, const char *where, rb_error *err)
{
    bool use_regex = true; /* files older than the setting */
    rb_status st;

    RB_TRY(st, rb_json_get_bool(byte_level, "add_prefix_space", where, &p->add_prefix_space, err), done);
    if (rb_json_find(byte_level, "use_regex"))
        RB_TRY(st, rb_json_get_bool(byte_level, "use_regex", where, &use_regex, err), done);
    if (p->add_prefix_space && p->n_patterns > 0)
        return rb_fail(err, RB_EUNSUPPORTED, "%s.add_prefix_space: true behind a Split is not supported", where);
    if (use_regex) st = add_pattern(p, GPT2_PATTERN, where, err);
done:
    return st;
}

static rb_status read_component(pretokenizer *p, const cJSON *component, const char *where, bool is_last, rb_error *err)
{
    const char *type;
    const rb_status st = rb_json_get_string(component, "type", where, &type, err);
    if (st != RB_OK) return st;
    if (is_last && strcmp(type, "ByteLevel") == 0) return read_byte_level(p, component, where, err);
    if (!is_last && strcmp(type, "Split") == 0) return read_split(p, component, where, err);
    return rb_fail(err, RB_EUNSUPPORTED, "%s: found %s, supported is %s", where, type,
                   is_last ? "ByteLevel, alone or as the last of a Sequence" : "Split ahead of the last ByteLevel");
}

static rb_status read_sequence(pretokenizer *p, const cJSON *steps, rb_error *err)
{
    const cJSON *step;
    int index = 0;
    if (!steps->child)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "pre_tokenizer: found an empty Sequence, supported is one that ends in ByteLevel");
    cJSON_ArrayForEach (step, steps) {
        char where[64];
        snprintf(where, sizeof where, "pre_tokenizer.pretokenizers[%d]", index++);
        const rb_status st = read_component(p, step, where, step->next == NULL, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

rb_status pretokenizer_open(pretokenizer **out, const cJSON *component, rb_error *err)
{
    pretokenizer *p = NULL;
    const cJSON *steps;
    const char *type;
    rb_status st;

    *out = NULL;
    if (!component)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "pre_tokenizer: found null, supported are ByteLevel and a Sequence of Split and ByteLevel");
    RB_TRY(st, rb_json_get_string(component, "type", "pre_tokenizer", &type, err), done);
    RB_TRY(st, rb_alloc(&p, 1, sizeof *p, "pre-tokenizer", err), done);
    if (strcmp(type, "Sequence") == 0) {
        RB_TRY(st, rb_json_get_array(component, "pretokenizers", "pre_tokenizer", &steps, err), done);
        RB_TRY(st, read_sequence(p, steps, err), done);
    } else {
        RB_TRY(st, read_component(p, component, "pre_tokenizer", true, err), done);
    }
    *out = p;
    p = NULL;
done:
    pretokenizer_close(p);
    return st;
}

void pretokenizer_close(pretokenizer *p)
{
    if (!p) return;
    for (int i = 0; i < p->n_patterns; i++) split_pattern_free(p->patterns[i]);
    free(p);
}

/* ---- splitting ------------------------------------------------------------------------------- */

typedef struct split_run {
    const pretokenizer *pretokenizer;
    split_scratch *scratch;
    pretokenizer_piece_fn on_piece;
    void *user;
} split_run;

/* Cuts by patterns[index] and what follows it. Both matches and the text between them are pieces (Isolated). The next
 * pattern gets each piece as a separate subject, so look-around does not see past its ends. */
static rb_status split_from(const split_run *run, int index, const char *text, size_t length, rb_error *err)
{
    if (index == run->pretokenizer->n_patterns) return run->on_piece(run->user, text, length, err);

    size_t done = 0, from = 0; /* text before `done` is cut; the next match starts at `from` or after it */
    while (done < length) {
        bool found;
        size_t start, end;
        rb_status st = split_pattern_next(run->pretokenizer->patterns[index], run->scratch, text, length, from, &found,
                                          &start, &end, err);
        if (st != RB_OK) return st;
        if (!found) start = end = length;
        if (start > done) st = split_from(run, index + 1, text + done, start - done, err);
        if (st == RB_OK && end > start) st = split_from(run, index + 1, text + start, end - start, err);
        if (st != RB_OK) return st;
        done = from = end;
        if (start == end && end < length) {
            /* An empty match cuts, and the search goes on after the next character. */
            size_t size;
            utf8_first(text + end, length - end, &size);
            from += size;
        }
    }
    return RB_OK;
}

static rb_status split_behind_space(const split_run *run, const char *text, size_t length, rb_error *err)
{
    char *prefixed;
    if (length > SIZE_MAX - 1) return rb_fail(err, RB_ENOMEM, "text: %zu bytes are too many", length);
    rb_status st = rb_alloc(&prefixed, length + 1, 1, "text", err);
    if (st != RB_OK) return st;
    prefixed[0] = ' ';
    memcpy(prefixed + 1, text, length);
    st = split_from(run, 0, prefixed, length + 1, err);
    free(prefixed);
    return st;
}

rb_status pretokenizer_split(const pretokenizer *p, split_scratch *scratch, const char *text, size_t length,
                             pretokenizer_piece_fn on_piece, void *user, rb_error *err)
{
    const split_run run = {p, scratch, on_piece, user};
    if (length == 0) return RB_OK;
    if (p->add_prefix_space && text[0] != ' ') return split_behind_space(&run, text, length, err);
    return split_from(&run, 0, text, length, err);
}
