/* Rewriting text before it is cut: see normalizer.h. */
#include "model/tokenizer/normalizer.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "core/json.h"
#include "model/tokenizer/text_pattern.h"
#include "model/tokenizer/unicode_text.h"

enum { MAX_STEPS = 32 };

typedef struct normalizer_step normalizer_step;

/* Writes what becomes of `in` to `out`, which is empty. n_first: see text_stretch. */
typedef rb_status (*normalizer_fn)(const normalizer_step *step, split_scratch *scratch, text_stretch in,
                                   text_buffer *out, size_t *n_first, rb_error *err);

struct normalizer_step {
    normalizer_fn apply;
    utf8proc_option_t form; /* Unicode normalisation */
    char *content;          /* owned; Prepend, Replace */
    text_pattern pattern;   /* Replace */
    bool strip_left, strip_right;
};

struct normalizer {
    normalizer_step steps[MAX_STEPS];
    int n_steps;
};

/* ---- steps ----------------------------------------------------------------------------------- */

/* Bytes of the first character of a text that has become another, where it was the whole text's first. */
static size_t first_size(const text_buffer *text, text_stretch in)
{
    size_t size = 0;
    if (in.n_first > 0 && text->length > 0) utf8_first(text->at, text->length, &size);
    return size;
}

/* The same where the first character by itself becomes `mapped` bytes, several characters perhaps. */
static size_t first_mapped_size(const text_buffer *text, text_stretch in, size_t mapped)
{
    const size_t size = first_size(text, in);
    return size > 0 && mapped > size ? mapped : size;
}

/* Characters below U+0300 neither combine nor decompose further under NFC (NFC_Quick_Check = Yes, combining class 0),
 * and their lead bytes are below 0xcc. ASCII is its own form in all four. Most texts need no more than this check. */
static bool is_in_form(const char *text, size_t length, utf8proc_option_t form)
{
    const unsigned char limit = form == (UTF8PROC_STABLE | UTF8PROC_COMPOSE) ? 0xcc : 0x80;
    unsigned char high = 0;
    for (size_t i = 0; i < length; i++) high |= (unsigned char)((unsigned char)text[i] >= limit);
    return !high;
}

/* Bytes that the first character takes in this form by itself; 0 where memory is out, which a caller finds anyway. */
static size_t form_of_first(text_stretch in, utf8proc_option_t form)
{
    utf8proc_uint8_t *mapped = NULL;
    size_t size;
    utf8_first(in.at, in.length, &size);
    const utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)in.at, (utf8proc_ssize_t)size, &mapped, form);
    free(mapped);
    return n > 0 ? (size_t)n : 0;
}

static rb_status apply_form(const normalizer_step *step, split_scratch *scratch, text_stretch in, text_buffer *out,
                            size_t *n_first, rb_error *err)
{
    utf8proc_uint8_t *mapped = NULL;
    (void)scratch;
    if (is_in_form(in.at, in.length, step->form)) return text_buffer_add(out, in.at, in.length, err);
    if (in.length > PTRDIFF_MAX)
        return rb_fail(err, RB_EINVAL, "text of %zu bytes is too long to normalise", in.length);
    const utf8proc_ssize_t size =
        utf8proc_map((const utf8proc_uint8_t *)in.at, (utf8proc_ssize_t)in.length, &mapped, step->form);
    if (size < 0)
        return rb_fail(err, size == UTF8PROC_ERROR_NOMEM ? RB_ENOMEM : RB_EINVAL,
                       "Unicode normalisation of %zu bytes: %s", in.length, utf8proc_errmsg(size));
    free(out->at);
    *out = (text_buffer){(char *)mapped, (size_t)size, (size_t)size};
    *n_first = first_mapped_size(out, in, form_of_first(in, step->form));
    return RB_OK;
}

