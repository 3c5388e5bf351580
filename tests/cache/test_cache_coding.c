/* Encoding into pages and decoding out of them: what a page holds is what head_codec.h makes of the vectors. */
#include "tests/test_support.h"

#include "cache/kv_layout.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/head_codec.h"
#include "model/rope_apply.h"
#include "tests/cache/some_cache.h"

/* Tokens [0, n) of sequence 0 as they enter RoPE, all of them into their slots. */
static void encode_all(some_cache *c, int64_t n)
{
    rb_error err = {0};
    int64_t slots[SOME_TOKENS];
    const ropebits_kv_vectors keys = some_vectors(c, c->keys, 0, 0), values = some_vectors(c, c->values, 0, 0);
    for (int64_t t = 0; t < n; t++) slots[t] = some_slot(c, 0, t);
    assert_ok(kv_cache_encode(c->cache, c->layer, n, &keys, &values, NULL, slots, c->pool, NULL, NULL, &err));
}

/* What the codec of a head restores of the first n vectors of `of`, [n][head_dim]. */
static float *restored(const some_cache *c, int kv_head, bool is_value, int64_t n)
{
    rb_error err = {0};
    const model_facts facts = is_value ? model_value_facts(&c->model) : c->model;
    const int dim = facts.head_dim, n_heads = some_n_heads(c);
    float *x = some_numbers((size_t)(n * dim), 1), *of = is_value ? c->values : c->keys;
    codec_tables *tables = NULL;
    head_codec *codec = NULL;
    plan_head head = {0};
    for (int64_t t = 0; t < n; t++) memcpy(x + t * dim, of + (t * n_heads + kv_head) * dim, (size_t)dim * sizeof *x);
    assert_ok(codec_tables_create(&tables, &err));
    if (is_value) assert_ok(bit_plan_value_head(c->plan, c->layer, kv_head, &head, &err));
    assert_ok(
        head_codec_create(&codec, is_value ? &head : bit_plan_head(c->plan, c->layer, kv_head), &facts, tables, &err));
    assert_ok(head_codec_round_trip(codec, x, n, x, &err));
    head_codec_free(codec);
    plan_head_clear(&head);
    codec_tables_free(tables);
    return x;
}

static void assert_decodes_to(some_cache *c, int64_t n)
{
    rb_error err = {0};
    const int dim = c->model.head_dim, n_heads = some_n_heads(c);
    float *got[2] = {some_numbers((size_t)(n * n_heads * dim), 5), some_numbers((size_t)(n * n_heads * dim), 6)};
    const ropebits_kv_vectors keys = {got[0], ROPEBITS_KV_F32, (int64_t)n_heads * dim, dim},
                              values = {got[1], ROPEBITS_KV_F32, (int64_t)n_heads * dim, dim};
    int64_t slots[SOME_TOKENS];
    for (int64_t t = 0; t < n; t++) slots[t] = some_slot(c, 0, t);
    assert_ok(kv_cache_decode(c->cache, c->layer, n, slots, c->pool, NULL, &keys, &values, NULL, NULL, &err));
    for (int i = 0; i < 2 * n_heads; i++) {
        float *want = restored(c, i / 2, i % 2, n);
        for (int64_t t = 0; t < n; t++)
            assert_memory_equal(got[i % 2] + (t * n_heads + i / 2) * dim, want + t * dim, (size_t)dim * sizeof *want);
        free(want);
    }
    free(got[0]);
    free(got[1]);
}

static void pages_restore_what_the_codec_of_each_head_does(void **state)
{
    (void)state;
    static const int dims[] = {64, 80, 128, 256}, lengths[] = {1, 63, 64, 65};
    for (int kind = SOME_GROUPS; kind < SOME_N_KINDS; kind++)
        for (int i = 0; i < 4; i++) {
            const model_facts model = some_model(2, 2, dims[i], dims[i], i % 2 ? ROPE_INTERLEAVED : ROPE_SPLIT_HALF);
            some_cache c = some_cache_create(&model, some_plan_of_kind(kind, &model), (kind + i) % 2, 1);
            encode_all(&c, lengths[i]);
            assert_decodes_to(&c, lengths[i]);
            some_cache_free(&c);
        }
}

