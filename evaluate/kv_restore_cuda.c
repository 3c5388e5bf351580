/* See evaluate/kv_restore_cuda.h. Codes and norms are in the device's memory between encode and decode only: one
 * sequence's at a time, on one stream. */
#include "evaluate/kv_restore_cuda.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "kernels/cuda/codec_cuda.h"

enum { KEYS, VALUES, N_KINDS };

static const char *const kind_names[N_KINDS] = {"keys", "values"};

/* A layer's codec of one kind under one plan; both NULL where nothing is quantized. */
typedef struct layer_codec {
    codec_image *image;
    codec_cuda *codec;
} layer_codec;

struct kv_restore_cuda {
    const evaluate_request *request;
    const evaluate_batch *batch;
    const model_facts *model;
    model_facts values; /* model_value_facts */
    const codec_cuda_api *api;
    codec_tables *tables;
    layer_codec (*plans)[N_KINDS]; /* [n_plans] */
    int layer;                     /* of the codecs; -1: none yet */
    rb_cuda_array packed, norms;
    rb_cuda_array bad; /* [n_sequences][N_KINDS]: first vector of the layer that no codec holds, counted head after
                          head; UINT64_MAX: none */
    uint64_t *host_bad;
};

static void free_codec(layer_codec *c)
{
    codec_cuda_free(c->codec);
    codec_image_free(c->image);
    *c = (layer_codec){0};
}

void kv_restore_cuda_free(kv_restore_cuda *r)
{
    if (!r) return;
    for (int p = 0; r->plans && p < r->request->n_plans; p++)
        for (int kind = 0; kind < N_KINDS; kind++) free_codec(&r->plans[p][kind]);
    free(r->plans);
    free(r->host_bad);
    codec_tables_free(r->tables);
    rb_cuda_array_free(&r->packed);
    rb_cuda_array_free(&r->norms);
    rb_cuda_array_free(&r->bad);
    free(r);
}

/* ---- sizes ----------------------------------------------------------------------------------- */

/* Streams of n vectors a head, each up to a multiple of 128 bytes: at most a byte a code, and a norm a group. */
static int64_t stream_bytes(int n_heads, int64_t n, int64_t vector_bytes)
{
    return n_heads * ((n * vector_bytes + 127) / 128 * 128);
}
static int64_t packed_bytes(const model_facts *model, int64_t n)
{
    return stream_bytes(model->n_kv_heads, n, model->head_dim > model->value_dim ? model->head_dim : model->value_dim);
}
static int64_t norm_bytes(const model_facts *model, int64_t n)
{
    return stream_bytes(model->n_kv_heads, n, CODEC_IMAGE_MAX_NORMS * 2);
}
static int64_t bad_bytes(const evaluate_batch *batch)
{
    return batch->batch.n_sequences * N_KINDS * (int64_t)sizeof(uint64_t);
}

/* Tables of the codecs of heads [n_layers][n_kv_heads]: of the layer that takes most. */
static int64_t table_bytes(const plan_head *heads, const model_facts *model)
{
    int64_t most = 0;
    for (int layer = 0; layer < model->n_layers; layer++) {
        int64_t bytes = 0;
        for (int h = 0; h < model->n_kv_heads; h++)
            bytes += codec_image_head_bytes(&heads[layer * model->n_kv_heads + h], model);
        if (bytes > most) most = bytes;
    }
    return most;
}

/* Those of the values' codecs, which have one group a head (plan_head_set_values) where they have no heads. */
static int64_t value_table_bytes(const bit_plan *plan)
{
    const plan_head head = {.family = FAMILY_GROUPS, .groups = {.n = 1}};
    const model_facts values = model_value_facts(&plan->model);
    return plan->value_heads ? table_bytes(plan->value_heads, &values)
                             : plan->model.n_kv_heads * codec_image_head_bytes(&head, &values);
}

int64_t kv_restore_cuda_bytes(const evaluate_request *request, const evaluate_batch *batch)
{
    const model_facts *model = &checkpoint_config(request->model)->facts;
    const int64_t longest = token_batch_longest(&batch->batch);
    int64_t total = packed_bytes(model, longest) + norm_bytes(model, longest) + bad_bytes(batch);
    for (int p = 0; p < request->n_plans; p++) {
        const bit_plan *plan = request->plans[p];
        total += table_bytes(plan->heads, &plan->model) + value_table_bytes(plan);
    }
    return total;
}

