/* See generate/sampler.h. */
#include "generate/sampler.h"

#include <math.h>
#include <stdlib.h>

rb_status sampler_create(sampler *out, const sampler_options *options, int32_t n, rb_error *err)
{
    *out = (sampler){.options = *options, .n = n};
    numpy_rng_seed(&out->random, options->seed);
    if (options->temperature == 0) return RB_OK;
    return rb_alloc(&out->order, (size_t)n, sizeof *out->order, "tokens in order", err);
}

void sampler_free(sampler *s)
{
    free(s->order);
    *s = (sampler){0};
}

static rb_status most_likely(const float *logits, int32_t n, int32_t *id, rb_error *err)
{
    float largest = -INFINITY;
    *id = -1;
    for (int32_t i = 0; i < n; i++) {
        if (isnan(logits[i])) return rb_fail(err, RB_ENONFINITE, "the logit of token %d is not a number", (int)i);
        if (logits[i] > largest) {
            largest = logits[i];
            *id = i;
        }
    }
    if (*id < 0 || isinf(largest)) return rb_fail(err, RB_ENONFINITE, "no token has a finite logit");
    return RB_OK;
}

static int compare(const void *a, const void *b)
{
    const sampled_token *x = a, *y = b;
    if (x->value != y->value) return x->value > y->value ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Values of s->order become probabilities times a constant. Returns how many are left, and their sum. */
static int32_t keep_likely(sampler *s, double *sum)
{
    const sampler_options *o = &s->options;
    int32_t n = o->top_k > 0 && o->top_k < s->n ? (int32_t)o->top_k : s->n, n_left = 0;
    const float largest = s->order[0].value;
    double total = 0.0;
    for (int32_t i = 0; i < n; i++) {
        s->order[i].value = (float)exp(((double)s->order[i].value - (double)largest) / o->temperature);
        total += (double)s->order[i].value;
    }
    *sum = 0.0;
    while (n_left < n && (n_left == 0 || *sum < o->top_p * total)) *sum += (double)s->order[n_left++].value;
    return n_left;
}

rb_status sampler_next(sampler *s, const float *logits, int32_t *id, rb_error *err)
{
    const rb_status st = most_likely(logits, s->n, id, err);
    double sum, passed = 0.0;
    if (st != RB_OK || s->options.temperature == 0) return st;
    for (int32_t i = 0; i < s->n; i++) s->order[i] = (sampled_token){.value = logits[i], .id = i};
    qsort(s->order, (size_t)s->n, sizeof *s->order, compare);
    const int32_t n = keep_likely(s, &sum);
    const double drawn = numpy_rng_double(&s->random) * sum;
    for (int32_t i = 0; i < n; i++) {
        *id = s->order[i].id;
        passed += (double)s->order[i].value;
        if (passed > drawn) break;
    }
    return RB_OK;
}
