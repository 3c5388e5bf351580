/* See evaluate/validate.h. */
#include "evaluate/validate.h"

#include <stdlib.h>
#include <string.h>

#include "core/message.h"
#include "core/threads.h"

/* A layer of the capture, as f32. */
typedef struct layer_vectors {
    int64_t n;      /* vectors a head that are used */
    float *q;       /* [n_q_heads][n_test][head_dim] as captured */
    float *x;       /* [n_kv_heads][n_test][d] as captured: keys or values, of d dims */
    float *rounded; /* [n_kv_heads][n][d] as the type holds them */
    float *queries; /* [n_kv_heads][VALIDATE_N_QUERIES][d] */
} layer_vectors;

typedef struct validation {
    const validate_request *request;
    const model_facts *model;
    model_facts values; /* model_value_facts */
    codec_tables *tables;
    layer_vectors vectors;
} validation;

bool validate_row_is_good(const validate_row *row)
{
    return codec_report_is_good(&row->report) && row->bytes_outside == 0 && row->bytes_unstable == 0;
}

bool validate_is_good(const validate_result *result)
{
    for (int i = 0; i < result->n_rows; i++)
        if (!validate_row_is_good(&result->rows[i])) return false;
    return true;
}

/* The reference must be exact when it is compared with itself. What it restores differs only by the rounding to the
 * output type, and logits only by the rounding to f32. */
static codec_bounds bounds_of(rb_device_kind device, codec_dtype type)
{
    const bool is_gpu = device == RB_DEVICE_CUDA;
    return (codec_bounds){
        .code_tie = is_gpu ? CODEC_CUDA_CODE_TIE : 0.0,
        .norm_tie = is_gpu ? CODEC_CUDA_NORM_TIE : 0.0,
        .cosine_tie = is_gpu ? CODEC_CUDA_COSINE_TIE : 0.0,
        .restore = !is_gpu             ? 0.0
                   : type == CODEC_F32 ? CODEC_CUDA_RESTORE_F32
                                       : CODEC_CUDA_RESTORE_F16,
        .rounding = codec_dtype_rounding(type),
        .rounding_least = codec_dtype_rounding_least(type),
        .block_codebook_tie = is_gpu ? CODEC_CUDA_BLOCK_CODEBOOK_TIE : 0.0,
        .block_codebook_restore = is_gpu ? CODEC_CUDA_BLOCK_CODEBOOK_RESTORE : 0.0,
        .trellis_tie = is_gpu ? CODEC_CUDA_TRELLIS_TIE : 0.0,
        .trellis_restore = is_gpu ? CODEC_CUDA_TRELLIS_RESTORE : 0.0,
        .logits = is_gpu ? CODEC_CUDA_LOGITS : codec_dtype_rounding(CODEC_F32),
    };
}

/* ---- the capture's vectors ------------------------------------------------------------------- */

static const text_facts *test_text(const validation *v)
{
    return &capture_file_header(v->request->capture)->text[CAPTURE_TEST];
}

static int64_t n_looked_at(const validation *v)
{
    const int64_t n = test_text(v)->n_tokens, asked = v->request->n_tokens;
    return asked > 0 && asked < n ? asked : n;
}

/* Kernels never meet the sinks of a sequence. Recent tokens they meet, as soon as others are more recent. */
static bool is_coded(const validation *v, int64_t t) { return t % test_text(v)->context >= v->request->n_sink; }

static int64_t count_coded(const validation *v)
{
    int64_t n = 0;
    for (int64_t t = 0; t < n_looked_at(v); t++) n += is_coded(v, t);
    return n;
}

static rb_status alloc_vectors(validation *v, rb_error *err)
{
    const model_facts *m = v->model;
    const size_t n_test = (size_t)capture_file_header(v->request->capture)->text[CAPTURE_TEST].n_tokens,
                 head_dim = (size_t)m->head_dim, value_dim = (size_t)m->value_dim,
                 d = head_dim > value_dim ? head_dim : value_dim;
    layer_vectors *out = &v->vectors;
    rb_status st;
    out->n = count_coded(v);
    if (out->n == 0)
        return rb_fail(err, RB_EINVAL, "sink is %lld, expected less than the %lld tokens of the capture's sequences",
                       (long long)v->request->n_sink, (long long)test_text(v)->context);
    RB_TRY(st, rb_alloc(&out->q, (size_t)m->n_q_heads * n_test, head_dim * sizeof(float), "queries", err), done);
    RB_TRY(st, rb_alloc(&out->x, (size_t)m->n_kv_heads * n_test, d * sizeof(float), "keys", err), done);
    RB_TRY(st, rb_alloc(&out->rounded, (size_t)m->n_kv_heads * (size_t)out->n, d * sizeof(float), "keys", err), done);
    RB_TRY(st, rb_alloc(&out->queries, (size_t)m->n_kv_heads * VALIDATE_N_QUERIES, d * sizeof(float), "queries", err),
           done);
done:
    return st;
}

static void free_vectors(layer_vectors *vectors)
{
    free(vectors->q);
    free(vectors->x);
    free(vectors->rounded);
    free(vectors->queries);
}

