/* Right answers by task, context and depth, counted by hand. */
#include "tests/test_support.h"

#include "core/json.h"
#include "evaluate/needles_json.h"

static void answers_are_counted_by_task_context_and_depth(void **state)
{
    (void)state;
    rb_error err = {0};
    needle_document at[] = {{.task = "single", .context = 1000, .depth = 0.5},
                            {.task = "multi", .context = 2000, .depth = (double)NAN},
                            {.task = "single", .context = 2000, .depth = 0.0},
                            {.task = "single", .context = 0, .depth = 0.5},
                            {.kind = DOCUMENT_UNDERSTANDING, .task = "single", .context = 1000, .depth = 0.5},
                            {.task = "multi", .context = 1000, .depth = (double)NAN}};
    static const bool is_right[] = {true, true, false, false, true, false},
                      is_unquantized_right[] = {true, true, true, false, true, true};
    const needle_documents documents = {6, at};
    cJSON *json = NULL;
    assert_ok(needles_to_json(&json, is_right, is_unquantized_right, &documents, &err));
    char *text = cJSON_PrintUnformatted(json);
    assert_string_equal(text, "{\"n\":5,\"n_right\":2,\"n_unquantized\":4,"
                              "\"by_task\":[{\"task\":\"single\",\"n\":3,\"n_right\":1,\"n_unquantized\":2},"
                              "{\"task\":\"multi\",\"n\":2,\"n_right\":1,\"n_unquantized\":2}],"
                              "\"by_context\":[{\"context\":1000,\"n\":2,\"n_right\":1,\"n_unquantized\":2},"
                              "{\"context\":2000,\"n\":2,\"n_right\":1,\"n_unquantized\":2},"
                              "{\"context\":null,\"n\":1,\"n_right\":0,\"n_unquantized\":0}],"
                              "\"by_depth\":[{\"depth\":0.5,\"n\":2,\"n_right\":1,\"n_unquantized\":1},"
                              "{\"depth\":null,\"n\":2,\"n_right\":1,\"n_unquantized\":2},"
                              "{\"depth\":0,\"n\":1,\"n_right\":0,\"n_unquantized\":1}]}");
    free(text);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(answers_are_counted_by_task_context_and_depth)};
    return cmocka_run_group_tests_name("needles_json", tests, NULL, NULL);
}
