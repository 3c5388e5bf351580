/* Damaging files on purpose: for the tests of every HDF5 format. Include after tests/test_support.h. */
#ifndef RB_TESTS_HDF5_DAMAGE_H
#define RB_TESTS_HDF5_DAMAGE_H

#include <stdbool.h>

#include "tests/test_support.h"

enum { DAMAGE_N_CUTS = 40 };

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

/* ---- damage that HDF5's checksums do not show ------------------------------------------------ */

static inline uint32_t damage_rotate(uint32_t x, int k) { return x << k | x >> (32 - k); }

/* The checksum of HDF5's metadata: Bob Jenkins' lookup3 (hashlittle, public domain), little-endian. */
static inline uint32_t damage_lookup3(const unsigned char *at, size_t n)
{
    static const int mix[6] = {4, 6, 8, 16, 19, 4}, last[7] = {14, 11, 25, 16, 4, 14, 24};
    uint32_t s[3] = {0xdeadbeef + (uint32_t)n, 0xdeadbeef + (uint32_t)n, 0xdeadbeef + (uint32_t)n};
    if (n == 0) return s[2];
    for (;; at += 12, n -= 12) {
        for (size_t i = 0; i < 12 && i < n; i++) s[i / 4] += (uint32_t)at[i] << i % 4 * 8;
        if (n <= 12) break;
        for (int i = 0; i < 6; i++) {
            uint32_t *x = &s[i % 3], *y = &s[(i + 1) % 3], *z = &s[(i + 2) % 3];
            *x -= *z;
            *x ^= damage_rotate(*z, mix[i]);
            *z += *y;
        }
    }
    for (int i = 0; i < 7; i++) {
        uint32_t *x = &s[(i + 2) % 3];
        const uint32_t y = s[(i + 1) % 3];
        *x ^= y;
        *x -= damage_rotate(y, last[i]);
    }
    return s[2];
}

/* A piece of metadata: its bytes, with the checksum after them. */
typedef struct damage_block {
    size_t at, n;
} damage_block;

static inline uint32_t damage_u32(const char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* Every piece of metadata of a good file: from each signature, the length after which its own checksum stands. */
static inline int damage_find_blocks(damage_block *blocks, int max, const char *bytes, size_t size)
{
    static const char *const signatures[] = {"\211HDF", "OHDR", "OCHK", "FRHP", "FHDB", "FHIB", "BTHD",
                                             "BTLF",    "BTIN", "FAHD", "FADB", "FSHD", "FSSE", "EAHD"};
    enum { MAX_BLOCK = 4096 };
    int n_blocks = 0;
    for (size_t at = 0; at + 8 < size; at++) {
        bool is_start = false;
        for (size_t i = 0; i < RB_COUNT(signatures); i++) is_start |= memcmp(bytes + at, signatures[i], 4) == 0;
        for (size_t n = 4; is_start && n < MAX_BLOCK && at + n + 4 <= size; n++) {
            if (damage_u32(bytes + at + n) != damage_lookup3((const unsigned char *)bytes + at, n)) continue;
            assert_true(n_blocks < max);
            blocks[n_blocks++] = (damage_block){at, n};
            break;
        }
    }
    return n_blocks;
}

/* A generator of its own, so that a seed gives the same damage everywhere. */
static inline uint32_t damage_random(uint64_t *seed, uint32_t below)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % below;
}

/* A few bytes of one to four pieces of metadata, each changed in one of the ways that lead HDF5 astray; then the
 * checksums are made good. */
static inline void damage_metadata(char *bytes, const damage_block *blocks, int n_blocks, uint64_t seed)
{
    static const char values[] = {0, 1, 2, 8, 64, 127, (char)128, (char)255};
    seed = (seed + 1) * 0x9e3779b97f4a7c15u;
    for (uint32_t n = 1 + damage_random(&seed, 4); n > 0; n--) {
        const damage_block block = blocks[damage_random(&seed, (uint32_t)n_blocks)];
        for (uint32_t m = 1 + damage_random(&seed, 3); m > 0; m--) {
            char *at = bytes + block.at + 4 + damage_random(&seed, (uint32_t)block.n - 4);
            const size_t room = (size_t)(bytes + block.at + block.n - at);
            switch (damage_random(&seed, 4)) {
            case 0: *at ^= (char)(1 << damage_random(&seed, 8)); break;
            case 1: *at = (char)damage_random(&seed, 256); break;
            case 2: *at = values[damage_random(&seed, sizeof values)]; break;
            default: memset(at, values[damage_random(&seed, sizeof values)], room < 8 ? room : 8); break;
            }
        }
        const uint32_t sum = damage_lookup3((const unsigned char *)bytes + block.at, block.n);
        memcpy(bytes + block.at + block.n, &sum, sizeof sum);
    }
}

/* Damages a file in many ways and has each read: read(path, err) must come back, with RB_OK or with one sentence.
 * RB_FUZZ in the environment: how many ways. Returns how many were refused. */
static inline int damage_many(const char *path, const char *damaged_path, rb_status (*read)(const char *, rb_error *))
{
    enum { MAX_BLOCKS = 512, N_WAYS = 150 };
    const char *wanted = getenv("RB_FUZZ");
    const int n_ways = wanted ? atoi(wanted) : N_WAYS;
    damage_block blocks[MAX_BLOCKS];
    size_t size;
    int n_refused = 0;
    char *bytes = damage_read_bytes(path, &size), *damaged = malloc(size);
    const int n_blocks = damage_find_blocks(blocks, MAX_BLOCKS, bytes, size);
    assert_non_null(damaged);
    assert_true(n_blocks > 20);
    for (int way = 0; way < n_ways; way++) {
        rb_error err = {0};
        memcpy(damaged, bytes, size);
        damage_metadata(damaged, blocks, n_blocks, (uint64_t)way);
        damage_write_bytes(damaged_path, damaged, size);
        if (read(damaged_path, &err) == RB_OK) continue;
        n_refused++;
        if (err.msg[0] == '\0' || strchr(err.msg, '\n')) fail_msg("damage %d: message \"%s\"", way, err.msg);
    }
    free(damaged);
    free(bytes);
    return n_refused;
}

/* What a reader must say of a damaged file. */
static inline void assert_one_sentence(rb_status st, const rb_error *err, const char *damage, size_t at)
{
    if (st != RB_EFORMAT && st != RB_EIO) fail_msg("%s at byte %zu: status %d: %s", damage, at, (int)st, err->msg);
    if (err->msg[0] == '\0' || strchr(err->msg, '\n')) fail_msg("%s at byte %zu: message \"%s\"", damage, at, err->msg);
}

#endif
