/* The check of a codec against the reference: nothing wrong with the reference's own trial, and each kind of damage,
 * planted alone, in its own counter. `ropebits validate` cannot be made to say no on the CPU, where it is the reference
 * that is checked: this is where its judgement is tested. */
#include "tests/test_support.h"

#include "core/half.h"
#include "kernels/check/codec_check.h"
#include "kernels/check/codec_trial.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/numpy_random.h"

enum { MAX_HEADS = 3, N_QUERIES = 3 };

static rb_error err;

/* ---- a trial and what it was made of --------------------------------------------------------- */

typedef struct bench {
    model_facts model;
    plan_head heads[MAX_HEADS];
    codec_tables *tables;
    codec_trial_input in;
    codec_trial trial;
    codec_bounds bounds;
    float *x, *queries;
} bench;

static float *random_floats(int64_t n, uint64_t seed)
{
    double *normals = malloc((size_t)n * sizeof *normals + 1);
    float *x = malloc((size_t)n * sizeof *x + 1);
    numpy_rng rng;
    assert_true(normals && x);
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, normals, (size_t)n);
    for (int64_t i = 0; i < n; i++) x[i] = (float)normals[i];
    free(normals);
    return x;
}

/* The GPU's. */
static codec_bounds bounds_of(codec_dtype type)
{
    return (codec_bounds){.code_tie = CODEC_CUDA_CODE_TIE,
                          .norm_tie = CODEC_CUDA_NORM_TIE,
                          .cosine_tie = CODEC_CUDA_COSINE_TIE,
                          .restore = type == CODEC_F32 ? CODEC_CUDA_RESTORE_F32 : CODEC_CUDA_RESTORE_F16,
                          .rounding = codec_dtype_rounding(type),
                          .rounding_least = codec_dtype_rounding_least(type),
                          .logits = CODEC_CUDA_LOGITS,
                          .block_codebook_tie = CODEC_CUDA_BLOCK_CODEBOOK_TIE,
                          .block_codebook_restore = CODEC_CUDA_BLOCK_CODEBOOK_RESTORE};
}

/* Blocks of 1 to 5 bits, other ones in every head; the last such that codes end 2 bits after a whole byte: there is
 * padding. */
static void mix_widths(bench *b)
{
    const int last = model_n_blocks(&b->model) - 1;
    uint8_t bits[RB_MAX_BLOCKS];
    for (int h = 0; h < b->in.n_heads; h++) {
        int sum = 0;
        for (int i = 0; i < last; i++) sum += bits[i] = (uint8_t)(1 + (i * (h + 3) + h) % 5);
        bits[last] = (uint8_t)(1 + (4 - sum % 4) % 4); /* 2 (sum + bits[last]) is 2 more than a multiple of 8 */
        assert_ok(plan_head_set_block_widths(&b->heads[h], bits, last + 1, h % 2 ? CODEBOOK_SPHERE : CODEBOOK_BLOCK_GTQ,
                                             &err));
    }
}

/* Heads and vectors; the caller may change x before start_trial. */
static void set_up(bench *b, int head_dim, int n_heads, int64_t n, codec_dtype type)
{
    *b = (bench){.model = {.n_layers = 1,
                           .n_q_heads = n_heads,
                           .n_kv_heads = n_heads,
                           .head_dim = head_dim,
                           .rotary_dim = head_dim,
                           .value_dim = head_dim,
                           .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}},
                 .bounds = bounds_of(type)};
    assert_ok(codec_tables_create(&b->tables, &err));
    b->x = random_floats(n_heads * n * head_dim, 11);
    b->queries = random_floats(n_heads * N_QUERIES * head_dim, 12);
    codec_dtype_round(b->x, n_heads * n * head_dim, type);
    b->in = (codec_trial_input){.heads = b->heads,
                                .n_heads = n_heads,
                                .model = &b->model,
                                .tables = b->tables,
                                .type = type,
                                .x = b->x,
                                .n = n,
                                .queries = b->queries,
                                .n_queries = N_QUERIES};
    mix_widths(b);
}

static void start_trial(bench *b) { assert_ok(codec_trial_cpu(&b->trial, &b->in, &err)); }

static void clear(bench *b)
{
    codec_trial_free(&b->trial);
    for (int h = 0; h < b->in.n_heads; h++) plan_head_clear(&b->heads[h]);
    codec_tables_free(b->tables);
    free(b->x);
    free(b->queries);
}

