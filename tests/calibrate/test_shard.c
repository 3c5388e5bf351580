/* Shards: how they are asked for, what they are called, and that together they are the whole. */
#include "tests/test_support.h"

#include "calibrate/capture_file.h"
#include "calibrate/shard.h"

static void a_shard_is_written_as_i_of_n_from_0(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",    "1",    "1/",   "/4",   "a/4", "1/4/",  "1/4 ", " 1/4",
                                        "4/4", "-1/4", "01/4", "1/04", "0/0", "0/257", "1,4",  "99999999999/4"};
    rb_error err = {0};
    shard part;
    assert_ok(shard_choose(&part, "3/4", &err));
    assert_int_equal(part.index, 3);
    assert_int_equal(part.count, 4);
    assert_true(shard_is_part(&part));
    assert_ok(shard_choose(&part, "0/1", &err));
    assert_false(shard_is_part(&part));
    for (size_t i = 0; i < RB_COUNT(wrong); i++) {
        rb_error why = {0};
        assert_int_equal(shard_choose(&part, wrong[i], &why), RB_EUSAGE);
    }
    assert_int_equal(shard_choose(&part, "4/4", &err), RB_EUSAGE);
    assert_string_equal(err.msg, "--shard 4/4: shard 4, expected 0 to 3");
}

static void the_environment_counts_unless_an_option_says_otherwise(void **state)
{
    (void)state;
    rb_error err = {0};
    shard part;
    setenv("OMPI_COMM_WORLD_RANK", "1", 1);
    setenv("OMPI_COMM_WORLD_SIZE", "3", 1);
    assert_ok(shard_choose(&part, NULL, &err));
    assert_int_equal(part.index, 1);
    assert_int_equal(part.count, 3);
    assert_true(part.is_of_launcher);
    assert_ok(shard_choose(&part, "none", &err));
    assert_false(shard_is_part(&part));
    assert_ok(shard_choose(&part, "2/8", &err));
    assert_int_equal(part.count, 8);
    assert_false(part.is_of_launcher);
    setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    assert_ok(shard_choose(&part, "auto", &err));
    assert_false(shard_is_part(&part));
    unsetenv("OMPI_COMM_WORLD_RANK");
    assert_ok(shard_choose(&part, NULL, &err));
    assert_false(shard_is_part(&part));
    assert_int_equal(shard_choose(&part, "auto", &err), RB_EUSAGE);
}

static void assert_output(const char *output, bool is_of_launcher, const char *expected)
{
    const shard part = {.index = 2, .count = 4, .is_of_launcher = is_of_launcher};
    rb_error err = {0};
    char *path = NULL;
    assert_ok(shard_output(&path, output, &part, &err));
    assert_string_equal(path, expected);
    free(path);
}

static void tasks_of_a_launcher_write_files_of_their_own(void **state)
{
    (void)state;
    assert_output("capture.h5", true, "capture-2-of-4.h5");
    assert_output("out.d/capture", true, "out.d/capture-2-of-4");
    assert_output("a/.h5", true, "a/.h5-2-of-4");
    assert_output("a/b.c.h5", true, "a/b.c-2-of-4.h5");
    assert_output("capture.h5", false, "capture.h5");
}

/* n_calibration and n_test ids in sequences of `context`, cut into n: in order they must be all ids. */
static void assert_parts_are_the_whole(int64_t n_calibration, int64_t n_test, int64_t context, int64_t n)
{
    enum { MOST = 200 };
    const int64_t n_all[CAPTURE_N_SETS] = {n_calibration, n_test};
    int64_t found[CAPTURE_N_SETS] = {0};
    char whole[CAPTURE_N_SETS][RB_SHA256_HEX];
    int32_t all[MOST];
    rb_error err = {0};
    for (int32_t i = 0; i < n_calibration + n_test; i++) all[i] = i;
    assert_ok(rb_sha256_bytes(whole[0], all, (size_t)n_calibration * sizeof *all, &err));
    assert_ok(rb_sha256_bytes(whole[1], all + n_calibration, (size_t)n_test * sizeof *all, &err));
    for (int64_t i = 0; i < n; i++) {
        text_facts text[CAPTURE_N_SETS] = {{.n_tokens = n_calibration, .context = context},
                                           {.n_tokens = n_test, .context = context}};
        int64_t n_ids = n_calibration + n_test, at = 0;
        int32_t ids[MOST];
        shard part = {.index = i, .count = n};
        memcpy(ids, all, sizeof ids);
        assert_ok(shard_cut(&part, ids, &n_ids, text, &err));
        for (int set = 0; set < CAPTURE_N_SETS; set++) {
            const int64_t n_sequences = (n_all[set] + context - 1) / context, most = (n_sequences + n - 1) / n;
            assert_true(text[set].n_tokens > (n_sequences / n - 1) * context && text[set].n_tokens <= most * context);
            assert_true(text[set].n_tokens > 0);
            if (i + 1 < n) assert_int_equal(text[set].n_tokens % context, 0);
            for (int64_t t = 0; t < text[set].n_tokens; t++)
                assert_int_equal(ids[at++], (set ? n_calibration : 0) + found[set]++);
            assert_string_equal(part.tokens_sha256[set], whole[set]);
        }
        assert_int_equal(at, n_ids);
    }
    assert_int_equal(found[0], n_calibration);
    assert_int_equal(found[1], n_test);
}