static rb_status apply_lowercase(const normalizer_step *step, split_scratch *scratch, text_stretch in, text_buffer *out,
                                 size_t *n_first, rb_error *err)
{
    enum { DOTTED_I = 0x130, MAX_UTF8 = 4 }; /* the one character that becomes two */
    size_t first = 0;
    (void)step;
    (void)scratch;
    for (size_t at = 0, size; at < in.length; at += size) {
        const int32_t c = utf8_first(in.at + at, in.length - at, &size);
        utf8proc_uint8_t lower[MAX_UTF8];
        const utf8proc_ssize_t n = utf8proc_encode_char(c == DOTTED_I ? 'i' : utf8proc_tolower(c), lower);
        rb_status st = text_buffer_add(out, (const char *)lower, (size_t)n, err);
        if (st == RB_OK && c == DOTTED_I) st = text_buffer_add(out, "\xcc\x87", 2, err);
        if (st != RB_OK) return st;
        if (at == 0) first = out->length;
    }
    *n_first = first_mapped_size(out, in, first);
    return RB_OK;
}

static rb_status apply_prepend(const normalizer_step *step, split_scratch *scratch, text_stretch in, text_buffer *out,
                               size_t *n_first, rb_error *err)
{
    (void)scratch;
    if (in.length == 0) return RB_OK;
    rb_status st = text_buffer_add(out, step->content, strlen(step->content), err);
    if (st == RB_OK) st = text_buffer_add(out, in.at, in.length, err);
    if (in.n_first > 0) *n_first += strlen(step->content);
    return st;
}

/* What replaces a match counts as coming from where the last byte of the match came from, as in the library. */
static rb_status apply_replace(const normalizer_step *step, split_scratch *scratch, text_stretch in, text_buffer *out,
                               size_t *n_first, rb_error *err)
{
    pattern_scan scan = {.text = in.at, .length = in.length};
    const size_t content_length = strlen(step->content);
    size_t done = 0;
    rb_status st;
    *n_first = 0;
    for (;;) {
        bool found = false;
        if (in.length > 0) RB_TRY(st, text_pattern_next(&step->pattern, scratch, &scan, &found, err), done);
        const size_t end = found ? scan.start : in.length;
        const text_stretch kept = text_stretch_part(in, done, end);
        RB_TRY(st, text_buffer_add(out, kept.at, kept.length, err), done);
        *n_first += kept.n_first;
        if (!found) break;
        RB_TRY(st, split_scratch_take(scratch, content_length, err), done);
        RB_TRY(st, text_buffer_add(out, step->content, content_length, err), done);
        if (in.n_first > 0 && scan.end <= in.n_first) *n_first += content_length;
        done = scan.end;
    }
done:
    return st;
}

static rb_status apply_strip(const normalizer_step *step, split_scratch *scratch, text_stretch in, text_buffer *out,
                             size_t *n_first, rb_error *err)
{
    size_t from = 0, to = in.length, size;
    (void)scratch;
    while (step->strip_left && from < to && unicode_is_space(utf8_first(in.at + from, to - from, &size))) from += size;
    while (step->strip_right && from < to && unicode_is_space(utf8_last(in.at + from, to - from, &size))) to -= size;
    const text_stretch kept = text_stretch_part(in, from, to);
    *n_first = kept.n_first;
    return text_buffer_add(out, kept.at, kept.length, err);
}

/* ---- reading --------------------------------------------------------------------------------- */

static rb_status read_content(normalizer_step *step, const cJSON *object, const char *member, const char *where,
                              rb_error *err)
{
    const char *text;
    const rb_status st = rb_json_get_string(object, member, where, &text, err);
    return st == RB_OK ? rb_format(&step->content, err, "%s", text) : st;
}

static rb_status read_replace(normalizer_step *step, const cJSON *object, const char *where, rb_error *err)
{
    const rb_status st = text_pattern_read(&step->pattern, object, where, err);
    return st == RB_OK ? read_content(step, object, "content", where, err) : st;
}

static rb_status read_strip(normalizer_step *step, const cJSON *object, const char *where, rb_error *err)
{
    const rb_status st = rb_json_get_bool(object, "strip_left", where, &step->strip_left, err);
    return st == RB_OK ? rb_json_get_bool(object, "strip_right", where, &step->strip_right, err) : st;
}