/* fp16, in place: streams start at multiples of 128 bytes. */
static uint16_t *norms_at(bench *b, int h)
{
    return (uint16_t *)(void *)(b->trial.norms + codec_image_norms_offset(b->trial.image, h, b->in.n));
}
static uint8_t *packed_at(bench *b, int h)
{
    return b->trial.packed + codec_image_packed_offset(b->trial.image, h, b->in.n);
}
static float *restored_at(bench *b, int h) { return b->trial.x_hat + h * b->in.n * b->model.head_dim; }
static float *logits_at(bench *b, int h) { return b->trial.logits + h * N_QUERIES * b->in.n; }

/* A head's vectors through one direction of the codec, and what the reference restored of them. */
typedef struct opened_head {
    head_codec *codec;
    uint8_t *codes;   /* [n][head_dim] */
    float *reference; /* [n][head_dim] */
} opened_head;

static opened_head open_head(bench *b, int h)
{
    opened_head out = {.codes = calloc((size_t)b->in.n + 1, (size_t)b->model.head_dim),
                       .reference = calloc((size_t)(b->in.n + 1) * (size_t)b->model.head_dim, sizeof *out.reference)};
    assert_true(out.codes && out.reference);
    assert_ok(head_codec_create(&out.codec, &b->heads[h], &b->model, b->tables, &err));
    for (int64_t v = 0; v < b->in.n; v++)
        assert_ok(unpack_codes(out.codes + v * b->model.head_dim,
                               packed_at(b, h) + v * (int64_t)head_codec_packed_bytes(out.codec),
                               head_codec_widths(out.codec), b->model.head_dim, &err));
    assert_ok(head_codec_decode(out.codec, out.codes, norms_at(b, h), b->in.n, out.reference, &err));
    return out;
}

static void close_head(opened_head *head)
{
    head_codec_free(head->codec);
    free(head->codes);
    free(head->reference);
}

static double norm_of(const float *x, int d)
{
    double square = 0.0;
    for (int j = 0; j < d; j++) square += (double)x[j] * (double)x[j];
    return sqrt(square);
}

/* What an implementation does that stored these codes and norms: restores them, and takes their logits. So damage to
 * what is stored stays alone. */
static void restore_again(bench *b, int h)
{
    const int d = b->model.head_dim;
    opened_head head = open_head(b, h);
    float *x_hat = restored_at(b, h);
    memcpy(x_hat, head.reference, (size_t)(b->in.n * d) * sizeof *x_hat);
    for (int query = 0; query < N_QUERIES; query++)
        for (int64_t v = 0; v < b->in.n; v++) {
            double sum = 0.0;
            for (int j = 0; j < d; j++)
                sum += (double)b->queries[(h * N_QUERIES + query) * d + j] * (double)x_hat[v * d + j];
            logits_at(b, h)[query * b->in.n + v] = (float)sum;
        }
    codec_dtype_round(x_hat, b->in.n * d, b->in.type);
    close_head(&head);
}

/* Codes of a head's vector v, with `code` at a position. */
static void put_code(bench *b, int h, int64_t v, int position, int code)
{
    opened_head head = open_head(b, h);
    uint8_t *codes = head.codes + v * b->model.head_dim;
    codes[position] = (uint8_t)code;
    pack_codes(packed_at(b, h) + v * (int64_t)head_codec_packed_bytes(head.codec), codes, head_codec_widths(head.codec),
               b->model.head_dim);
    close_head(&head);
}

static int get_code(bench *b, int h, int64_t v, int position)
{
    opened_head head = open_head(b, h);
    const int code = head.codes[v * b->model.head_dim + position];
    close_head(&head);
    return code;
}

static codec_report check_all(bench *b)
{
    const int d = b->model.head_dim;
    codec_report sum = {0};
    for (int h = 0; h < b->in.n_heads; h++) {
        codec_report report = {0};
        head_codec *codec = NULL;
        uint8_t *codes = malloc((size_t)(b->in.n * d) + 1);
        float *reference = malloc((size_t)(b->in.n * d) * sizeof *reference + 1);
        assert_ok(head_codec_create(&codec, &b->heads[h], &b->model, b->tables, &err));
        const codec_checked on = {&b->heads[h], &b->model, b->tables, codec};
        assert_ok(codec_check_encoded(&report, &on, b->x + h * b->in.n * d, b->in.n, packed_at(b, h), norms_at(b, h),
                                      &b->bounds, codes, &err));
        assert_ok(codec_check_restored(&report, &on, codes, norms_at(b, h), b->in.n, restored_at(b, h), &b->bounds,
                                       reference, &err));
        codec_check_logits(&report, &on, b->queries + h * N_QUERIES * d, N_QUERIES, reference, b->in.n, logits_at(b, h),
                           &b->bounds);
        codec_report_add(&sum, &report);
        head_codec_free(codec);
        free(codes);
        free(reference);
    }
    return sum;
}

