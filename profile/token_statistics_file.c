/* See token_statistics_file.h. */
#include "profile/token_statistics_file.h"

#include <stddef.h>
#include <stdio.h>

#include "kernels/reference/plan_head.h"
#include "profile/block_codebook_error.h"
#include "profile/logit_moment.h"

enum { ZSTD_LEVEL = 1, MAX_PATH = 64 };

/* What a table has of every head, besides its layer and KV head. */
typedef enum table_extent {
    OF_HEAD,
    OF_BLOCK,
    OF_DIM,
    OF_PAIR_OF_BLOCKS,
    OF_MAP,
    OF_BITS_OF_BLOCK,
    OF_WIDTH
} table_extent;

static const struct {
    const char *name;
    size_t offset; /* of a double * or float * */
    rb_h5_type type;
    table_extent extent;
    bool is_signed, is_of_values;
} tables[] = {
    {"q_energy", offsetof(token_statistics, q_energy), RB_H5_F64, OF_BLOCK, false, false},
    {"k_energy", offsetof(token_statistics, k_energy), RB_H5_F64, OF_BLOCK, false, false},
    {"k_mean", offsetof(token_statistics, k_mean), RB_H5_F64, OF_DIM, true, false},
    /* Half of the size of f64, of which a measurement has no use. */
    {"logit_moment", offsetof(token_statistics, logit_moment), RB_H5_F32, OF_PAIR_OF_BLOCKS, true, false},
    {"logit_moment_centered", offsetof(token_statistics, logit_moment_centered), RB_H5_F32, OF_PAIR_OF_BLOCKS, true,
     false},
    {"plane_map", offsetof(token_statistics, block_codebook_map), RB_H5_F32, OF_MAP, true, false},
    {"plane_error", offsetof(token_statistics, block_codebook_error), RB_H5_F32, OF_BITS_OF_BLOCK, false, false},
    {"value_error", offsetof(token_statistics, value_error), RB_H5_F64, OF_WIDTH, false, true},
    {"value_energy", offsetof(token_statistics, value_energy), RB_H5_F64, OF_HEAD, false, true},
};

typedef struct table_place {
    char path[MAX_PATH];
    int rank;
    int64_t dims[RB_H5_MAX_RANK], n; /* n: all entries */
} table_place;

static table_place place_of(size_t i, const char *prefix, const model_facts *model)
{
    const int64_t n_blocks = model_n_blocks(model);
    const int64_t further[][2] = {[OF_HEAD] = {0, 0},
                                  [OF_BLOCK] = {n_blocks, 0},
                                  [OF_DIM] = {model->head_dim, 0},
                                  [OF_PAIR_OF_BLOCKS] = {logit_moment_size((int)n_blocks), 0},
                                  [OF_MAP] = {n_blocks, BLOCK_CODEBOOK_MAP_SIZE},
                                  [OF_BITS_OF_BLOCK] = {n_blocks, BLOCK_CODEBOOK_N_BITS},
                                  [OF_WIDTH] = {PLAN_MAX_WIDTH, 0}};
    table_place place = {
        .rank = 2, .dims = {model->n_layers, model->n_kv_heads}, .n = (int64_t)model->n_layers * model->n_kv_heads};
    for (int j = 0; j < 2 && further[tables[i].extent][j] > 0; j++) {
        place.dims[place.rank++] = further[tables[i].extent][j];
        place.n *= further[tables[i].extent][j];
    }
    snprintf(place.path, sizeof place.path, "%s/%s", prefix, tables[i].name);
    return place;
}

static void *table_at(const token_statistics *statistics, size_t i)
{
    return *(void *const *)((const char *)statistics + tables[i].offset);
}

rb_status token_statistics_write(hid_t file, const char *prefix, const token_statistics *statistics,
                                 const model_facts *model, rb_error *err)
{
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(tables) && st == RB_OK; i++) {
        const table_place place = place_of(i, prefix, model);
        if (!table_at(statistics, i)) continue;
        st = rb_h5_write(file, place.path, tables[i].type, place.rank, place.dims, table_at(statistics, i), ZSTD_LEVEL,
                         err);
    }
    return st;
}

rb_status token_statistics_check(const rb_h5_contents *file, const char *prefix, const model_facts *model,
                                 bool has_values, rb_error *err)
{
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(tables) && st == RB_OK; i++) {
        const table_place place = place_of(i, prefix, model);
        if (!has_values && tables[i].is_of_values) continue;
        st = rb_h5_check_dataset(file, place.path, tables[i].type, place.rank, place.dims, err);
    }
    return st;
}

static rb_status check_from_0(const void *values, size_t i, const table_place *place, const char *path, rb_error *err)
{
    for (int64_t at = 0; at < place->n; at++) {
        const double value =
            tables[i].type == RB_H5_F64 ? ((const double *)values)[at] : (double)((const float *)values)[at];
        if (value < 0.0)
            return rb_fail(err, RB_EFORMAT, "%s: %s: entry %lld is %g, expected a number from 0", path, place->path,
                           (long long)at, value);
    }
    return RB_OK;
}

/* Finite, says rb_h5_read. */
rb_status token_statistics_read(token_statistics *out, const rb_h5_contents *file, const char *path, const char *prefix,
                                const model_facts *model, rb_error *err)
{
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(tables) && st == RB_OK; i++) {
        table_place place = place_of(i, prefix, model);
        void *values = table_at(out, i);
        if (!values) continue;
        st = rb_h5_read(file, place.path, tables[i].type, place.rank, place.dims, values, err);
        if (st == RB_OK && !tables[i].is_signed) st = check_from_0(values, i, &place, path, err);
    }
    return st;
}
