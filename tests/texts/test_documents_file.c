/* Documents files: a round trip, the same bytes twice, what a user may leave out, and what is refused with its place.
 */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "texts/documents_file.h"

static const char *file_with(const char *documents)
{
    rb_error err = {0};
    char text[1024];
    const char *path = scratch_path("documents.json");
    const int length = snprintf(text, sizeof text,
                                "{\"schema\": \"ropebits-documents\", \"version\": 1, \"documents\": [%s]}", documents);
    assert_ok(rb_atomic_write(path, text, (size_t)length, &err));
    return path;
}

static void a_file_gives_back_what_was_written_and_the_same_bytes_again(void **state)
{
    (void)state;
    rb_error err = {0};
    int32_t first[] = {5, 0, INT32_MAX, 7}, second[] = {1, 2};
    answer_span two[] = {{1, 2}, {3, 1}}, one[] = {{1, 1}};
    needle_document at[] = {{.task = "multikey",
                             .depth = 1.0 / 3.0,
                             .context = 4096,
                             .n_tokens = 4,
                             .tokens = first,
                             .n_answers = 2,
                             .answers = two},
                            {.kind = DOCUMENT_UNDERSTANDING,
                             .task = "my own",
                             .depth = (double)NAN,
                             .n_tokens = 2,
                             .tokens = second,
                             .n_answers = 1,
                             .answers = one}};
    const needle_documents written = {.n = 2, .at = at};
    needle_documents read;
    const char *path = scratch_path("a.json"), *again = scratch_path("b.json");
    char *bytes[2];
    size_t size[2];
    assert_ok(documents_write(&written, path, &err));
    assert_ok(documents_read(&read, path, &err));
    assert_int_equal(read.n, 2);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(read.at[i].task, at[i].task);
        assert_int_equal(read.at[i].kind, at[i].kind);
        assert_int_equal(read.at[i].n_tokens, at[i].n_tokens);
        assert_memory_equal(read.at[i].tokens, at[i].tokens, (size_t)at[i].n_tokens * sizeof *at[i].tokens);
        assert_int_equal(read.at[i].n_answers, at[i].n_answers);
        assert_memory_equal(read.at[i].answers, at[i].answers, (size_t)at[i].n_answers * sizeof *at[i].answers);
    }
    assert_true(read.at[0].depth == 1.0 / 3.0);
    assert_true(isnan(read.at[1].depth));
    assert_int_equal(read.at[0].context, 4096);
    assert_int_equal(read.at[1].context, 0);
    assert_ok(documents_write(&read, again, &err));
    assert_ok(rb_read_file(&bytes[0], &size[0], path, 1 << 20, &err));
    assert_ok(rb_read_file(&bytes[1], &size[1], again, 1 << 20, &err));
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(bytes[0], bytes[1], size[0]);
    free(bytes[0]);
    free(bytes[1]);
    needle_documents_free(&read);
}

static void a_user_may_leave_depth_and_context_out(void **state)
{
    (void)state;
    rb_error err = {0};
    needle_documents read;
    assert_ok(
        documents_read(&read, file_with("{\"task\": \"mine\", \"tokens\": [3, 4], \"answers\": [[1, 1]]}"), &err));
    assert_string_equal(read.at[0].task, "mine");
    assert_true(isnan(read.at[0].depth));
    assert_int_equal(read.at[0].context, 0);
    needle_documents_free(&read);
}

static void assert_refused(const char *documents, rb_status status, const char *message)
{
    rb_error err = {0};
    needle_documents read;
    assert_fails(documents_read(&read, file_with(documents), &err), status, message);
    assert_null(read.at);
}

