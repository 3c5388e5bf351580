/* See optimal.h. */
#include "methods/optimal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "kernels/reference/codec_distortion.h"
#include "methods/block_codebook_curve.h"
#include "methods/partition.h"

/* The largest 8-bit norm of a group is 2^6 to 2^7 times its rms norm: tokens of that size are coded as they are, and
 * 2^-9 of it is still above 0. */
enum { NORM_HEADROOM = 6 };

enum { GROUPS = 1 << FAMILY_GROUPS, PLANES = 1 << FAMILY_BLOCK_CODEBOOK };

struct optimal_curves {
    model_facts model;
    optimal_options options;
    int n_heads, n_blocks;
    double *q_energy, *k_energy; /* [n_heads][n_blocks]: of keys centred and equalized */
    double *scales;              /* [n_heads][n_blocks] */
    double *centers;             /* [n_heads][head_dim] */
    float *moments;          /* [n_heads][n_blocks (n_blocks + 1) / 2]; NULL: none. Equalizing does not change them */
    partition_curve *curves; /* [n_heads]; NULL without family groups */
    /* Of family block-codebook; NULL without. */
    block_codebook_curve *block_codebook;      /* [n_heads] */
    block_codebook_head *block_codebook_heads; /* [n_heads]; they borrow what follows, and moments */
    double *raw_q_energy;                      /* [n_heads][n_blocks] */
    float *block_codebook_error;               /* [n_heads][n_blocks][BLOCK_CODEBOOK_MAX_BITS + 1] */
    double *maps;                              /* [n_heads][n_blocks][BLOCK_CODEBOOK_MAP_SIZE] */
    double **least; /* [n_heads][points of both curves]: the lower error of the two families */
};

optimal_options optimal_options_default(void)
{
    return (optimal_options){.equalize = true,
                             .families = GROUPS,
                             .gain_bits = 3,
                             .codebook = CODEBOOK_SPHERE,
                             .rotation = ROTATION_HAAR,
                             .norm = NORM_LOG8,
                             .encoder = ENCODER_SEARCH,
                             .widths = (1u << (PLAN_MAX_WIDTH + 1)) - 1u,
                             .scope = OPTIMAL_OWN_SCOPE,
                             .least_share = 0.9,
                             .objective = OBJECTIVE_MAE};
}

void optimal_options_set_method(optimal_options *options, allocation_method method)
{
    options->center = method != METHOD_OPTIMAL;
    options->families = method == METHOD_BLOCK_CODEBOOK ? PLANES : method == METHOD_BEST ? GROUPS | PLANES : GROUPS;
}

void optimal_curves_free(optimal_curves *c)
{
    if (!c) return;
    for (int h = 0; c->block_codebook && h < c->n_heads; h++) block_codebook_curve_free(&c->block_codebook[h]);
    for (int h = 0; c->least && h < c->n_heads; h++) free(c->least[h]);
    free(c->block_codebook);
    free(c->block_codebook_heads);
    free(c->raw_q_energy);
    free(c->block_codebook_error);
    free(c->least);
    free(c->maps);
    for (int h = 0; c->curves && h < c->n_heads; h++) partition_curve_free(&c->curves[h]);
    free(c->curves);
    free(c->q_energy);
    free(c->k_energy);
    free(c->scales);
    free(c->centers);
    free(c->moments);
    free(c);
}

/* ---- energies of what is coded --------------------------------------------------------------- */

/* k_energy -= |mean|^2, block by block. */
static void center_energies(optimal_curves *c, const double *k_mean)
{
    for (int64_t h = 0; h < c->n_heads; h++)
        for (int block = 0; block < c->n_blocks; block++) {
            const double *mean = k_mean + h * c->model.head_dim;
            double *energy = &c->k_energy[h * c->n_blocks + block];
            int dims[2];
            model_block_dims(&c->model, block, dims);
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

static void equalize_energies(optimal_curves *c)
{
    for (int64_t i = 0; i < (int64_t)c->n_heads * c->n_blocks; i++) {
        c->scales[i] = equalizing_scale(c->q_energy[i], c->k_energy[i]);
        c->q_energy[i] /= c->scales[i] * c->scales[i];
        c->k_energy[i] *= c->scales[i] * c->scales[i];
    }
}

/* ---- curves ---------------------------------------------------------------------------------- */

static rb_status build_curves(optimal_curves *c, rb_error *err)
{
    const codec_kind kind = {c->options.codebook, c->options.encoder, c->options.norm};
    partition_options how = partition_options_default();
    double *distortion = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&c->curves, (size_t)c->n_heads, sizeof *c->curves, "curves", err), done);
    how.widths = c->options.widths;
    how.norm_bits = norm_kind_bits(c->options.norm);
    how.max_groups = c->options.max_groups;
    RB_TRY(
        st,
        rb_alloc(&distortion, PARTITION_N_WIDTHS, ((size_t)c->n_blocks + 1) * sizeof *distortion, "distortions", err),
        done);
    RB_TRY(st, codec_distortion_measure(distortion, c->n_blocks, &kind, err), done);
    const group_distortion measured = {.max_blocks = c->n_blocks, .c = distortion};
    RB_TRY(st,
           partition_curves_build(c->curves, c->n_heads, c->n_blocks, c->q_energy, c->k_energy, c->moments, &measured,
                                  1, &how, err),
           done);
done:
    free(distortion);
    return st;
}

