/* See export/cuda_vectors.h. */
#include "export/cuda_vectors.h"

#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "export/coded_vectors.h"

/* As many tokens as keep the text of the file within some megabytes. */
enum { MAX_TOKENS = 16, MAX_NUMBERS = 1 << 18 };

typedef struct vector_maker {
    cuda_vectors *out;
    const bit_plan *plan;
    const model_facts *model;
    model_facts values; /* model_value_facts */
    const cuda_tables *tables;
    const capture_file *capture; /* NULL: none */
    uint64_t random;             /* state */
} vector_maker;

static int n_of(const vector_maker *m, bool is_value) { return is_value ? m->model->value_dim : m->model->head_dim; }

/* Vector (layer, token, KV head) among keys or values. */
static int64_t index_of(const vector_maker *m, int layer, int token, int kv_head)
{
    return ((int64_t)layer * m->out->n_tokens + token) * m->model->n_kv_heads + kv_head;
}

/* ---- made vectors: without a capture --------------------------------------------------------- */

/* splitmix64. */
static uint64_t next_random(vector_maker *m)
{
    uint64_t z = m->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double next_uniform(vector_maker *m) { return (double)(next_random(m) >> 11) * 0x1p-53; }

/* The largest number that fp16 holds is as far as a made vector goes. */
static uint16_t half_within(double x)
{
    static const double most = 65504.0;
    return rb_f32_to_f16((float)(x > most ? most : x < -most ? -most : x));
}

/* A norm of fp16 from 1 to 8, or one of log8 from two to four octaves below its largest. */
static uint16_t random_norm(vector_maker *m, bool is_log8)
{
    return is_log8 ? (uint16_t)(191 + next_random(m) % 33) : rb_f32_to_f16((float)(1.0 + 7.0 * next_uniform(m)));
}

static rb_status made_by_codec(vector_maker *m, const head_codec *codec, bool is_log8, float *x, int64_t n,
                               rb_error *err)
{
    const int dims = head_codec_dims(codec), n_norms = head_codec_n_norms(codec);
    uint8_t *codes = NULL;
    uint16_t *norms = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&codes, (size_t)n, (size_t)dims, "codes", err), done);
    RB_TRY(st, rb_alloc(&norms, (size_t)n, (size_t)n_norms * sizeof *norms, "norms", err), done);
    for (int64_t i = 0; i < n * dims; i++)
        codes[i] = (uint8_t)(next_random(m) & ((1u << head_codec_widths(codec)[i % dims]) - 1u));
    for (int64_t i = 0; i < n * n_norms; i++) norms[i] = random_norm(m, is_log8);
    st = head_codec_decode(codec, codes, norms, n, x, err);
done:
    free(codes);
    free(norms);
    return st;
}

/* x [n][dims]: half way between two vectors that random codes stand for. */
static rb_status make_vectors(vector_maker *m, const plan_head *head, const model_facts *facts, float *x, int64_t n,
                              rb_error *err)
{
    const int dims = facts->head_dim;
    const bool is_log8 = plan_head_groups(head)->norm == NORM_LOG8;
    head_codec *codec = NULL;
    float *other = NULL;
    rb_status st;
    RB_TRY(st, head_codec_create(&codec, head, facts, m->tables->codecs, err), done);
    RB_TRY(st, rb_alloc(&other, (size_t)n, (size_t)dims * sizeof *other, "vectors", err), done);
    RB_TRY(st, made_by_codec(m, codec, is_log8, x, n, err), done);
    RB_TRY(st, made_by_codec(m, codec, is_log8, other, n, err), done);
    for (int64_t i = 0; i < n * dims; i++) x[i] = 0.5f * (x[i] + other[i]);
done:
    free(other);
    head_codec_free(codec);
    return st;
}

static void make_uniform(vector_maker *m, float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(2.0 * next_uniform(m) - 1.0);
}

/* ---- captured vectors ------------------------------------------------------------------------ */

static bool has_captured(const vector_maker *m, bool is_value)
{
    return m->capture && (!is_value || capture_file_header(m->capture)->has_values);
}