/* Chooses queries of the KV head's query heads, spread over the text. For vectors of d dims: values may have more than
 * queries, which then repeat. */
static void choose_queries(validation *v, int64_t n_test, int64_t d)
{
    const int64_t head_dim = v->model->head_dim;
    const int group = model_q_per_kv(v->model);
    for (int h = 0; h < v->model->n_kv_heads; h++)
        for (int i = 0; i < VALIDATE_N_QUERIES; i++) {
            const int64_t q_head = (int64_t)h * group + i % group,
                          token = (2 * i + 1) * v->vectors.n / (2 * VALIDATE_N_QUERIES);
            float *query = v->vectors.queries + ((int64_t)h * VALIDATE_N_QUERIES + i) * d;
            const float *q = v->vectors.q + (q_head * n_test + token) * head_dim;
            for (int64_t dim = 0; dim < d; dim++) query[dim] = q[dim % head_dim];
        }
}

static void round_vectors(validation *v, int64_t n_test, int64_t d, codec_dtype type)
{
    const int64_t n = v->vectors.n;
    float *to = v->vectors.rounded;
    for (int64_t h = 0; h < v->model->n_kv_heads; h++)
        for (int64_t t = 0; t < n_looked_at(v); t++) {
            if (!is_coded(v, t)) continue;
            memcpy(to, v->vectors.x + (h * n_test + t) * d, (size_t)d * sizeof *to);
            to += d;
        }
    codec_dtype_round(v->vectors.rounded, v->model->n_kv_heads * n * d, type);
}

/* ---- one layer ------------------------------------------------------------------------------- */

static rb_status check_head(codec_report *report, const codec_trial *trial, const codec_trial_input *in, int h,
                            const codec_bounds *bounds, rb_error *err)
{
    const int64_t d = in->model->head_dim;
    const uint8_t *packed = trial->packed + codec_image_packed_offset(trial->image, h, in->n);
    head_codec *codec = NULL;
    uint8_t *codes = NULL;
    float *reference = NULL;
    uint16_t *norms = NULL;
    rb_status st;
    RB_TRY(st, head_codec_create(&codec, &in->heads[h], in->model, in->tables, err), done);
    RB_TRY(st, rb_alloc(&codes, (size_t)in->n, (size_t)d, "codes", err), done);
    RB_TRY(st, rb_alloc(&reference, (size_t)in->n, (size_t)d * sizeof *reference, "restored vectors", err), done);
    RB_TRY(st, rb_alloc(&norms, (size_t)in->n, (size_t)head_codec_n_norms(codec) * sizeof *norms, "norms", err), done);
    codec_image_read_norms(norms, trial->image, h, trial->norms, in->n);
    const codec_checked on = {&in->heads[h], in->model, in->tables, codec};
    RB_TRY(st, codec_check_encoded(report, &on, in->x + h * in->n * d, in->n, packed, norms, bounds, codes, err), done);
    RB_TRY(st,
           codec_check_restored(report, &on, codes, norms, in->n, trial->x_hat + h * in->n * d, bounds, reference, err),
           done);
    codec_check_logits(report, &on, in->queries + (int64_t)h * in->n_queries * d, in->n_queries, reference, in->n,
                       trial->logits + (int64_t)h * in->n_queries * in->n, bounds);
done:
    head_codec_free(codec);
    free(codes);
    free(reference);
    free(norms);
    return st == RB_OK ? RB_OK : rb_fail_in(err, st, "kv_head %d", h);
}

/* Heads in parallel. */
static rb_status check_heads(validate_row *row, const codec_trial *trial, const codec_trial_input *in, rb_error *err)
{
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic, 1)
    for (int h = 0; h < in->n_heads; h++) {
        codec_report report = {0};
        rb_error mine = {0};
        const rb_status st = check_head(&report, trial, in, h, &row->bounds, &mine);
        rb_note_failure(&failure, h, st, &mine);
#pragma omp critical(validate_check)
        codec_report_add(&row->report, &report);
    }
    return rb_tell_failure(&failure, err);
}

static void keep_times(validate_row *row, const codec_trial *trial, const codec_trial_input *in)
{
    const int64_t n = in->n_timed;
    row->times = trial->times;
    row->vector_bytes = (double)n * in->n_heads * in->model->head_dim * (in->type == CODEC_F32 ? 4.0 : 2.0);
    row->packed_bytes = (double)codec_image_packed_offset(trial->image, in->n_heads, n)
                        + (double)codec_image_norms_offset(trial->image, in->n_heads, n);
}

/* model: facts of the vectors. */
static rb_status try_layer(validation *v, validate_row *row, const plan_head *heads, const model_facts *model,
                           int64_t n_timed, rb_error *err)
{
    const codec_trial_input in = {.heads = heads,
                                  .n_heads = v->model->n_kv_heads,
                                  .model = model,
                                  .tables = v->tables,
                                  .type = row->type,
                                  .x = v->vectors.rounded,
                                  .n = v->vectors.n,
                                  .queries = v->vectors.queries,
                                  .n_queries = VALIDATE_N_QUERIES,
                                  .n_timed = n_timed};
    codec_trial trial = {0};
    rb_status st =
        v->request->device == RB_DEVICE_CUDA ? codec_trial_cuda(&trial, &in, err) : codec_trial_cpu(&trial, &in, err);
    if (st == RB_OK)
        st = check_heads(row, &trial, &in, err); /* the reference refuses such a vector too, and names it */
    if (st == RB_OK && trial.first_bad >= 0) row->report.codes_wrong++; /* refused, but not by the reference */
    row->bytes_outside += trial.bytes_outside;
    row->bytes_unstable += trial.bytes_unstable;
    if (n_timed > 0) keep_times(row, &trial, &in);
    codec_trial_free(&trial);
    return st;
}