/* Weights of errors are shares of the largest: what a gain is chosen by has no scale. */
static void set_weights(double *weights, const double *q_energy, int n_blocks)
{
    double most = 0.0;
    for (int i = 0; i < n_blocks; i++) most = fmax(most, q_energy[i]);
    for (int i = 0; i < n_blocks; i++) weights[i] = most > 0.0 ? q_energy[i] / most : 1.0;
}

static rb_status build_block_codebook(optimal_curves *c, const head_statistics *statistics, rb_error *err)
{
    const size_t n = (size_t)c->n_heads * (size_t)c->n_blocks;
    rb_status st;
    if (!statistics->block_codebook_map || !statistics->block_codebook_error)
        return rb_fail(err, RB_EINVAL, "family block-codebook needs the maps and errors of blocks, which are missing");
    RB_TRY(st, rb_alloc(&c->block_codebook, (size_t)c->n_heads, sizeof *c->block_codebook, "curves", err), done);
    RB_TRY(st, rb_alloc(&c->block_codebook_heads, (size_t)c->n_heads, sizeof *c->block_codebook_heads, "curves", err),
           done);
    RB_TRY(st, rb_alloc(&c->raw_q_energy, n, sizeof *c->raw_q_energy, "energies", err), done);
    RB_TRY(st,
           rb_alloc(&c->block_codebook_error, n, (BLOCK_CODEBOOK_MAX_BITS + 1) * sizeof *c->block_codebook_error,
                    "errors of blocks", err),
           done);
    RB_TRY(st, rb_alloc(&c->maps, n, BLOCK_CODEBOOK_MAP_SIZE * sizeof *c->maps, "maps of blocks", err), done);
    for (size_t i = 0; i < n * BLOCK_CODEBOOK_MAP_SIZE; i++) c->maps[i] = (double)statistics->block_codebook_map[i];
    memcpy(c->raw_q_energy, statistics->q_energy, n * sizeof *c->raw_q_energy);
    memcpy(c->block_codebook_error, statistics->block_codebook_error,
           n * (BLOCK_CODEBOOK_MAX_BITS + 1) * sizeof *c->block_codebook_error);
    for (int64_t h = 0, at = 0; h < c->n_heads; h++, at += c->n_blocks)
        c->block_codebook_heads[h] = (block_codebook_head){c->n_blocks, c->raw_q_energy + at,
                                                           c->block_codebook_error + at * (BLOCK_CODEBOOK_MAX_BITS + 1),
                                                           c->moments ? c->moments + at * (c->n_blocks + 1) / 2 : NULL};
    RB_TRY(
        st,
        block_codebook_curves_build(c->block_codebook, c->block_codebook_heads, c->n_heads, c->options.gain_bits, err),
        done);
done:
    return st;
}

/* V of a head's family within p bytes; where its curve has ended, more is of no use. */
static int on_curve(int n_points, int point) { return point < n_points ? point : n_points - 1; }
static double groups_error(const optimal_curves *c, int h, int point)
{
    return c->curves ? c->curves[h].error[on_curve(c->curves[h].n_points, point)] : (double)INFINITY;
}
static double block_codebook_error(const optimal_curves *c, int h, int point)
{
    return c->block_codebook ? c->block_codebook[h].error[on_curve(c->block_codebook[h].n_points, point)]
                             : (double)INFINITY;
}

static int count_points(const optimal_curves *c, int h)
{
    const int groups = c->curves ? c->curves[h].n_points : 0,
              planes = c->block_codebook ? c->block_codebook[h].n_points : 0;
    return groups > planes ? groups : planes;
}

