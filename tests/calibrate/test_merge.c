/* Merging: sums of parts against sums over everything, which sequences are stored, which captures belong together.
 * `test_merge --compare A.h5 B.h5` tells whether two captures say the same to rounding (tests/programs/fleet.sh). */
#include "tests/test_support.h"

#include "calibrate/merge_parts.h"
#include "calibrate/merge_selection.h"
#include "calibrate/merge_statistics.h"
#include "calibrate/output_metric.h"
#include "tests/calibrate/tiny_capture.h"

static rb_error err;

/* ---- statistics ------------------------------------------------------------------------------ */

static void assert_near(const double *found, const double *expected, int n)
{
    for (int i = 0; i < n; i++)
        if (fabs(found[i] - expected[i]) > 1e-13 * (1.0 + fabs(expected[i])))
            fail_msg("number %d is %.17g, expected %.17g", i, found[i], expected[i]);
}

static void statistics_of_parts_are_those_of_the_whole(void **state)
{
    (void)state;
    enum { N = TINY_N_CALIBRATION };
    static const int64_t starts[] = {0, 16, 32, N};
    const capture_header header = tiny_header(RB_H5_F32, false);
    const model_facts *model = &header.model;
    const tiny_layer all = tiny_vectors(&header, CAPTURE_CALIBRATION, 1);
    block_statistics whole, part, sums;
    assert_ok(block_statistics_create(&whole, model, &err));
    assert_ok(block_statistics_create(&part, model, &err));
    assert_ok(block_statistics_create(&sums, model, &err));
    assert_ok(block_statistics_compute(&whole, model, 1, all.q, all.k, N, &err));
    for (size_t i = 0; i + 1 < RB_COUNT(starts); i++) {
        const int64_t n = starts[i + 1] - starts[i];
        tiny_layer cut;
        for (int head = 0; head < TINY_Q_HEADS; head++)
            memcpy(cut.q + head * n * TINY_DIM, all.q + (head * N + starts[i]) * TINY_DIM,
                   (size_t)n * TINY_DIM * sizeof *cut.q);
        for (int head = 0; head < TINY_KV_HEADS; head++)
            memcpy(cut.k + head * n * TINY_DIM, all.k + (head * N + starts[i]) * TINY_DIM,
                   (size_t)n * TINY_DIM * sizeof *cut.k);
        assert_ok(block_statistics_compute(&part, model, 1, cut.q, cut.k, n, &err));
        merge_statistics_add(&sums, &part, n);
    }
    merge_statistics_finish(&sums, N);
    assert_near(sums.q_energy, whole.q_energy, TINY_KV_HEADS * TINY_DIM / 2);
    assert_near(sums.k_energy, whole.k_energy, TINY_KV_HEADS * TINY_DIM / 2);
    assert_near(sums.k_mean, whole.k_mean, TINY_KV_HEADS * TINY_DIM);
    block_statistics_free(&whole);
    block_statistics_free(&part);
    block_statistics_free(&sums);
}

static void tokens_weigh_and_not_parts(void **state)
{
    (void)state;
    const capture_header header = tiny_header(RB_H5_F32, false);
    block_statistics sums, part;
    assert_ok(block_statistics_create(&sums, &header.model, &err));
    assert_ok(block_statistics_create(&part, &header.model, &err));
    part.k_mean[0] = 2.0;
    merge_statistics_add(&sums, &part, 30);
    part.k_mean[0] = -4.0;
    merge_statistics_add(&sums, &part, 10);
    merge_statistics_finish(&sums, 40);
    assert_near(sums.k_mean, (const double[]){(30 * 2.0 - 10 * 4.0) / 40}, 1);
    block_statistics_free(&sums);
    block_statistics_free(&part);
}

static void residual_energies_merge_as_harmonic_means(void **state)
{
    (void)state;
    static const double tokens[] = {1.0, 4.0, 1e9, 3.0, 0.25, 7.0, 2.0};
    const int64_t n[] = {4, 2, 1};
    const double parts[] = {output_residual_energy(tokens, 4), output_residual_energy(tokens + 4, 2),
                            output_residual_energy(tokens + 6, 1)};
    const double whole = output_residual_energy(tokens, 7), merged = merge_residual_energy(parts, n, 3);
    assert_near(&merged, &whole, 1);
    assert_true(merge_residual_energy((const double[]){2.0, 0.0, 2.0}, n, 3) == 2.0);
    assert_true(merge_residual_energy((const double[]){0.0}, n, 1) == 0.0);
}

