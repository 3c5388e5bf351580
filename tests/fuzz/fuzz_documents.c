/* A file of needle or understanding documents. */
#include "tests/fuzz/json_mutator.h"

#include "texts/documents_file.h"

FUZZ_INITIALIZE

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    needle_documents documents = {0};
    rb_error err = {0};
    const rb_status st = documents_read(&documents, fuzz_file(0, data, size), &err);
    fuzz_check(st, &err);
    if (st == RB_OK) {
        rb_error unfit = {0};
        fuzz_check(needle_documents_check_vocabulary(&documents, 1000, "fuzz", &unfit), &unfit);
    }
    needle_documents_free(&documents);
    return 0;
}
