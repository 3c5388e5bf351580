/* Holds the plain reader to the definition of ropebits: every record of the test vectors must restore to the same
 * numbers. Exit code 0, or 1 and a line that says where they differ.
 *
 *   cc -std=c99 -O2 -o check_decoder check_decoder.c plan_decoder.c plan_tables.c test_vectors.c -lm && ./check_decoder
 */
#include <math.h>
#include <stdio.h>

#include "plan_decoder.h"
#include "test_vectors.h"

/* Both sum in double, in another order, and round once to f32: a step of the largest number. */
static const double BOUND = 1.2e-7;

static double worst; /* difference over the largest number of its vector */

static int compare(const char *what, int layer, int token, int kv_head, const float *x, const float *wanted, int dims)
{
    double largest = 0.0, off = 0.0;
    for (int i = 0; i < dims; i++) {
        const double difference = fabs((double)x[i] - (double)wanted[i]);
        if (!(difference <= off)) off = difference; /* NaN too */
        if (fabs((double)wanted[i]) > largest) largest = fabs((double)wanted[i]);
    }
    if (off / (largest > 0.0 ? largest : 1.0) > worst) worst = off / (largest > 0.0 ? largest : 1.0);
    if (off <= BOUND * largest) return 0;
    printf("%s of layer %d, token %d, KV head %d: off by %g, expected at most %g\n", what, layer, token, kv_head, off,
           BOUND * largest);
    return 1;
}

int main(void)
{
    int n_bad = 0;
    for (int layer = 0; layer < PLAN_N_LAYERS; layer++)
        for (int t = 0; t < TEST_N_TOKENS; t++)
            for (int h = 0; h < PLAN_N_KV_HEADS; h++) {
                const uint8_t *record = test_records[layer] + t * plan_host_tables.layers[layer].record_bytes;
                float key[PLAN_HEAD_DIM], value[PLAN_VALUE_DIM];
                plan_restore(plan_key_head(layer, h), record, key);
                plan_restore(plan_value_head(layer, h), record, value);
                n_bad += compare("key", layer, t, h, key, test_restored_keys[layer][t][h], PLAN_HEAD_DIM);
                n_bad += compare("value", layer, t, h, value, test_restored_values[layer][t][h], PLAN_VALUE_DIM);
            }
    printf("%d vectors (%s): largest difference %.1e of the largest number, %d wrong\n",
           2 * PLAN_N_LAYERS * TEST_N_TOKENS * PLAN_N_KV_HEADS, test_source, worst, n_bad);
    return n_bad > 0;
}
