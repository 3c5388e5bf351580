/* See profile/profile_cuda.h.
 *
 * For a layer the candidates are the plans to score, then, for the error curves, the uniform codec of every width. Each
 * is one encode and one decode of all heads' keys; then kernels compare all of them. A thread reads the next layer from
 * the capture while the GPU is at this one. */
#include "profile/profile_cuda.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cuda_device.h"
#include "core/message.h"
#include "core/threads.h"
#include "kernels/cuda/codec_cuda.h"
#include "model/rope_apply.h"
#include "profile/attention_error.h"
#include "profile/error_cuda.h"
#include "profile/layer_reader.h"
#include "profile/logit_error.h"
#include "profile/profile_compute.h"

enum { ATTENTION_SUMS = 3 };

/* A candidate's codecs for the layer: the heads they are for, and what lives on the device. */
typedef struct candidate {
    const plan_head *heads; /* [n_kv_heads] */
    plan_head *own;         /* a curve's; owned */
    codec_image *image;
    codec_cuda *codec;
    const plan_head *made_for; /* heads of the layer that image and codec are for */
} candidate;

/* Tables of one RoPE. */
typedef struct rope_arrays {
    rb_cuda_array turn, cos, sin;
} rope_arrays;

typedef struct gpu_scoring {
    const capture_file *capture;
    const model_facts *model;
    const bit_plan *const *plans;
    profile_table *table;
    int n_plans, n_candidates;
    int64_t n_tokens, context;
    codec_tables *tables;
    candidate *candidates;
    const codec_cuda_api *codec;
    const error_cuda_api *errors;
    layer_reader reader;
    rb_cuda_array q, k, k_hat, packed, norms, bad, dims, scratch, offset_sums, attention_sums, block_sums, norm_sums,
        weights, token_errors;
    rope_arrays ropes[2]; /* of the usual RoPE and of the local one: by layer_is_local */
    double *host_offset, *host_attention, *host_blocks, *host_norms;
    float *host_weights,
        *host_tokens; /* [n_kv_heads][head_dim]; [1 + n_plans][n_kv_heads][n_tokens]: sizes, then errors */
    double codec_s, score_s, read_s;
} gpu_scoring;

/* ---- set-up ---------------------------------------------------------------------------------- */

static rb_status upload(rb_cuda_array *array, const void *from, size_t size_bytes, rb_error *err)
{
    const rb_status st = rb_cuda_array_alloc(array, size_bytes, "tables", err);
    return st == RB_OK ? rb_cuda()->copy(array->at, from, size_bytes, NULL, err) : st;
}

