/* Finding strings, regular expressions and classes: see text_pattern.h. */
#include "model/tokenizer/text_pattern.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "model/tokenizer/unicode_text.h"

rb_status text_pattern_read(text_pattern *out, const cJSON *object, const char *where, rb_error *err)
{
    const cJSON *pattern;
    const char *text;
    rb_status st;

    *out = (text_pattern){0};
    RB_TRY(st, rb_json_get_object(object, "pattern", where, &pattern, err), done);
    if (rb_json_find(pattern, "Regex")) {
        RB_TRY(st, rb_json_get_string(pattern, "Regex", where, &text, err), done);
        st = split_pattern_compile(&out->regex, text, where, err);
    } else if (rb_json_find(pattern, "String")) {
        RB_TRY(st, rb_json_get_string(pattern, "String", where, &text, err), done);
        if (text[0] == '\0') return rb_fail(err, RB_EUNSUPPORTED, "%s.pattern: found an empty String", where);
        st = rb_format(&out->string, err, "%s", text);
    } else {
        st = rb_fail(err, RB_EUNSUPPORTED, "%s.pattern: found %s, supported are Regex and String", where,
                     pattern->child ? pattern->child->string : "nothing");
    }
done:
    return st;
}

void text_pattern_release(text_pattern *pattern)
{
    free(pattern->string);
    split_pattern_free(pattern->regex);
    *pattern = (text_pattern){0};
}

/* ---- matching -------------------------------------------------------------------------------- */

static bool next_string(const text_pattern *pattern, pattern_scan *scan)
{
    const size_t size = strlen(pattern->string);
    const char *at = memmem(scan->text + scan->next, scan->length - scan->next, pattern->string, size);
    if (!at) return false;
    scan->start = (size_t)(at - scan->text);
    scan->end = scan->next = scan->start + size;
    return true;
}

static int class_at(const text_pattern *pattern, const pattern_scan *scan, size_t at, size_t *size)
{
    return pattern->class_of(utf8_first(scan->text + at, scan->length - at, size));
}

static bool next_of_class(const text_pattern *pattern, pattern_scan *scan)
{
    size_t size = 0;
    int class = 0;
    while (scan->next < scan->length && (class = class_at(pattern, scan, scan->next, &size)) == 0) scan->next += size;
    if (scan->next == scan->length) return false;
    scan->start = scan->next;
    scan->next += size;
    while (pattern->is_run && scan->next < scan->length && class_at(pattern, scan, scan->next, &size) == class)
        scan->next += size;
    scan->end = scan->next;
    return true;
}

static rb_status next_by_regex(const text_pattern *pattern, split_scratch *scratch, pattern_scan *scan, bool *found,
                               rb_error *err)
{
    *found = false;
    while (scan->next <= scan->length) {
        const rb_status st = split_pattern_next(pattern->regex, scratch, scan->text, scan->length, scan->next, found,
                                                &scan->start, &scan->end, err);
        if (st != RB_OK || !*found) return st;
        if (scan->start < scan->end || !scan->has_match || scan->end != scan->last_end) {
            scan->next = scan->last_end = scan->end;
            scan->has_match = true;
            return RB_OK;
        }
        /* Nothing, right after a match: the search goes on after the next character. */
        size_t size = 1;
        if (scan->next < scan->length) utf8_first(scan->text + scan->next, scan->length - scan->next, &size);
        scan->next += size;
        *found = false;
    }
    return RB_OK;
}

rb_status text_pattern_next(const text_pattern *pattern, split_scratch *scratch, pattern_scan *scan, bool *found,
                            rb_error *err)
{
    if (pattern->regex) return next_by_regex(pattern, scratch, scan, found, err);
    *found = pattern->string ? next_string(pattern, scan) : next_of_class(pattern, scan);
    return RB_OK;
}
