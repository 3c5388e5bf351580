/* See model/cuda/lm_head_cuda.h. */
#include "model/cuda/lm_head_cuda.h"

#include <stdlib.h>

#include "core/threads.h"
#include "model/layer_weights.h"

/* A tile holds up to 4096 tokens and 256 MiB of logits. */
enum { MAX_TILE_TOKENS = 4096, MAX_TILE_LOGITS = 64 << 20, STAGING_BYTES = 32 << 20 };

typedef struct gpu_lm_head {
    const cuda_pass *pass;
    rb_cuda_array weight, norm, norm_bias, tokens, rows, logits;
} gpu_lm_head;

/* The matrix on its way. */
typedef struct head_upload {
    const cuda_pass *pass;
    void *weight;
    rb_cuda_array staging;
} head_upload;

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t tile_tokens(const model_config *c, int64_t n, int64_t group)
{
    const int64_t fitting = min_i64(MAX_TILE_LOGITS / c->vocab_size, MAX_TILE_TOKENS);
    return min_i64(n, fitting > group ? fitting / group * group : group);
}

static int64_t weight_bytes(const model_config *c, layer_cuda_precision precision)
{
    return (int64_t)c->vocab_size * c->hidden_size * cuda_pass_element_bytes(precision);
}

int64_t lm_head_cuda_bytes(const model_config *c, layer_cuda_precision precision, int64_t n, int64_t group)
{
    const int64_t tile = tile_tokens(c, n, group), hidden = c->hidden_size;
    return weight_bytes(c, precision) + STAGING_BYTES + 2 * hidden * 4 + n * 8
           + tile * (hidden * cuda_pass_element_bytes(precision) + (int64_t)c->vocab_size * 4);
}

static layer_cuda_weight weight_type(tensor_dtype dtype)
{
    return dtype == TENSOR_F16    ? LAYER_CUDA_WEIGHT_F16
           : dtype == TENSOR_BF16 ? LAYER_CUDA_WEIGHT_BF16
                                  : LAYER_CUDA_WEIGHT_F32;
}

/* Uploads the matrix from the mapped file, piece by piece, and converts it on the device where the types differ. */
static rb_status upload_weight(const head_upload *h, const safetensor *from, rb_error *err)
{
    const cuda_pass *p = h->pass;
    const bool is_same = from->dtype == (p->precision == LAYER_CUDA_BF16 ? TENSOR_BF16 : TENSOR_F32);
    const int64_t element = (int64_t)tensor_dtype_size(from->dtype), size_bytes = (int64_t)from->size_bytes;
    rb_status st = RB_OK;
    for (int64_t at = 0; at < size_bytes; at += STAGING_BYTES) {
        const int64_t n_bytes = min_i64(STAGING_BYTES, size_bytes - at);
        char *to = (char *)h->weight + at / element * cuda_pass_element_bytes(p->precision);
        RB_TRY(st,
               rb_cuda()->copy(is_same ? to : h->staging.at, (const char *)from->data + at, (size_t)n_bytes, p->compute,
                               err),
               done);
        if (!is_same)
            RB_TRY(st,
                   p->api->convert(to, h->staging.at, weight_type(from->dtype), n_bytes / element, p->precision,
                                   p->compute, err),
                   done);
    }
done:
    return st;
}

/* Uploads a matrix whose values only the checkpoint's reader gives: rows in f32, which all cores convert. */
static rb_status upload_rows(const head_upload *h, const char *name, const int64_t shape[2], rb_error *err)
{
    enum { ROWS_OF_THREAD = 64 };
    const cuda_pass *p = h->pass;
    const int64_t row_bytes = shape[1] * (int64_t)sizeof(float), n = STAGING_BYTES / row_bytes;
    float *rows = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&rows, (size_t)n, (size_t)row_bytes, "LM head rows", err), done);
    for (int64_t first = 0; first < shape[0]; first += n) {
        const int64_t n_rows = min_i64(n, shape[0] - first);
        char *to = (char *)h->weight + first * shape[1] * cuda_pass_element_bytes(p->precision);
        rb_first_failure failure = {0};
#pragma omp parallel for schedule(static)
        for (int64_t row = 0; row < n_rows; row += ROWS_OF_THREAD) {
            rb_error mine = {0};
            rb_note_failure(&failure, row,
                            checkpoint_load_rows(p->model, name, 2, shape, first + row,
                                                 min_i64(ROWS_OF_THREAD, n_rows - row), rows + row * shape[1], &mine),
                            &mine);
        }
        RB_TRY(st, rb_tell_failure(&failure, err), done);
        RB_TRY(st, rb_cuda()->copy(h->staging.at, rows, (size_t)(n_rows * row_bytes), p->compute, err), done);
        RB_TRY(
            st,
            p->api->convert(to, h->staging.at, LAYER_CUDA_WEIGHT_F32, n_rows * shape[1], p->precision, p->compute, err),
            done);
        RB_TRY(st, rb_cuda()->stream_wait(p->compute, err), done); /* `rows` and the staging are written again */
    }
done:
    free(rows);
    return st;
}