static rb_status upload_rope(gpu_scoring *s, rope_arrays *arrays, const rope_facts *facts, rb_error *err)
{
    const size_t turn_bytes = 2 * (size_t)model_n_blocks(s->model) * LOGIT_ERROR_N_OFFSETS * sizeof(float),
                 rope_bytes = (size_t)s->context * (size_t)(s->model->rotary_dim / 2) * sizeof(float);
    offset_table *offsets = NULL;
    rope_table rope = {0};
    rb_status st;
    RB_TRY(st, offset_table_create(&offsets, s->model, facts, err), done);
    RB_TRY(st, rope_table_init(&rope, s->model, facts, s->context, err), done);
    RB_TRY(st, upload(&arrays->turn, offset_table_turn(offsets), turn_bytes, err), done);
    RB_TRY(st, upload(&arrays->cos, rope.cos, rope_bytes, err), done);
    RB_TRY(st, upload(&arrays->sin, rope.sin, rope_bytes, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    offset_table_free(offsets);
    rope_table_free(&rope);
    return st;
}

static rb_status upload_tables(gpu_scoring *s, rb_error *err)
{
    const int n_blocks = model_n_blocks(s->model);
    int dims[RB_MAX_BLOCKS][2];
    rb_status st;
    for (int i = 0; i < n_blocks; i++) model_block_dims(s->model, i, dims[i]);
    RB_TRY(st, upload(&s->dims, dims, (size_t)n_blocks * sizeof *dims, err), done);
    RB_TRY(st, upload_rope(s, &s->ropes[0], &s->model->rope, err), done);
    if (s->model->has_local_rope) RB_TRY(st, upload_rope(s, &s->ropes[1], &s->model->local_rope, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    return st;
}

/* The curves' codecs: uniform of every width, the same for all heads and layers. */
static rb_status make_curves(gpu_scoring *s, rb_error *err)
{
    rb_status st = RB_OK;
    for (int c = s->n_plans; c < s->n_candidates && st == RB_OK; c++) {
        candidate *curve = &s->candidates[c];
        st = rb_alloc(&curve->own, (size_t)s->model->n_kv_heads, sizeof *curve->own, "codecs", err);
        for (int h = 0; h < s->model->n_kv_heads && st == RB_OK; h++)
            st = plan_head_set_uniform(&curve->own[h], c - s->n_plans + 1, model_n_blocks(s->model), UNIFORM_SEED,
                                       CODEBOOK_BLOCK_GTQ, err);
        curve->heads = curve->own;
    }
    return st;
}

static error_cuda_input error_input(const gpu_scoring *s, int layer, int n_candidates)
{
    const model_facts *m = s->model;
    const rope_arrays *rope = &s->ropes[m->layer_is_local[layer]];
    return (error_cuda_input){.n_kv_heads = m->n_kv_heads,
                              .q_per_kv = model_q_per_kv(m),
                              .head_dim = m->head_dim,
                              .n_blocks = model_n_blocks(m),
                              .n_candidates = n_candidates,
                              .n_tokens = s->n_tokens,
                              .context = s->context,
                              .scale = (float)m->attention_scale,
                              .q = s->q.at,
                              .k = s->k.at,
                              .k_hat = s->k_hat.at,
                              .block_dims = s->dims.at,
                              .turn = rope->turn.at,
                              .n_offsets = LOGIT_ERROR_N_OFFSETS,
                              .rope_cos = rope->cos.at,
                              .rope_sin = rope->sin.at,
                              .n_freqs = m->rotary_dim / 2};
}

static rb_status alloc_all(gpu_scoring *s, rb_error *err)
{
    const model_facts *m = s->model;
    const size_t head = (size_t)s->n_tokens * (size_t)m->head_dim * sizeof(float), heads = (size_t)m->n_kv_heads,
                 n = (size_t)s->n_candidates;
    /* No codec stores more than 8 bits a dim and a norm a block; streams are rounded up to 128 bytes. */
    const size_t stream = ((size_t)s->n_tokens * (size_t)m->head_dim + 128) * heads;
    const error_cuda_input in = error_input(s, 0, s->n_plans);
    rb_status st;
    RB_TRY(st, rb_cuda_array_alloc(&s->q, head * (size_t)m->n_q_heads, "queries", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&s->k, head * heads, "keys", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&s->k_hat, head * heads * n, "restored keys", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&s->packed, stream, "packed keys", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&s->norms, stream, "norms", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&s->bad, n * sizeof(uint64_t), "flags", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&s->offset_sums, n * heads * sizeof(double), "sums", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&s->attention_sums, n * heads * ATTENTION_SUMS * sizeof(double), "sums", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&s->block_sums, n * heads * (size_t)model_n_blocks(m) * sizeof(double), "sums", err),
           done);
    RB_TRY(st, rb_cuda_array_alloc(&s->norm_sums, n * heads * 2 * sizeof(double), "sums", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&s->weights, heads * (size_t)m->head_dim * sizeof(float), "weights", err), done);
    RB_TRY(st,
           rb_cuda_array_alloc(&s->token_errors, (1 + (size_t)s->n_plans) * heads * (size_t)s->n_tokens * sizeof(float),
                               "token errors", err),
           done);
    if (s->n_plans > 0)
        RB_TRY(st, rb_cuda_array_alloc(&s->scratch, s->errors->attention_scratch_bytes(&in), "scratch", err), done);
    RB_TRY(st, rb_alloc(&s->host_offset, s->offset_sums.size_bytes, 1, "sums", err), done);
    RB_TRY(st, rb_alloc(&s->host_attention, s->attention_sums.size_bytes, 1, "sums", err), done);
    RB_TRY(st, rb_alloc(&s->host_blocks, s->block_sums.size_bytes, 1, "sums", err), done);
    RB_TRY(st, rb_alloc(&s->host_norms, s->norm_sums.size_bytes, 1, "sums", err), done);
    RB_TRY(st, rb_alloc(&s->host_weights, s->weights.size_bytes, 1, "weights", err), done);
    RB_TRY(st, rb_alloc(&s->host_tokens, s->token_errors.size_bytes, 1, "token errors", err), done);
done:
    return st;
}

static rb_status begin(gpu_scoring *s, rb_error *err)
{
    const void *errors = NULL;
    rb_status st;
    RB_TRY(st, codec_cuda_functions(&s->codec, err), done);
    RB_TRY(st, rb_cuda_table(&errors, "rb_error_cuda", err), done);
    s->errors = errors;
    RB_TRY(st, codec_tables_create(&s->tables, err), done);
    RB_TRY(st, rb_alloc(&s->candidates, (size_t)s->n_candidates, sizeof *s->candidates, "candidates", err), done);
    RB_TRY(st, make_curves(s, err), done);
    RB_TRY(st, layer_reader_start(&s->reader, s->capture, err), done);
    RB_TRY(st, upload_tables(s, err), done);
    RB_TRY(st, alloc_all(s, err), done);
done:
    return st;
}

static void end(gpu_scoring *s)
{
    rb_cuda_array *const arrays[] = {&s->q,
                                     &s->k,
                                     &s->k_hat,
                                     &s->packed,
                                     &s->norms,
                                     &s->bad,
                                     &s->dims,
                                     &s->ropes[0].turn,
                                     &s->ropes[0].cos,
                                     &s->ropes[0].sin,
                                     &s->ropes[1].turn,
                                     &s->ropes[1].cos,
                                     &s->ropes[1].sin,
                                     &s->scratch,
                                     &s->offset_sums,
                                     &s->attention_sums,
                                     &s->block_sums,
                                     &s->norm_sums,
                                     &s->weights,
                                     &s->token_errors};
    layer_reader_stop(&s->reader);
    for (size_t i = 0; i < RB_COUNT(arrays); i++) rb_cuda_array_free(arrays[i]);
    for (int c = 0; s->candidates && c < s->n_candidates; c++) {
        candidate *one = &s->candidates[c];
        for (int h = 0; one->own && h < s->model->n_kv_heads; h++) plan_head_clear(&one->own[h]);
        free(one->own);
        codec_image_free(one->image);
        codec_cuda_free(one->codec);
    }
    free(s->candidates);
    codec_tables_free(s->tables);
    free(s->host_offset);
    free(s->host_attention);
    free(s->host_blocks);
    free(s->host_norms);
    free(s->host_weights);
    free(s->host_tokens);
}

/* ---- restoring keys -------------------------------------------------------------------------- */

static bool is_made(const gpu_scoring *s, const candidate *c)
{
    if (!c->made_for) return false;
    for (int h = 0; h < s->model->n_kv_heads; h++)
        if (!plan_head_equal(&c->made_for[h], &c->heads[h], s->model)) return false;
    return true;
}

/* Images of the candidates whose codecs are others than those of the layer before, by all threads. */
static rb_status make_images(gpu_scoring *s, int layer, rb_error *err)
{
    rb_first_failure failure = {0};
    for (int c = 0; c < s->n_plans; c++) s->candidates[c].heads = bit_plan_head(s->plans[c], layer, 0);
#pragma omp parallel for schedule(dynamic, 1)
    for (int c = 0; c < s->n_candidates; c++) {
        candidate *one = &s->candidates[c];
        rb_error mine = {0};
        if (is_made(s, one)) continue;
        codec_image_free(one->image);
        one->image = NULL;
        one->made_for = NULL;
        const rb_status st =
            codec_image_build(&one->image, one->heads, s->model->n_kv_heads, s->model, s->tables, &mine);
        rb_note_failure(&failure, c, st, &mine);
    }
    return rb_tell_failure(&failure, err);
}

static rb_status make_codecs(gpu_scoring *s, int layer, rb_error *err)
{
    rb_status st = make_images(s, layer, err);
    for (int c = 0; c < s->n_candidates && st == RB_OK; c++) {
        candidate *one = &s->candidates[c];
        if (one->made_for) continue;
        codec_cuda_free(one->codec);
        one->codec = NULL;
        st = codec_cuda_create(&one->codec, one->image, err);
        if (st == RB_OK) one->made_for = one->heads;
    }
    return st;
}

/* The first n_sink keys of every sequence are exact. */
static rb_status keep_sinks(gpu_scoring *s, int c, rb_error *err)
{
    const int64_t d = s->model->head_dim, head = s->n_tokens * d, n_whole = s->n_tokens / s->context,
                  rest = s->n_tokens % s->context, asked = profile_candidate_sinks(s->table, s->plans, s->n_plans, c),
                  n = asked < s->context ? asked : s->context;
    rb_status st = RB_OK;
    for (int h = 0; h < s->model->n_kv_heads && n > 0 && st == RB_OK; h++) {
        const float *k = (const float *)s->k.at + h * head;
        float *k_hat = (float *)s->k_hat.at + ((int64_t)c * s->model->n_kv_heads + h) * head;
        const size_t stride = (size_t)(s->context * d) * sizeof *k;
        st = rb_cuda()->copy_rows(k_hat, stride, k, stride, (size_t)(n * d) * sizeof *k, (size_t)n_whole, NULL, err);
        if (st == RB_OK && rest > 0)
            st = rb_cuda()->copy(k_hat + n_whole * s->context * d, k + n_whole * s->context * d,
                                 (size_t)((n < rest ? n : rest) * d) * sizeof *k, NULL, err);
    }
    return st;
}

static rb_status restore_keys(gpu_scoring *s, rb_error *err)
{
    const int64_t d = s->model->head_dim, head = s->n_tokens * d;
    const codec_vectors k = {.data = s->k.at, .type = CODEC_F32, .head_stride = head, .token_stride = d};
    rb_status st;
    RB_TRY(st, rb_cuda()->fill(s->bad.at, 0xff, s->bad.size_bytes, NULL, err), done);
    for (int c = 0; c < s->n_candidates; c++) {
        const codec_device_image *image = codec_cuda_image(s->candidates[c].codec);
        const codec_vectors k_hat = {.data = (float *)s->k_hat.at + c * head * s->model->n_kv_heads,
                                     .type = CODEC_F32,
                                     .head_stride = head,
                                     .token_stride = d};
        RB_TRY(
            st,
            s->codec->encode(image, &k, s->n_tokens, s->packed.at, s->norms.at, (uint64_t *)s->bad.at + c, NULL, err),
            done);
        RB_TRY(st, s->codec->decode(image, s->packed.at, s->norms.at, s->n_tokens, &k_hat, NULL, err), done);
        RB_TRY(st, keep_sinks(s, c, err), done);
    }
done:
    return st;
}

/* ---- one layer ------------------------------------------------------------------------------- */

static rb_status upload_weights(gpu_scoring *s, int layer, rb_error *err)
{
    const model_facts *m = s->model;
    for (int h = 0; h < m->n_kv_heads; h++)
        token_weights(s->host_weights + h * m->head_dim, m, layer,
                      s->table->all.q_energy + ((int64_t)layer * m->n_kv_heads + h) * s->table->n_blocks);
    return rb_cuda()->copy(s->weights.at, s->host_weights, s->weights.size_bytes, NULL, err);
}

static rb_status measure(gpu_scoring *s, int layer, rb_error *err)
{
    const error_cuda_input all = error_input(s, layer, s->n_candidates), plans = error_input(s, layer, s->n_plans);
    const struct {
        void *to;
        const rb_cuda_array *from;
    } results[] = {{s->host_offset, &s->offset_sums},
                   {s->host_attention, &s->attention_sums},
                   {s->host_blocks, &s->block_sums},
                   {s->host_norms, &s->norm_sums},
                   {s->host_tokens, &s->token_errors}};
    rb_status st;
    RB_TRY(st, s->errors->offset_sums(&all, s->offset_sums.at, NULL, err), done);
    RB_TRY(st, s->errors->block_errors(&all, s->block_sums.at, s->norm_sums.at, NULL, err), done);
    RB_TRY(st, s->errors->token_errors(&plans, s->weights.at, s->token_errors.at, NULL, err), done);
    if (s->n_plans > 0)
        RB_TRY(st, s->errors->attention_sums(&plans, s->attention_sums.at, s->scratch.at, NULL, err), done);
    for (size_t i = 0; i < RB_COUNT(results); i++)
        RB_TRY(st, rb_cuda()->copy(results[i].to, results[i].from->at, results[i].from->size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    return st;
}

static rb_status check_vectors(const gpu_scoring *s, rb_error *err)
{
    uint64_t bad[PROFILE_MAX_METHODS + PROFILE_MAX_WIDTH];
    rb_status st;
    RB_TRY(st, rb_cuda()->copy(bad, s->bad.at, s->bad.size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    for (int c = 0; c < s->n_candidates; c++)
        if (bad[c] != UINT64_MAX) {
            const int64_t head = (int64_t)bad[c] / s->n_tokens, token = (int64_t)bad[c] % s->n_tokens;
            return rb_fail(err, RB_ENONFINITE,
                           "kv_head %lld: vector %lld has a value that is not finite, or a norm that does not fit fp16",
                           (long long)head, (long long)token);
        }
done:
    return st;
}

static rb_status keep_plan_scores(gpu_scoring *s, int layer, int h, int c, rb_error *err)
{
    const model_facts *m = s->model;
    const int64_t n_q = model_q_per_kv(m), at = (int64_t)c * m->n_kv_heads + h;
    const double *attention = s->host_attention + ATTENTION_SUMS * at, *norms = s->host_norms + 2 * at;
    head_score *score = method_head(&s->table->methods[c], m, layer, h);
    score->logit_mae = s->host_offset[at] / ((double)n_q * (double)s->n_tokens * LOGIT_ERROR_N_OFFSETS);
    score->relative_error = norms[1] > 0.0 ? sqrt(norms[0] / norms[1]) : 0.0;
    score->true_bits = plan_head_true_bits(bit_plan_head(s->plans[c], layer, h), m->head_dim);
    score->causal_mae = attention[0] / ((double)n_q * attention_count_pairs(s->n_tokens, s->context));
    score->attention_kl = attention[1] / ((double)n_q * (double)s->n_tokens);
    score->attended_mae = attention[2] / ((double)n_q * (double)s->n_tokens);
    if (score->attention_kl < 0.0) score->attention_kl = 0.0; /* rounding; a NaN stays one */
    if (!isfinite(score->logit_mae) || !isfinite(score->causal_mae) || !isfinite(score->attended_mae)
        || !isfinite(score->attention_kl))
        return rb_fail(err, RB_ENONFINITE,
                       "kv_head %d: an error is not finite: queries times keys leave the range of f32", h);
    const float *sizes = s->host_tokens + h * s->n_tokens,
                *errors = s->host_tokens + ((1 + (int64_t)c) * m->n_kv_heads + h) * s->n_tokens;
    const rb_status st = method_keep_tail(&s->table->methods[c], m, layer, h, errors, sizes, s->n_tokens, err);
    return st == RB_OK ? RB_OK : rb_fail_in(err, st, "kv_head %d", h);
}

static void keep_curve(gpu_scoring *s, int layer, int h, int width)
{
    const model_facts *m = s->model;
    const int64_t at = (int64_t)(s->n_plans + width) * m->n_kv_heads + h,
                  curve = ((int64_t)layer * m->n_kv_heads + h) * PROFILE_MAX_WIDTH + width;
    s->table->curve_logit_mae[curve] =
        s->host_offset[at] / ((double)model_q_per_kv(m) * (double)s->n_tokens * LOGIT_ERROR_N_OFFSETS);
    memcpy(s->table->curve_block_mse + curve * s->table->n_blocks, s->host_blocks + at * s->table->n_blocks,
           (size_t)s->table->n_blocks * sizeof(double));
}

/* A plan's heads are kept in order. */
static rb_status keep_scores(gpu_scoring *s, int layer, rb_error *err)
{
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic, 1)
    for (int c = 0; c < s->n_plans; c++) {
        rb_error mine = {0};
        rb_status st = RB_OK;
        for (int h = 0; h < s->model->n_kv_heads && st == RB_OK; h++) st = keep_plan_scores(s, layer, h, c, &mine);
        rb_note_failure(&failure, c, st, &mine);
    }
    for (int h = 0; h < s->model->n_kv_heads; h++)
        for (int width = 0; width < s->n_candidates - s->n_plans; width++) keep_curve(s, layer, h, width);
    return rb_tell_failure(&failure, err);
}

static rb_status score_layer(gpu_scoring *s, int layer, rb_error *err)
{
    const double started_s = rb_now_s();
    rb_status st;
    RB_TRY(st, make_codecs(s, layer, err), done);
    const double made_s = rb_now_s();
    RB_TRY(st, layer_reader_wait(&s->reader, err), done);
    const double read_s = rb_now_s();
    RB_TRY(st, rb_cuda()->copy(s->q.at, s->reader.q[layer % 2], s->q.size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->copy(s->k.at, s->reader.k[layer % 2], s->k.size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    layer_reader_release(&s->reader, layer); /* on the device: its place may be read into */
    RB_TRY(st, upload_weights(s, layer, err), done);
    RB_TRY(st, restore_keys(s, err), done);
    RB_TRY(st, measure(s, layer, err), done);
    RB_TRY(st, check_vectors(s, err), done);
    RB_TRY(st, keep_scores(s, layer, err), done);
    s->codec_s += made_s - started_s;
    s->read_s += read_s - made_s;
    s->score_s += rb_now_s() - read_s;
done:
    return st == RB_OK ? RB_OK : rb_fail_in(err, st, "layer %d", layer);
}

/* ---- all ------------------------------------------------------------------------------------- */

rb_status profile_score_cuda(profile_table *table, const capture_file *capture, const bit_plan *const *plans,
                             int n_plans, bool with_curves, rb_error *err)
{
    const text_facts *test = &capture_file_header(capture)->text[CAPTURE_TEST];
    gpu_scoring s = {.capture = capture,
                     .model = &table->model,
                     .plans = plans,
                     .table = table,
                     .n_plans = n_plans,
                     .n_candidates = n_plans + (with_curves ? PROFILE_MAX_WIDTH : 0),
                     .n_tokens = test->n_tokens,
                     .context = test->context};
    rb_progress progress;
    rb_status st;
    if (s.context > s.n_tokens) s.context = s.n_tokens;
    RB_TRY(st, begin(&s, err), done);
    rb_progress_start(&progress, "profile", s.model->n_layers);
    for (int layer = 0; layer < s.model->n_layers && st == RB_OK; layer++) {
        char detail[32];
        st = score_layer(&s, layer, err);
        snprintf(detail, sizeof detail, "layer %d", layer);
        if (st == RB_OK) rb_progress_step(&progress, detail);
    }
    rb_progress_finish(&progress);
    rb_message_verbose(
        "building codecs took %.3f s, waiting for the capture %.3f s, the GPU %.3f s; GPU memory %.0f MiB", s.codec_s,
        s.read_s, s.score_s, (double)rb_cuda_peak_bytes() / 0x1p20);
done:
    end(&s);
    return st;
}
