/* What a needle document says: keys, values, and which of them are asked. They are chosen at random, before there are
 * tokens. */
#ifndef RB_TEXTS_NEEDLE_FACTS_H
#define RB_TEXTS_NEEDLE_FACTS_H

#include "kernels/reference/numpy_random.h"
#include "texts/needle_documents.h"

typedef struct needle_fact {
    int colour, thing; /* indices into the template's words */
    int64_t value;
} needle_fact;

/* The first n_asked are asked, in this order. Facts are exchangeable, since each stands at a random place. So it gives
 * nothing away that the first ones are asked. */
typedef struct needle_facts {
    int n, n_asked;
    needle_fact at[NEEDLE_MAX_NEEDLES];
} needle_facts;

/* Values are all different. Fails with RB_EINVAL on counts out of range and on a template of too few words. */
rb_status needle_facts_draw(needle_facts *out, numpy_rng *rng, const needle_template *needles,
                            const needle_counts *counts, needle_task task, rb_error *err);

/* A whole number in [0, n). Some are likelier than others by 2^-64 n, which does not matter here. */
int64_t needle_draw_below(numpy_rng *rng, int64_t n);

#endif
