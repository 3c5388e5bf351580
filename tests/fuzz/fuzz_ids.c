/* A file of token ids (--tokens): JSON, lines, or binary. */
#include "tests/fuzz/fuzz_support.h"

#include "texts/token_source.h"

FUZZ_INITIALIZE

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    token_list list = {0};
    rb_error err = {0};
    const rb_status st = tokens_from_file(&list, fuzz_file(0, data, size), &err);
    fuzz_check(st, &err);
    for (int64_t i = 0; st == RB_OK && i < list.n; i++) FUZZ_HOLDS(list.ids[i] >= 0, &err);
    token_list_free(&list);
    return 0;
}
