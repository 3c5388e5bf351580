/* Agreement and accuracy of understanding documents, counted by hand. */
#include "tests/test_support.h"

#include <math.h>

#include "evaluate/understanding_score.h"

static void shares_are_means_over_tasks(void **state)
{
    (void)state;
    rb_error err = {0};
    needle_document at[] = {{.task = "single"},
                            {.kind = DOCUMENT_UNDERSTANDING, .task = "cloze"},
                            {.kind = DOCUMENT_UNDERSTANDING, .task = "copy"},
                            {.kind = DOCUMENT_UNDERSTANDING, .task = "cloze"}};
    static const answer_score answers[] = {
        {.n = 5}, {.n = 1, .n_right = 1, .n_same = 1}, {.n = 8, .n_right = 2, .n_same = 6}, {.n = 3, .n_right = 2}};
    const needle_documents documents = {4, at};
    cJSON *json = NULL;
    assert_ok(understanding_to_json(&json, &documents, answers, &err));
    char *text = cJSON_PrintUnformatted(json);
    assert_string_equal(text, "{\"n\":3,\"n_right\":1,\"agreement\":0.5,\"accuracy\":0.5,\"by_task\":["
                              "{\"task\":\"cloze\",\"n\":2,\"n_right\":1,\"agreement\":0.25,\"accuracy\":0.75},"
                              "{\"task\":\"copy\",\"n\":1,\"n_right\":0,\"agreement\":0.75,\"accuracy\":0.25}]}");
    free(text);
    cJSON_Delete(json);
}

static void without_documents_nothing_is_measured(void **state)
{
    (void)state;
    needle_document needle = {.task = "single"};
    const needle_documents needles = {1, &needle};
    const answer_score answer = {.n = 1};
    const understanding_score none = understanding_score_make(NULL, NULL),
                              other = understanding_score_make(&needles, &answer);
    assert_true(none.n == 0 && isnan(none.agreement) && isnan(none.accuracy));
    assert_true(other.n == 0 && isnan(other.agreement));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(shares_are_means_over_tasks),
                                       cmocka_unit_test(without_documents_nothing_is_measured)};
    return cmocka_run_group_tests_name("understanding_score", tests, NULL, NULL);
}
