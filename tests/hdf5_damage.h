/* Damaging files on purpose: for the tests of every HDF5 format. Include after tests/test_support.h. */
#ifndef RB_TESTS_HDF5_DAMAGE_H
#define RB_TESTS_HDF5_DAMAGE_H

#include "tests/test_support.h"

enum { DAMAGE_N_CUTS = 40 };

/* libhdf5 1.10 loses the object header that it could not decode, 424 bytes each time; LeakSanitizer asks this function
 * what to overlook. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

/* The whole file, freed by free(). */
static inline char *damage_read_bytes(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static inline void damage_write_bytes(const char *path, const char *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

/* Where to cut a file for the i-th time: in its first bytes, in its last, and all along. */
static inline size_t damage_cut(size_t i, size_t size)
{
    return i < 8 ? i * 13 : i < 12 ? size - (i - 7) : size * (i - 12) / (DAMAGE_N_CUTS - 12);
}

/* What a reader must say of a damaged file. */
static inline void assert_one_sentence(rb_status st, const rb_error *err, const char *damage, size_t at)
{
    if (st != RB_EFORMAT && st != RB_EIO) fail_msg("%s at byte %zu: status %d: %s", damage, at, (int)st, err->msg);
    if (err->msg[0] == '\0' || strchr(err->msg, '\n')) fail_msg("%s at byte %zu: message \"%s\"", damage, at, err->msg);
}

#endif