/* A code is written by pack_codes at its token's place, norms after all codes, and nothing else is touched. */
static void a_page_is_as_its_header_says(void **state)
{
    (void)state;
    rb_error err = {0};
    const model_facts model = some_model(2, 2, 64, 64, ROPE_SPLIT_HALF);
    some_cache c = some_cache_create(&model, some_general_plan(&model), 0, 1);
    const cache_layout *layout = kv_cache_layout(c.cache, 0);
    enum { TOKEN = 5, HEAD = 1 };
    const float *x = c.keys + (TOKEN * 2 + HEAD) * 64;
    const cache_part *part = &layout->heads[HEAD].keys;
    const int64_t page = c.block_table[0] * layout->page_bytes;
    uint8_t codes[64], packed[64];
    uint16_t norms[RB_MAX_BLOCKS];
    codec_tables *tables = NULL;
    head_codec *codec = NULL;
    encode_all(&c, TOKEN + 1);
    assert_ok(codec_tables_create(&tables, &err));
    assert_ok(head_codec_create(&codec, bit_plan_head(c.plan, 0, HEAD), &model, tables, &err));
    assert_ok(head_codec_encode(codec, x, 1, codes, norms, &err));
    pack_codes(packed, codes, head_codec_widths(codec), 64);
    assert_memory_equal(c.pool + page + part->codes_at + TOKEN * part->code_bytes, packed, (size_t)part->code_bytes);
    for (int g = 0; g < head_codec_n_norms(codec); g++) {
        const uint8_t *at = c.pool + page + part->norms_at + TOKEN * part->norm_bytes + 2 * g;
        assert_int_equal(at[0] | at[1] << 8, norms[g]);
    }
    assert_int_equal(c.pool[page + part->codes_at + (TOKEN + 1) * part->code_bytes], SOME_GUARD);
    assert_int_equal(c.pool[page + part->norms_at - 1], SOME_GUARD);
    head_codec_free(codec);
    codec_tables_free(tables);
    some_cache_free(&c);
}

/* Half of the dims turn, by a local RoPE with an attention factor in the last layer. */
static model_facts turning_model(rope_pairing pairing)
{
    model_facts model = some_model(2, 2, 64, 32, pairing);
    model.rope.kind = ROPE_YARN;
    model.rope.attention_factor = 1.25;
    model.has_local_rope = true;
    model.local_rope = model.rope;
    model.local_rope.attention_factor = 0.75;
    for (int i = 0; i < 16; i++) model.local_rope.inv_freq[i] = pow(10000.0, -i / 16.0);
    model.layer_is_local[1] = true;
    return model;
}

static void keys_leave_a_page_as_the_model_turns_them(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        rb_error err = {0};
        enum { N = 70, DIM = 64, HEADS = 2 };
        const model_facts model = turning_model(i % 2 ? ROPE_INTERLEAVED : ROPE_SPLIT_HALF);
        some_cache c = some_cache_create(&model, some_general_plan(&model), i / 2, 1);
        const int64_t sequence_start[] = {0, N};
        static float turned[N * HEADS * DIM], heads[HEADS * N * DIM];
        const ropebits_kv_vectors keys = {turned, ROPEBITS_KV_F32, HEADS * DIM, DIM};
        int64_t slots[N];
        int32_t positions[N];
        rope_table table = {0};
        encode_all(&c, N);
        for (int t = 0; t < N; t++) slots[t] = some_slot(&c, 0, positions[t] = t);
        assert_ok(kv_cache_decode(c.cache, c.layer, N, slots, c.pool, positions, &keys, NULL, NULL, NULL, &err));
        for (int h = 0; h < HEADS; h++) {
            float *want = restored(&c, h, false, N);
            memcpy(heads + h * N * DIM, want, N * DIM * sizeof *want);
            free(want);
        }
        assert_ok(rope_table_init(&table, &model, model_rope(&model, c.layer), N, &err));
        rope_apply(&table, heads, HEADS, DIM, sequence_start, 1);
        for (int t = 0; t < N; t++)
            for (int h = 0; h < HEADS; h++)
                assert_memory_equal(turned + (t * HEADS + h) * DIM, heads + (h * N + t) * DIM, DIM * sizeof *heads);
        rope_table_free(&table);
        some_cache_free(&c);
    }
}

