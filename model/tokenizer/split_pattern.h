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
#include <stdint.h>

#include "core/status.h"

typedef struct split_pattern split_pattern; /* shared by threads */
typedef struct split_scratch split_scratch; /* one per thread, serves every pattern */

/* Fails with RB_EUNSUPPORTED, with PCRE2's message where it has one. `where` starts messages. */
rb_status split_pattern_compile(split_pattern **out, const char *pattern, const char *where, rb_error *err);
void split_pattern_free(split_pattern *pattern);

rb_status split_scratch_new(split_scratch **out, rb_error *err);
void split_scratch_free(split_scratch *scratch);
/* A text of so many bytes begins: what all patterns may do to it together is limited, 200 steps a byte and 10 million
 * for any text. A new scratch is at the beginning of an empty text. */
void split_scratch_begin(split_scratch *scratch, size_t n_bytes);
/* Steps of other work on the text, such as bytes that are put in place of a match. Fails likewise. */
rb_status split_scratch_take(split_scratch *scratch, uint64_t n_steps, rb_error *err);

/* The first match at or after `from` in valid UTF-8: *found, and its bytes [*start, *end). Fails with RB_EUNSUPPORTED,
 * naming the limit, where the patterns have taken too many steps on the text. */
rb_status split_pattern_next(const split_pattern *pattern, split_scratch *scratch, const char *text, size_t length,
                             size_t from, bool *found, size_t *start, size_t *end, rb_error *err);

#endif