/* ---- codecs ---------------------------------------------------------------------------------- */

static rb_status build_value_image(const kv_restore_cuda *r, int p, int layer, rb_error *err)
{
    const bit_plan *plan = r->request->plans[p];
    const int n_heads = r->model->n_kv_heads;
    plan_head *heads = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&heads, (size_t)n_heads, sizeof *heads, "codecs", err), done);
    for (int h = 0; h < n_heads; h++) RB_TRY(st, bit_plan_value_head(plan, layer, h, &heads[h], err), done);
    st = codec_image_build(&r->plans[p][VALUES].image, heads, n_heads, &r->values, r->tables, err);
done:
    for (int h = 0; heads && h < n_heads; h++) plan_head_clear(&heads[h]);
    free(heads);
    return st;
}

static rb_status upload_image(layer_codec *c, rb_error *err)
{
    return c->image ? codec_cuda_create(&c->codec, c->image, err) : RB_OK;
}

static rb_status open_keys(kv_restore_cuda *r, int layer, rb_error *err)
{
    const int n_plans = r->request->n_plans;
    rb_first_failure failure = {0};
    rb_status st = RB_OK;
    if (!r->request->with_keys) return RB_OK;
    for (int p = 0; p < n_plans; p++) free_codec(&r->plans[p][KEYS]);
#pragma omp parallel for schedule(dynamic)
    for (int p = 0; p < n_plans; p++) {
        rb_error mine = {0};
        const plan_head *heads = bit_plan_head(r->request->plans[p], layer, 0);
        rb_note_failure(
            &failure, p,
            codec_image_build(&r->plans[p][KEYS].image, heads, r->model->n_kv_heads, r->model, r->tables, &mine),
            &mine);
    }
    RB_TRY(st, rb_tell_failure(&failure, err), done);
    for (int p = 0; p < n_plans; p++) RB_TRY(st, upload_image(&r->plans[p][KEYS], err), done);
done:
    return st;
}

/* A layer whose values are coded as those of the one before keeps its codecs. */
static rb_status open_values(kv_restore_cuda *r, int layer, rb_error *err)
{
    rb_status st = RB_OK;
    for (int p = 0; p < r->request->n_plans; p++) {
        const bit_plan *plan = r->request->plans[p];
        if (!r->request->with_values || !bit_plan_quantizes_values(plan)) continue;
        if (r->layer >= 0 && bit_plan_same_layer_values(plan, layer, r->layer)) continue;
        free_codec(&r->plans[p][VALUES]);
        RB_TRY(st, build_value_image(r, p, layer, err), done);
        RB_TRY(st, upload_image(&r->plans[p][VALUES], err), done);
    }
done:
    return st;
}

static rb_status open_layer(kv_restore_cuda *r, int layer, rb_error *err)
{
    rb_status st = RB_OK;
    if (layer == r->layer) return RB_OK;
    RB_TRY(st, open_keys(r, layer, err), done);
    RB_TRY(st, open_values(r, layer, err), done);
    r->layer = layer;
done:
    return st;
}

/* Before the pass begins. */
static rb_status check_values(const kv_restore_cuda *r, rb_error *err)
{
    bool are_quantized = false;
    for (int p = 0; p < r->request->n_plans; p++) are_quantized |= bit_plan_quantizes_values(r->request->plans[p]);
    if (!r->request->with_values || !are_quantized || codec_image_takes(r->model->value_dim)) return RB_OK;
    return rb_fail(err, RB_EUNSUPPORTED,
                   "values of %d dims: the CUDA kernels take multiples of %d up to %d, expected --device cpu or "
                   "--keys-only",
                   r->model->value_dim, CODEC_IMAGE_DIM_STEP, CODEC_IMAGE_MAX_DIMS);
}

