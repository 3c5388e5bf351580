/* An .npz, or one array of it: what does not begin as a zip is put into one, with its checksum, under the name a. */
#include "tests/fuzz/fuzz_support.h"

#include "calibrate/npz_file.h"
#include "plan/library/plan_rbp_format.h" /* its checksum is that of zip */

FUZZ_INITIALIZE

enum { LOCAL_BYTES = 30, CENTRAL_BYTES = 46, END_BYTES = 22, NAME_BYTES = 5 };

static void put(uint8_t *at, size_t value, int n)
{
    for (int i = 0; i < n; i++) at[i] = (uint8_t)(value >> (8 * i));
}

/* What local and central header share: version, flags, method, time, date, crc, sizes, length of the name. */
static void put_common(uint8_t *at, const uint8_t *data, size_t size)
{
    put(at, 20, 2);
    put(at + 10, plan_rbp_crc32(data, size), 4);
    put(at + 14, size, 4);
    put(at + 18, size, 4);
    put(at + 22, NAME_BYTES, 2);
}

/* Stored, not deflated. Freed by free(). */
static uint8_t *zip_of(const uint8_t *data, size_t size, size_t *zip_size)
{
    static const char name[] = "a.npy";
    *zip_size = LOCAL_BYTES + NAME_BYTES + size + CENTRAL_BYTES + NAME_BYTES + END_BYTES;
    uint8_t *zip = calloc(1, *zip_size), *central = zip + LOCAL_BYTES + NAME_BYTES + size;
    uint8_t *end = central + CENTRAL_BYTES + NAME_BYTES;
    if (!zip) abort();
    memcpy(zip, "PK\3\4", 4);
    put_common(zip + 4, data, size);
    memcpy(zip + LOCAL_BYTES, name, NAME_BYTES);
    memcpy(zip + LOCAL_BYTES + NAME_BYTES, data, size);
    memcpy(central, "PK\1\2", 4);
    put(central + 4, 20, 2);
    put_common(central + 6, data, size);
    memcpy(central + CENTRAL_BYTES, name, NAME_BYTES);
    memcpy(end, "PK\5\6", 4);
    put(end + 8, 1, 2);
    put(end + 10, 1, 2);
    put(end + 12, CENTRAL_BYTES + NAME_BYTES, 4);
    put(end + 16, (size_t)(central - zip), 4);
    return zip;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const bool is_zip = size >= 2 && data[0] == 'P' && data[1] == 'K';
    size_t zip_size = size;
    uint8_t *zip = is_zip ? NULL : zip_of(data, size, &zip_size);
    npz_file *file = NULL;
    rb_error err = {0};
    const rb_status st = npz_open(&file, fuzz_file(0, is_zip ? data : zip, zip_size), &err);
    fuzz_check(st, &err);
    for (int64_t i = 0; st == RB_OK && i < npz_count(file); i++) {
        void *elements = NULL;
        rb_error unread = {0};
        const rb_status loaded = npz_load(file, i, &elements, &unread);
        fuzz_check(loaded, &unread);
        if (loaded == RB_OK) fuzz_touch(elements, npz_at(file, i)->size_bytes);
        free(elements);
    }
    npz_close(file);
    free(zip);
    return 0;
}
