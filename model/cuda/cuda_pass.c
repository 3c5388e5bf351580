/* See model/cuda/cuda_pass.h. */
#include "model/cuda/cuda_pass.h"

#include <stdlib.h>
#include <string.h>

#include "model/rope_apply.h"

enum { N_ARRAYS = 10, EMBED_TOKENS = 16384 }; /* tokens whose embeddings are on the host at a time */

/* ---- sizes ----------------------------------------------------------------------------------- */

int64_t cuda_pass_q_width(const model_config *c) { return (int64_t)c->facts.n_q_heads * c->facts.head_dim; }
int64_t cuda_pass_kv_width(const model_config *c) { return (int64_t)c->facts.n_kv_heads * c->facts.head_dim; }
int64_t cuda_pass_element_bytes(layer_cuda_precision precision) { return precision == LAYER_CUDA_BF16 ? 2 : 4; }
static int64_t qkv_width(const model_config *c) { return cuda_pass_q_width(c) + 2 * cuda_pass_kv_width(c); }

/* Bytes of each array, in the order of list_arrays. */
typedef struct array_sizes {
    int64_t bytes[N_ARRAYS];
} array_sizes;

static array_sizes sizes_of(const model_config *c, const token_batch *batch, layer_cuda_precision precision,
                            int64_t chunk)
{
    const int64_t n = batch->n_tokens, e = cuda_pass_element_bytes(precision),
                  rope = token_batch_longest(batch) * (c->facts.rotary_dim / 2) * 4;
    return (array_sizes){{n * c->hidden_size * 4, n * 4, n * 4, rope, rope, chunk * c->hidden_size * e,
                          chunk * qkv_width(c) * 4, chunk * cuda_pass_q_width(c) * e,
                          2 * chunk * c->intermediate_size * e, chunk * c->intermediate_size * e}};
}

static void list_arrays(cuda_pass *p, rb_cuda_array *arrays[N_ARRAYS])
{
    rb_cuda_array *const all[N_ARRAYS] = {&p->hidden, &p->positions, &p->starts,   &p->rope_cos, &p->rope_sin,
                                          &p->normed, &p->projected, &p->attended, &p->gate_up,  &p->activated};
    memcpy(arrays, all, sizeof all);
}

int64_t cuda_pass_bytes(const model_config *config, const token_batch *batch, layer_cuda_precision precision,
                        int64_t chunk)
{
    const array_sizes sizes = sizes_of(config, batch, precision, chunk);
    int64_t total = weight_stream_device_bytes(config, precision) + CUDA_PASS_WORKSPACE_BYTES;
    for (int i = 0; i < N_ARRAYS; i++) total += sizes.bytes[i];
    return total;
}

rb_status cuda_pass_choose_chunk(cuda_pass *p, int64_t (*bytes_of)(const void *user, int64_t chunk), const void *user,
                                 int64_t max_bytes, rb_error *err)
{
    const double mib = 0x1p20;
    size_t free_bytes = 0;
    const rb_status st = rb_cuda()->free_bytes(&free_bytes, err);
    if (st != RB_OK) return st;
    /* A little is left for the driver. */
    int64_t limit = (int64_t)(free_bytes - free_bytes / 32);
    if (max_bytes > 0 && max_bytes < limit) limit = max_bytes;
    for (p->chunk = CUDA_PASS_MAX_CHUNK; p->chunk >= CUDA_PASS_MIN_CHUNK; p->chunk /= 2)
        if (bytes_of(user, p->chunk) <= limit) return RB_OK;
    return rb_fail(err, RB_ENOMEM,
                   "GPU memory: %.0f MiB are needed even in chunks of %d tokens, expected at most %.0f MiB",
                   (double)bytes_of(user, CUDA_PASS_MIN_CHUNK) / mib, CUDA_PASS_MIN_CHUNK, (double)limit / mib);
}

/* ---- set-up ---------------------------------------------------------------------------------- */

static rb_status find_tables(cuda_pass *p, rb_error *err)
{
    const void *layer = NULL, *attention = NULL;
    rb_status st;
    RB_TRY(st, rb_cuda_table(&layer, "rb_layer_cuda", err), done);
    RB_TRY(st, rb_cuda_table(&attention, "rb_attention_cuda", err), done);
    p->api = layer;
    p->attention = attention;
done:
    return st;
}

rb_status cuda_pass_begin(cuda_pass *p, const checkpoint *model, const token_batch *batch,
                          layer_cuda_precision precision, rb_error *err)
{
    rb_status st;
    *p = (cuda_pass){.model = model, .config = checkpoint_config(model), .batch = batch, .precision = precision};
    rb_cuda_reset_peak();
    RB_TRY(st, token_batch_check(batch, p->config->vocab_size, err), done);
    RB_TRY(st, checkpoint_check(model, err), done);
    RB_TRY(st, find_tables(p, err), done);
    st = p->api->matmul_open(&p->matmul, err);
done:
    return st;
}

