/* Faults of the codec, for ropebits-profile linked with --wrap: what the gate must notice. RB_FAULT says which:
 *
 *   rotation-sign    one element of one rotation has the other sign: the first, of the first rotation that is built
 *   codebook-sign    the largest centroid of every codebook has the other sign
 *   codebook-scale   every codebook is 1 % too wide
 *
 * Without RB_FAULT it is ropebits-profile as it is. */
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/codebook.h"
#include "kernels/reference/rotation.h"

rb_status __real_rotation_build(double *matrix, const rotation_spec *spec, rb_error *err);
rb_status __wrap_rotation_build(double *matrix, const rotation_spec *spec, rb_error *err);
rb_status __real_codebook_build(codebook *out, codebook_kind kind, int width, int dims, rb_error *err);
rb_status __wrap_codebook_build(codebook *out, codebook_kind kind, int width, int dims, rb_error *err);

static bool is_asked(const char *fault)
{
    const char *asked = getenv("RB_FAULT");
    return asked && strcmp(asked, fault) == 0;
}

/* codec_tables calls it under a lock. */
rb_status __wrap_rotation_build(double *matrix, const rotation_spec *spec, rb_error *err)
{
    static bool is_done;
    const rb_status st = __real_rotation_build(matrix, spec, err);
    if (st == RB_OK && !is_done && is_asked("rotation-sign")) matrix[0] = -matrix[0];
    is_done = true;
    return st;
}

static void scale(codebook *book, double factor)
{
    for (int i = 0; i < book->size; i++) {
        book->centroid[i] *= factor;
        book->centroid_f32[i] = (float)book->centroid[i];
    }
    for (int i = 0; i + 1 < book->size; i++) book->boundary[i] *= factor;
}

rb_status __wrap_codebook_build(codebook *out, codebook_kind kind, int width, int dims, rb_error *err)
{
    const double percent = 0.01;
    const rb_status st = __real_codebook_build(out, kind, width, dims, err);
    if (st != RB_OK) return st;
    if (is_asked("codebook-scale")) scale(out, 1 + percent);
    if (is_asked("codebook-sign")) {
        out->centroid[out->size - 1] = -out->centroid[out->size - 1];
        out->centroid_f32[out->size - 1] = -out->centroid_f32[out->size - 1];
    }
    return st;
}