/* ---- which sequences -------------------------------------------------------------------------- */

/* Sets of so many tokens in sequences of 10. `expected`: "part:first+n ..." */
static void assert_selected(const int64_t *n_tokens, int n_parts, int64_t max_tokens, int64_t every,
                            const char *expected, int64_t left_out)
{
    text_facts texts[8];
    merge_selection kept;
    char found[256] = "";
    int64_t n = 0;
    for (int i = 0; i < n_parts; i++) texts[i] = (text_facts){.n_tokens = n_tokens[i], .context = 10};
    assert_ok(merge_selection_make(&kept, texts, n_parts, max_tokens, every, &err));
    for (int64_t i = 0; i < kept.n_segments; i++) {
        const size_t length = strlen(found);
        snprintf(found + length, sizeof found - length, "%s%d:%lld+%lld", i ? " " : "", kept.segments[i].part,
                 (long long)kept.segments[i].first, (long long)kept.segments[i].n);
        n += kept.segments[i].n;
    }
    assert_string_equal(found, expected);
    assert_int_equal(kept.n_tokens, n);
    assert_int_equal(kept.n_left_out, left_out);
    merge_selection_free(&kept);
}

static void whole_sequences_are_stored_and_a_short_one_at_the_end(void **state)
{
    (void)state;
    assert_selected((const int64_t[]){20, 30, 15}, 3, 0, 1, "0:0+20 1:0+30 2:0+15", 0);
    assert_selected((const int64_t[]){25, 30, 15}, 3, 0, 1, "0:0+20 1:0+30 2:0+15", 5);
    assert_selected((const int64_t[]){5, 30}, 2, 0, 1, "1:0+30", 5);
    assert_selected((const int64_t[]){7}, 1, 0, 1, "0:0+7", 0);
}

static void thinning_spreads_over_all_parts(void **state)
{
    (void)state;
    assert_selected((const int64_t[]){20, 30, 15}, 3, 0, 2, "0:0+10 1:0+10 1:20+10 2:10+5", 0);
    assert_selected((const int64_t[]){20, 30}, 2, 0, 9, "0:0+10", 0);
    assert_selected((const int64_t[]){40, 40}, 2, 40, 1, "0:0+10 0:20+10 1:0+10 1:20+10", 0);
    assert_selected((const int64_t[]){40, 40}, 2, 49, 1, "0:0+10 0:20+10 1:0+10 1:20+10", 0);
    assert_selected((const int64_t[]){40, 40}, 2, 80, 1, "0:0+40 1:0+40", 0);
    assert_selected((const int64_t[]){40, 40}, 2, 10, 1, "0:0+10", 0);
}

static void less_than_a_sequence_is_refused(void **state)
{
    (void)state;
    const text_facts text = {.n_tokens = 40, .context = 10};
    merge_selection kept;
    assert_fails(merge_selection_make(&kept, &text, 1, 9, 1, &err), RB_EINVAL, "at most 9 tokens, expected at least a");
    merge_selection_free(&kept);
}

/* ---- which captures --------------------------------------------------------------------------- */

static void assert_do_not_belong_together(const capture_header *a, const capture_header *b, const char *words)
{
    const rb_string_list paths = {.n = 2, .at = {scratch_path("a.h5"), scratch_path("b.h5")}};
    merge_parts parts;
    assert_ok(tiny_write_header(paths.at[0], a, &err));
    assert_ok(tiny_write_header(paths.at[1], b, &err));
    assert_fails(merge_parts_open(&parts, &paths, &err), RB_EMISMATCH, words);
    merge_parts_free(&parts);
}

