/* A summary of `profile` or an evaluation, compared with itself. */
#include "tests/fuzz/json_mutator.h"

#include "core/plain_name.h"
#include "evaluate/compare.h"
#include "evaluate/evaluation_file.h"
#include "profile/profile_summary.h"

FUZZ_INITIALIZE

static void read_both(const char *path)
{
    profile_summary *summary = NULL;
    evaluation *result = NULL;
    rb_error err = {0}, other = {0};
    fuzz_check(profile_summary_read(&summary, path, &err), &err);
    for (int i = 0; summary && i < summary->n_methods; i++)
        FUZZ_HOLDS(rb_is_plain_name(summary->methods[i].method), &err);
    fuzz_check(evaluation_read(&result, path, &other), &other);
    for (int i = 0; result && i < result->n_runs; i++)
        FUZZ_HOLDS(rb_is_plain_text(result->runs[i].name) && rb_is_plain_name(result->runs[i].method), &other);
    profile_summary_free(summary);
    evaluation_free(result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(0, data, size);
    comparison result = {0};
    rb_error err = {0};
    read_both(path);
    fuzz_check(compare_files(&result, path, path, &(comparison_limits){0}, &err), &err);
    comparison_free(&result);
    return 0;
}
