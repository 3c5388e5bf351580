/* Rotations for runtimes: the only file here that includes something else of ropebits, the definition of rotations in
 * kernels/reference/, so that there is one. The rest of the folder compiles without it. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/reference/rotation.h"
#include "plan/library/ropebits_plan.h"

int ropebits_plan_rotation(uint8_t kind, uint64_t seed, uint32_t dims, float *matrix, char *error, size_t error_size)
{
    const size_t n = (size_t)dims * dims;
    const rotation_spec spec = {.kind = (rotation_kind)kind, .seed = seed, .dims = (int)dims};
    double *exact = NULL;
    rb_error err = {0};
    rb_status st = RB_OK;
    if (dims < 1 || dims > ROPEBITS_MAX_ROTATION_DIMS)
        st = rb_fail(&err, RB_EINVAL, "rotation of %u dims, expected 1 to %d", dims, ROPEBITS_MAX_ROTATION_DIMS);
    if (st == RB_OK) st = rb_alloc(&exact, n, sizeof *exact, "rotation", &err);
    if (st == RB_OK) st = rotation_build(exact, &spec, &err);
    for (size_t i = 0; st == RB_OK && i < n; i++) matrix[i] = (float)exact[i];
    free(exact);
    if (error && error_size > 0) snprintf(error, error_size, "%s", st == RB_OK ? "" : err.msg);
    return st == RB_OK ? 0 : -1;
}