/* For every token of sequences [first, end): its position, and the first token of its sequence, counted from the first
 * token of sequence `first`. */
static void fill_positions(const token_batch *batch, int64_t first, int64_t end, int32_t *positions, int32_t *starts)
{
    for (int64_t s = first; s < end; s++)
        for (int64_t t = batch->sequence_start[s]; t < batch->sequence_start[s + 1]; t++) {
            positions[t] = (int32_t)(t - batch->sequence_start[s]);
            starts[t] = (int32_t)(batch->sequence_start[s] - batch->sequence_start[first]);
        }
}

static rb_status upload_positions(cuda_pass *p, const int64_t *part_start, int n_parts, rb_error *err)
{
    const token_batch *batch = p->batch;
    const size_t n = (size_t)batch->n_tokens;
    int32_t *positions = NULL, *starts = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&positions, n, sizeof *positions, "positions", err), done);
    RB_TRY(st, rb_alloc(&starts, n, sizeof *starts, "positions", err), done);
    if (!part_start) fill_positions(batch, 0, batch->n_sequences, positions, starts);
    for (int part = 0; part_start && part < n_parts; part++)
        fill_positions(batch, part_start[part], part_start[part + 1], positions, starts);
    RB_TRY(st, rb_cuda()->copy(p->positions.at, positions, n * sizeof *positions, NULL, err), done);
    RB_TRY(st, rb_cuda()->copy(p->starts.at, starts, n * sizeof *starts, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    free(positions);
    free(starts);
    return st;
}

static rb_status upload_rope(cuda_pass *p, rb_error *err)
{
    rope_table rope = {0};
    rb_status st;
    RB_TRY(st, rope_table_init(&rope, &p->config->facts, &p->config->facts.rope, token_batch_longest(p->batch), err),
           done);
    RB_TRY(st, rb_cuda()->copy(p->rope_cos.at, rope.cos, p->rope_cos.size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->copy(p->rope_sin.at, rope.sin, p->rope_sin.size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    rope_table_free(&rope);
    return st;
}

static rb_status upload_hidden(cuda_pass *p, rb_error *err)
{
    const int64_t width = p->config->hidden_size, n = p->batch->n_tokens, most = n < EMBED_TOKENS ? n : EMBED_TOKENS;
    float *hidden = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&hidden, (size_t)most, (size_t)width * sizeof *hidden, "hidden states", err), done);
    for (int64_t first = 0; first < n; first += most) {
        const token_batch piece = {.tokens = p->batch->tokens + first, .n_tokens = n - first < most ? n - first : most};
        RB_TRY(st, token_batch_embed(&piece, p->model, hidden, err), done);
        RB_TRY(st,
               rb_cuda()->copy((float *)p->hidden.at + first * width, hidden,
                               (size_t)(piece.n_tokens * width) * sizeof *hidden, NULL, err),
               done);
        RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    }
done:
    free(hidden);
    return st;
}

rb_status cuda_pass_alloc(cuda_pass *p, bool stops_at_heads, const int64_t *part_start, int n_parts, rb_error *err)
{
    const array_sizes sizes = sizes_of(p->config, p->batch, p->precision, p->chunk);
    rb_cuda_array *arrays[N_ARRAYS];
    rb_status st;
    list_arrays(p, arrays);
    RB_TRY(st, weight_stream_open(&p->weights, p->model, p->api, p->precision, stops_at_heads, err), done);
    RB_TRY(st, weight_stream_begin(p->weights, 0, err), done);
    RB_TRY(st, rb_cuda()->stream_create(&p->compute, err), done);
    for (int i = 0; i < N_ARRAYS; i++)
        RB_TRY(st, rb_cuda_array_alloc(arrays[i], (size_t)sizes.bytes[i], "activations", err), done);
    RB_TRY(st, upload_positions(p, part_start, n_parts, err), done);
    RB_TRY(st, upload_rope(p, err), done);
    st = upload_hidden(p, err);
done:
    return st;
}

void cuda_pass_end(cuda_pass *p)
{
    rb_cuda_array *arrays[N_ARRAYS];
    if (p->compute) rb_cuda()->stream_wait(p->compute, NULL);
    weight_stream_close(p->weights);
    list_arrays(p, arrays);
    for (int i = 0; i < N_ARRAYS; i++) rb_cuda_array_free(arrays[i]);
    if (p->api) p->api->matmul_close(p->matmul);
    if (p->compute) rb_cuda()->stream_destroy(p->compute);
    *p = (cuda_pass){0};
}

/* ---- a layer --------------------------------------------------------------------------------- */

rb_status cuda_pass_next_layer(cuda_pass *p, int layer, device_layer *weights, rb_error *err)
{
    rb_status st = RB_OK;
    if (layer + 1 < p->config->facts.n_layers) st = weight_stream_begin(p->weights, layer + 1, err);
    return st == RB_OK ? weight_stream_wait(p->weights, layer, p->compute, weights, err) : st;
}

rb_status cuda_pass_multiply(const cuda_pass *p, void *y, bool is_f32, bool adds, const void *x, const void *w,
                             int64_t m, int64_t n, int64_t k, rb_error *err)
{
    return p->api->matmul(p->matmul, y, is_f32, adds, x, w, m, n, k, p->precision, p->compute, err);
}

static float *hidden_of(const cuda_pass *p, int64_t token)
{
    return (float *)p->hidden.at + token * p->config->hidden_size;
}

static rb_status norm(const cuda_pass *p, const float *weight, int64_t first, int64_t n, rb_error *err)
{
    return p->api->rms_norm(p->normed.at, hidden_of(p, first), NULL, weight, (float)p->config->norm_eps, n,
                            p->config->hidden_size, p->precision, p->compute, err);
}

rb_status cuda_pass_project(const cuda_pass *p, const device_layer *w, int64_t first, int64_t n, rb_error *err)
{
    const rb_status st = norm(p, w->at[WEIGHT_INPUT_NORM], first, n, err);
    return st == RB_OK ? cuda_pass_multiply(p, p->projected.at, true, false, p->normed.at, w->at[WEIGHT_QKV], n,
                                            qkv_width(p->config), p->config->hidden_size, err)
                       : st;
}

layer_cuda_heads cuda_pass_heads(const cuda_pass *p, const device_layer *w, int64_t first, int64_t n)
{
    const model_facts *facts = &p->config->facts;
    return (layer_cuda_heads){.n_q_heads = facts->n_q_heads,
                              .n_kv_heads = facts->n_kv_heads,
                              .head_dim = facts->head_dim,
                              .n_freqs = facts->rotary_dim / 2,
                              .is_interleaved = facts->rope.pairing == ROPE_INTERLEAVED,
                              .precision = p->precision,
                              .n_tokens = n,
                              .projected = p->projected.at,
                              .bias = w->at[WEIGHT_QKV_BIAS],
                              .q_norm = w->at[WEIGHT_Q_NORM],
                              .k_norm = w->at[WEIGHT_K_NORM],
                              .eps = (float)p->config->norm_eps,
                              .position = (const int32_t *)p->positions.at + first,
                              .rope_cos = p->rope_cos.at,
                              .rope_sin = p->rope_sin.at};
}

attention_cuda_input cuda_pass_attention(const cuda_pass *p, int layer)
{
    const model_config *c = p->config;
    return (attention_cuda_input){.type = p->precision == LAYER_CUDA_BF16 ? ATTENTION_CUDA_BF16 : ATTENTION_CUDA_F32,
                                  .n_q_heads = c->facts.n_q_heads,
                                  .n_kv_heads = c->facts.n_kv_heads,
                                  .head_dim = c->facts.head_dim,
                                  .q_token_stride = cuda_pass_q_width(c),
                                  .kv_token_stride = cuda_pass_kv_width(c),
                                  .out = p->attended.at,
                                  .out_token_stride = cuda_pass_q_width(c),
                                  .sliding_window = c->layer_slides[layer] ? c->sliding_window : 0,
                                  .scale = (float)c->facts.attention_scale};
}

static rb_status run_mlp(const cuda_pass *p, const device_layer *w, int64_t first, int64_t n, rb_error *err)
{
    const int64_t width = p->config->hidden_size, inner = p->config->intermediate_size;
    float *hidden = hidden_of(p, first);
    rb_status st;
    RB_TRY(st, norm(p, w->at[WEIGHT_MLP_NORM], first, n, err), done);
    RB_TRY(st,
           cuda_pass_multiply(p, p->gate_up.at, false, false, p->normed.at, w->at[WEIGHT_GATE_UP], n, 2 * inner, width,
                              err),
           done);
    RB_TRY(st,
           p->api->swiglu(p->activated.at, p->gate_up.at, w->at[WEIGHT_GATE_UP_BIAS], n, inner, p->precision,
                          p->compute, err),
           done);
    RB_TRY(st, cuda_pass_multiply(p, hidden, true, true, p->activated.at, w->at[WEIGHT_DOWN], n, width, inner, err),
           done);
    if (w->at[WEIGHT_DOWN_BIAS])
        RB_TRY(st, p->api->add_bias(hidden, w->at[WEIGHT_DOWN_BIAS], n, width, p->compute, err), done);
done:
    return st;
}

rb_status cuda_pass_finish(const cuda_pass *p, const device_layer *w, int64_t first, int64_t n, rb_error *err)
{
    const int64_t width = p->config->hidden_size;
    float *hidden = hidden_of(p, first);
    rb_status st;
    RB_TRY(st,
           cuda_pass_multiply(p, hidden, true, true, p->attended.at, w->at[WEIGHT_O], n, width,
                              cuda_pass_q_width(p->config), err),
           done);
    if (w->at[WEIGHT_O_BIAS])
        RB_TRY(st, p->api->add_bias(hidden, w->at[WEIGHT_O_BIAS], n, width, p->compute, err), done);
    st = run_mlp(p, w, first, n, err);
done:
    return st;
}
