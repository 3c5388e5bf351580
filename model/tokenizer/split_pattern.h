/* A regular expression of a pre-tokenizer, written for Oniguruma and run by PCRE2 (UTF, UCP, JIT where there is one).
 *
 * The two engines agree on what pre-tokenizers use, except that \s holds U+180E in PCRE2 and not in Oniguruma: \s and
 * \S are written out as sets. Syntax that means something else in PCRE2 and would still compile is refused: \w \b \h \v
 * \R \G ..., nested or intersected sets, properties other than general categories, inline options but (?i:...) around
 * plain ASCII, quantified intervals. docs/tokenizer.md lists it. Sources:
 * https://github.com/kkos/oniguruma/blob/master/doc/RE and pcre2pattern(3). */
#ifndef RB_MODEL_TOKENIZER_SPLIT_PATTERN_H
#define RB_MODEL_TOKENIZER_SPLIT_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "core/status.h"

typedef struct split_pattern split_pattern; /* shared by threads */
typedef struct split_scratch split_scratch; /* one per thread, serves every pattern */

/* Fails with RB_EUNSUPPORTED, with PCRE2's message where it has one. `where` starts messages. */
rb_status split_pattern_compile(split_pattern **out, const char *pattern, const char *where, rb_error *err);
void split_pattern_free(split_pattern *pattern);

rb_status split_scratch_new(split_scratch **out, rb_error *err);
void split_scratch_free(split_scratch *scratch);

/* The first match at or after `from` in valid UTF-8: *found, and its bytes [*start, *end). */
rb_status split_pattern_next(const split_pattern *pattern, split_scratch *scratch, const char *text, size_t length,
                             size_t from, bool *found, size_t *start, size_t *end, rb_error *err);

#endif
