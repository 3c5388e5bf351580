/* Family trellis in plan.json: what a head has in place of groups. Fields: docs/plan-json.md. */
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/json.h"
#include "plan/plan_json_parts.h"
#include "plan/trellis_form.h"

const char *const trellis_json_members[] = {"gain_bits", "gain_zero", "widths", "weights", "basis", NULL};

/* A basis of n vectors is 2 n^2 bytes, in base64 four letters for three bytes. */
static size_t basis_bytes(int n_dims) { return 2 * (size_t)n_dims * (size_t)n_dims; }
static size_t basis_letters(int n_dims) { return (basis_bytes(n_dims) + 2) / 3 * 4; }

/* ---- writing --------------------------------------------------------------------------------- */

/* The fp16 numbers row by row, little-endian, in base64. */
static rb_status basis_to_json(cJSON *json, const plan_trellis *own, rb_error *err)
{
    const size_t n_bytes = basis_bytes(own->n_dims);
    unsigned char *bytes = NULL, *text = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&bytes, n_bytes, 1, "basis", err), done);
    RB_TRY(st, rb_alloc(&text, basis_letters(own->n_dims) + 1, 1, "basis", err), done);
    for (size_t i = 0; i < n_bytes / 2; i++) {
        const uint16_t word = rb_f32_to_f16(own->basis[i]);
        bytes[2 * i] = (unsigned char)(word & 0xff);
        bytes[2 * i + 1] = (unsigned char)(word >> 8);
    }
    EVP_EncodeBlock(text, bytes, (int)n_bytes);
    RB_TRY(st, rb_json_add_string(json, "basis", (const char *)text, err), done);
done:
    free(bytes);
    free(text);
    return st;
}

rb_status trellis_to_json(cJSON *json, const plan_head *head, const model_facts *model, rb_error *err)
{
    const plan_trellis *own = &head->trellis;
    int widths[RB_MAX_HEAD_DIM];
    rb_status st;
    for (int i = 0; i < own->n_dims; i++) widths[i] = own->widths[i];
    RB_TRY(st, rb_json_add_number(json, "gain_bits", own->gain_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "gain_zero", own->gain_zero, err), done);
    RB_TRY(st, plan_json_add_ints(json, "widths", widths, own->n_dims, err), done);
    RB_TRY(st, plan_json_add_floats(json, "weights", own->weights, own->n_dims, err), done);
    RB_TRY(st, basis_to_json(json, own, err), done);
    RB_TRY(st, plan_json_add_floats(json, "center", head->center, model->head_dim, err), done);
done:
    return st;
}

/* ---- reading --------------------------------------------------------------------------------- */

static rb_status widths_from_json(uint8_t *widths, const cJSON *json, int n_dims, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    int i = 0;
    rb_status st = rb_json_get_array(json, "widths", where, &list, err);
    if (st == RB_OK && cJSON_GetArraySize(list) != n_dims)
        st = rb_fail(err, RB_EFORMAT, "%s: widths has %d entries, expected %d coordinates", where,
                     cJSON_GetArraySize(list), n_dims);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= TRELLIS_MAX_WIDTH)
            || item->valuedouble != floor(item->valuedouble))
            return rb_fail(err, RB_EFORMAT, "%s: widths[%d] is no width, expected a whole number from 0 to %d", where,
                           i, TRELLIS_MAX_WIDTH);
        widths[i++] = (uint8_t)item->valuedouble;
    }
    return RB_OK;
}

/* Whether all letters are those of base64, and as many '=' at the end as the length asks for. */
static rb_status check_letters(const char *text, int n_dims, const char *where, rb_error *err)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t expected = basis_letters(n_dims), n_filling = (3 - basis_bytes(n_dims) % 3) % 3, found = strlen(text);
    if (found != expected)
        return rb_fail(err, RB_EFORMAT, "%s: basis has %zu letters, expected %zu: %d x %d fp16 numbers in base64",
                       where, found, expected, n_dims, n_dims);
    const size_t n_good = strspn(text, letters);
    const size_t at = n_good < expected - n_filling ? n_good : expected - n_filling;
    if (at < expected - n_filling || strspn(text + at, "=") != n_filling)
        return rb_fail(err, RB_EFORMAT, "%s: basis has byte 0x%02x at letter %zu, expected base64", where,
                       (unsigned)(unsigned char)text[at], at);
    return RB_OK;
}

static rb_status basis_from_json(double *basis, const cJSON *json, int n_dims, const char *where, rb_error *err)
{
    const size_t n_letters = basis_letters(n_dims);
    const char *text;
    unsigned char *bytes = NULL;
    rb_status st;
    RB_TRY(st, rb_json_get_string(json, "basis", where, &text, err), done);
    RB_TRY(st, check_letters(text, n_dims, where, err), done);
    RB_TRY(st, rb_alloc(&bytes, n_letters / 4 * 3, 1, "basis", err), done);
    EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)n_letters);
    for (int i = 0; i < n_dims * n_dims; i++) {
        basis[i] = (double)rb_f16_to_f32((uint16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8));
        if (!isfinite(basis[i])) {
            st = rb_fail(err, RB_EFORMAT, "%s: basis[%d][%d] is %g, expected a finite number", where, i / n_dims,
                         i % n_dims, basis[i]);
            goto done;
        }
    }
done:
    free(bytes);
    return st;
}

/* A number that making the head changed is not what the writer had. */
static rb_status weights_from_json(double *weights, const cJSON *json, int n_dims, const char *where, rb_error *err)
{
    const cJSON *list;
    float *stated = NULL;
    rb_status st;
    RB_TRY(st, rb_json_get_array(json, "weights", where, &list, err), done);
    RB_TRY(st, plan_json_get_floats(&stated, json, "weights", n_dims, where, err), done);
    for (int i = 0; i < n_dims; i++) {
        weights[i] = (double)stated[i];
        if (weights[i] >= TRELLIS_LEAST_WEIGHT && plan_fp16(weights[i]) == stated[i]) continue;
        st = rb_fail(err, RB_EFORMAT, "%s: weights[%d] is %.17g, expected a number from %g that fp16 holds", where, i,
                     weights[i], TRELLIS_LEAST_WEIGHT);
        goto done;
    }
done:
    free(stated);
    return st;
}

rb_status trellis_from_json(plan_head *out, const cJSON *json, const model_facts *model, const char *where,
                            rb_error *err)
{
    const int n_dims = model->head_dim;
    double weights[RB_MAX_HEAD_DIM], *basis = NULL;
    uint8_t widths[RB_MAX_HEAD_DIM];
    int64_t gain_bits, gain_zero;
    rb_status st;
    RB_TRY(st, rb_json_get_int(json, "gain_bits", where, 0, TRELLIS_MAX_GAIN_BITS, &gain_bits, err), done);
    RB_TRY(st, rb_json_get_int(json, "gain_zero", where, 0, ((int64_t)1 << gain_bits) - 1, &gain_zero, err), done);
    RB_TRY(st, widths_from_json(widths, json, n_dims, where, err), done);
    RB_TRY(st, weights_from_json(weights, json, n_dims, where, err), done);
    RB_TRY(st, rb_alloc(&basis, (size_t)n_dims * (size_t)n_dims, sizeof *basis, "basis", err), done);
    RB_TRY(st, basis_from_json(basis, json, n_dims, where, err), done);
    RB_TRY(st, plan_head_set_trellis(out, widths, basis, weights, (int)gain_bits, (int)gain_zero, n_dims, err), done);
done:
    free(basis);
    return st;
}