static int64_t token_of(const vector_maker *m, int token)
{
    const int64_t n = capture_file_header(m->capture)->text[CAPTURE_TEST].n_tokens;
    return (2 * token + 1) * n / (2 * m->out->n_tokens);
}

/* fp16 words of the layer's keys or values at the chosen tokens. */
static rb_status take_captured(vector_maker *m, int layer, bool is_value, rb_error *err)
{
    const int64_t n = capture_file_header(m->capture)->text[CAPTURE_TEST].n_tokens, dims = n_of(m, is_value);
    uint16_t *out = is_value ? m->out->values : m->out->keys;
    float *x = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&x, (size_t)m->model->n_kv_heads * (size_t)n, (size_t)dims * sizeof *x, "vectors", err), done);
    RB_TRY(st,
           is_value ? capture_read_v(m->capture, CAPTURE_TEST, layer, x, err)
                    : capture_read_k(m->capture, CAPTURE_TEST, layer, x, err),
           done);
    for (int h = 0; h < m->model->n_kv_heads; h++)
        for (int t = 0; t < m->out->n_tokens; t++)
            for (int64_t i = 0; i < dims; i++)
                out[index_of(m, layer, t, h) * dims + i] = half_within((double)x[(h * n + token_of(m, t)) * dims + i]);
done:
    free(x);
    return st;
}

/* Those of the last chosen token. */
static rb_status take_queries(vector_maker *m, int layer, rb_error *err)
{
    const int64_t n = m->capture ? capture_file_header(m->capture)->text[CAPTURE_TEST].n_tokens : 1,
                  token = m->capture ? token_of(m, m->out->n_tokens - 1) : 0, n_heads = m->model->n_q_heads,
                  dims = m->model->head_dim;
    uint16_t *out = m->out->queries + (int64_t)layer * n_heads * dims;
    float *q = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&q, (size_t)(n_heads * n), (size_t)dims * sizeof *q, "queries", err), done);
    if (m->capture) RB_TRY(st, capture_read_q(m->capture, CAPTURE_TEST, layer, q, err), done);
    else make_uniform(m, q, n_heads * dims);
    for (int64_t h = 0; h < n_heads; h++)
        for (int64_t i = 0; i < dims; i++) out[h * dims + i] = half_within((double)q[(h * n + token) * dims + i]);
done:
    free(q);
    return st;
}

/* ---- a head: vectors, records, restored vectors ---------------------------------------------- */

static void copy_out(uint16_t *to, const float *x, int dims)
{
    for (int i = 0; i < dims; i++) to[i] = half_within((double)x[i]);
}

/* Puts what a vector stores where the generated program looks for it. */
static void put_record(uint8_t *record, const cuda_head *head, const coded_vectors *coded, int v)
{
    memcpy(record + head->codes_at, coded->packed + v * coded->packed_bytes, (size_t)head->code_bytes);
    for (int g = 0; g < head->n_norms; g++) {
        const uint16_t norm = coded->norms[v * coded->n_norms + g];
        record[head->norms_at + g * head->norm_bytes] = (uint8_t)(norm & 255);
        if (head->norm_bytes == 2) record[head->norms_at + g * head->norm_bytes + 1] = (uint8_t)(norm >> 8);
    }
}

static uint8_t *record_at(const vector_maker *m, int layer, int token)
{
    return m->out->records + (int64_t)layer * m->out->n_tokens * m->tables->max_record_bytes
           + (int64_t)token * cuda_tables_layer(m->tables, layer)->record_bytes;
}

/* Codes the head's vectors, which are words in `words`. */
static rb_status code_head(vector_maker *m, int layer, bool is_value, int kv_head, const plan_head *head, rb_error *err)
{
    const model_facts *facts = is_value ? &m->values : m->model;
    const cuda_head *place = cuda_tables_head(m->tables, layer, is_value, kv_head);
    const int dims = facts->head_dim, n = m->out->n_tokens;
    const uint16_t *words = is_value ? m->out->values : m->out->keys;
    float *back = is_value ? m->out->values_back : m->out->keys_back, *x = NULL;
    coded_vectors coded = {0};
    rb_status st;
    RB_TRY(st, rb_alloc(&x, (size_t)n, (size_t)dims * sizeof *x, "vectors", err), done);
    for (int t = 0; t < n; t++)
        for (int i = 0; i < dims; i++)
            x[t * dims + i] = rb_f16_to_f32(words[index_of(m, layer, t, kv_head) * dims + i]);
    RB_TRY(st, coded_vectors_encode(&coded, head, facts, m->tables->codecs, x, n, err), done);
    for (int t = 0; t < n; t++) {
        put_record(record_at(m, layer, t), place, &coded, t);
        memcpy(back + index_of(m, layer, t, kv_head) * dims, coded.restored + t * dims, (size_t)dims * sizeof *back);
    }
done:
    coded_vectors_free(&coded);
    free(x);
    return st;
}