/* The value codecs of a layer's KV heads. */
static rb_status value_heads(plan_head *values, const bit_plan *plan, int layer, rb_error *err)
{
    rb_status st = RB_OK;
    for (int h = 0; h < plan->model.n_kv_heads && st == RB_OK; h++) {
        plan_head_clear(&values[h]);
        st = bit_plan_value_head(plan, layer, h, &values[h], err);
    }
    return st;
}

/* Validates keys (values NULL) or values of a layer, in every type that is asked for. rows: the first of their rows. */
static rb_status validate_vectors(validation *v, validate_row *rows, int layer, const plan_head *values, rb_error *err)
{
    const validate_request *r = v->request;
    const model_facts *model = values ? &v->values : v->model;
    const int64_t n_test = capture_file_header(r->capture)->text[CAPTURE_TEST].n_tokens;
    const bool is_timed = r->n_timed > 0 && layer == v->model->n_layers / 2;
    rb_status st = values ? capture_read_v(r->capture, CAPTURE_TEST, layer, v->vectors.x, err)
                          : capture_read_k(r->capture, CAPTURE_TEST, layer, v->vectors.x, err);
    choose_queries(v, n_test, model->head_dim);
    for (int type = 0; type < CODEC_N_DTYPES && st == RB_OK; type++) {
        if (!r->types[type]) continue;
        round_vectors(v, n_test, model->head_dim, (codec_dtype)type);
        st = try_layer(v, rows++, values ? values : bit_plan_head(r->plan, layer, 0), model, is_timed ? r->n_timed : 0,
                       err);
    }
    return st == RB_OK ? RB_OK : rb_fail_in(err, st, "layer %d %s", layer, values ? "values" : "keys");
}

/* ---- all ------------------------------------------------------------------------------------- */

static void add_rows(validate_result *out, const validate_request *request, const char *what)
{
    for (int type = 0; type < CODEC_N_DTYPES; type++)
        if (request->types[type])
            out->rows[out->n_rows++] = (validate_row){
                .what = what, .type = (codec_dtype)type, .bounds = bounds_of(request->device, (codec_dtype)type)};
}

/* values [n_kv_heads]: room for the codecs of the layer's values; NULL: only keys. */
static rb_status validate_layer(validation *v, validate_result *out, int layer, plan_head *values, rb_error *err)
{
    const capture_file *capture = v->request->capture;
    rb_status st;
    RB_TRY(st, capture_read_q(capture, CAPTURE_TEST, layer, v->vectors.q, err), done);
    RB_TRY(st, validate_vectors(v, out->rows, layer, NULL, err), done);
    if (!values) goto done;
    RB_TRY(st, value_heads(values, v->request->plan, layer, err), done);
    st = validate_vectors(v, out->rows + out->n_rows / 2, layer, values, err);
done:
    return st;
}

rb_status validate_plan(validate_result *out, const validate_request *request, rb_error *err)
{
    const capture_header *header = capture_file_header(request->capture);
    validation v = {.request = request, .model = &header->model, .values = model_value_facts(&header->model)};
    plan_head *values = NULL;
    rb_progress progress;
    rb_status st;
    *out = (validate_result){.device = request->device};
    RB_TRY(st, codec_tables_create(&v.tables, err), done);
    RB_TRY(st, alloc_vectors(&v, err), done);
    add_rows(out, request, "keys");
    if (bit_plan_quantizes_values(request->plan) && header->has_values && !codec_image_takes(v.values.head_dim))
        rb_message_warn("values of %d dims are not validated: the CUDA kernels take multiples of %d up to %d",
                        v.values.head_dim, CODEC_IMAGE_DIM_STEP, CODEC_IMAGE_MAX_DIMS);
    else if (bit_plan_quantizes_values(request->plan) && header->has_values) {
        add_rows(out, request, "values");
        RB_TRY(st, rb_alloc(&values, (size_t)v.model->n_kv_heads, sizeof *values, "value codecs", err), done);
    }
    rb_progress_start(&progress, "validate", v.model->n_layers);
    for (int layer = 0; layer < v.model->n_layers && st == RB_OK; layer++) {
        st = validate_layer(&v, out, layer, values, err);
        if (st == RB_OK) rb_progress_step(&progress, NULL);
    }
    rb_progress_finish(&progress);
done:
    for (int h = 0; values && h < v.model->n_kv_heads; h++) plan_head_clear(&values[h]);
    free(values);
    free_vectors(&v.vectors);
    codec_tables_free(v.tables);
    return st;
}
