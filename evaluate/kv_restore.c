/* See kv_restore.h. */
#include "evaluate/kv_restore.h"

#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "kernels/reference/head_codec.h"

/* The codecs of one plan for the current layer; NULL where nothing is quantized. */
typedef struct plan_codecs {
    head_codec **keys, **values; /* [n_kv_heads] each, owned */
} plan_codecs;

struct kv_restore {
    const evaluate_request *request;
    const evaluate_batch *batch;
    const model_facts *model;
    model_facts values; /* model_value_facts */
    codec_tables *tables;
    plan_codecs *plans; /* [n_plans] */
    int layer;          /* of the codecs; -1: none yet */
};

static void free_codecs(head_codec **codecs, int n)
{
    for (int i = 0; codecs && i < n; i++) {
        head_codec_free(codecs[i]);
        codecs[i] = NULL;
    }
}

void kv_restore_free(kv_restore *r)
{
    if (!r) return;
    for (int p = 0; r->plans && p < r->request->n_plans; p++) {
        free_codecs(r->plans[p].keys, r->model->n_kv_heads);
        free_codecs(r->plans[p].values, r->model->n_kv_heads);
        free(r->plans[p].keys);
        free(r->plans[p].values);
    }
    free(r->plans);
    codec_tables_free(r->tables);
    free(r);
}

rb_status kv_restore_create(kv_restore **out, const evaluate_request *request, const evaluate_batch *batch,
                            rb_error *err)
{
    const size_t n_heads = (size_t)checkpoint_config(request->model)->facts.n_kv_heads;
    kv_restore *r = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&r, 1, sizeof *r, "codecs", err), done);
    *r = (kv_restore){
        .request = request, .batch = batch, .model = &checkpoint_config(request->model)->facts, .layer = -1};
    r->values = model_value_facts(r->model);
    RB_TRY(st, codec_tables_create(&r->tables, err), done);
    RB_TRY(st, rb_alloc(&r->plans, (size_t)request->n_plans, sizeof *r->plans, "codecs", err), done);
    for (int p = 0; p < request->n_plans; p++) {
        RB_TRY(st, rb_alloc(&r->plans[p].keys, n_heads, sizeof *r->plans[p].keys, "codecs", err), done);
        RB_TRY(st, rb_alloc(&r->plans[p].values, n_heads, sizeof *r->plans[p].values, "codecs", err), done);
    }
    *out = r;
    r = NULL;
done:
    kv_restore_free(r);
    return st;
}

static rb_status open_keys(kv_restore *r, int p, int layer, rb_error *err)
{
    rb_status st = RB_OK;
    if (!r->request->with_keys) return RB_OK;
    free_codecs(r->plans[p].keys, r->model->n_kv_heads);
    for (int h = 0; h < r->model->n_kv_heads && st == RB_OK; h++)
        st = head_codec_create(&r->plans[p].keys[h], bit_plan_head(r->request->plans[p], layer, h), r->model, r->tables,
                               err);
    return st;
}

/* A layer whose values are coded as those of the layer before keeps its codecs. */
static rb_status open_values(kv_restore *r, int p, int layer, rb_error *err)
{
    const bit_plan *plan = r->request->plans[p];
    const int n_heads = r->model->n_kv_heads;
    rb_status st = RB_OK;
    if (!r->request->with_values || !bit_plan_quantizes_values(plan)) return RB_OK;
    if (r->layer >= 0 && bit_plan_same_layer_values(plan, layer, r->layer)) return RB_OK;
    free_codecs(r->plans[p].values, n_heads);
    for (int h = 0; h < n_heads && st == RB_OK; h++) {
        plan_head head;
        st = bit_plan_value_head(plan, layer, h, &head, err);
        if (st == RB_OK) st = head_codec_create(&r->plans[p].values[h], &head, &r->values, r->tables, err);
        plan_head_clear(&head);
    }
    return st;
}

static rb_status open_layer(kv_restore *r, int layer, rb_error *err)
{
    rb_status st = RB_OK;
    if (layer == r->layer) return RB_OK;
    for (int p = 0; p < r->request->n_plans && st == RB_OK; p++) {
        st = open_keys(r, p, layer, err);
        if (st == RB_OK) st = open_values(r, p, layer, err);
    }
    r->layer = layer;
    return st;
}

/* Restores keys or values of head h of one sequence of the batch, by the plan of the run whose copy it is. */
static rb_status restore_head(const kv_restore *r, layer_heads *heads, int64_t sequence, int h, bool is_value,
                              rb_error *err)
{
    const int run = (int)(sequence % r->batch->n_runs);
    if (run == 0) return RB_OK;
    const head_codec *codec = is_value ? r->plans[run - 1].values[h] : r->plans[run - 1].keys[h];
    if (!codec) return RB_OK;
    const int64_t dim = is_value ? r->model->value_dim : r->model->head_dim,
                  first = r->batch->sequence_start[sequence] - heads->first_token;
    const int64_t end = r->batch->sequence_start[sequence + 1] - heads->first_token;
    float *rows = (is_value ? heads->v : heads->k) + h * heads->n_tokens * dim;
    const int64_t begin = first + r->request->plans[run - 1]->n_sink;
    if (begin >= end) return RB_OK;
    const rb_status st = head_codec_round_trip(codec, rows + begin * dim, end - begin, rows + begin * dim, err);
    return st == RB_OK ? RB_OK
                       : rb_fail_in(err, st, "layer %d kv_head %d, %s", heads->layer, h, is_value ? "values" : "keys");
}

rb_status kv_restore_part(kv_restore *r, layer_heads *heads, rb_error *err)
{
    const int64_t first = r->batch->part_start[heads->part], n = r->batch->part_start[heads->part + 1] - first,
                  n_heads = r->model->n_kv_heads;
    rb_first_failure failure = {0};
    const rb_status st = open_layer(r, heads->layer, err);
    if (st != RB_OK) return st;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n * n_heads * 2; i++) {
        rb_error mine = {0};
        rb_note_failure(&failure, i,
                        restore_head(r, heads, first + i / (2 * n_heads), (int)(i / 2 % n_heads), i % 2 != 0, &mine),
                        &mine);
    }
    return rb_tell_failure(&failure, err);
}