/* The same codes, but where a coordinate lies within rounding of a boundary: at most one byte in 500. */
static void turned_keys_are_turned_back_before_they_are_coded(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        rb_error err = {0};
        enum { N = 70 };
        const model_facts model = turning_model(i % 2 ? ROPE_INTERLEAVED : ROPE_SPLIT_HALF);
        some_cache c = some_cache_create(&model, some_general_plan(&model), i / 2, 1);
        const ropebits_kv_vectors keys = some_vectors(&c, c.keys, 0, 0), values = some_vectors(&c, c.values, 0, 0);
        int64_t slots[N];
        int32_t positions[N];
        uint8_t *entering = NULL;
        size_t n_different = 0;
        encode_all(&c, N);
        assert_ok(rb_alloc(&entering, c.pool_bytes, 1, "pool", &err));
        memcpy(entering, c.pool, c.pool_bytes);
        for (int t = 0; t < N; t++) {
            slots[t] = some_slot(&c, 0, t);
            positions[t] = 1000 + t;
            for (int h = 0; h < 2; h++) some_turn(&c, c.keys + (t * 2 + h) * 64, positions[t]);
        }
        assert_ok(kv_cache_encode(c.cache, c.layer, N, &keys, &values, positions, slots, c.pool, NULL, NULL, &err));
        for (size_t b = 0; b < c.pool_bytes; b++) n_different += entering[b] != c.pool[b];
        assert_true(n_different * 500 <= c.pool_bytes);
        free(entering);
        some_cache_free(&c);
    }
}

static void a_cache_without_a_plan_holds_turned_keys_in_fp16(void **state)
{
    (void)state;
    rb_error err = {0};
    enum { N = 65, DIM = 80 };
    const model_facts model = some_model(1, 1, DIM, DIM, ROPE_SPLIT_HALF);
    some_cache c = some_cache_create(&model, NULL, 0, 1);
    static float got[2][N * DIM];
    const ropebits_kv_vectors keys = some_vectors(&c, c.keys, 0, 0), values = some_vectors(&c, c.values, 0, 0),
                              keys_out = {got[0], ROPEBITS_KV_F32, DIM, DIM},
                              values_out = {got[1], ROPEBITS_KV_F32, DIM, DIM};
    int64_t slots[N];
    int32_t positions[N] = {0};
    for (int t = 0; t < N; t++) slots[t] = some_slot(&c, 0, t);
    assert_ok(kv_cache_encode(c.cache, 0, N, &keys, &values, positions, slots, c.pool, NULL, NULL, &err));
    assert_ok(kv_cache_decode(c.cache, 0, N, slots, c.pool, positions, &keys_out, &values_out, NULL, NULL, &err));
    for (int i = 0; i < N * DIM; i++) {
        assert_true(got[0][i] == through_fp16(c.keys[i]));
        assert_true(got[1][i] == through_fp16(c.values[i]));
    }
    assert_fails(kv_cache_encode(c.cache, 0, N, &keys, &values, NULL, slots, c.pool, NULL, NULL, &err), RB_EINVAL,
                 "positions is NULL, expected those of the keys: a cache in fp16 holds turned keys");
    some_cache_free(&c);
}