static rb_status join_families(optimal_curves *c, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_alloc(&c->least, (size_t)c->n_heads, sizeof *c->least, "curves", err), done);
    for (int h = 0; h < c->n_heads; h++) {
        RB_TRY(st, rb_alloc(&c->least[h], (size_t)count_points(c, h), sizeof **c->least, "curves", err), done);
        for (int p = 0; p < count_points(c, h); p++)
            c->least[h][p] = fmin(groups_error(c, h, p), block_codebook_error(c, h, p));
    }
done:
    return st;
}

rb_status optimal_curves_build(optimal_curves **out, const model_facts *model, const head_statistics *statistics,
                               const optimal_options *options, rb_error *err)
{
    const int n_heads = model->n_layers * model->n_kv_heads, n_blocks = model_n_blocks(model);
    const size_t n_energies = (size_t)n_heads * (size_t)n_blocks, n_means = (size_t)n_heads * (size_t)model->head_dim;
    optimal_curves *c = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&c, 1, sizeof *c, "curves", err), done);
    *c = (optimal_curves){.model = *model, .options = *options, .n_heads = n_heads, .n_blocks = n_blocks};
    RB_TRY(st, rb_alloc(&c->q_energy, n_energies, sizeof *c->q_energy, "energies", err), done);
    RB_TRY(st, rb_alloc(&c->k_energy, n_energies, sizeof *c->k_energy, "energies", err), done);
    memcpy(c->q_energy, statistics->q_energy, n_energies * sizeof(double));
    memcpy(c->k_energy, statistics->k_energy, n_energies * sizeof(double));
    if (options->center) {
        RB_TRY(st, rb_alloc(&c->centers, n_means, sizeof *c->centers, "centres", err), done);
        memcpy(c->centers, statistics->k_mean, n_means * sizeof(double));
        center_energies(c, c->centers);
    }
    const float *moments = options->center ? statistics->moment_centered : statistics->moment;
    if (moments
        && (options->encoder == ENCODER_SEARCH
            || options->families & PLANES)) { /* who else could not stretch by them */
        const size_t n_moments = (size_t)n_heads * (size_t)n_blocks * ((size_t)n_blocks + 1) / 2;
        RB_TRY(st, rb_alloc(&c->moments, n_moments, sizeof *c->moments, "logit moments", err), done);
        memcpy(c->moments, moments, n_moments * sizeof *moments);
    }
    if (options->equalize) {
        RB_TRY(st, rb_alloc(&c->scales, n_energies, sizeof *c->scales, "scales", err), done);
        equalize_energies(c);
    }
    if (options->families & GROUPS) RB_TRY(st, build_curves(c, err), done);
    if (options->families & PLANES) RB_TRY(st, build_block_codebook(c, statistics, err), done);
    RB_TRY(st, join_families(c, err), done);
    *out = c;
    c = NULL;
done:
    optimal_curves_free(c);
    return st;
}

/* ---- a plan ---------------------------------------------------------------------------------- */

static int norm_exponent(const optimal_curves *c, const double *k_energy, const int *blocks, int n)
{
    double square = 0.0;
    if (c->options.norm != NORM_LOG8) return 0;
    for (int i = 0; i < n; i++) square += k_energy[blocks[i]];
    if (!(square > 0.0)) return 0;
    const double exponent = ceil(0.5 * log2(square)) + NORM_HEADROOM;
    return (int)fmin(fmax(exponent, NORM_MIN_EXPONENT), NORM_MAX_EXPONENT);
}

static float coherence_of(const optimal_curves *c, int h, const int16_t *blocks, int n)
{
    static const double MOST = 4096.0;
    const int64_t at = (int64_t)h * c->n_blocks;
    const float *moment = c->moments + at * (c->n_blocks + 1) / 2;
    return rb_f16_to_f32(rb_f32_to_f16(
        (float)fmin(MOST, partition_coherence(blocks, n, c->n_blocks, c->q_energy + at, c->k_energy + at, moment))));
}

static rb_status set_block_codebook(plan_head *head, const optimal_curves *c, int h, int point, rb_error *err)
{
    const int64_t at = (int64_t)h * c->n_blocks;
    double maps[RB_MAX_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE], stretches[RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS];
    uint8_t bits[RB_MAX_BLOCKS];
    rb_status st;
    RB_TRY(st,
           block_codebook_curve_at(&c->block_codebook[h], &c->block_codebook_heads[h],
                                   on_curve(c->block_codebook[h].n_points, point), bits, err),
           done);
    block_codebook_head_error(&c->block_codebook_heads[h], bits, stretches);
    set_weights(weights, c->raw_q_energy + at, c->n_blocks);
    for (int i = 0; i < BLOCK_CODEBOOK_MAP_SIZE * c->n_blocks; i++)
        maps[i] = c->maps[at * BLOCK_CODEBOOK_MAP_SIZE + i] * stretches[i / BLOCK_CODEBOOK_MAP_SIZE];
    plan_head_clear(head);
    RB_TRY(st, plan_head_set_block_codebook(head, bits, maps, weights, c->options.gain_bits, c->n_blocks, err), done);
    RB_TRY(st, plan_head_set_center(head, c->centers + (int64_t)h * c->model.head_dim, c->model.head_dim, err), done);
done:
    return st;
}

