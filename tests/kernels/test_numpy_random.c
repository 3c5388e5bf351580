/* numpy.random.default_rng: raw bits, doubles and normals are numpy's, bit for bit. Expected numbers were printed by
 * numpy 1.24.2, the command beside each; numpy keeps the stream of a seed across versions. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/sha256.h"
#include "kernels/reference/numpy_random.h"

static const char FIXTURE[] = "tests/fixtures/rotations_codebooks.json";
static rb_error err;

static void assert_same_bits(double found, double expected)
{
    if (memcmp(&found, &expected, sizeof found) != 0) fail_msg("found %.17g, expected %.17g", found, expected);
}

/* ---- raw bits and uniform doubles ------------------------------------------------------------ */

static void raw_bits_are_those_of_the_reference_file(void **state)
{
    (void)state;
    static const char key[] = "\"pcg64_seed45_first4_u64\": [";
    char *text = NULL, *at;
    size_t size;
    numpy_rng rng;
    assert_ok(rb_read_file(&text, &size, FIXTURE, 1 << 22, &err));
    at = strstr(text, key); /* read as text: cJSON's double would drop the low bits */
    assert_non_null(at);
    at += strlen(key);
    numpy_rng_seed(&rng, 45);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(numpy_rng_next(&rng), strtoull(at, &at, 10));
        at += strspn(at, ", ");
    }
    free(text);
}

typedef struct seed_stream {
    uint64_t seed, raw[2];
    const char *normals_sha256; /* of the first million normals */
} seed_stream;

/* python3 -c 'import numpy as np, hashlib
 * for s in (0, 45, 2**32-1, 2**32+45, 2**64-1):
 *     print(hex(s), [hex(v) for v in np.random.PCG64(s).random_raw(2).tolist()],
 *           hashlib.sha256(np.random.default_rng(s).standard_normal(1000000).tobytes()).hexdigest())' */
static const seed_stream streams[] = {
    {0, {0xa30febcfd9c2825f, 0x4510bdf882d9d721}, "53a922d0cee928f18ff8ab104f25caa43ac6f476b406223bcc0c3407b4601c8d"},
    {45, {0x92b8b0d3ecae231c, 0x874b3218bb4ac3f1}, "1206008dcd954daf46f5c15b05188fcc6d301eae57da42303d695448e956bd9f"},
    {0xffffffff,
     {0x407f5fa930d8fd9f, 0x3814b22eb9684802},
     "5832fa70c381cadd61d804b299fc56047f8088c560d70b1b0f925c3110e59eb8"},
    {0x10000002d,
     {0xdc003d8ee50e2d6a, 0x33b1df555ec75365},
     "8c3e08e273e71d3d0260040906632944119fecd8823fc18eac537badbe0808ff"},
    {UINT64_MAX,
     {0xae163a7a8c47568f, 0xd86659f5f3382359},
     "4f706c4772efa9fc4efe181d57a25c2e65279782a7c1d1fc162be913c57044b7"},
};

static void seeds_of_one_and_two_words_start_numpys_stream(void **state)
{
    (void)state;
    for (size_t i = 0; i < RB_COUNT(streams); i++) {
        numpy_rng rng;
        numpy_rng_seed(&rng, streams[i].seed);
        for (int j = 0; j < 2; j++) assert_int_equal(numpy_rng_next(&rng), streams[i].raw[j]);
    }
}

static void doubles_are_numpys(void **state)
{
    (void)state;
    /* np.random.default_rng(45).random(3).tolist() */
    static const double expected[] = {0.5731306569475056, 0.5284911451702028, 0.763650239801926};
    numpy_rng rng;
    numpy_rng_seed(&rng, 45);
    for (size_t i = 0; i < RB_COUNT(expected); i++) assert_same_bits(numpy_rng_double(&rng), expected[i]);
}

/* ---- normals --------------------------------------------------------------------------------- */

static void normals_are_those_of_the_reference_file(void **state)
{
    (void)state;
    cJSON *fixture = NULL;
    double found[8];
    numpy_rng rng;
    assert_ok(rb_json_read(&fixture, FIXTURE, 0, &err));
    const cJSON *expected = rb_json_find(fixture, "standard_normal_seed45_first8");
    assert_int_equal(cJSON_GetArraySize(expected), 8);
    numpy_rng_seed(&rng, 45);
    numpy_rng_standard_normal(&rng, found, 8);
    for (int i = 0; i < 8; i++) assert_same_bits(found[i], cJSON_GetArrayItem(expected, i)->valuedouble);
    cJSON_Delete(fixture);
}

static void normals_of_wedges_and_both_tails_are_numpys(void **state)
{
    (void)state;
    /* Draws of default_rng(45).standard_normal() that leave the fast path: three that used further raw bits (wedges),
     * and the first beyond 3.6541528853610088 on either side (tails). */
    static const struct {
        size_t at;
        double value;
    } slow[] = {{16, 0.06375738341733587},
                {50, -1.035992563118334},
                {200, -1.854265732528954},
                {4915, 3.720841543590085},
                {8793, -3.6979800778994907}};
    enum { N = 9000 };
    static double draws[N];
    numpy_rng rng;
    numpy_rng_seed(&rng, 45);
    numpy_rng_standard_normal(&rng, draws, N);
    for (size_t i = 0; i < RB_COUNT(slow); i++) assert_same_bits(draws[slow[i].at], slow[i].value);
}

static void a_million_normals_of_every_seed_hash_as_numpys(void **state)
{
    (void)state;
    enum { N = 1000000 }; /* some 10000 wedges and 260 tails */
    double *draws = malloc(N * sizeof *draws);
    char hex[RB_SHA256_HEX];
    assert_non_null(draws);
    for (size_t i = 0; i < RB_COUNT(streams); i++) {
        numpy_rng rng;
        numpy_rng_seed(&rng, streams[i].seed);
        numpy_rng_standard_normal(&rng, draws, N);
        assert_ok(rb_sha256_bytes(hex, draws, N * sizeof *draws, &err));
        assert_string_equal(hex, streams[i].normals_sha256);
    }
    free(draws);
}

static void a_stream_drawn_in_pieces_is_the_stream(void **state)
{
    (void)state;
    double whole[100], pieces[100];
    numpy_rng rng;
    numpy_rng_seed(&rng, 7);
    numpy_rng_standard_normal(&rng, whole, 100);
    numpy_rng_seed(&rng, 7);
    numpy_rng_standard_normal(&rng, pieces, 0);
    numpy_rng_standard_normal(&rng, pieces, 1);
    numpy_rng_standard_normal(&rng, pieces + 1, 62);
    numpy_rng_standard_normal(&rng, pieces + 63, 37);
    assert_memory_equal(whole, pieces, sizeof whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_bits_are_those_of_the_reference_file),
        cmocka_unit_test(seeds_of_one_and_two_words_start_numpys_stream),
        cmocka_unit_test(doubles_are_numpys),
        cmocka_unit_test(normals_are_those_of_the_reference_file),
        cmocka_unit_test(normals_of_wedges_and_both_tails_are_numpys),
        cmocka_unit_test(a_million_normals_of_every_seed_hash_as_numpys),
        cmocka_unit_test(a_stream_drawn_in_pieces_is_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