static void a_slot_below_0_is_skipped(void **state)
{
    (void)state;
    rb_error err = {0};
    const model_facts model = some_model(1, 1, 64, 64, ROPE_SPLIT_HALF);
    some_cache c = some_cache_create(&model, some_plan(&model, CODEBOOK_SPHERE), 0, 1);
    const ropebits_kv_vectors keys = some_vectors(&c, c.keys, 0, 0), values = some_vectors(&c, c.values, 0, 0);
    const int64_t slots[3] = {-1, some_slot(&c, 0, 1), -1};
    const cache_layout *layout = kv_cache_layout(c.cache, 0);
    c.keys[3] = NAN; /* padding may hold anything */
    assert_ok(kv_cache_encode(c.cache, 0, 3, &keys, &values, NULL, slots, c.pool, NULL, NULL, &err));
    const uint8_t *page = c.pool + c.block_table[0] * layout->page_bytes;
    assert_int_equal(page[0], SOME_GUARD);
    assert_int_equal(page[2 * layout->heads[0].keys.code_bytes], SOME_GUARD);
    float x[64] = {1.5f}, y[64];
    const ropebits_kv_vectors out = {x, ROPEBITS_KV_F32, 0, 0}, one = {y, ROPEBITS_KV_F32, 0, 0};
    assert_ok(kv_cache_decode(c.cache, 0, 1, slots, c.pool, NULL, &out, NULL, NULL, NULL, &err));
    assert_true(x[0] == 1.5f);
    assert_ok(kv_cache_decode(c.cache, 0, 1, slots + 1, c.pool, NULL, &one, NULL, NULL, NULL, &err));
    assert_true(fabsf(y[0] - c.keys[64]) < 0.7f);
    some_cache_free(&c);
}

static void every_dtype_goes_in_and_comes_out(void **state)
{
    (void)state;
    rb_error err = {0};
    enum { N = 3, DIM = 64, STRIDE = 100 };
    const model_facts model = some_model(1, 1, DIM, DIM, ROPE_SPLIT_HALF);
    some_cache c = some_cache_create(&model, some_plan(&model, CODEBOOK_SPHERE), 0, 1);
    uint16_t halves[N * STRIDE], brains[N * STRIDE], out_halves[N * STRIDE], out_brains[N * STRIDE];
    float exact[N * STRIDE];
    int64_t slots[N];
    for (int i = 0; i < N * STRIDE; i++) {
        brains[i] = rb_f32_to_bf16(c.keys[i]); /* 8 bits of mantissa, so fp16 holds it too */
        halves[i] = rb_f32_to_f16(rb_bf16_to_f32(brains[i]));
    }
    for (int t = 0; t < N; t++) slots[t] = some_slot(&c, 0, t);
    const ropebits_kv_vectors in[] = {{halves, ROPEBITS_KV_F16, STRIDE, 0}, {brains, ROPEBITS_KV_BF16, STRIDE, 0}},
                              out[] = {{out_halves, ROPEBITS_KV_F16, STRIDE, 0},
                                       {out_brains, ROPEBITS_KV_BF16, STRIDE, 0}},
                              floats = {exact, ROPEBITS_KV_F32, STRIDE, 0};
    assert_ok(kv_cache_encode(c.cache, 0, N, &in[0], &in[1], NULL, slots, c.pool, NULL, NULL, &err));
    assert_ok(kv_cache_decode(c.cache, 0, N, slots, c.pool, NULL, &out[0], NULL, NULL, NULL, &err));
    assert_ok(kv_cache_decode(c.cache, 0, N, slots, c.pool, NULL, &out[1], NULL, NULL, NULL, &err));
    assert_ok(kv_cache_decode(c.cache, 0, N, slots, c.pool, NULL, &floats, NULL, NULL, NULL, &err));
    for (int t = 0; t < N; t++)
        for (int d = 0; d < DIM; d++) {
            assert_int_equal(out_halves[t * STRIDE + d], rb_f32_to_f16(exact[t * STRIDE + d]));
            assert_int_equal(out_brains[t * STRIDE + d], rb_f32_to_bf16(exact[t * STRIDE + d]));
        }
    const uint8_t *page = c.pool + c.block_table[0] * kv_cache_layout(c.cache, 0)->page_bytes;
    uint8_t first[64];
    const int code_bytes = kv_cache_layout(c.cache, 0)->heads[0].keys.code_bytes;
    memcpy(first, page, (size_t)code_bytes);
    assert_ok(kv_cache_encode(c.cache, 0, N, &in[1], &in[0], NULL, slots, c.pool, NULL, NULL, &err));
    assert_memory_equal(first, page, (size_t)code_bytes); /* the same numbers in another dtype */
    some_cache_free(&c);
}

