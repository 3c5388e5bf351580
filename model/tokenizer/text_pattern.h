/* What a step of tokenizer.json looks for in a text: a string, a regular expression, or characters of a class. */
#ifndef RB_MODEL_TOKENIZER_TEXT_PATTERN_H
#define RB_MODEL_TOKENIZER_TEXT_PATTERN_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "model/tokenizer/split_pattern.h"

/* The class of a character, 0 for one that is not looked for. */
typedef int (*character_class_fn)(int32_t character);

/* One of the three is set. */
typedef struct text_pattern {
    char *string; /* owned, not empty */
    split_pattern *regex;
    character_class_fn class_of;
    bool is_run; /* class_of: neighbours of one class are one match; else each character is */
} text_pattern;

/* {"String": ..} or {"Regex": ..}, the member "pattern" of `object`. Fails with RB_EUNSUPPORTED on another kind, an
 * empty string, and what split_pattern_compile refuses. */
rb_status text_pattern_read(text_pattern *out, const cJSON *object, const char *where, rb_error *err);
void text_pattern_release(text_pattern *pattern);

/* A walk over the matches in one text. At the start only text and length are set; the rest is zero. */
typedef struct pattern_scan {
    const char *text; /* valid UTF-8 */
    size_t length;
    size_t next;       /* where the next match is looked for */
    size_t last_end;   /* of the match before */
    bool has_match;    /* there was one */
    size_t start, end; /* of the match */
} pattern_scan;

/* Sets *found, and start and end of the next match. A regular expression may match nothing at a place, but not where
 * the match before ends: as Oniguruma's iterator in the `tokenizers` library. */
rb_status text_pattern_next(const text_pattern *pattern, split_scratch *scratch, pattern_scan *scan, bool *found,
                            rb_error *err);

#endif
