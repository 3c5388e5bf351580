/* See model/cuda/cuda_pass.h. */
#include "model/cuda/cuda_pass.h"

#include <assert.h>
#include <stdlib.h>

#include "model/layer_tensors.h"
#include "model/rope_apply.h"

enum { EMBED_TOKENS = 16384 }; /* tokens whose embeddings are on the host at a time */

/* ---- sizes ----------------------------------------------------------------------------------- */

static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t cuda_pass_q_width(const model_config *c) { return (int64_t)c->facts.n_q_heads * c->facts.head_dim; }
int64_t cuda_pass_k_width(const model_config *c) { return (int64_t)c->facts.n_kv_heads * c->facts.head_dim; }
int64_t cuda_pass_v_width(const model_config *c) { return (int64_t)c->facts.n_kv_heads * c->facts.value_dim; }
int64_t cuda_pass_element_bytes(layer_cuda_precision precision) { return precision == LAYER_CUDA_BF16 ? 2 : 4; }

/* Attention reads heads of multiples of 8 dims. */
static int pitch_of(int n_dims) { return (n_dims + 7) / 8 * 8; }

cuda_pass_rows cuda_pass_rows_of(const model_config *c)
{
    const int n_q_heads = c->facts.n_q_heads, n_kv_heads = c->has_latent_cache ? n_q_heads : c->facts.n_kv_heads,
              pitch = pitch_of(c->query_dim), v_pitch = pitch_of(c->attended_dim);
    return (cuda_pass_rows){.n_kv_heads = n_kv_heads,
                            .pitch = pitch,
                            .v_pitch = v_pitch,
                            .q_width = (int64_t)n_q_heads * pitch,
                            .k_width = (int64_t)n_kv_heads * pitch,
                            .v_width = (int64_t)n_kv_heads * v_pitch};
}

static int64_t qkv_width(const model_config *c)
{
    return cuda_pass_q_width(c) + cuda_pass_k_width(c) + cuda_pass_v_width(c);
}
static int64_t attended_width(const model_config *c) { return (int64_t)c->facts.n_q_heads * c->attended_dim; }
static bool is_padded(const model_config *c) { return pitch_of(c->attended_dim) != c->attended_dim; }

/* Of gate, and of up, in the layer that has most. */
static int64_t mlp_size(const model_config *c)
{
    return max_i64(c->intermediate_size, max_i64(c->experts.size, c->experts.shared_size));
}
static int64_t gate_up_width(const model_config *c, int64_t size) { return c->family->has_plain_mlp ? size : 2 * size; }

/* Whether some products are kept before they are added. */
static bool keeps_products(const model_config *c)
{
    return c->residual_scale != 1 || c->experts.n > 0 || layer_weight_capacity(c, WEIGHT_ATTENTION_OUT_NORM) > 0
           || layer_weight_capacity(c, WEIGHT_MLP_OUT_NORM) > 0;
}

void cuda_array_list_add(cuda_array_list *list, rb_cuda_array *array, int64_t bytes)
{
    assert(list->n < CUDA_PASS_MAX_ARRAYS);
    list->at[list->n++] = (cuda_array_size){array, bytes};
}

static cuda_array_list list_arrays(cuda_pass *p, int64_t chunk)
{
    const model_config *c = p->config;
    const int64_t n = p->n_tokens, e = cuda_pass_element_bytes(p->precision), hidden = c->hidden_size,
                  rope = p->n_positions * (c->facts.rotary_dim / 2) * 4;
    cuda_array_list list = {0};
    cuda_array_list_add(&list, &p->hidden, n * hidden * 4);
    cuda_array_list_add(&list, &p->positions, n * 4);
    cuda_array_list_add(&list, &p->starts, n * 4);
    for (int i = 0; i < (c->facts.has_local_rope ? 2 : 1); i++) {
        cuda_array_list_add(&list, &p->rope_cos[i], rope);
        cuda_array_list_add(&list, &p->rope_sin[i], rope);
    }
    cuda_array_list_add(&list, &p->normed, chunk * hidden * e);
    cuda_array_list_add(&list, &p->projected,
                        chunk * (c->has_latent_cache ? cuda_latent_projected_width(c) : qkv_width(c)) * 4);
    cuda_array_list_add(&list, &p->attended, chunk * attended_width(c) * e);
    cuda_array_list_add(&list, &p->padded,
                        is_padded(c) ? chunk * c->facts.n_q_heads * pitch_of(c->attended_dim) * e : 0);
    cuda_array_list_add(&list, &p->gate_up, chunk * gate_up_width(c, mlp_size(c)) * e);
    cuda_array_list_add(&list, &p->activated, chunk * mlp_size(c) * e);
    cuda_array_list_add(&list, &p->product, keeps_products(c) ? chunk * hidden * 4 : 0);
    cuda_latent_list(p, chunk, &list);
    cuda_experts_list(p, chunk, &list);
    return list;
}