static void damaged_documents_are_refused_with_their_place(void **state)
{
    (void)state;
    assert_refused("", RB_EFORMAT, "documents is an empty list");
    assert_refused("{\"tokens\": [1, 2], \"answers\": [[1, 1]]}", RB_EFORMAT, "documents[0].task: is missing");
    assert_refused(
        "{\"task\": \"t\", \"tokens\": [1, 2], \"answers\": [[1, 1]]}, {\"task\": \"t\", \"answers\": [[1, 1]]}",
        RB_EFORMAT, "documents[1].tokens: is missing");
    assert_refused("{\"task\": \"t\", \"dept\": 1, \"tokens\": [1, 2], \"answers\": [[1, 1]]}", RB_EFORMAT,
                   "documents[0]: has an unknown member \"dept\"; did you mean depth?");
    assert_refused("{\"task\": \"\\u001b[2J\", \"tokens\": [1, 2], \"answers\": [[1, 1]]}", RB_EFORMAT,
                   "documents[0]: task is \"\\x1b[2J\", expected text without control characters");
    assert_refused("{\"task\": \"\", \"tokens\": [1, 2], \"answers\": [[1, 1]]}", RB_EFORMAT,
                   "documents[0]: task is a name of 0 bytes, expected 1 to 63");
    assert_refused("{\"task\": \"t\", \"depth\": 1.5, \"tokens\": [1, 2], \"answers\": [[1, 1]]}", RB_EINVAL,
                   "documents[0].depth: is 1.5, expected 0 to 1");
    assert_refused("{\"kind\": \"x\", \"task\": \"t\", \"tokens\": [1, 2], \"answers\": [[1, 1]]}", RB_EFORMAT,
                   "documents[0]: kind is \"x\", expected \"needles\" or \"understanding\"");
    assert_refused("{\"task\": \"t\", \"context\": 0, \"tokens\": [1, 2], \"answers\": [[1, 1]]}", RB_EINVAL,
                   "documents[0].context: is 0, expected 1 to");
    assert_refused("{\"task\": \"t\", \"tokens\": [1, -2], \"answers\": [[1, 1]]}", RB_EFORMAT,
                   "documents[0]: tokens[1] is no token id");
    assert_refused("{\"task\": \"t\", \"tokens\": [1, 2], \"answers\": []}", RB_EFORMAT,
                   "documents[0]: answers is an empty list");
    assert_refused("{\"task\": \"t\", \"tokens\": [1, 2], \"answers\": [3]}", RB_EFORMAT,
                   "documents[0]: answers[0] is no pair of whole numbers");
    assert_refused("{\"task\": \"t\", \"tokens\": [1, 2], \"answers\": [[1, 1], [1, 1, 1]]}", RB_EFORMAT,
                   "answers[1] is no pair of whole numbers");
    assert_refused("{\"task\": \"t\", \"tokens\": [1, 2], \"answers\": [[1, 1.5]]}", RB_EFORMAT,
                   "answers[0] is no pair of whole numbers");
}

static void answers_must_lie_behind_the_first_token_and_inside(void **state)
{
    (void)state;
    assert_refused("{\"task\": \"t\", \"tokens\": [1, 2], \"answers\": [[0, 1]]}", RB_EINVAL,
                   "answers[0] is [0, 1], expected at least one token behind the first");
    assert_refused("{\"task\": \"t\", \"tokens\": [1, 2], \"answers\": [[1, 0]]}", RB_EINVAL, "answers[0] is [1, 0]");
    assert_refused("{\"task\": \"t\", \"tokens\": [1, 2], \"answers\": [[1, 2]]}", RB_EINVAL,
                   "within the 2 of the document");
    assert_refused("{\"task\": \"t\", \"tokens\": [], \"answers\": [[1, 1]]}", RB_EINVAL,
                   "within the 0 of the document");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_gives_back_what_was_written_and_the_same_bytes_again),
        cmocka_unit_test(a_user_may_leave_depth_and_context_out),
        cmocka_unit_test(damaged_documents_are_refused_with_their_place),
        cmocka_unit_test(answers_must_lie_behind_the_first_token_and_inside),
    };
    return cmocka_run_group_tests_name("documents_file", tests, NULL, NULL);
}
