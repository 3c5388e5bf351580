/* Beginning-of-text tokens in JSON and HDF5: what is written comes back, what is damaged is named. */
#include "tests/test_support.h"

#include "core/hdf5/hdf5_file.h"
#include "core/json.h"
#include "core/text_bos.h"

static const text_bos SOME[] = {{.mode = BOS_UNKNOWN},
                                {.mode = BOS_NONE},
                                {.mode = BOS_SEQUENCE, .tokens = {.n = 1, .ids = {2}}},
                                {.mode = BOS_TEXT, .tokens = {.n = 2, .ids = {151331, 2147483647}}},
                                {.mode = BOS_SEQUENCE,
                                 .tokens = {.n = BOS_MAX_TOKENS,
                                            .ids = {2147483647, 2147483647, 2147483647, 2147483647, 2147483647,
                                                    2147483647, 2147483647, 2147483646}}}};

static void assert_same(const text_bos *found, const text_bos *expected)
{
    assert_int_equal(found->mode, expected->mode);
    assert_int_equal(found->tokens.n, expected->tokens.n);
    assert_memory_equal(found->tokens.ids, expected->tokens.ids, sizeof found->tokens.ids);
}

static void json_keeps_it_and_says_nothing_where_nothing_is_known(void **state)
{
    (void)state;
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(SOME); i++) {
        cJSON *object;
        text_bos found;
        assert_ok(rb_json_new_object(&object, &err));
        assert_ok(text_bos_to_json(object, &SOME[i], &err));
        assert_int_equal(cJSON_GetArraySize(object), SOME[i].mode == BOS_UNKNOWN ? 0
                                                     : SOME[i].mode == BOS_NONE  ? 1
                                                                                 : 2);
        assert_ok(text_bos_from_json(&found, object, "x", &err));
        assert_same(&found, &SOME[i]);
        cJSON_Delete(object);
    }
}

static void damaged_json_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *json, *message;
    } CASES[] = {{"{\"bos\":\"word\"}", "x.bos: found \"word\", expected none, sequence or text"},
                 {"{\"bos\":\"unknown\"}", "x.bos: found \"unknown\""},
                 {"{\"bos\":1}", "bos"},
                 {"{\"bos\":\"text\"}", "x.bos_ids: expected a list of 1 to 8"},
                 {"{\"bos\":\"text\",\"bos_ids\":[]}", "x.bos_ids: expected a list of 1 to 8"},
                 {"{\"bos\":\"text\",\"bos_ids\":[1,2,3,4,5,6,7,8,9]}", "x.bos_ids: expected a list of 1 to 8"},
                 {"{\"bos\":\"text\",\"bos_ids\":[-1]}", "whole numbers from 0"},
                 {"{\"bos\":\"text\",\"bos_ids\":[1.5]}", "whole numbers from 0"}};
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(CASES); i++) {
        cJSON *object;
        text_bos found;
        assert_ok(rb_json_parse(&object, CASES[i].json, strlen(CASES[i].json), "x", &err));
        assert_fails(text_bos_from_json(&found, object, "x", &err), RB_EFORMAT, CASES[i].message);
        cJSON_Delete(object);
    }
}

static void hdf5_keeps_it_as_strings(void **state)
{
    (void)state;
    const char *path = scratch_path("bos.h5");
    for (size_t i = 0; i < RB_COUNT(SOME); i++) {
        rb_error err = {0};
        rb_h5_file file = {0};
        text_bos found;
        char ids[128];
        assert_ok(rb_h5_create(&file, path, &err));
        assert_ok(text_bos_write_h5(file.id, "/", &SOME[i], &err));
        assert_ok(rb_h5_publish(&file, &err));
        rb_h5_close(&file);
        assert_ok(rb_h5_open(&file, path, &err));
        assert_ok(text_bos_read_h5(&found, file.contents, "/", &err));
        assert_same(&found, &SOME[i]);
        if (i == 3) {
            assert_ok(rb_h5_get_string(file.contents, "/", "bos_ids", ids, sizeof ids, &err));
            assert_string_equal(ids, "[151331,2147483647]");
        }
        rb_h5_close(&file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_keeps_it_and_says_nothing_where_nothing_is_known),
        cmocka_unit_test(damaged_json_is_named),
        cmocka_unit_test(hdf5_keeps_it_as_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