/* What must have been found: every counter, so that nothing else went up. */
typedef struct expected {
    int codes_tied, codes_wrong, norms_tied, norms_wrong, bytes_wrong, values_wrong, logits_wrong;
} expected;

static codec_report assert_found(bench *b, expected e)
{
    const codec_report r = check_all(b);
    assert_int_equal(r.codes_tied, e.codes_tied);
    assert_int_equal(r.codes_wrong, e.codes_wrong);
    assert_int_equal(r.norms_tied, e.norms_tied);
    assert_int_equal(r.norms_wrong, e.norms_wrong);
    assert_int_equal(r.bytes_wrong, e.bytes_wrong);
    assert_int_equal(r.values_wrong, e.values_wrong);
    assert_int_equal(r.logits_wrong, e.logits_wrong);
    const bool has_wrong = e.codes_wrong + e.norms_wrong + e.bytes_wrong + e.values_wrong + e.logits_wrong > 0;
    assert_int_equal(codec_report_is_good(&r), !has_wrong);
    return r;
}

/* ---- nothing wrong --------------------------------------------------------------------------- */

static void the_references_own_trial_is_good(void **state)
{
    (void)state;
    static const int head_dims[] = {16, 64, 80, 128}, counts[] = {0, 1, 33, 129};
    for (size_t i = 0; i < RB_COUNT(head_dims); i++)
        for (int type = 0; type < CODEC_N_DTYPES; type++) {
            bench b;
            const int d = head_dims[i], n = counts[(i + (size_t)type) % RB_COUNT(counts)];
            int n_groups = 0;
            set_up(&b, d, 3, n, (codec_dtype)type);
            start_trial(&b);
            const codec_report r = assert_found(&b, (expected){0});
            for (int h = 0; h < 3; h++) n_groups += b.heads[h].groups.n;
            assert_int_equal(r.n_vectors, 3 * n);
            assert_int_equal(r.n_codes, 3 * n * d);
            assert_int_equal(r.n_values, 3 * n * d);
            assert_int_equal(r.n_norms, n * n_groups);
            assert_int_equal(r.n_logits, 3 * n * N_QUERIES);
            assert_true(r.worst_tie == 0.0);
            assert_int_equal(b.trial.first_bad, -1);
            assert_int_equal(b.trial.bytes_outside, 0);
            assert_int_equal(b.trial.bytes_unstable, 0);
            clear(&b);
        }
}

/* So an f16 or bf16 trial is not good by bounds that would let anything pass: it is its type's rounding that is allowed
 * for. */
static void the_rounding_of_a_type_is_beyond_the_bounds_of_a_finer_one(void **state)
{
    (void)state;
    static const codec_dtype finer[] = {CODEC_F32, CODEC_F16};
    for (int type = CODEC_F16; type <= CODEC_BF16; type++) {
        bench b;
        set_up(&b, 64, 2, 20, (codec_dtype)type);
        start_trial(&b);
        b.bounds = bounds_of(finer[type]);
        b.bounds.restore = CODEC_CUDA_RESTORE_F32;
        const codec_report r = check_all(&b);
        assert_true(r.values_wrong > 0);
        assert_int_equal(r.codes_wrong + r.norms_wrong + r.bytes_wrong, 0);
        clear(&b);
    }
}

static void vectors_of_zeros_are_good(void **state)
{
    (void)state;
    bench b;
    set_up(&b, 64, 2, 5, CODEC_F16);
    memset(b.x, 0, 5 * 64 * sizeof *b.x);
    start_trial(&b);
    assert_found(&b, (expected){0});
    restored_at(&b, 0)[7] = 1e-7f; /* nothing but a subnormal's rounding is within any share of a norm of 0 */
    assert_found(&b, (expected){.values_wrong = 1});
    clear(&b);
}

