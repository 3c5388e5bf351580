/* Family groups, the curves of its heads (methods/optimal.h): the exact best partition of every head for every budget
 * (partition.h), with the measured error of every width and group size (kernels/reference/codec_distortion.h).
 *
 * Keys may be equalized first: scale_i = (q_energy_i / k_energy_i)^(1/4). Every block then has equal query and key
 * energy, which is the least a group's cost can be. The key energy of centred keys is what their mean leaves. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/codec_distortion.h"
#include "methods/optimal.h"
#include "methods/partition.h"

/* The largest 8-bit norm of a group is 2^6 to 2^7 times its rms norm: tokens of that size are coded as they are, and
 * 2^-9 of it is still above 0. */
enum { NORM_HEADROOM = 6 };

typedef struct groups_curves {
    const optimal_input *input;
    const float *moments;        /* input's, if the encoder can stretch by them; equalizing does not change them */
    double *q_energy, *k_energy; /* [n_heads][n_blocks]: of keys centred and equalized */
    double *scales;              /* [n_heads][n_blocks]; NULL: not equalized */
    partition_curve *of_heads;   /* [n_heads] */
} groups_curves;

static void free_curves(void *curves)
{
    groups_curves *c = curves;
    if (!c) return;
    for (int h = 0; c->of_heads && h < c->input->n_heads; h++) partition_curve_free(&c->of_heads[h]);
    free(c->of_heads);
    free(c->q_energy);
    free(c->k_energy);
    free(c->scales);
    free(c);
}

/* ---- energies of what is coded --------------------------------------------------------------- */

/* k_energy -= |mean|^2, block by block. */
static void center_energies(groups_curves *c)
{
    const optimal_input *in = c->input;
    for (int64_t h = 0; h < in->n_heads; h++)
        for (int block = 0; block < in->n_blocks; block++) {
            const double *mean = in->k_mean + h * in->model->head_dim;
            double *energy = &c->k_energy[h * in->n_blocks + block];
            int dims[2];
            model_block_dims(in->model, block, dims);
            *energy = fmax(0.0, *energy - mean[dims[0]] * mean[dims[0]] - mean[dims[1]] * mean[dims[1]]);
        }
}

/* A scale as fp16 holds it well away from 0 and infinity; a block without energy on either side stays as it is. */
static double equalizing_scale(double q_energy, double k_energy)
{
    static const double LEAST = 0x1p-10, MOST = 0x1p10;
    if (!(q_energy > 0.0 && k_energy > 0.0)) return 1.0;
    return fmin(fmax(pow(q_energy / k_energy, 0.25), LEAST), MOST);
}

static void equalize_energies(groups_curves *c)
{
    for (int64_t i = 0; i < (int64_t)c->input->n_heads * c->input->n_blocks; i++) {
        c->scales[i] = equalizing_scale(c->q_energy[i], c->k_energy[i]);
        c->q_energy[i] /= c->scales[i] * c->scales[i];
        c->k_energy[i] *= c->scales[i] * c->scales[i];
    }
}

static rb_status make_energies(groups_curves *c, rb_error *err)
{
    const optimal_input *in = c->input;
    const size_t n = (size_t)in->n_heads * (size_t)in->n_blocks;
    rb_status st;
    RB_TRY(st, rb_alloc(&c->q_energy, n, sizeof *c->q_energy, "energies", err), done);
    RB_TRY(st, rb_alloc(&c->k_energy, n, sizeof *c->k_energy, "energies", err), done);
    memcpy(c->q_energy, in->statistics->q_energy, n * sizeof *c->q_energy);
    memcpy(c->k_energy, in->statistics->k_energy, n * sizeof *c->k_energy);
    if (in->k_mean) center_energies(c);
    if (in->options->equalize) {
        RB_TRY(st, rb_alloc(&c->scales, n, sizeof *c->scales, "scales", err), done);
        equalize_energies(c);
    }
done:
    return st;
}

/* ---- curves ---------------------------------------------------------------------------------- */

static rb_status make_curves(groups_curves *c, rb_error *err)
{
    const optimal_input *in = c->input;
    const codec_kind kind = {in->options->codebook, in->options->encoder, in->options->norm};
    const size_t n_sizes = (size_t)in->n_blocks + 1;
    partition_options how = partition_options_default();
    double *distortion = NULL;
    rb_status st;
    how.widths = in->options->widths;
    how.norm_bits = norm_kind_bits(in->options->norm);
    how.max_groups = in->options->max_groups;
    RB_TRY(st, rb_alloc(&c->of_heads, (size_t)in->n_heads, sizeof *c->of_heads, "curves", err), done);
    RB_TRY(st, rb_alloc(&distortion, PARTITION_N_WIDTHS, n_sizes * sizeof *distortion, "distortions", err), done);
    RB_TRY(st, codec_distortion_measure(distortion, in->n_blocks, &kind, err), done);
    const group_distortion measured = {.max_blocks = in->n_blocks, .c = distortion};
    RB_TRY(st,
           partition_curves_build(c->of_heads, in->n_heads, in->n_blocks, c->q_energy, c->k_energy, c->moments,
                                  &measured, 1, &how, err),
           done);
done:
    free(distortion);
    return st;
}

