/* The cursor of the plan.rbp reader: see plan/library/plan_rbp_library.h. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan/library/plan_rbp_library.h"

bool rbp_fail(rbp_reader *r, const char *fmt, ...)
{
    if (!r->failed && r->error && r->error_size > 0) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(r->error, r->error_size, fmt, ap);
        va_end(ap);
    }
    r->failed = true;
    return false;
}

const uint8_t *rbp_take(rbp_reader *r, size_t n)
{
    if (r->failed || (size_t)(r->end - r->at) < n) {
        rbp_fail(r, "plan payload ends early");
        return NULL;
    }
    const uint8_t *bytes = r->at;
    r->at += n;
    return bytes;
}

uint64_t rbp_little_endian(const uint8_t *bytes, int n)
{
    uint64_t value = 0;
    for (int i = n - 1; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

uint64_t rbp_take_uint(rbp_reader *r, int n_bytes)
{
    const uint8_t *bytes = rbp_take(r, (size_t)n_bytes);
    return bytes ? rbp_little_endian(bytes, n_bytes) : 0;
}

double rbp_f64_at(const uint8_t *bytes)
{
    const uint64_t u = rbp_little_endian(bytes, 8);
    double value;
    memcpy(&value, &u, sizeof value);
    return value;
}

float rbp_f32_at(const uint8_t *bytes)
{
    const uint32_t u = (uint32_t)rbp_little_endian(bytes, 4);
    float value;
    memcpy(&value, &u, sizeof value);
    return value;
}

double rbp_take_f64(rbp_reader *r, const char *what)
{
    const uint8_t *bytes = rbp_take(r, 8);
    const double value = bytes ? rbp_f64_at(bytes) : 0.0;
    if (!isfinite(value)) rbp_fail(r, "%s is not finite", what);
    return value;
}

uint64_t rbp_take_range(rbp_reader *r, int n_bytes, uint64_t min, uint64_t max, const char *what)
{
    const uint64_t value = rbp_take_uint(r, n_bytes);
    if (!r->failed && (value < min || value > max))
        rbp_fail(r, "%s is %llu, expected %llu to %llu", what, (unsigned long long)value, (unsigned long long)min,
                 (unsigned long long)max);
    return value;
}

/* Names are printed and written into sources: nothing in them may end a comment or steer a terminal. */
static bool is_plain(uint8_t byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9')
           || (byte != '\0' && strchr("._+-", byte));
}

void rbp_take_name(rbp_reader *r, char out[RBP_NAME_SIZE], const char *what)
{
    const size_t length = (size_t)rbp_take_uint(r, 1);
    const uint8_t *bytes = rbp_take(r, length);
    if (!bytes) return;
    for (size_t i = 0; i < length; i++)
        if (!is_plain(bytes[i]))
            rbp_fail(r, "%s has a byte 0x%02x, expected letters, digits, '.', '_', '+' and '-'", what, bytes[i]);
    memcpy(out, bytes, length);
    out[length] = '\0';
}

/* Exact. Infinity and NaN become NaN: neither belongs in a plan. */
static float f16_value(unsigned bits)
{
    const int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 1023);
    const double magnitude = exponent == 31 ? NAN
                             : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                            : ldexp(mantissa, -24);
    return (float)(bits >> 15 ? -magnitude : magnitude);
}

const float *rbp_take_f16_column(rbp_reader *r, ropebits_plan *plan, size_t n, bool above_0, const char *what)
{
    const uint8_t *low = rbp_take(r, n), *high = rbp_take(r, n);
    float *values = rbp_own(r, plan, n * sizeof *values);
    if (!values) return NULL;
    for (size_t i = 0; i < n; i++) {
        values[i] = f16_value(low[i] | (unsigned)high[i] << 8);
        if (!isfinite(values[i]) || (above_0 && values[i] <= 0.0f))
            rbp_fail(r, "%s %zu is %g, expected a finite number%s", what, i, (double)values[i],
                     above_0 ? " above 0" : "");
    }
    return values;
}

const float *rbp_take_weights(rbp_reader *r, ropebits_plan *plan, size_t n)
{
    const float *weights = rbp_take_f16_column(r, plan, n, true, "weight");
    for (size_t i = 0; i < n && !r->failed; i++)
        if (weights[i] < PLAN_RBP_LEAST_WEIGHT)
            rbp_fail(r, "weight %zu is %g, expected %g or more", i, (double)weights[i], (double)PLAN_RBP_LEAST_WEIGHT);
    return weights;
}

const uint16_t *rbp_take_f16_words(rbp_reader *r, ropebits_plan *plan, size_t n, const char *what)
{
    static const uint16_t exponent = 0x7c00; /* all ones: infinity or NaN */
    const uint8_t *low = rbp_take(r, n), *high = rbp_take(r, n);
    uint16_t *words = rbp_own(r, plan, n * sizeof *words);
    bool are_finite = true;
    if (!words) return NULL;
    for (size_t i = 0; i < n; i++) {
        words[i] = (uint16_t)(low[i] | high[i] << 8);
        are_finite &= (words[i] & exponent) != exponent;
    }
    for (size_t i = 0; i < n && !are_finite && !r->failed; i++)
        if ((words[i] & exponent) == exponent) rbp_fail(r, "%s %zu is not finite", what, i);
    return words;
}

/* A flag byte, then the hash if the flag is 1. */
void rbp_take_sha256(rbp_reader *r, char out[RBP_HEX_SIZE], const char *what)
{
    const uint8_t *bytes;
    out[0] = '\0';
    if (rbp_take_range(r, 1, 0, 1, what) == 0 || !(bytes = rbp_take(r, PLAN_RBP_SHA256_SIZE))) return;
    for (int i = 0; i < PLAN_RBP_SHA256_SIZE; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

void *rbp_allocate(rbp_reader *r, size_t n, size_t size)
{
    void *memory = r->failed ? NULL : calloc(n ? n : 1, size);
    if (!memory) rbp_fail(r, "out of memory for a plan");
    return memory;
}

void *rbp_own(rbp_reader *r, ropebits_plan *plan, size_t n_bytes)
{
    rbp_owned *owned = rbp_allocate(r, 1, sizeof *owned + n_bytes);
    if (!owned) return NULL;
    owned->next = plan->owned;
    plan->owned = owned;
    return owned->at;
}