static void shards_in_order_are_all_tokens(void **state)
{
    (void)state;
    assert_parts_are_the_whole(100, 90, 10, 4);
    assert_parts_are_the_whole(97, 83, 10, 4);
    assert_parts_are_the_whole(97, 41, 10, 5);
    assert_parts_are_the_whole(31, 29, 10, 3);
    assert_parts_are_the_whole(64, 64, 1, 64);
    assert_parts_are_the_whole(20, 11, 10, 2);
}

static void fewer_sequences_than_shards_are_refused(void **state)
{
    (void)state;
    text_facts text[CAPTURE_N_SETS] = {{.n_tokens = 40, .context = 10}, {.n_tokens = 30, .context = 10}};
    int32_t ids[70] = {0};
    int64_t n_ids = 70;
    shard part = {.index = 1, .count = 4};
    rb_error err = {0};
    assert_int_equal(shard_cut(&part, ids, &n_ids, text, &err), RB_EINVAL);
    assert_string_equal(err.msg,
                        "30 test tokens are 3 sequences of 10, expected at least one for each of the 4 shards");
}

static void json_keeps_a_shard_and_damage_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } wrong[] = {{"{\"shard\": 3}", "shard"},
                 {"{\"shard\": {\"index\": 4, \"count\": 4}}", "index"},
                 {"{\"shard\": {\"index\": 0, \"count\": 1}}", "count"},
                 {"{\"shard\": {\"index\": 0, \"count\": 2, \"calibration_sha256\": \"ab\"}}", "calibration_sha256"}};
    shard part = {.index = 1, .count = 3}, found;
    rb_error err = {0};
    cJSON *options = NULL;
    memset(part.tokens_sha256[0], 'a', RB_SHA256_HEX - 1);
    memset(part.tokens_sha256[1], 'b', RB_SHA256_HEX - 1);
    assert_ok(rb_json_new_object(&options, &err));
    assert_ok(shard_from_json(&found, options, "x", &err));
    assert_false(shard_is_part(&found));
    assert_ok(shard_to_json(options, &part, &err));
    assert_ok(shard_from_json(&found, options, "x", &err));
    assert_int_equal(found.index, 1);
    assert_int_equal(found.count, 3);
    assert_memory_equal(found.tokens_sha256, part.tokens_sha256, sizeof part.tokens_sha256);
    cJSON_Delete(options);
    for (size_t i = 0; i < RB_COUNT(wrong); i++) {
        rb_error why = {0};
        assert_ok(rb_json_parse(&options, wrong[i].text, strlen(wrong[i].text), "x", &err));
        assert_int_not_equal(shard_from_json(&found, options, "x", &why), RB_OK);
        if (!strstr(why.msg, wrong[i].words)) fail_msg("'%s' lacks '%s'", why.msg, wrong[i].words);
        cJSON_Delete(options);
    }
}

int main(void)
{
    static const char *const others[] = {"SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shard_is_written_as_i_of_n_from_0),
        cmocka_unit_test(the_environment_counts_unless_an_option_says_otherwise),
        cmocka_unit_test(tasks_of_a_launcher_write_files_of_their_own),
        cmocka_unit_test(shards_in_order_are_all_tokens),
        cmocka_unit_test(fewer_sequences_than_shards_are_refused),
        cmocka_unit_test(json_keeps_a_shard_and_damage_is_named),
    };
    for (size_t i = 0; i < RB_COUNT(others); i++) unsetenv(others[i]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