static void captures_that_differ_are_refused_by_what_differs(void **state)
{
    (void)state;
    const capture_header a = tiny_header(RB_H5_F16, true);
    capture_header b = a;
    assert_do_not_belong_together(&a, &b, "have the same calibration tokens");
    b = a, b.model.config_sha256[0] = 'b';
    assert_do_not_belong_together(&a, &b, "config_sha256");
    b = a, memset(b.model.weights_sha256, 'c', RB_SHA256_HEX - 1);
    assert_do_not_belong_together(&a, &b, "b.h5 has weights_sha256 and");
    b = a, b.value_type = RB_H5_F32;
    assert_do_not_belong_together(&a, &b, "dtype f16 and f32");
    b = tiny_header(RB_H5_F16, false);
    assert_do_not_belong_together(&a, &b, "has_values 1 and 0");
    b = a, b.text[CAPTURE_CALIBRATION].context = 11;
    assert_do_not_belong_together(&a, &b, "context 16 and 11");
    b = a, b.text[CAPTURE_TEST].bos.mode = BOS_NONE;
    assert_do_not_belong_together(&a, &b, "bos unknown and none");
    b = a, b.output.softcap = 30;
    assert_do_not_belong_together(&a, &b, "softcap 0 and 30");
    b = a, b.output.window[1] = 8;
    assert_do_not_belong_together(&a, &b, "window of a layer 7 and 8");
}

static void the_order_of_texts_is_that_of_their_hashes_with_a_short_end_last(void **state)
{
    (void)state;
    static const int64_t lengths[] = {33, 32, 16};
    rb_string_list paths = {.n = 3};
    char first[3][256];
    for (int turn = 0; turn < 3; turn++) {
        merge_parts parts;
        for (int i = 0; i < 3; i++) {
            capture_header header = tiny_header(RB_H5_F16, false);
            header.text[CAPTURE_CALIBRATION].n_tokens = lengths[(i + turn) % 3];
            header.text[CAPTURE_TEST].n_tokens = 16;
            paths.at[i] = scratch_path(i == 0 ? "a.h5" : i == 1 ? "b.h5" : "c.h5");
            assert_ok(tiny_write_header(paths.at[i], &header, &err));
        }
        assert_ok(merge_parts_open(&parts, &paths, &err));
        assert_int_equal(capture_file_header(parts.at[2].file)->text[CAPTURE_CALIBRATION].n_tokens, 33);
        first[turn][0] = '\0';
        for (int i = 0; i < 3; i++)
            strcat(first[turn], capture_file_header(parts.at[i].file)->text[CAPTURE_CALIBRATION].tokens_sha256);
        assert_string_equal(first[turn], first[0]);
        merge_parts_free(&parts);
    }
}

/* ---- two captures ----------------------------------------------------------------------------- */

/* 2^-10 of the larger one: two roundings to f16. */
static int64_t count_unlike(const float *a, const float *b, int64_t n)
{
    int64_t n_unlike = 0;
    for (int64_t i = 0; i < n; i++) n_unlike += fabsf(a[i] - b[i]) > 0x1p-10f * fmaxf(fabsf(a[i]), fabsf(b[i])) + 1e-4f;
    return n_unlike;
}

/* The largest difference, relative to the largest number of the table. */
static double table_difference(const double *a, const double *b, int n)
{
    double largest = 0.0, difference = 0.0;
    for (int i = 0; i < n; i++) {
        largest = fmax(largest, fabs(a[i]));
        difference = fmax(difference, fabs(a[i] - b[i]));
    }
    return difference / largest;
}

typedef struct comparison {
    int64_t n_unlike;  /* numbers of q, k, v */
    double statistics; /* relative */
} comparison;