rb_status kv_restore_cuda_create(kv_restore_cuda **out, const evaluate_request *request, const evaluate_batch *batch,
                                 rb_error *err)
{
    const model_facts *model = &checkpoint_config(request->model)->facts;
    const int64_t longest = token_batch_longest(&batch->batch);
    kv_restore_cuda *r = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&r, 1, sizeof *r, "codecs", err), done);
    *r = (kv_restore_cuda){
        .request = request, .batch = batch, .model = model, .values = model_value_facts(model), .layer = -1};
    RB_TRY(st, check_values(r, err), done);
    RB_TRY(st, codec_cuda_functions(&r->api, err), done);
    RB_TRY(st, codec_tables_create(&r->tables, err), done);
    RB_TRY(st, rb_alloc(&r->plans, (size_t)request->n_plans, sizeof *r->plans, "codecs", err), done);
    RB_TRY(st, rb_alloc(&r->host_bad, (size_t)bad_bytes(batch), 1, "codecs", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&r->packed, (size_t)packed_bytes(model, longest), "codes", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&r->norms, (size_t)norm_bytes(model, longest), "norms", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&r->bad, (size_t)bad_bytes(batch), "codecs", err), done);
    *out = r;
    r = NULL;
done:
    kv_restore_cuda_free(r);
    return st;
}

/* ---- a part ---------------------------------------------------------------------------------- */

/* Keys or values of one sequence of the batch, by the plan of the run whose copy it is. */
static rb_status restore_sequence(const kv_restore_cuda *r, const device_heads *heads, int64_t sequence, int kind,
                                  void *stream, rb_error *err)
{
    const int run = (int)(sequence % r->batch->n_runs);
    if (run == 0) return RB_OK;
    const int64_t dim = kind == VALUES ? r->model->value_dim : r->model->head_dim,
                  begin = r->batch->sequence_start[sequence] - heads->first_token + r->request->plans[run - 1]->n_sink;
    const int64_t n = r->batch->sequence_start[sequence + 1] - heads->first_token - begin;
    if (n <= 0) return RB_OK;
    const codec_cuda *codec = r->plans[run - 1][kind].codec;
    if (!codec) return RB_OK;
    const codec_image *image = r->plans[run - 1][kind].image;
    assert(codec_image_packed_offset(image, image->n_heads, n) <= (int64_t)r->packed.size_bytes);
    assert(codec_image_norms_offset(image, image->n_heads, n) <= (int64_t)r->norms.size_bytes);
    (void)image;
    const codec_vectors x = {.data = (kind == VALUES ? heads->v : heads->k) + begin * dim,
                             .type = CODEC_F32,
                             .head_stride = heads->n_tokens * dim,
                             .token_stride = dim};
    const codec_device_image *device = codec_cuda_image(codec);
    rb_status st;
    RB_TRY(st,
           r->api->encode(device, &x, n, r->packed.at, r->norms.at, (uint64_t *)r->bad.at + sequence * N_KINDS + kind,
                          stream, err),
           done);
    st = r->api->decode(device, r->packed.at, r->norms.at, n, &x, stream, err);
done:
    return st;
}

rb_status kv_restore_cuda_part(kv_restore_cuda *r, const device_heads *heads, void *stream, rb_error *err)
{
    rb_status st;
    if (heads->part == 0) RB_TRY(st, rb_cuda()->fill(r->bad.at, 0xff, r->bad.size_bytes, stream, err), done);
    RB_TRY(st, open_layer(r, heads->layer, err), done);
    for (int64_t s = r->batch->part_start[heads->part]; s < r->batch->part_start[heads->part + 1]; s++)
        for (int kind = 0; kind < N_KINDS; kind++) RB_TRY(st, restore_sequence(r, heads, s, kind, stream, err), done);
done:
    return st;
}

rb_status kv_restore_cuda_check(const kv_restore_cuda *r, int layer, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_cuda()->copy(r->host_bad, r->bad.at, r->bad.size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    for (int64_t s = 0; s < r->batch->batch.n_sequences; s++)
        for (int kind = 0; kind < N_KINDS; kind++) {
            const uint64_t bad = r->host_bad[s * N_KINDS + kind];
            if (bad == UINT64_MAX) continue;
            const int64_t n = r->batch->sequence_start[s + 1] - r->batch->sequence_start[s]
                              - r->request->plans[s % r->batch->n_runs - 1]->n_sink;
            st = rb_fail(err, RB_ENONFINITE,
                         "layer %d kv_head %lld, %s: vector %lld of a sequence is not finite, or its norm is beyond "
                         "fp16's 65504",
                         layer, (long long)(bad / (uint64_t)n), kind_names[kind], (long long)(bad % (uint64_t)n));
            goto done;
        }
done:
    return st;
}