static rb_status upload_norm(const cuda_pass *p, float *to, float *bias_to, rb_error *err)
{
    const size_t width = (size_t)p->config->hidden_size, bytes = width * sizeof(float);
    float *norm = NULL; /* weight, bias */
    rb_status st;
    RB_TRY(st, rb_alloc(&norm, 2 * width, sizeof *norm, "final norm", err), done);
    RB_TRY(st, final_norm_load(p->model, norm, norm + width, err), done);
    RB_TRY(st, rb_cuda()->copy(to, norm, bytes, p->compute, err), done);
    RB_TRY(st, rb_cuda()->copy(bias_to, norm + width, bytes, p->compute, err), done);
    st = rb_cuda()->stream_wait(p->compute, err);
done:
    free(norm);
    return st;
}

rb_status lm_head_cuda_load(const cuda_pass *p, void *weight, float *norm, float *norm_bias, rb_error *err)
{
    const model_config *c = p->config;
    const int64_t shape[2] = {c->vocab_size, c->hidden_size};
    head_upload upload = {.pass = p, .weight = weight};
    const safetensor *from = NULL;
    tensor_place place;
    char name[LAYER_TENSOR_NAME];
    rb_status st;
    model_tensor_name(name, c, model_config_lm_head(c));
    RB_TRY(st, checkpoint_place(p->model, name, 2, shape, &place, err), done);
    RB_TRY(st, checkpoint_tensor(p->model, name, 2, shape, &from, err), done);
    RB_TRY(st, rb_cuda_array_alloc(&upload.staging, STAGING_BYTES, "LM head's staging", err), done);
    if (place.is_plain) RB_TRY(st, upload_weight(&upload, from, err), done);
    else RB_TRY(st, upload_rows(&upload, name, shape, err), done);
    st = upload_norm(p, norm, norm_bias, err);
done:
    rb_cuda_array_free(&upload.staging);
    return st;
}

static rb_status open_head(gpu_lm_head *h, const lm_head_cuda_request *r, int64_t tile, rb_error *err)
{
    const cuda_pass *p = h->pass;
    const model_config *c = p->config;
    const int64_t element = cuda_pass_element_bytes(p->precision);
    rb_status st;
    RB_TRY(st, rb_cuda_array_alloc(&h->weight, (size_t)weight_bytes(c, p->precision), "LM head", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&h->norm, (size_t)c->hidden_size * sizeof(float), "final norm", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&h->norm_bias, (size_t)c->hidden_size * sizeof(float), "final norm", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&h->tokens, (size_t)r->n * sizeof *r->tokens, "scored tokens", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&h->rows, (size_t)(tile * c->hidden_size * element), "LM head rows", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&h->logits, (size_t)(tile * c->vocab_size) * sizeof(float), "logits", err), done);
    RB_TRY(st, rb_cuda()->copy(h->tokens.at, r->tokens, h->tokens.size_bytes, p->compute, err), done);
    st = lm_head_cuda_load(p, h->weight.at, h->norm.at, h->norm_bias.at, err);
done:
    return st;
}

static void close_head(gpu_lm_head *h)
{
    rb_cuda_array_free(&h->weight);
    rb_cuda_array_free(&h->norm);
    rb_cuda_array_free(&h->norm_bias);
    rb_cuda_array_free(&h->tokens);
    rb_cuda_array_free(&h->rows);
    rb_cuda_array_free(&h->logits);
}

/* h->logits = those of n tokens from `first` of the request on. */
static rb_status run_tile(const gpu_lm_head *h, int64_t first, int64_t n, rb_error *err)
{
    const cuda_pass *p = h->pass;
    const model_config *c = p->config;
    const bool has_bias = c->family->tensors->final_norm_bias != NULL;
    const layer_cuda_norm norm = cuda_pass_norm(p, h->norm.at, has_bias ? h->norm_bias.at : NULL);
    rb_status st;
    RB_TRY(st,
           p->api->norm(h->rows.at, p->hidden.at, (const int64_t *)h->tokens.at + first, &norm, n, c->hidden_size,
                        p->precision, p->compute, err),
           done);
    RB_TRY(st,
           cuda_pass_multiply(p, h->logits.at, true, false, h->rows.at, h->weight.at, n, c->vocab_size, c->hidden_size,
                              err),
           done);
    if (c->logit_scale != 1 || c->logit_softcap > 0)
        st = p->api->finish_logits(h->logits.at, (float)c->logit_scale, (float)c->logit_softcap, n * c->vocab_size,
                                   p->compute, err);
done:
    return st;
}

rb_status lm_head_cuda_run(const cuda_pass *p, const lm_head_cuda_request *r, rb_error *err)
{
    const int64_t tile = tile_tokens(p->config, r->n, r->group);
    gpu_lm_head h = {.pass = p};
    rb_status st;
    if (r->n == 0) return RB_OK;
    RB_TRY(st, open_head(&h, r, tile, err), done);
    for (int64_t first = 0; first < r->n; first += tile) {
        const int64_t n = min_i64(tile, r->n - first);
        RB_TRY(st, run_tile(&h, first, n, err), done);
        RB_TRY(st, r->on_logits(r->user, first, n, h.logits.at, p->compute, err), done);
    }
    st = rb_cuda()->stream_wait(p->compute, err);
done:
    close_head(&h);
    return st;
}