static rb_status build_curves(void **out, const optimal_input *input, rb_error *err)
{
    groups_curves *c = NULL;
    rb_status st = rb_alloc(&c, 1, sizeof *c, "curves", err);
    *out = c;
    if (st != RB_OK) return st;
    *c = (groups_curves){.input = input, .moments = input->options->encoder == ENCODER_SEARCH ? input->moment : NULL};
    RB_TRY(st, make_energies(c, err), done);
    RB_TRY(st, make_curves(c, err), done);
done:
    return st;
}

static budget_curve curve_of(const void *curves, int h)
{
    const groups_curves *c = curves;
    return (budget_curve){c->of_heads[h].n_points, c->of_heads[h].error};
}

/* A group, and 8 bits of codes. */
static int64_t least_bits(const optimal_options *options) { return norm_kind_bits(options->norm) + 8; }

/* ---- a head ---------------------------------------------------------------------------------- */

static int norm_exponent(norm_kind norm, const double *k_energy, const int *blocks, int n)
{
    double square = 0.0;
    if (norm != NORM_LOG8) return 0;
    for (int i = 0; i < n; i++) square += k_energy[blocks[i]];
    if (!(square > 0.0)) return 0;
    const double exponent = ceil(0.5 * log2(square)) + NORM_HEADROOM;
    return (int)fmin(fmax(exponent, NORM_MIN_EXPONENT), NORM_MAX_EXPONENT);
}

static float coherence_of(const groups_curves *c, int h, const int16_t *blocks, int n)
{
    static const double MOST = 4096.0;
    const int n_blocks = c->input->n_blocks;
    const int64_t at = (int64_t)h * n_blocks;
    const float *moment = c->moments + at * (n_blocks + 1) / 2;
    return plan_fp16(fmin(MOST, partition_coherence(blocks, n, n_blocks, c->q_energy + at, c->k_energy + at, moment)));
}

static rb_status add_group(plan_head *head, const groups_curves *c, int h, const block_partition *partition, int g,
                           rb_error *err)
{
    const optimal_options *options = c->input->options;
    const int16_t *members = partition->blocks + partition->first[g];
    const int n = partition->first[g + 1] - partition->first[g];
    int blocks[RB_MAX_BLOCKS];
    for (int i = 0; i < n; i++) blocks[i] = members[i];
    const int exponent = norm_exponent(options->norm, c->k_energy + (int64_t)h * c->input->n_blocks, blocks, n);
    const rb_status st = plan_head_add_group(head, partition->width[g], blocks, n, options->codebook, exponent, err);
    if (st != RB_OK) return st;
    plan_group *group = &head->groups.at[head->groups.n - 1];
    group->rotation.kind = options->rotation;
    if (c->moments) group->coherence = coherence_of(c, h, members, n);
    return RB_OK;
}

static rb_status make_head(plan_head *head, const void *curves, int h, int point, rb_error *err)
{
    const groups_curves *c = curves;
    const optimal_input *in = c->input;
    const double *scales = c->scales ? c->scales + (int64_t)h * in->n_blocks : NULL;
    block_partition partition;
    rb_status st;
    partition_curve_at(&c->of_heads[h], point, &partition);
    head->groups.norm = in->options->norm;
    head->groups.encoder = in->options->encoder;
    RB_TRY(st, plan_head_set_transform(head, scales, in->n_blocks, NULL, in->model->head_dim, err), done);
    for (int g = 0; g < partition.n_groups; g++)
        if (partition.width[g] > 0) RB_TRY(st, add_group(head, c, h, &partition, g, err), done);
done:
    return st;
}

static bool has_options(const optimal_options *own, const optimal_options *usual)
{
    return own->equalize != usual->equalize || own->codebook != usual->codebook || own->rotation != usual->rotation
           || own->norm != usual->norm || own->encoder != usual->encoder || own->max_groups != usual->max_groups
           || own->widths != usual->widths;
}

extern const optimal_family groups_optimal_family;
const optimal_family groups_optimal_family = {
    .scope = SCOPE_MODEL,
    .least_bits = least_bits,
    .build = build_curves,
    .free = free_curves,
    .curve = curve_of,
    .make_head = make_head,
    .has_options = has_options,
    .refusal = "has no groups, expected none of --no-equalize, --norm, --encoder, --codebook, --groups, --widths and "
               "--rotation",
};