static rb_status compare_layer(comparison *found, capture_file *const files[2], capture_set set, int layer)
{
    const capture_header *header = capture_file_header(files[0]);
    const model_facts *model = &header->model;
    const int64_t n = header->text[set].n_tokens, n_q = n * model->n_q_heads * model->head_dim,
                  n_k = n * model->n_kv_heads * model->head_dim, n_v = n * model->n_kv_heads * model->value_dim;
    const int n_blocks = model->n_kv_heads * model_n_blocks(model);
    float *data[2] = {NULL};
    block_statistics statistics[2] = {{0}};
    rb_status st = RB_OK;
    for (int i = 0; i < 2 && st == RB_OK; i++) {
        RB_TRY(st, rb_alloc(&data[i], (size_t)(n_q + n_k + n_v), sizeof(float), "vectors", &err), done);
        RB_TRY(st, capture_read_q(files[i], set, layer, data[i], &err), done);
        RB_TRY(st, capture_read_k(files[i], set, layer, data[i] + n_q, &err), done);
        if (header->has_values) RB_TRY(st, capture_read_v(files[i], set, layer, data[i] + n_q + n_k, &err), done);
        RB_TRY(st, block_statistics_create(&statistics[i], model, &err), done);
        RB_TRY(st, capture_read_statistics(files[i], set, layer, &statistics[i], &err), done);
    }
    found->n_unlike += count_unlike(data[0], data[1], n_q + n_k + n_v);
    found->statistics =
        fmax(found->statistics, fmax(table_difference(statistics[0].q_energy, statistics[1].q_energy, n_blocks),
                                     table_difference(statistics[0].k_energy, statistics[1].k_energy, n_blocks)));
    found->statistics = fmax(found->statistics, table_difference(statistics[0].k_mean, statistics[1].k_mean,
                                                                 model->n_kv_heads * model->head_dim));
done:
    for (int i = 0; i < 2; i++) {
        free(data[i]);
        block_statistics_free(&statistics[i]);
    }
    return st;
}

static rb_status compare_residuals(comparison *found, capture_file *const files[2])
{
    double energies[2][MODEL_FACTS_MAX_LAYERS];
    if (!capture_file_header(files[0])->output.is_known) return RB_OK;
    for (int i = 0; i < 2; i++) {
        const rb_status st = capture_read_residual_energy(files[i], energies[i], &err);
        if (st != RB_OK) return st;
    }
    found->statistics = fmax(found->statistics,
                             table_difference(energies[0], energies[1], capture_file_header(files[0])->model.n_layers));
    return RB_OK;
}

/* Exit code 0: the same tokens and layers, vectors alike, statistics within 1e-6. */
static int compare_captures(char **paths)
{
    capture_file *files[2] = {NULL};
    comparison found = {0};
    rb_status st = RB_OK;
    for (int i = 0; i < 2 && st == RB_OK; i++) st = capture_open(&files[i], paths[i], &err);
    if (st != RB_OK) goto done;
    const capture_header *a = capture_file_header(files[0]), *b = capture_file_header(files[1]);
    for (int set = 0; set < CAPTURE_N_SETS && st == RB_OK; set++)
        if (strcmp(a->text[set].tokens_sha256, b->text[set].tokens_sha256) != 0)
            st = rb_fail(&err, RB_EMISMATCH, "different %s tokens", capture_set_name((capture_set)set));
    RB_TRY(st, st, done);
    RB_TRY(st, model_facts_same(&a->model, paths[0], &b->model, paths[1], &err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        for (int layer = 0; layer < a->model.n_layers; layer++)
            RB_TRY(st, compare_layer(&found, files, (capture_set)set, layer), done);
    RB_TRY(st, compare_residuals(&found, files), done);
    printf("%lld numbers of vectors differ, statistics by %.3g\n", (long long)found.n_unlike, found.statistics);
    if (found.n_unlike > 0 || !(found.statistics <= 1e-6)) st = rb_fail(&err, RB_EMISMATCH, "the captures differ");
done:
    if (st != RB_OK) fprintf(stderr, "%s\n", err.msg);
    for (int i = 0; i < 2; i++) capture_close(files[i]);
    return rb_exit_code(st);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statistics_of_parts_are_those_of_the_whole),
        cmocka_unit_test(tokens_weigh_and_not_parts),
        cmocka_unit_test(residual_energies_merge_as_harmonic_means),
        cmocka_unit_test(whole_sequences_are_stored_and_a_short_one_at_the_end),
        cmocka_unit_test(thinning_spreads_over_all_parts),
        cmocka_unit_test(less_than_a_sequence_is_refused),
        cmocka_unit_test(captures_that_differ_are_refused_by_what_differs),
        cmocka_unit_test(the_order_of_texts_is_that_of_their_hashes_with_a_short_end_last),
    };
    if (argc == 4 && strcmp(argv[1], "--compare") == 0) return compare_captures(argv + 2);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