/* Values that are not coded: the words themselves. */
static void store_words(vector_maker *m, int layer, int kv_head)
{
    const cuda_head *place = cuda_tables_head(m->tables, layer, true, kv_head);
    for (int t = 0; t < m->out->n_tokens; t++)
        for (int i = 0; i < place->dims; i++) {
            const int64_t at = index_of(m, layer, t, kv_head) * place->dims + i;
            uint8_t *bytes = record_at(m, layer, t) + place->codes_at + 2 * i;
            bytes[0] = (uint8_t)(m->out->values[at] & 255);
            bytes[1] = (uint8_t)(m->out->values[at] >> 8);
            m->out->values_back[at] = rb_f16_to_f32(m->out->values[at]);
        }
}

/* head NULL: values that are not coded. */
static rb_status make_words(vector_maker *m, int layer, bool is_value, int kv_head, const plan_head *head,
                            rb_error *err)
{
    const int dims = n_of(m, is_value), n = m->out->n_tokens;
    uint16_t *words = is_value ? m->out->values : m->out->keys;
    float *x = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&x, (size_t)n, (size_t)dims * sizeof *x, "vectors", err), done);
    if (head) RB_TRY(st, make_vectors(m, head, is_value ? &m->values : m->model, x, n, err), done);
    else make_uniform(m, x, (int64_t)n * dims);
    for (int t = 0; t < n; t++) copy_out(words + index_of(m, layer, t, kv_head) * dims, x + t * dims, dims);
done:
    free(x);
    return st;
}

static rb_status add_head(vector_maker *m, int layer, bool is_value, int kv_head, rb_error *err)
{
    const bool is_coded = !is_value || bit_plan_quantizes_values(m->plan);
    plan_head own = {0};
    const plan_head *head = is_value ? is_coded ? &own : NULL : bit_plan_head(m->plan, layer, kv_head);
    rb_status st = RB_OK;
    if (head == &own) RB_TRY(st, bit_plan_value_head(m->plan, layer, kv_head, &own, err), done);
    if (!has_captured(m, is_value)) RB_TRY(st, make_words(m, layer, is_value, kv_head, head, err), done);
    if (head) st = code_head(m, layer, is_value, kv_head, head, err);
    else store_words(m, layer, kv_head);
done:
    plan_head_clear(&own);
    return st == RB_OK ? RB_OK
                       : rb_fail_in(err, st, "layer %d kv_head %d%s", layer, kv_head, is_value ? " values" : "");
}

static rb_status add_layer(vector_maker *m, int layer, rb_error *err)
{
    rb_status st;
    RB_TRY(st, take_queries(m, layer, err), done);
    for (int is_value = 0; is_value < 2; is_value++) {
        if (has_captured(m, is_value)) RB_TRY(st, take_captured(m, layer, is_value, err), done);
        for (int h = 0; h < m->model->n_kv_heads; h++) RB_TRY(st, add_head(m, layer, is_value, h, err), done);
    }
done:
    return st;
}

/* ---- all ------------------------------------------------------------------------------------- */

