/* See plan_error.h. */
#include "methods/plan_error.h"

#include <math.h>
#include <stdlib.h>

#include "methods/block_codebook_curve.h"
#include "methods/partition.h"
#include "methods/rate_bound.h"

/* ---- the codecs' errors ---------------------------------------------------------------------- */

static double **errors_of(codec_errors *errors, codebook_kind book, const plan_head *head)
{
    return &errors->c[book][plan_head_groups(head)->encoder][plan_head_groups(head)->norm];
}

static rb_status measure_kind(codec_errors *errors, codebook_kind book, const plan_head *head, rb_error *err)
{
    const codec_kind kind = {book, plan_head_groups(head)->encoder, plan_head_groups(head)->norm};
    double **c = errors_of(errors, book, head);
    if (*c) return RB_OK;
    rb_status st =
        rb_alloc(c, PLAN_MAX_WIDTH + 1, ((size_t)errors->n_blocks + 1) * sizeof **c, "errors of a codec", err);
    if (st == RB_OK) st = codec_distortion_measure(*c, errors->n_blocks, &kind, err);
    if (st == RB_OK) return RB_OK;
    free(*c);
    *c = NULL;
    return st;
}

rb_status codec_errors_measure(codec_errors *errors, const bit_plan *plan, rb_error *err)
{
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++)
        for (int g = 0; g < plan_head_groups(&plan->heads[h])->n; g++) {
            const rb_status st =
                measure_kind(errors, plan_head_groups(&plan->heads[h])->at[g].codebook, &plan->heads[h], err);
            if (st != RB_OK) return st;
        }
    return RB_OK;
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
    const float *moments = head->center ? statistics->moment_centered : statistics->moment;
    out->n_blocks = n;
    out->moment = moments ? moments + (int64_t)h * n * (n + 1) / 2 : NULL;
    out->block_codebook_error = statistics->block_codebook_error
                                    ? statistics->block_codebook_error + (int64_t)h * n * (BLOCK_CODEBOOK_MAX_BITS + 1)
                                    : NULL;
    for (int block = 0; block < n; block++) {
        const double scale = plan_head_groups(head)->scales ? (double)plan_head_groups(head)->scales[block] : 1.0;
        double k_energy = statistics->k_energy[(int64_t)h * n + block];
        int dims[2];
        model_block_dims(model, block, dims);
        if (head->center)
            k_energy = centered_energy(k_energy, head->center, statistics->k_mean + (int64_t)h * model->head_dim, dims);
        out->q_energy[block] = statistics->q_energy[(int64_t)h * n + block] / (scale * scale);
        out->k_energy[block] = k_energy * scale * scale;
    }
}

static double search_error(double c, double coherence, double planned)
{
    const double cosine = sqrt(fmax(0.0, 1.0 - c)), gain = cosine * planned / (cosine * cosine * planned + c),
                 along = 1.0 - gain * cosine;
    return along * along * coherence + gain * gain * c;
}

static double nearest_error(double c, double coherence) { return c + (coherence - 1.0) * c * c / 4.0; }

static partition_sums sums_of_blocks(const coded_head *coded, const int *blocks, int n)
{
    int16_t list[RB_MAX_BLOCKS];
    for (int i = 0; i < n; i++) list[i] = (int16_t)blocks[i];
    return partition_sums_of(list, n, coded->n_blocks, coded->q_energy, coded->k_energy, coded->moment);
}

group_error group_error_at(const coded_head *coded, const plan_head *head, const plan_group *group, int width,
                           const codec_errors *errors)
{
    const partition_sums sums = sums_of_blocks(coded, group->blocks, group->n_blocks);
    group_error out = {.c = 1.0, .coherence = sums.independent > 0.0 ? sums.moment / sums.independent : 1.0};
    if (width == 0) {
        out.variance = coded->moment ? sums.moment : sums.diagonal;
        return out;
    }
    out.c = errors->c[group->codebook][plan_head_groups(head)->encoder][plan_head_groups(head)->norm]
                     [(size_t)width * ((size_t)errors->n_blocks + 1) + (size_t)group->n_blocks];
    out.variance = sums.independent
                   * (plan_head_groups(head)->encoder == ENCODER_SEARCH
                          ? search_error(out.c, out.coherence, (double)group->coherence)
                          : nearest_error(out.c, out.coherence));
    return out;
}

double lost_block_error(const coded_head *coded, const plan_head *head)
{
    uint8_t bits[RB_MAX_BLOCKS];
    int blocks[RB_MAX_BLOCKS], n = 0;
    plan_head_bits(head, bits, coded->n_blocks);
    for (int block = 0; block < coded->n_blocks; block++)
        if (bits[block] == 0) blocks[n++] = block;
    if (n == 0) return 0.0;
    const partition_sums sums = sums_of_blocks(coded, blocks, n);
    return coded->moment ? sums.moment : sums.diagonal;
}

static double block_codebook_error(const coded_head *coded, const plan_head *head)
{
    const block_codebook_head own = {coded->n_blocks, coded->q_energy, coded->block_codebook_error, coded->moment};
    double stretches[RB_MAX_BLOCKS];
    return block_codebook_head_error(&own, head->block_codebook.bits, stretches);
}

double plan_head_error(const coded_head *coded, const plan_head *head, const codec_errors *errors)
{
    if (head->family == FAMILY_BLOCK_CODEBOOK) return block_codebook_error(coded, head);
    double variance = lost_block_error(coded, head);
    for (int g = 0; g < plan_head_groups(head)->n; g++)
        variance +=
            group_error_at(coded, head, &plan_head_groups(head)->at[g], plan_head_groups(head)->at[g].width, errors)
                .variance;
    return variance;
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