int64_t cuda_pass_bytes(const model_config *config, const token_batch *batch, layer_cuda_precision precision,
                        int64_t chunk)
{
    cuda_pass measured = {.config = config,
                          .n_tokens = batch->n_tokens,
                          .n_positions = token_batch_longest(batch),
                          .precision = precision};
    const cuda_array_list list = list_arrays(&measured, chunk);
    int64_t total = weight_stream_device_bytes(config, precision) + CUDA_PASS_WORKSPACE_BYTES;
    for (int i = 0; i < list.n; i++) total += list.at[i].bytes;
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
    p->n_tokens = batch->n_tokens;
    p->n_positions = token_batch_longest(batch);
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

/* table 0: the RoPE of most layers; 1: of local ones. */
static rb_status upload_rope(cuda_pass *p, int table, rb_error *err)
{
    const model_facts *facts = &p->config->facts;
    rope_table rope = {0};
    rb_status st;
    RB_TRY(st, rope_table_init(&rope, facts, table == 0 ? &facts->rope : &facts->local_rope, p->n_positions, err),
           done);
    RB_TRY(st, rb_cuda()->copy(p->rope_cos[table].at, rope.cos, p->rope_cos[table].size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->copy(p->rope_sin[table].at, rope.sin, p->rope_sin[table].size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    rope_table_free(&rope);
    return st;
}

/* Rows of the residual stream as it enters the first layer of the pass. */
static rb_status fill_hidden(const cuda_pass *p, int64_t first, int64_t n, float *rows, rb_error *err)
{
    const token_batch piece = {.tokens = p->batch->tokens + first, .n_tokens = n};
    return p->first_layer > 0 ? p->fill_stream(p->fill_user, first, n, rows, err)
                              : token_batch_embed(&piece, p->model, rows, err);
}

static rb_status upload_hidden(cuda_pass *p, rb_error *err)
{
    const int64_t width = p->config->hidden_size, n = p->batch->n_tokens, most = n < EMBED_TOKENS ? n : EMBED_TOKENS;
    float *hidden = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&hidden, (size_t)most, (size_t)width * sizeof *hidden, "hidden states", err), done);
    for (int64_t first = 0; first < n; first += most) {
        const int64_t n_rows = n - first < most ? n - first : most;
        RB_TRY(st, fill_hidden(p, first, n_rows, hidden, err), done);
        RB_TRY(
            st,
            rb_cuda()->copy(cuda_pass_hidden(p, first), hidden, (size_t)(n_rows * width) * sizeof *hidden, NULL, err),
            done);
        RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    }
done:
    free(hidden);
    return st;
}

/* The stream, arrays and RoPE tables. */
static rb_status alloc_arrays(cuda_pass *p, rb_error *err)
{
    const cuda_array_list list = list_arrays(p, p->chunk);
    rb_status st;
    RB_TRY(st, rb_cuda()->stream_create(&p->compute, err), done);
    for (int i = 0; i < list.n; i++)
        if (list.at[i].bytes > 0)
            RB_TRY(st, rb_cuda_array_alloc(list.at[i].array, (size_t)list.at[i].bytes, "activations", err), done);
    RB_TRY(st, upload_rope(p, 0, err), done);
    if (p->config->facts.has_local_rope) RB_TRY(st, upload_rope(p, 1, err), done);
done:
    return st;
}

rb_status cuda_pass_alloc(cuda_pass *p, bool stops_at_heads, const int64_t *part_start, int n_parts, rb_error *err)
{
    rb_status st;
    p->stops_at_heads = stops_at_heads;
    RB_TRY(st, weight_stream_open(&p->weights, p->model, p->api, p->precision, stops_at_heads, err), done);
    RB_TRY(st, weight_stream_begin(p->weights, p->first_layer, err), done);
    RB_TRY(st, alloc_arrays(p, err), done);
    RB_TRY(st, cuda_experts_open(p, err), done);
    RB_TRY(st, upload_positions(p, part_start, n_parts, err), done);
    st = upload_hidden(p, err);
done:
    return st;
}

rb_status cuda_pass_begin_decoding(cuda_pass *p, const model_config *config, layer_cuda_precision precision,
                                   int64_t max_chunk, int64_t n_positions, rb_error *err)
{
    rb_status st;
    *p = (cuda_pass){.config = config,
                     .n_tokens = max_chunk,
                     .n_positions = n_positions,
                     .is_decoding = true,
                     .precision = precision,
                     .chunk = max_chunk};
    RB_TRY(st, find_tables(p, err), done);
    RB_TRY(st, p->api->matmul_open(&p->matmul, err), done);
    st = alloc_arrays(p, err);
done:
    return st;
}

void cuda_pass_end(cuda_pass *p)
{
    if (!p->config) return; /* it never began */
    const cuda_array_list list = list_arrays(p, p->chunk);
    if (p->compute) rb_cuda()->stream_wait(p->compute, NULL);
    weight_stream_close(p->weights);
    for (int i = 0; i < list.n; i++) rb_cuda_array_free(list.at[i].array);
    cuda_experts_close(p);
    if (p->api) p->api->matmul_close(p->matmul);
    if (p->compute) rb_cuda()->stream_destroy(p->compute);
    *p = (cuda_pass){0};
}

rb_status cuda_pass_next_layer(cuda_pass *p, int layer, device_layer *weights, rb_error *err)
{
    rb_status st = RB_OK;
    if (layer + 1 < p->config->facts.n_layers) RB_TRY(st, weight_stream_begin(p->weights, layer + 1, err), done);
    RB_TRY(st, cuda_experts_begin(p, layer, err), done);
    st = weight_stream_wait(p->weights, layer, p->compute, weights, err);
done:
    return st;
}

rb_status cuda_pass_finish_layer(cuda_pass *p, int layer, rb_error *err) { return cuda_experts_run(p, layer, err); }
