/* RoPE on heads: both pairings against the rotation written out with libm in double. */
#include "tests/test_support.h"

#include "core/threads.h"
#include "model/rope_apply.h"
#include "tests/model/float_test.h"

enum { HEAD_DIM = 48, N_HEADS = 3 };
static const int64_t starts[] = {0, 31, 32, 161}; /* sequences of 31, 1 and 129 tokens */
enum { N_SEQUENCES = 3, N_TOKENS = 161 };

static model_facts make_facts(rope_pairing pairing, int rotary_dim)
{
    model_facts facts = {
        .head_dim = HEAD_DIM, .rotary_dim = rotary_dim, .rope = {.pairing = pairing, .attention_factor = 1}};
    for (int i = 0; i < rotary_dim / 2; i++) facts.rope.inv_freq[i] = pow(10000.0, -2.0 * i / rotary_dim);
    return facts;
}

static int64_t position_of(int64_t token)
{
    int s = 0;
    while (token >= starts[s + 1]) s++;
    return token - starts[s];
}

static void check_rotation(rope_pairing pairing, int rotary_dim)
{
    rb_error err = {0};
    const model_facts facts = make_facts(pairing, rotary_dim);
    const int n = rotary_dim / 2;
    const size_t n_floats = (size_t)N_HEADS * N_TOKENS * HEAD_DIM;
    float *before = random_floats(n_floats, 1), *x = random_floats(n_floats, 1);
    rope_table table;

    assert_ok(rope_table_init(&table, &facts, &facts.rope, 129, &err));
    rope_apply(&table, x, N_HEADS, HEAD_DIM, starts, N_SEQUENCES);
    for (int64_t row = 0; row < N_HEADS * N_TOKENS; row++) {
        const float *from = before + row * HEAD_DIM, *to = x + row * HEAD_DIM;
        const double position = (double)position_of(row % N_TOKENS);
        for (int i = 0; i < n; i++) {
            const int a = pairing == ROPE_INTERLEAVED ? 2 * i : i, b = pairing == ROPE_INTERLEAVED ? 2 * i + 1 : i + n;
            const double angle = position * facts.rope.inv_freq[i];
            /* an angle up to 128 in f32 is off by at most 2^-18 */
            assert_close(to[a], from[a] * cos(angle) - from[b] * sin(angle), 2e-5);
            assert_close(to[b], from[b] * cos(angle) + from[a] * sin(angle), 2e-5);
        }
        for (int i = rotary_dim; i < HEAD_DIM; i++) assert_true(to[i] == from[i]);
    }
    rope_table_free(&table);
    free(before);
    free(x);
}

static void split_half_turns_pairs_half_a_rotary_dim_apart(void **state)
{
    (void)state;
    check_rotation(ROPE_SPLIT_HALF, HEAD_DIM);
}
static void interleaved_turns_neighbours(void **state)
{
    (void)state;
    check_rotation(ROPE_INTERLEAVED, HEAD_DIM);
}
static void partial_rope_leaves_the_rest_alone(void **state)
{
    (void)state;
    check_rotation(ROPE_SPLIT_HALF, 22);
    check_rotation(ROPE_INTERLEAVED, 22);
}

static void angle_is_rounded_to_f32_before_cos(void **state)
{
    (void)state;
    rb_error err = {0};
    model_facts facts = make_facts(ROPE_SPLIT_HALF, 2);
    facts.rope.inv_freq[0] = 0.1;
    rope_table table;
    assert_ok(rope_table_init(&table, &facts, &facts.rope, 100002, &err));
    const float angle = 100001.0f * 0.1f;
    assert_close(table.cos[100001], cos((double)angle), 1e-7);
    assert_true(fabs(cos((double)angle) - cos(10000.1))
                > 1e-5); /* f32 and double differ here, so the line above decides */
    assert_int_equal(rope_table_bytes(&facts, 100002), 2 * 100002 * (int)sizeof(float));
    rope_table_free(&table);
}

/* Tokens 40 to 60 of a sequence by themselves turn as they do in it. */
static void a_later_stretch_turns_as_in_its_sequence(void **state)
{
    (void)state;
    enum { FIRST = 40, N = 21 };
    rb_error err = {0};
    static const int64_t whole[] = {0, N_TOKENS};
    const model_facts facts = make_facts(ROPE_SPLIT_HALF, HEAD_DIM);
    float *x = random_floats((size_t)N_HEADS * N_TOKENS * HEAD_DIM, 1), part[N_HEADS * N * HEAD_DIM];
    rope_table table;
    assert_ok(rope_table_init(&table, &facts, &facts.rope, N_TOKENS, &err));
    for (int h = 0; h < N_HEADS; h++)
        memcpy(part + h * N * HEAD_DIM, x + (h * N_TOKENS + FIRST) * HEAD_DIM, N * HEAD_DIM * sizeof *x);
    rope_apply(&table, x, N_HEADS, HEAD_DIM, whole, 1);
    rope_apply_from(&table, part, N_HEADS, HEAD_DIM, FIRST, N);
    for (int h = 0; h < N_HEADS; h++)
        assert_memory_equal(part + h * N * HEAD_DIM, x + (h * N_TOKENS + FIRST) * HEAD_DIM, N * HEAD_DIM * sizeof *x);
    rope_table_free(&table);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_half_turns_pairs_half_a_rotary_dim_apart),
        cmocka_unit_test(interleaved_turns_neighbours),
        cmocka_unit_test(partial_rope_leaves_the_rest_alone),
        cmocka_unit_test(a_later_stretch_turns_as_in_its_sequence),
        cmocka_unit_test(angle_is_rounded_to_f32_before_cos),
    };
    rb_threads_init(0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