static rb_status alloc_vectors(vector_maker *m, rb_error *err)
{
    const model_facts *f = m->model;
    cuda_vectors *out = m->out;
    const size_t n = (size_t)f->n_layers * (size_t)out->n_tokens * (size_t)f->n_kv_heads, k = (size_t)f->head_dim,
                 v = (size_t)f->value_dim, n_queries = (size_t)f->n_layers * (size_t)f->n_q_heads;
    rb_status st;
    RB_TRY(st, rb_alloc(&out->keys, n, k * sizeof *out->keys, "test vectors", err), done);
    RB_TRY(st, rb_alloc(&out->values, n, v * sizeof *out->values, "test vectors", err), done);
    RB_TRY(st, rb_alloc(&out->queries, n_queries, k * sizeof *out->queries, "test vectors", err), done);
    RB_TRY(st, rb_alloc(&out->keys_back, n, k * sizeof *out->keys_back, "test vectors", err), done);
    RB_TRY(st, rb_alloc(&out->values_back, n, v * sizeof *out->values_back, "test vectors", err), done);
    RB_TRY(st,
           rb_alloc(&out->records, (size_t)f->n_layers * (size_t)out->n_tokens, (size_t)m->tables->max_record_bytes,
                    "test vectors", err),
           done);
done:
    return st;
}

static int choose_n_tokens(const model_facts *f, const capture_file *capture)
{
    const int64_t numbers = (int64_t)f->n_layers * f->n_kv_heads * (f->head_dim + f->value_dim),
                  fit = MAX_NUMBERS / numbers, most = fit < MAX_TOKENS ? fit : MAX_TOKENS,
                  have = capture ? capture_file_header(capture)->text[CAPTURE_TEST].n_tokens : most,
                  n = most < have ? most : have;
    return n > 1 ? (int)n : 1;
}

static void tell_source(cuda_vectors *out, const capture_file *capture)
{
    if (!capture) {
        snprintf(out->source, sizeof out->source,
                 "made: half way between vectors that random codes of the plan stand for");
        return;
    }
    const capture_header *header = capture_file_header(capture);
    snprintf(out->source, sizeof out->source, "test tokens of a capture, ids of SHA-256 %.16s...%s",
             header->text[CAPTURE_TEST].tokens_sha256, header->has_values ? "" : ", values made of random codes");
}

rb_status cuda_vectors_make(cuda_vectors *out, const bit_plan *plan, const cuda_tables *tables,
                            const capture_file *capture, rb_error *err)
{
    vector_maker m = {.out = out,
                      .plan = plan,
                      .model = &plan->model,
                      .values = model_value_facts(&plan->model),
                      .tables = tables,
                      .capture = capture};
    rb_status st;
    *out = (cuda_vectors){.n_tokens = choose_n_tokens(&plan->model, capture)};
    tell_source(out, capture);
    RB_TRY(st, alloc_vectors(&m, err), done);
    for (int layer = 0; layer < plan->model.n_layers; layer++) RB_TRY(st, add_layer(&m, layer, err), done);
done:
    return st;
}

void cuda_vectors_free(cuda_vectors *vectors)
{
    free(vectors->keys);
    free(vectors->values);
    free(vectors->queries);
    free(vectors->records);
    free(vectors->keys_back);
    free(vectors->values_back);
}

void cuda_write_vectors(FILE *out, const cuda_vectors *vectors, const cuda_tables *tables)
{
    const ropebits_plan_info *info = tables->info;
    const int64_t k[] = {info->n_layers, vectors->n_tokens, info->n_kv_heads, info->head_dim},
                  v[] = {info->n_layers, vectors->n_tokens, info->n_kv_heads, info->value_dim},
                  q[] = {info->n_layers, info->n_q_heads, info->head_dim},
                  records[] = {info->n_layers, (int64_t)vectors->n_tokens * tables->max_record_bytes};
    fprintf(out, "/* See test_vectors.h. */\n#include \"test_vectors.h\"\n\nconst char test_source[] = \"%s\";\n\n",
            vectors->source);
    cuda_write_array(out, "test_keys", CUDA_HEX16, vectors->keys, k, 4);
    cuda_write_array(out, "test_values", CUDA_HEX16, vectors->values, v, 4);
    cuda_write_array(out, "test_queries", CUDA_HEX16, vectors->queries, q, 3);
    cuda_write_array(out, "test_records", CUDA_U8, vectors->records, records, 2);
    cuda_write_array(out, "test_restored_keys", CUDA_F32, vectors->keys_back, k, 4);
    cuda_write_array(out, "test_restored_values", CUDA_F32, vectors->values_back, v, 4);
}
