/* See token_statistics.h. */
#include "profile/token_statistics.h"

#include <assert.h>
#include <stdlib.h>

#include "kernels/reference/plan_head.h"
#include "profile/block_codebook_error.h"
#include "profile/logit_moment.h"

static size_t head_count(const model_facts *model) { return (size_t)model->n_layers * (size_t)model->n_kv_heads; }

rb_status token_statistics_create(token_statistics *s, const model_facts *model, rb_error *err)
{
    const size_t n = head_count(model) * (size_t)model_n_blocks(model),
                 n_moments = head_count(model) * (size_t)logit_moment_size(model_n_blocks(model));
    rb_status st;
    *s = (token_statistics){0};
    RB_TRY(st, rb_alloc(&s->q_energy, n, sizeof *s->q_energy, "energies", err), done);
    RB_TRY(st, rb_alloc(&s->k_energy, n, sizeof *s->k_energy, "energies", err), done);
    RB_TRY(st, rb_alloc(&s->k_mean, head_count(model) * (size_t)model->head_dim, sizeof *s->k_mean, "means", err),
           done);
    RB_TRY(st, rb_alloc(&s->logit_moment, n_moments, sizeof *s->logit_moment, "logit moments", err), done);
    RB_TRY(st, rb_alloc(&s->logit_moment_centered, n_moments, sizeof *s->logit_moment_centered, "logit moments", err),
           done);
    RB_TRY(st,
           rb_alloc(&s->block_codebook_map, n * BLOCK_CODEBOOK_MAP_SIZE, sizeof *s->block_codebook_map,
                    "maps of blocks", err),
           done);
    RB_TRY(st,
           rb_alloc(&s->block_codebook_error, n * BLOCK_CODEBOOK_N_BITS, sizeof *s->block_codebook_error,
                    "errors of blocks", err),
           done);
done:
    return st;
}

rb_status token_statistics_add_values(token_statistics *s, const model_facts *model, rb_error *err)
{
    const size_t n = head_count(model);
    assert(!s->value_error);
    const rb_status st = rb_alloc(&s->value_error, n * PLAN_MAX_WIDTH, sizeof *s->value_error, "errors of values", err);
    return st == RB_OK ? rb_alloc(&s->value_energy, n, sizeof *s->value_energy, "errors of values", err) : st;
}

void token_statistics_free(token_statistics *s)
{
    free(s->q_energy);
    free(s->k_energy);
    free(s->k_mean);
    free(s->logit_moment);
    free(s->logit_moment_centered);
    free(s->block_codebook_map);
    free(s->block_codebook_error);
    free(s->value_error);
    free(s->value_energy);
    *s = (token_statistics){0};
}