static void what_fp16_does_not_hold_is_refused_by_name(void **state)
{
    (void)state;
    rb_error err = {0};
    const model_facts model = some_model(2, 2, 64, 64, ROPE_SPLIT_HALF);
    some_cache c = some_cache_create(&model, some_plan_of_trellis(&model), 1, 1);
    const ropebits_kv_vectors keys = some_vectors(&c, c.keys, 0, 0), values = some_vectors(&c, c.values, 0, 0);
    const int64_t slots[2] = {0, 1};
    c.keys[3 * 64 + 7] = INFINITY; /* of token 1, head 1 */
    assert_fails(kv_cache_encode(c.cache, 1, 2, &keys, &values, NULL, slots, c.pool, NULL, NULL, &err), RB_ENONFINITE,
                 "layer 1 kv_head 1, keys: vector 1: dim 7 is inf, expected a finite number that fp16 holds");
    c.keys[3 * 64 + 7] = 0.0f;
    c.values[2 * 64] = 65520.0f;
    assert_fails(kv_cache_encode(c.cache, 1, 2, &keys, &values, NULL, slots, c.pool, NULL, NULL, &err), RB_ENONFINITE,
                 "layer 1 kv_head 0, values: vector 1: dim 0 is 65520");
    some_cache_free(&c);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    model_facts model = some_model(2, 1, 64, 64, ROPE_SPLIT_HALF);
    some_cache c = some_cache_create(&model, some_plan(&model, CODEBOOK_SPHERE), 0, 1);
    ropebits_kv_vectors keys = some_vectors(&c, c.keys, 0, 0), values = some_vectors(&c, c.values, 0, 0);
    const int64_t slots[1] = {0};
    assert_fails(kv_cache_encode(c.cache, 2, 1, &keys, &values, NULL, slots, c.pool, NULL, NULL, &err), RB_EINVAL,
                 "layer is 2, expected 0 to 1");
    assert_fails(kv_cache_encode(c.cache, 0, -1, &keys, &values, NULL, slots, c.pool, NULL, NULL, &err), RB_EINVAL,
                 "-1 vectors, expected 0 or more");
    assert_fails(kv_cache_encode(c.cache, 0, 1, &keys, NULL, NULL, slots, c.pool, NULL, NULL, &err), RB_EINVAL,
                 "values: no vectors are given");
    assert_fails(kv_cache_encode(c.cache, 0, 1, &keys, &values, NULL, NULL, c.pool, NULL, NULL, &err), RB_EINVAL,
                 "slots is NULL");
    keys.dtype = 3;
    assert_fails(kv_cache_decode(c.cache, 0, 1, slots, c.pool, NULL, &keys, NULL, NULL, NULL, &err), RB_EINVAL,
                 "keys: dtype is 3, expected 0 to 2");
    assert_ok(kv_cache_encode(c.cache, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, &err));
    some_cache_free(&c);
    kv_cache *cache = NULL;
    model.value_dim = 32;
    assert_fails(kv_cache_create(&cache, &model, NULL, false, &err), RB_EUNSUPPORTED,
                 "values have 32 dims and keys 64: a packed cache holds no latent vectors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_restore_what_the_codec_of_each_head_does),
        cmocka_unit_test(a_page_is_as_its_header_says),
        cmocka_unit_test(keys_leave_a_page_as_the_model_turns_them),
        cmocka_unit_test(turned_keys_are_turned_back_before_they_are_coded),
        cmocka_unit_test(a_cache_without_a_plan_holds_turned_keys_in_fp16),
        cmocka_unit_test(a_slot_below_0_is_skipped),
        cmocka_unit_test(every_dtype_goes_in_and_comes_out),
        cmocka_unit_test(what_fp16_does_not_hold_is_refused_by_name),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
