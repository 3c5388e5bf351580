/* Token ids from texts and id files: see texts/token_source.h. */
#include "texts/token_source.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"

enum { MAX_FILE_BYTES = 1 << 30 };

void token_list_free(token_list *list)
{
    free(list->ids);
    *list = (token_list){0};
}

/* ---- texts ----------------------------------------------------------------------------------- */

/* The end of a prefix of about `wanted` bytes that stops after a line break, so that no character and hardly a word is
 * cut. */
static size_t prefix_length(const char *text, size_t length, size_t wanted)
{
    if (wanted >= length) return length;
    const char *line_end = memchr(text + wanted, '\n', length - wanted);
    return line_end ? (size_t)(line_end - text) + 1 : length;
}

rb_status tokens_from_text(token_list *out, const char *path, const tokenizer *tok, int64_t n_wanted, rb_error *err)
{
    /* The last tokens of a cut text may differ from those of the whole text, where white space joins that of the next
     * line. So a cut must give more tokens than are wanted. */
    enum { FIRST_BYTES_PER_TOKEN = 8, MARGIN = 256, MIN_PREFIX = 1 << 16 };
    char *text = NULL;
    size_t length = 0;
    rb_status st;

    *out = (token_list){0};
    RB_TRY(st, rb_read_file(&text, &length, path, MAX_FILE_BYTES, err), done);

    size_t wanted = (size_t)n_wanted * FIRST_BYTES_PER_TOKEN + MIN_PREFIX;
    for (;;) {
        const size_t prefix = prefix_length(text, length, wanted);
        token_list_free(out);
        st = tokenizer_encode(tok, text, prefix, &out->ids, &out->n, err);
        if (st != RB_OK) {
            rb_fail_in(err, st, "%s", path);
            goto done;
        }
        if (prefix == length) break;
        if (out->n >= n_wanted + MARGIN) {
            out->n -= MARGIN;
            break;
        }
        wanted *= 2;
    }
done:
    free(text);
    return st;
}

/* ---- checks ---------------------------------------------------------------------------------- */

rb_status tokens_resolve_context(int64_t *context, int64_t wanted, int64_t max_position, rb_error *err)
{
    if (wanted > max_position)
        return rb_fail(err, RB_EINVAL,
                       "--context is %lld, expected at most the model's max_position_embeddings of %lld",
                       (long long)wanted, (long long)max_position);
    *context = wanted ? wanted : TOKENS_CONTEXT < max_position ? TOKENS_CONTEXT : max_position;
    return RB_OK;
}

/* Whether each id is two ids of the vocabulary side by side: uint16 that was read as int32. */
static bool are_pairs(const int32_t *ids, int64_t n, int64_t vocab_size)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || (ids[i] & 0xffff) >= vocab_size || ids[i] >> 16 >= vocab_size) return false;
    return true;
}

rb_status tokens_check(const int32_t *ids, int64_t n, int64_t vocab_size, const char *path, rb_error *err)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab_size)
            return rb_fail(err, RB_EINVAL,
                           "%s: token %lld is %d, expected an id below the model's vocabulary of %lld%s", path,
                           (long long)i, ids[i], (long long)vocab_size,
                           ids[i] > UINT16_MAX && are_pairs(ids, n, vocab_size) ? " (uint16, read as int32?)" : "");
    return RB_OK;
}

/* Polynomial rolling hash over TOKENS_OVERLAP ids, modulo 2^64. */
enum { HASH_BASE = 1000003 };

static uint64_t window_hash(const int32_t *ids)
{
    uint64_t hash = 0;
    for (int i = 0; i < TOKENS_OVERLAP; i++) hash = hash * HASH_BASE + (uint32_t)ids[i];
    return hash;
}

static uint64_t window_shift(uint64_t hash, int32_t leaving, int32_t entering, uint64_t leaving_factor)
{
    return (hash - leaving_factor * (uint32_t)leaving) * HASH_BASE + (uint32_t)entering;
}

/* Open addressing: hash of a window -> 1 + its first start in the calibration text. */
typedef struct window_table {
    int64_t n_slots;       /* a power of two */
    int64_t *start_plus_1; /* 0: free */
    uint64_t *hash;
} window_table;

static int64_t window_slot(const window_table *table, uint64_t hash)
{
    int64_t at = (int64_t)(hash >> 20) & (table->n_slots - 1);
    while (table->start_plus_1[at] && table->hash[at] != hash) at = (at + 1) & (table->n_slots - 1);
    return at;
}

static uint64_t leaving_factor(void)
{
    uint64_t factor = 1;
    for (int i = 1; i < TOKENS_OVERLAP; i++) factor *= HASH_BASE;
    return factor;
}

rb_status tokens_check_disjoint(const int32_t *calibration, int64_t n_calibration, const int32_t *test, int64_t n_test,
                                rb_error *err)
{
    if (n_calibration < TOKENS_OVERLAP || n_test < TOKENS_OVERLAP) return RB_OK;
    const uint64_t factor = leaving_factor();
    window_table table = {.n_slots = 1};
    uint64_t hash;
    rb_status st;

    while (table.n_slots < 2 * n_calibration) table.n_slots *= 2;
    RB_TRY(st, rb_alloc(&table.start_plus_1, (size_t)table.n_slots, sizeof *table.start_plus_1, "overlap check", err),
           done);
    RB_TRY(st, rb_alloc(&table.hash, (size_t)table.n_slots, sizeof *table.hash, "overlap check", err), done);
    hash = window_hash(calibration);
    for (int64_t start = 0;; start++) {
        const int64_t at = window_slot(&table, hash);
        if (!table.start_plus_1[at]) {
            table.start_plus_1[at] = start + 1;
            table.hash[at] = hash;
        }
        if (start + TOKENS_OVERLAP >= n_calibration) break;
        hash = window_shift(hash, calibration[start], calibration[start + TOKENS_OVERLAP], factor);
    }
    hash = window_hash(test);
    for (int64_t start = 0;; start++) {
        const int64_t found = table.start_plus_1[window_slot(&table, hash)] - 1;
        if (found >= 0 && memcmp(calibration + found, test + start, TOKENS_OVERLAP * sizeof *test) == 0) {
            st = rb_fail(err, RB_EINVAL,
                         "test text repeats the calibration text: %d tokens from test token %lld are those from "
                         "calibration token %lld",
                         TOKENS_OVERLAP, (long long)start, (long long)found);
            goto done;
        }
        if (start + TOKENS_OVERLAP >= n_test) break;
        hash = window_shift(hash, test[start], test[start + TOKENS_OVERLAP], factor);
    }
done:
    free(table.start_plus_1);
    free(table.hash);
    return st;
}
