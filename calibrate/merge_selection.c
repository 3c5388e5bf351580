/* See calibrate/merge_selection.h. */
#include "calibrate/merge_selection.h"

#include <stdlib.h>

void merge_selection_free(merge_selection *selection)
{
    free(selection->segments);
    *selection = (merge_selection){0};
}

/* Whole sequences of a part, and a shorter one at the end of the last part. */
static int64_t n_sequences(const text_facts *text, bool is_last)
{
    return is_last ? (text->n_tokens + text->context - 1) / text->context : text->n_tokens / text->context;
}

/* Which of n sequences are kept. */
typedef struct thinning {
    int64_t n, n_kept, every;
} thinning;

static bool is_kept(const thinning *thin, int64_t sequence)
{
    if (thin->every > 1) return sequence % thin->every == 0;
    return sequence * thin->n_kept % thin->n < thin->n_kept; /* true for n_kept of them, evenly */
}

/* Adds a sequence, to the last segment where it goes on with that. */
static void append(merge_selection *out, int part, int64_t first, int64_t n)
{
    merge_segment *last = out->n_segments > 0 ? &out->segments[out->n_segments - 1] : NULL;
    if (last && last->part == part && last->first + last->n == first) last->n += n;
    else out->segments[out->n_segments++] = (merge_segment){part, first, n};
    out->n_tokens += n;
}

static rb_status plan_thinning(thinning *thin, const text_facts *texts, int n_parts, int64_t max_tokens, int64_t every,
                               rb_error *err)
{
    const int64_t context = texts[0].context;
    int64_t n_tokens = 0;
    *thin = (thinning){.every = every};
    for (int part = 0; part < n_parts; part++) {
        thin->n += n_sequences(&texts[part], part + 1 == n_parts);
        n_tokens += texts[part].n_tokens;
    }
    thin->n_kept = max_tokens == 0 || n_tokens <= max_tokens ? thin->n : max_tokens / context;
    if (thin->n_kept > thin->n) thin->n_kept = thin->n;
    if (thin->n_kept > 0) return RB_OK;
    return rb_fail(err, RB_EINVAL, "at most %lld tokens, expected at least a sequence of %lld", (long long)max_tokens,
                   (long long)context);
}

rb_status merge_selection_make(merge_selection *out, const text_facts *texts, int n_parts, int64_t max_tokens,
                               int64_t every, rb_error *err)
{
    thinning thin;
    int64_t sequence = 0;
    rb_status st;
    *out = (merge_selection){0};
    RB_TRY(st, plan_thinning(&thin, texts, n_parts, max_tokens, every, err), done);
    RB_TRY(st, rb_alloc(&out->segments, (size_t)thin.n, sizeof *out->segments, "sequences", err), done);
    for (int part = 0; part < n_parts; part++) {
        const text_facts *text = &texts[part];
        const int64_t n = n_sequences(text, part + 1 == n_parts);
        for (int64_t i = 0; i < n; i++, sequence++) {
            const int64_t first = i * text->context, left = text->n_tokens - first;
            if (is_kept(&thin, sequence)) append(out, part, first, left < text->context ? left : text->context);
        }
        if (n * text->context < text->n_tokens) out->n_left_out += text->n_tokens - n * text->context;
    }
done:
    return st;
}
