/* See plan_error.h. */
#include "methods/plan_error.h"

#include <math.h>
#include <stdlib.h>

#include "methods/rate_bound.h"

#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const head_error_functions prefix##_error_functions;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION

static const head_error_functions *functions_of(const plan_head *head)
{
#define RB_FAMILY_ROW(NAME, prefix, name) &prefix##_error_functions,
    static const head_error_functions *const table[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW
    return table[head->family];
}

/* ---- the codecs' errors ---------------------------------------------------------------------- */

rb_status codec_errors_measure(codec_errors *errors, const bit_plan *plan, rb_error *err)
{
    rb_status st = RB_OK;
    for (int h = 0; st == RB_OK && h < bit_plan_n_heads(plan); h++) {
        const head_error_functions *functions = functions_of(&plan->heads[h]);
        if (functions->measure) st = functions->measure(errors, &plan->heads[h], err);
    }
    return st;
}

void codec_errors_free(codec_errors *errors)
{
    for (int book = 0; book < CODEBOOK_N_KINDS; book++)
        for (int encoder = 0; encoder < ENCODER_N_KINDS; encoder++)
            for (int norm = 0; norm < NORM_N_KINDS; norm++) free(errors->c[book][encoder][norm]);
    *errors = (codec_errors){0};
}

/* ---- a head ---------------------------------------------------------------------------------- */

/* Mean |k - center|^2 of a block, from that of k. */
static double centered_energy(double k_energy, const float *center, const double *mean, const int dims[2])
{
    for (int i = 0; i < 2; i++) {
        const double c = (double)center[dims[i]];
        k_energy += c * c - 2.0 * c * mean[dims[i]];
    }
    return fmax(0.0, k_energy);
}

void coded_head_of(coded_head *out, const plan_head *head, const model_facts *model, const head_statistics *statistics,
                   int h)
{
    const int n = model_n_blocks(model);
    const float *scales = plan_head_groups(head)->scales;
    const float *moments = head->center ? statistics->moment_centered : statistics->moment;
    out->model = model;
    out->n_blocks = n;
    out->moment = moments ? moments + (int64_t)h * n * (n + 1) / 2 : NULL;
    out->block_codebook_error = statistics->block_codebook_error
                                    ? statistics->block_codebook_error + (int64_t)h * n * (BLOCK_CODEBOOK_MAX_BITS + 1)
                                    : NULL;
    for (int block = 0; block < n; block++) {
        const double scale = scales ? (double)scales[block] : 1.0;
        double k_energy = statistics->k_energy[(int64_t)h * n + block];
        int dims[2];
        model_block_dims(model, block, dims);
        if (head->center)
            k_energy = centered_energy(k_energy, head->center, statistics->k_mean + (int64_t)h * model->head_dim, dims);
        out->q_energy[block] = statistics->q_energy[(int64_t)h * n + block]
                               * model_query_weight(model, h / model->n_kv_heads, block) / (scale * scale);
        out->k_energy[block] = k_energy * scale * scale;
    }
}

double plan_head_error(const coded_head *coded, const plan_head *head, const codec_errors *errors)
{
    return functions_of(head)->variance(coded, head, errors);
}

double logit_mae_of_variance(double variance)
{
    static const double pi = 3.14159265358979323846;
    return sqrt(2.0 * variance / pi);
}

/* ---- a plan ---------------------------------------------------------------------------------- */

rb_status plan_predict(plan_prediction *out, const bit_plan *plan, const head_statistics *statistics,
                       codec_errors *errors, rb_error *err)
{
    const model_facts *model = &plan->model;
    const int n_heads = model->n_layers * model->n_kv_heads;
    coded_head coded;
    const rb_status st = codec_errors_measure(errors, plan, err);
    if (st != RB_OK) return st;
    *out = (plan_prediction){0};
    for (int h = 0; h < n_heads; h++) {
        const plan_head *head = &plan->heads[h];
        const double bits = plan_head_true_bits(head, model->head_dim) * model->head_dim;
        coded_head_of(&coded, head, model, statistics, h);
        const double variance = plan_head_error(&coded, head, errors);
        out->logit_mae += logit_mae_of_variance(variance) / n_heads;
        out->bound_logit_mae +=
            logit_mae_of_variance(rate_bound_error(coded.q_energy, coded.k_energy, coded.n_blocks, bits)) / n_heads;
        out->bits_above_bound +=
            rate_bound_distance(coded.q_energy, coded.k_energy, coded.n_blocks, bits, variance).bits_per_dim / n_heads;
    }
    return RB_OK;
}

rb_status plan_predict_layers(double *by_layer, const bit_plan *plan, const head_statistics *statistics,
                              codec_errors *errors, rb_error *err)
{
    const model_facts *model = &plan->model;
    coded_head coded;
    const rb_status st = codec_errors_measure(errors, plan, err);
    if (st != RB_OK) return st;
    for (int layer = 0; layer < model->n_layers; layer++) by_layer[layer] = 0.0;
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        coded_head_of(&coded, &plan->heads[h], model, statistics, h);
        by_layer[h / model->n_kv_heads] +=
            logit_mae_of_variance(plan_head_error(&coded, &plan->heads[h], errors)) / model->n_kv_heads;
    }
    return RB_OK;
}