/* Vectors of norm 0.008: many of their coordinates are subnormal in f16. With nothing allowed but rounding they are
 * good; by the relative rounding only, not. */
static void tiny_vectors_are_good_and_exact_but_for_rounding(void **state)
{
    (void)state;
    for (int type = 0; type < CODEC_N_DTYPES; type++) {
        bench b;
        set_up(&b, 64, 2, 9, (codec_dtype)type);
        for (int i = 0; i < 2 * 9 * 64; i++) b.x[i] *= 0.001f;
        codec_dtype_round(b.x, 2 * 9 * 64, (codec_dtype)type);
        start_trial(&b);
        b.bounds.code_tie = b.bounds.norm_tie = b.bounds.restore = 0.0;
        b.bounds.logits = codec_dtype_rounding(CODEC_F32);
        assert_found(&b, (expected){0});
        b.bounds.rounding_least = 0.0;
        const codec_report r = check_all(&b);
        assert_int_equal(r.values_wrong > 0, type == CODEC_F16);
        clear(&b);
    }
}

static void vectors_the_reference_refuses_are_named_by_trial_and_check(void **state)
{
    (void)state;
    bench b;
    codec_report report = {0};
    uint8_t codes[9 * 64];
    head_codec *codec = NULL;
    set_up(&b, 64, 1, 9, CODEC_F32);
    start_trial(&b);
    assert_ok(head_codec_create(&codec, b.heads, &b.model, b.tables, &err));
    const codec_checked on = {b.heads, &b.model, b.tables, codec};
    b.x[7 * 64 + 3] = NAN;
    assert_fails(codec_check_encoded(&report, &on, b.x, 9, packed_at(&b, 0), norms_at(&b, 0), &b.bounds, codes, &err),
                 RB_ENONFINITE, "vector 7: ");
    codec_trial_free(&b.trial);
    assert_fails(codec_trial_cpu(&b.trial, &b.in, &err), RB_ENONFINITE, "vector 7: ");
    assert_null(b.trial.packed);
    head_codec_free(codec);
    clear(&b);
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Makes vector v of head h one whose rotated unit vector, in the group `g`, has the coordinate y in its last row: R^T
 * of a unit vector, rounded to f32, which moves a coordinate by less than 1e-7. Returns the coding position of the row.
 */
static int place_coordinate(bench *b, int h, int64_t v, int g, double y)
{
    const plan_group *group = &b->heads[h].groups.at[g];
    const int m = 2 * group->n_blocks;
    const double rest = sqrt((1.0 - y * y) / (m - 1)), *rotation;
    int dims[RB_MAX_HEAD_DIM], position = m - 1;
    assert_true(b->in.type == CODEC_F32 && m >= 2 && fabs(y) < 1.0);
    assert_ok(codec_tables_rotation(b->tables, &group->rotation, &rotation, &err));
    plan_group_dims(group, &b->model, dims);
    for (int j = 0; j < m; j++) {
        double sum = 0.0;
        for (int i = 0; i < m; i++) sum += rotation[i * m + j] * (i == m - 1 ? y : i % 2 ? rest : -rest);
        b->x[(h * b->in.n + v) * b->model.head_dim + dims[j]] = (float)sum;
    }
    for (int i = 0; i < g; i++) position += 2 * b->heads[h].groups.at[i].n_blocks;
    return position;
}

static const codebook *book_of(bench *b, int h, int g)
{
    const plan_group *group = &b->heads[h].groups.at[g];
    const codebook *book = NULL;
    assert_ok(codec_tables_codebook(b->tables, group->codebook, group->width, 2 * group->n_blocks, &book, &err));
    return book;
}

enum { AT_HEAD = 1, AT_VECTOR = 6, AT_GROUP = 2 };

/* A coordinate at `distance` from boundary 2 (on either side), and a code that is `steps` from the reference's, away
 * over that boundary. */
static codec_report plant_code(double distance, int steps, expected e)
{
    bench b;
    set_up(&b, 64, 2, 9, CODEC_F32);
    const codebook *book = book_of(&b, AT_HEAD, AT_GROUP);
    assert_true(book->size >= 8);
    const int position = place_coordinate(&b, AT_HEAD, AT_VECTOR, AT_GROUP, book->boundary[2] + distance);
    start_trial(&b);
    const int code = get_code(&b, AT_HEAD, AT_VECTOR, position);
    assert_int_equal(code, distance > 0.0 ? 3 : 2); /* the case is what it claims */
    assert_found(&b, (expected){0});
    put_code(&b, AT_HEAD, AT_VECTOR, position, distance > 0.0 ? code - steps : code + steps);
    restore_again(&b, AT_HEAD);
    const codec_report report = assert_found(&b, e);
    clear(&b);
    return report;
}

static void a_code_far_from_a_boundary_is_wrong(void **state)
{
    (void)state;
    for (int sign = -1; sign <= 1; sign += 2) {
        const codec_report r = plant_code(sign * 0.01, 1, (expected){.codes_wrong = 1});
        assert_true(r.worst_tie == 0.0);
    }
}

static void a_code_on_the_other_side_of_a_near_boundary_is_tied(void **state)
{
    (void)state;
    static const double near[] = {1e-6, 3.5e-6};
    for (size_t i = 0; i < RB_COUNT(near); i++)
        for (int sign = -1; sign <= 1; sign += 2) {
            const codec_report r = plant_code(sign * near[i], 1, (expected){.codes_tied = 1});
            assert_true(fabs(r.worst_tie - near[i]) < 2e-7);
        }
}

static void a_code_just_beyond_the_bound_is_wrong(void **state)
{
    (void)state;
    for (int sign = -1; sign <= 1; sign += 2) plant_code(sign * 4.5e-6, 1, (expected){.codes_wrong = 1});
}

static void a_code_two_away_is_wrong_though_a_boundary_is_near(void **state)
{
    (void)state;
    for (int sign = -1; sign <= 1; sign += 2) plant_code(sign * 1e-6, 2, (expected){.codes_wrong = 1});
}

static void without_ties_a_near_boundary_is_no_excuse(void **state)
{
    (void)state;
    bench b;
    set_up(&b, 64, 2, 9, CODEC_F32);
    const int position = place_coordinate(&b, 0, 0, 1, book_of(&b, 0, 1)->boundary[0] + 1e-6);
    start_trial(&b);
    b.bounds.code_tie = 0.0;
    put_code(&b, 0, 0, position, 0);
    restore_again(&b, 0);
    assert_found(&b, (expected){.codes_wrong = 1});
    clear(&b);
}

/* Wrong codes of several groups and heads are counted one by one: each is judged by its own group's book. */
static void every_wrong_code_counts(void **state)
{
    (void)state;
    bench b;
    int n = 0, position[2][PLAN_MAX_WIDTH];
    set_up(&b, 64, 2, 9, CODEC_F32);
    for (int h = 0; h < 2; h++)
        for (int g = 0; g < b.heads[h].groups.n; g++) {
            const codebook *book = book_of(&b, h, g);
            position[h][g] =
                place_coordinate(&b, h, g, g, book->centroid[book->size / 2]); /* the boundary below it is 0 */
        }
    start_trial(&b);
    for (int h = 0; h < 2; h++)
        for (int g = 0; g < b.heads[h].groups.n; g++, n++) {
            const int code = book_of(&b, h, g)->size / 2;
            assert_int_equal(get_code(&b, h, g, position[h][g]), code);
            put_code(&b, h, g, position[h][g], code - 1);
        }
    for (int h = 0; h < 2; h++) restore_again(&b, h);
    assert_true(n >= 8);
    assert_found(&b, (expected){.codes_wrong = n});
    clear(&b);
}

/* ---- packed bytes ---------------------------------------------------------------------------- */

static void a_padding_bit_is_a_wrong_byte_and_no_wrong_code(void **state)
{
    (void)state;
    for (int bit = 2; bit < 8; bit++) { /* two bits of the last byte are codes */
        bench b;
        set_up(&b, 64, 2, 9, CODEC_F16);
        start_trial(&b);
        const int packed_bytes = b.trial.image->heads[1].packed_bytes;
        packed_at(&b, 1)[5 * packed_bytes - 1] |= (uint8_t)(1 << bit);
        assert_found(&b, (expected){.bytes_wrong = 1});
        clear(&b);
    }
}

/* ---- norms ----------------------------------------------------------------------------------- */

/* Vector 4 of head 0 has the norm `norm` in its first group, exactly: one value, the rest 0; the other groups stay.
 * Norm stored: the reference's, one unit up or down or more. */
static void plant_norm(float norm, uint16_t stored_by_reference, int units, expected e)
{
    bench b;
    int dims[RB_MAX_HEAD_DIM];
    set_up(&b, 64, 2, 9, CODEC_F32);
    plan_group_dims(&b.heads[0].groups.at[0], &b.model, dims);
    for (int j = 0; j < 2 * b.heads[0].groups.at[0].n_blocks; j++) b.x[4 * 64 + dims[j]] = j == 1 ? norm : 0.0f;
    start_trial(&b);
    uint16_t *stored = norms_at(&b, 0) + 4 * b.heads[0].groups.n;
    assert_int_equal(*stored, stored_by_reference); /* the case is what it claims */
    *stored = (uint16_t)(*stored + units);
    restore_again(&b, 0);
    assert_found(&b, e);
    clear(&b);
}

/* Above 1, fp16 numbers are 2^-10 apart: 0x3c00 is 1, and 1 + 2^-11 is half way to 0x3c01; it goes to the even one. */
static void a_norm_off_by_a_unit_is_wrong_unless_half_way(void **state)
{
    (void)state;
    plant_norm(1.0f, 0x3c00, 1, (expected){.norms_wrong = 1});
    plant_norm(1.0f, 0x3c00, -1, (expected){.norms_wrong = 1});
    plant_norm(1.0f + 0x1p-11f, 0x3c00, 1, (expected){.norms_tied = 1});
    plant_norm(1.0f + 0x1p-11f, 0x3c00, -1, (expected){.norms_wrong = 1});          /* half way to the other one */
    plant_norm(1.0f + 0x1p-11f, 0x3c00, 2, (expected){.norms_wrong = 1});           /* no neighbour */
    plant_norm(1.0f + 0x1p-11f - 0x1p-20f, 0x3c00, 1, (expected){.norms_tied = 1}); /* 9.5e-7 before it */
    plant_norm(1.0f + 0x1p-11f + 0x1p-20f, 0x3c01, -1, (expected){.norms_tied = 1});
    plant_norm(1.0f + 0x1p-11f - 0x1p-19f, 0x3c00, 1, (expected){.norms_wrong = 1}); /* 1.9e-6 */
    plant_norm(1.0f + 0x1p-11f + 0x1p-19f, 0x3c01, -1, (expected){.norms_wrong = 1});
    plant_norm(1000.0f, 0x63d0, 1, (expected){.norms_wrong = 1});
    plant_norm(1000.25f, 0x63d0, 1, (expected){.norms_tied = 1});
}

/* ---- restored vectors ------------------------------------------------------------------------ */

/* A coordinate of head 1 becomes the reference's plus `share` of what is allowed. */
static codec_report plant_value(codec_dtype type, double share, expected e)
{
    enum { D = 64, VECTOR = 3, DIM = 17 };
    bench b;
    set_up(&b, D, 2, 9, type);
    start_trial(&b);
    opened_head head = open_head(&b, 1);
    const float *reference = head.reference + VECTOR * D;
    const double allowed = b.bounds.restore * norm_of(reference, D) + b.bounds.rounding * fabs((double)reference[DIM]);
    restored_at(&b, 1)[VECTOR * D + DIM] = (float)((double)reference[DIM] + share * allowed);
    close_head(&head);
    const codec_report report = assert_found(&b, e);
    clear(&b);
    return report;
}

static void a_value_just_inside_the_bound_is_good(void **state)
{
    (void)state;
    for (int type = 0; type < CODEC_N_DTYPES; type++)
        for (int sign = -1; sign <= 1; sign += 2) {
            const codec_report r = plant_value((codec_dtype)type, sign * 0.97, (expected){0});
            const double restore = bounds_of((codec_dtype)type).restore;
            assert_true(r.worst_value <= restore);
            assert_true(r.worst_value > 0.9 * restore
                        || type == CODEC_BF16); /* there the rounding is the larger part */
        }
}

static void a_value_just_beyond_the_bound_is_wrong(void **state)
{
    (void)state;
    for (int type = 0; type < CODEC_N_DTYPES; type++)
        for (int sign = -1; sign <= 1; sign += 2) {
            const codec_report r = plant_value((codec_dtype)type, sign * 1.03, (expected){.values_wrong = 1});
            assert_true(r.worst_value > bounds_of((codec_dtype)type).restore);
        }
}

static void plant_restored(float value)
{
    bench b;
    set_up(&b, 64, 2, 9, CODEC_F32);
    start_trial(&b);
    restored_at(&b, 1)[8 * 64 + 63] = value;
    assert_found(&b, (expected){.values_wrong = 1});
    clear(&b);
}

static void values_that_are_not_finite_are_wrong(void **state)
{
    (void)state;
    plant_restored(NAN);
    plant_restored(INFINITY);
    plant_restored(-INFINITY);
}

/* ---- logits ---------------------------------------------------------------------------------- */

enum { QUERY = 2, TOKEN = 5 };

static void plant_logit(codec_dtype type, double share, expected e)
{
    enum { D = 64 };
    bench b;
    set_up(&b, D, 2, 9, type);
    start_trial(&b);
    opened_head head = open_head(&b, 0);
    const float *q = b.queries + QUERY * D, *k = head.reference + TOKEN * D;
    double exact = 0.0;
    for (int j = 0; j < D; j++) exact += (double)q[j] * (double)k[j];
    const double allowed = b.bounds.logits * norm_of(q, D) * norm_of(k, D);
    logits_at(&b, 0)[QUERY * 9 + TOKEN] = (float)(exact + share * allowed);
    close_head(&head);
    const codec_report r = assert_found(&b, e);
    assert_true(r.worst_logit > 0.9 * b.bounds.logits);
    assert_int_equal(r.worst_logit > b.bounds.logits, e.logits_wrong);
    clear(&b);
}

static void a_logit_beyond_the_bound_is_wrong_and_one_inside_is_not(void **state)
{
    (void)state;
    for (int type = 0; type < CODEC_N_DTYPES; type++)
        for (int sign = -1; sign <= 1; sign += 2) {
            plant_logit((codec_dtype)type, sign * 0.97, (expected){0});
            plant_logit((codec_dtype)type, sign * 1.03, (expected){.logits_wrong = 1});
        }
}

static void logits_that_are_not_finite_are_wrong(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY};
    for (size_t i = 0; i < RB_COUNT(bad); i++) {
        bench b;
        set_up(&b, 64, 2, 9, CODEC_F32);
        start_trial(&b);
        logits_at(&b, 1)[QUERY * 9 + TOKEN] = bad[i];
        assert_found(&b, (expected){.logits_wrong = 1});
        clear(&b);
    }
}

