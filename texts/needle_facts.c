/* Keys and values at random: see texts/needle_facts.h. */
#include "texts/needle_facts.h"

#include <stdbool.h>

int64_t needle_draw_below(numpy_rng *rng, int64_t n)
{
    return (int64_t)(((unsigned __int128)numpy_rng_next(rng) * (uint64_t)n) >> 64);
}

/* ---- what a task has ------------------------------------------------------------------------- */

static rb_status check_count(const char *name, int count, int max, rb_error *err)
{
    if (count >= 1 && count <= max) return RB_OK;
    return rb_fail(err, RB_EINVAL, "needles: %s is %d, expected 1 to %d", name, count, max);
}

static rb_status check_counts(const needle_counts *counts, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_count("n_keys", counts->n_keys, NEEDLE_MAX_NEEDLES, err), done);
    RB_TRY(st, check_count("n_distractors", counts->n_distractors, NEEDLE_MAX_NEEDLES - 1, err), done);
    RB_TRY(st, check_count("n_values", counts->n_values, NEEDLE_MAX_NEEDLES, err), done);
    st = check_count("n_queries", counts->n_queries, counts->n_keys, err);
done:
    return st;
}

static void count_facts(needle_facts *out, const needle_counts *counts, needle_task task)
{
    out->n = out->n_asked = 1;
    switch (task) {
    case NEEDLE_SINGLE: break;
    case NEEDLE_DISTRACTOR: out->n = 1 + counts->n_distractors; break;
    case NEEDLE_MULTI: out->n = out->n_asked = counts->n_keys; break;
    case NEEDLE_MULTIKEY: out->n = counts->n_keys; break;
    case NEEDLE_MULTIVALUE: out->n = out->n_asked = counts->n_values; break;
    case NEEDLE_MULTIQUERY: out->n = counts->n_keys, out->n_asked = counts->n_queries; break;
    case NEEDLE_N_TASKS: break;
    }
}

static rb_status check_words(const needle_facts *facts, const needle_template *needles, needle_task task, rb_error *err)
{
    const int n_colours = needles->colours.n, n_things = needles->things.n;
    if (task == NEEDLE_DISTRACTOR && n_colours + n_things - 2 < facts->n - 1)
        return rb_fail(err, RB_EINVAL,
                       "needle template has %d colours and %d things, expected enough for %d keys that share one of "
                       "them with another key",
                       n_colours, n_things, facts->n - 1);
    if (task != NEEDLE_MULTIVALUE && (int64_t)n_colours * n_things < facts->n)
        return rb_fail(err, RB_EINVAL, "needle template has %d colours and %d things, expected enough for %d keys",
                       n_colours, n_things, facts->n);
    return RB_OK;
}

/* ---- chance ---------------------------------------------------------------------------------- */

static needle_fact draw_key(numpy_rng *rng, const needle_template *needles)
{
    const int colour = (int)needle_draw_below(rng, needles->colours.n);
    return (needle_fact){.colour = colour, .thing = (int)needle_draw_below(rng, needles->things.n)};
}

/* A key that shares its colour or its thing with `asked`. */
static needle_fact draw_similar_key(numpy_rng *rng, const needle_template *needles, const needle_fact *asked)
{
    needle_fact key = draw_key(rng, needles);
    if (needle_draw_below(rng, 2)) key.colour = asked->colour;
    else key.thing = asked->thing;
    return key;
}

static bool has_key(const needle_facts *facts, int n, const needle_fact *key)
{
    for (int i = 0; i < n; i++)
        if (facts->at[i].colour == key->colour && facts->at[i].thing == key->thing) return true;
    return false;
}

static void draw_keys(needle_facts *facts, numpy_rng *rng, const needle_template *needles, needle_task task)
{
    facts->at[0] = draw_key(rng, needles);
    for (int i = 1; i < facts->n; i++) {
        if (task == NEEDLE_MULTIVALUE) {
            facts->at[i] = facts->at[0];
            continue;
        }
        do
            facts->at[i] =
                task == NEEDLE_DISTRACTOR ? draw_similar_key(rng, needles, &facts->at[0]) : draw_key(rng, needles);
        while (has_key(facts, i, &facts->at[i]));
    }
}

static bool has_value(const needle_facts *facts, int n, int64_t value)
{
    for (int i = 0; i < n; i++)
        if (facts->at[i].value == value) return true;
    return false;
}

static void draw_values(needle_facts *facts, numpy_rng *rng, int n_digits)
{
    int64_t smallest = 1;
    for (int digit = 1; digit < n_digits; digit++) smallest *= 10;
    for (int i = 0; i < facts->n; i++) {
        do facts->at[i].value = smallest + needle_draw_below(rng, 9 * smallest);
        while (has_value(facts, i, facts->at[i].value));
    }
}

rb_status needle_facts_draw(needle_facts *out, numpy_rng *rng, const needle_template *needles,
                            const needle_counts *counts, needle_task task, rb_error *err)
{
    rb_status st = check_counts(counts, err);
    if (st != RB_OK) return st;
    count_facts(out, counts, task);
    st = check_words(out, needles, task, err);
    if (st != RB_OK) return st;
    draw_keys(out, rng, needles, task);
    draw_values(out, rng, needles->value_digits);
    return RB_OK;
}