static rb_status read_step(normalizer *out, const cJSON *object, const char *type, const char *where, rb_error *err)
{
    static const struct {
        const char *type;
        utf8proc_option_t form;
    } FORMS[] = {{"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
                 {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
                 {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                 {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
    if (out->n_steps == MAX_STEPS)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: more than %d normalizers", where, MAX_STEPS);
    normalizer_step *step = &out->steps[out->n_steps++];
    for (size_t i = 0; i < RB_COUNT(FORMS); i++)
        if (strcmp(type, FORMS[i].type) == 0) {
            *step = (normalizer_step){.apply = apply_form, .form = FORMS[i].form};
            return RB_OK;
        }
    if (strcmp(type, "Lowercase") == 0) {
        step->apply = apply_lowercase;
        return RB_OK;
    }
    if (strcmp(type, "Prepend") == 0) {
        step->apply = apply_prepend;
        return read_content(step, object, "prepend", where, err);
    }
    if (strcmp(type, "Replace") == 0) {
        step->apply = apply_replace;
        return read_replace(step, object, where, err);
    }
    if (strcmp(type, "Strip") == 0) {
        step->apply = apply_strip;
        return read_strip(step, object, where, err);
    }
    return rb_fail(err, RB_EUNSUPPORTED,
                   "%s: found %s, supported are NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip and Sequence",
                   where, type);
}

static rb_status read_component(normalizer *out, const cJSON *object, const char *where, int depth, rb_error *err)
{
    enum { MAX_DEPTH = 8, PLACE = 160 };
    const cJSON *steps, *step;
    const char *type;
    int index = 0;
    rb_status st;
    RB_TRY(st, rb_json_get_string(object, "type", where, &type, err), done);
    if (strcmp(type, "Sequence") != 0) return read_step(out, object, type, where, err);
    if (depth == MAX_DEPTH) return rb_fail(err, RB_EUNSUPPORTED, "%s: Sequences more than %d deep", where, MAX_DEPTH);
    RB_TRY(st, rb_json_get_array(object, "normalizers", where, &steps, err), done);
    cJSON_ArrayForEach (step, steps) {
        char place[PLACE];
        snprintf(place, sizeof place, "%.120s.normalizers[%d]", where, index++);
        RB_TRY(st, read_component(out, step, place, depth + 1, err), done);
    }
done:
    return st;
}

rb_status normalizer_open(normalizer **out, const cJSON *component, rb_error *err)
{
    normalizer *n = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&n, 1, sizeof *n, "normalizer", err), done);
    if (component) RB_TRY(st, read_component(n, component, "normalizer", 0, err), done);
    *out = n;
    n = NULL;
done:
    normalizer_close(n);
    return st;
}

void normalizer_close(normalizer *n)
{
    if (!n) return;
    for (int i = 0; i < n->n_steps; i++) {
        free(n->steps[i].content);
        text_pattern_release(&n->steps[i].pattern);
    }
    free(n);
}

const char *normalizer_space_sign(const normalizer *n)
{
    for (int i = 0; i < n->n_steps; i++) {
        const normalizer_step *step = &n->steps[i];
        if (step->pattern.string && strcmp(step->pattern.string, " ") == 0 && step->content[0]) return step->content;
    }
    return NULL;
}

/* ---- applying -------------------------------------------------------------------------------- */

rb_status normalizer_apply(const normalizer *n, split_scratch *scratch, text_stretch text, normalized_text *out,
                           rb_error *err)
{
    *out = (normalized_text){.text = text};
    for (int i = 0; i < n->n_steps; i++) {
        text_buffer written = {0};
        size_t n_first = out->text.n_first;
        rb_status st = n->steps[i].apply(&n->steps[i], scratch, out->text, &written, &n_first, err);
        if (st != RB_OK) {
            free(written.at);
            return st;
        }
        free(out->own.at);
        out->own = written;
        out->text = (text_stretch){written.at ? written.at : "", written.length,
                                   n_first < written.length ? n_first : written.length};
    }
    return RB_OK;
}

void normalized_text_free(normalized_text *text)
{
    free(text->own.at);
    *text = (normalized_text){0};
}