/* Logits of the right numbers in the wrong places. */
static void logits_of_another_query_are_wrong(void **state)
{
    (void)state;
    bench b;
    set_up(&b, 64, 1, 9, CODEC_F32);
    start_trial(&b);
    memcpy(logits_at(&b, 0), logits_at(&b, 0) + 9, 9 * sizeof(float));
    assert_found(&b, (expected){.logits_wrong = 9});
    clear(&b);
}

/* ---- reports --------------------------------------------------------------------------------- */

static void reports_add_counts_and_keep_the_worst(void **state)
{
    (void)state;
    const codec_report one = {.n_vectors = 1,
                              .n_codes = 2,
                              .n_norms = 3,
                              .n_values = 4,
                              .n_logits = 5,
                              .codes_tied = 6,
                              .codes_wrong = 7,
                              .norms_tied = 8,
                              .norms_wrong = 9,
                              .bytes_wrong = 10,
                              .values_wrong = 11,
                              .logits_wrong = 12,
                              .searches_tied = 13,
                              .worst_tie = 0.5,
                              .worst_value = 0.25,
                              .worst_logit = 0.125,
                              .worst_cosine = 0.0625};
    codec_report sum = {.worst_tie = 0.25, .worst_value = 0.5, .worst_logit = 0.0};
    codec_report_add(&sum, &one);
    codec_report_add(&sum, &one);
    const int64_t counts[] = {sum.n_vectors,    sum.n_codes,      sum.n_norms,      sum.n_values,    sum.n_logits,
                              sum.codes_tied,   sum.codes_wrong,  sum.norms_tied,   sum.norms_wrong, sum.bytes_wrong,
                              sum.values_wrong, sum.logits_wrong, sum.searches_tied};
    for (size_t i = 0; i < RB_COUNT(counts); i++) assert_int_equal(counts[i], 2 * (i + 1));
    assert_true(sum.worst_tie == 0.5 && sum.worst_value == 0.5 && sum.worst_logit == 0.125
                && sum.worst_cosine == 0.0625);
}