static rb_status set_groups(plan_head *head, const optimal_curves *c, int h, int point, rb_error *err)
{
    const double *k_energy = c->k_energy + (int64_t)h * c->n_blocks;
    block_partition partition;
    int blocks[RB_MAX_BLOCKS];
    rb_status st;
    partition_curve_at(&c->curves[h], on_curve(c->curves[h].n_points, point), &partition);
    plan_head_clear(head);
    head->groups.norm = c->options.norm;
    head->groups.encoder = c->options.encoder;
    RB_TRY(st,
           plan_head_set_transform(head, c->scales ? c->scales + (int64_t)h * c->n_blocks : NULL, c->n_blocks,
                                   c->centers ? c->centers + (int64_t)h * c->model.head_dim : NULL, c->model.head_dim,
                                   err),
           done);
    for (int g = 0; g < partition.n_groups; g++) {
        const int n = partition.first[g + 1] - partition.first[g];
        if (partition.width[g] == 0) continue;
        for (int i = 0; i < n; i++) blocks[i] = partition.blocks[partition.first[g] + i];
        RB_TRY(st,
               plan_head_add_group(head, partition.width[g], blocks, n, c->options.codebook,
                                   norm_exponent(c, k_energy, blocks, n), err),
               done);
        plan_group *group = &head->groups.at[head->groups.n - 1];
        group->rotation.kind = c->options.rotation;
        if (c->moments) group->coherence = coherence_of(c, h, partition.blocks + partition.first[g], n);
    }
done:
    return st;
}

/* Of a head: one group at least, no more than its curve has. */
static int64_t least_bits(const optimal_curves *c, int64_t key_bits)
{
    const double share = c->options.least_share * (double)key_bits / c->n_heads,
                 one_group = norm_kind_bits(c->options.norm) + 8;
    int64_t bytes = (int64_t)(fmax(share, one_group) / 8.0);
    for (int h = 0; h < c->n_heads; h++)
        if (bytes > count_points(c, h) - 1) bytes = count_points(c, h) - 1;
    return 8 * bytes;
}

static budget_scope scope_of(const optimal_options *options)
{
    if (options->scope != OPTIMAL_OWN_SCOPE) return (budget_scope)options->scope;
    return options->families & PLANES ? SCOPE_HEAD : SCOPE_MODEL;
}

static allocation_method method_of(const optimal_options *options)
{
    if (options->families == PLANES) return METHOD_BLOCK_CODEBOOK;
    if (options->families & PLANES) return METHOD_BEST;
    return options->center ? METHOD_OPTIMAL_CENTER : METHOD_OPTIMAL;
}

rb_status optimal_plan_keys(bit_plan *plan, budget_answer *answer, const optimal_curves *c, int64_t key_bits,
                            rb_error *err)
{
    budget_curve *curves = NULL;
    int32_t *points = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&curves, (size_t)c->n_heads, sizeof *curves, "curves", err), done);
    RB_TRY(st, rb_alloc(&points, (size_t)c->n_heads, sizeof *points, "curves", err), done);
    for (int h = 0; h < c->n_heads; h++) curves[h] = (budget_curve){count_points(c, h), c->least[h]};
    const budget_request request = {.n_layers = c->model.n_layers,
                                    .heads_per_layer = c->model.n_kv_heads,
                                    .curves = curves,
                                    .objective = c->options.objective,
                                    .scope = scope_of(&c->options),
                                    .total_bits = key_bits,
                                    .min_head_bits = least_bits(c, key_bits)};
    RB_TRY(st, budget_solve(points, answer, &request, err), done);
    for (int h = 0; h < c->n_heads; h++) {
        const bool is_block_codebook = block_codebook_error(c, h, points[h]) < groups_error(c, h, points[h]);
        RB_TRY(st,
               is_block_codebook ? set_block_codebook(&plan->heads[h], c, h, points[h], err)
                                 : set_groups(&plan->heads[h], c, h, points[h], err),
               done);
    }
    snprintf(plan->method, sizeof plan->method, "%s", allocation_method_name(method_of(&c->options)));
done:
    free(curves);
    free(points);
    return st;
}
