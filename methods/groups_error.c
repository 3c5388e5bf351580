/* See groups_error.h. */
#include "methods/groups_error.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/reference/codec_distortion.h"
#include "methods/partition.h"

/* ---- the codecs' errors ---------------------------------------------------------------------- */

static rb_status measure_kind(codec_errors *errors, codebook_kind book, const plan_head *head, rb_error *err)
{
    const codec_kind kind = {book, head->groups.encoder, head->groups.norm};
    double **c = &errors->c[book][head->groups.encoder][head->groups.norm];
    if (*c) return RB_OK;
    rb_status st =
        rb_alloc(c, PLAN_MAX_WIDTH + 1, ((size_t)errors->n_blocks + 1) * sizeof **c, "errors of a codec", err);
    if (st == RB_OK) st = codec_distortion_measure(*c, errors->n_blocks, &kind, err);
    if (st == RB_OK) return RB_OK;
    free(*c);
    *c = NULL;
    return st;
}

static rb_status measure_head(codec_errors *errors, const plan_head *head, rb_error *err)
{
    rb_status st = RB_OK;
    for (int g = 0; st == RB_OK && g < head->groups.n; g++)
        st = measure_kind(errors, head->groups.at[g].codebook, head, err);
    return st;
}

/* ---- a head ---------------------------------------------------------------------------------- */

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
    out.c = errors->c[group->codebook][head->groups.encoder][head->groups.norm]
                     [(size_t)width * ((size_t)errors->n_blocks + 1) + (size_t)group->n_blocks];
    out.variance =
        sums.independent
        * (head->groups.encoder == ENCODER_SEARCH ? search_error(out.c, out.coherence, (double)group->coherence)
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

static double variance_of(const coded_head *coded, const plan_head *head, const codec_errors *errors)
{
    double variance = lost_block_error(coded, head);
    for (int g = 0; g < head->groups.n; g++) {
        const plan_group *group = &head->groups.at[g];
        variance += group_error_at(coded, head, group, group->width, errors).variance;
    }
    return variance;
}

extern const head_error_functions groups_error_functions;
const head_error_functions groups_error_functions = {.measure = measure_head, .variance = variance_of};