static void a_report_is_good_until_anything_is_wrong(void **state)
{
    (void)state;
    const codec_report ties = {
        .n_codes = 100, .codes_tied = 3, .norms_tied = 2, .worst_tie = 1e-6, .worst_value = 1e-6};
    const codec_report wrong[] = {
        {.codes_wrong = 1}, {.norms_wrong = 1}, {.bytes_wrong = 1}, {.values_wrong = 1}, {.logits_wrong = 1}};
    assert_true(codec_report_is_good(&ties));
    for (size_t i = 0; i < RB_COUNT(wrong); i++) assert_false(codec_report_is_good(&wrong[i]));
}

/* ---- types ----------------------------------------------------------------------------------- */

static float rounded(float x, codec_dtype type)
{
    codec_dtype_round(&x, 1, type);
    return x;
}

/* Half way goes to the even one: f16 has 10 bits after the point, bf16 7. */
static void types_round_to_nearest_even(void **state)
{
    (void)state;
    static const struct {
        codec_dtype type;
        float unit;
    } types[] = {{CODEC_F16, 0x1p-10f}, {CODEC_BF16, 0x1p-7f}};
    for (size_t i = 0; i < RB_COUNT(types); i++) {
        const float u = types[i].unit;
        const codec_dtype t = types[i].type;
        assert_true(rounded(1.0f + 0.5f * u, t) == 1.0f);
        assert_true(rounded(1.0f + 1.5f * u, t) == 1.0f + 2.0f * u);
        assert_true(rounded(-(1.0f + 0.51f * u), t) == -(1.0f + u));
        assert_true(rounded(1.0f + u, t) == 1.0f + u);
        assert_true(codec_dtype_rounding(t) == 0.5 * (double)u);
        const float least = (float)(2.0 * codec_dtype_rounding_least(t)); /* the smallest number above 0 */
        assert_true(rounded(least, t) == least && rounded(0.5f * least, t) == 0.0f);
        assert_true(isnan(rounded(NAN, t)));
        assert_true(rounded(3.4028235e38f, t) == INFINITY); /* FLT_MAX fits neither */
    }
    assert_true(rounded(65519.0f, CODEC_F16) == 65504.0f);
    assert_true(rounded(1.1f, CODEC_F32) == 1.1f);
    assert_true(codec_dtype_rounding(CODEC_F32) == 0x1p-24);
}

static void types_have_names(void **state)
{
    (void)state;
    assert_string_equal(codec_dtype_name(CODEC_F16), "f16");
    assert_string_equal(codec_dtype_name(CODEC_BF16), "bf16");
    assert_string_equal(codec_dtype_name(CODEC_F32), "f32");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_references_own_trial_is_good),
        cmocka_unit_test(the_rounding_of_a_type_is_beyond_the_bounds_of_a_finer_one),
        cmocka_unit_test(vectors_of_zeros_are_good),
        cmocka_unit_test(tiny_vectors_are_good_and_exact_but_for_rounding),
        cmocka_unit_test(vectors_the_reference_refuses_are_named_by_trial_and_check),
        cmocka_unit_test(a_code_far_from_a_boundary_is_wrong),
        cmocka_unit_test(a_code_on_the_other_side_of_a_near_boundary_is_tied),
        cmocka_unit_test(a_code_just_beyond_the_bound_is_wrong),
        cmocka_unit_test(a_code_two_away_is_wrong_though_a_boundary_is_near),
        cmocka_unit_test(without_ties_a_near_boundary_is_no_excuse),
        cmocka_unit_test(every_wrong_code_counts),
        cmocka_unit_test(a_padding_bit_is_a_wrong_byte_and_no_wrong_code),
        cmocka_unit_test(a_norm_off_by_a_unit_is_wrong_unless_half_way),
        cmocka_unit_test(a_value_just_inside_the_bound_is_good),
        cmocka_unit_test(a_value_just_beyond_the_bound_is_wrong),
        cmocka_unit_test(values_that_are_not_finite_are_wrong),
        cmocka_unit_test(a_logit_beyond_the_bound_is_wrong_and_one_inside_is_not),
        cmocka_unit_test(logits_that_are_not_finite_are_wrong),
        cmocka_unit_test(logits_of_another_query_are_wrong),
        cmocka_unit_test(reports_add_counts_and_keep_the_worst),
        cmocka_unit_test(a_report_is_good_until_anything_is_wrong),
        cmocka_unit_test(types_round_to_nearest_even),
        cmocka_unit_test(types_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
