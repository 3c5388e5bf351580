/* See plan_decoder.h. */
#include "plan_decoder.h"

#include <math.h>
#include <string.h>

static const plan_tables *const tables = &plan_host_tables;

const plan_head *plan_key_head(int layer, int kv_head) { return &tables->heads[2 * layer * PLAN_N_KV_HEADS + kv_head]; }

const plan_head *plan_value_head(int layer, int kv_head)
{
    return &tables->heads[(2 * layer + 1) * PLAN_N_KV_HEADS + kv_head];
}

float plan_half(uint16_t word)
{
    const int exponent = word >> 10 & 31, fraction = word & 1023;
    const double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                        : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                       : ldexp(fraction, -24);
    return (float)(word >> 15 ? -size : size);
}

static uint16_t word_at(const uint8_t *bytes) { return (uint16_t)(bytes[0] | bytes[1] << 8); }

/* n bits of a stream from bit `at` on. */
static int bits_of(const uint8_t *stream, int at, int n)
{
    int value = 0;
    for (int i = 0; i < n; i++) value |= (stream[(at + i) / 8] >> (at + i) % 8 & 1) << i;
    return value;
}

/* A gain is one of the half octaves; it is 1 at level `zero`. */
static double gain_of(const plan_head *head, const uint8_t *stream)
{
    const int level = bits_of(stream, head->gain_start, head->gain_bits);
    return (double)(float)exp2(0.5 * (level - head->gain_zero));
}

static double center_of(const plan_head *head, int dim)
{
    return head->center_at == PLAN_NONE ? 0.0 : (double)tables->floats[head->center_at + dim];
}

/* ---- groups: a direction by its rotated coordinates, and its norm ---------------------------- */

static double norm_of(const plan_head *head, const plan_group *group, const uint8_t *norm)
{
    if (head->norm_bytes == 2) return (double)plan_half(word_at(norm));
    return norm[0] == 0 ? 0.0 : (double)(float)exp2(group->norm_exponent - (255 - norm[0]) / 16.0);
}

static void restore_group(const plan_head *head, const plan_group *group, const uint8_t *stream, const uint8_t *norm,
                          float *x)
{
    const float *centroids = tables->floats + group->centroids_at, *rotation = tables->floats + group->rotation_at;
    const uint16_t *dims = tables->shorts + group->dims_at;
    double y[PLAN_MAX_DIMS], square = 0.0;
    for (int j = 0; j < group->n_dims; j++) {
        y[j] = (double)centroids[bits_of(stream, group->first_bit + j * group->width, group->width)];
        square += y[j] * y[j];
    }
    const double size = norm_of(head, group, norm) / sqrt(square);
    for (int i = 0; i < group->n_dims; i++) {
        const double scale = head->scales_at == PLAN_NONE ? 1.0 : (double)tables->floats[head->scales_at + dims[i]];
        double sum = 0.0;
        for (int j = 0; j < group->n_dims; j++) sum += (double)rotation[j * group->n_dims + i] * y[j];
        x[dims[i]] = (float)(size * sum / scale + center_of(head, dims[i]));
    }
}

static void restore_groups(const plan_head *head, const uint8_t *record, float *x)
{
    for (int i = 0; i < head->dims; i++) x[i] = (float)center_of(head, i); /* of dims in no group */
    for (int g = 0; g < head->n_groups; g++)
        restore_group(head, &tables->groups[head->first_group + g], record + head->codes_at,
                      record + head->norms_at + g * head->norm_bytes, x);
}

/* ---- block-codebook: a point in the plane for both dims of a block ---------------------------- */

/* The two dims of a block: those that RoPE turns together. */
static void block_dims(int block, int dims[2])
{
    const int is_split = !PLAN_INTERLEAVED && block < PLAN_ROTARY_DIM / 2;
    dims[0] = is_split ? block : 2 * block;
    dims[1] = is_split ? block + PLAN_ROTARY_DIM / 2 : 2 * block + 1;
}

static void point_of(const plan_head *head, int block, int code, double point[2])
{
    const int bits = tables->bytes[head->bits_at + block], first = tables->bytes[head->first_bits_at + block];
    if (bits <= PLAN_MAX_POINT_BITS) {
        const float *points = tables->floats + tables->points_at[bits];
        point[0] = (double)points[code];
        point[1] = (double)points[(1 << bits) + code];
    } else {
        point[0] = (double)tables->floats[tables->levels_at[first] + (code & ((1 << first) - 1))];
        point[1] = (double)tables->floats[tables->levels_at[bits - first] + (code >> first)];
    }
}

static void restore_block_codebook(const plan_head *head, const uint8_t *record, float *x)
{
    const uint8_t *stream = record + head->codes_at;
    const double gain = gain_of(head, stream);
    for (int block = 0; block < head->dims / 2; block++) {
        const float *map = tables->floats + head->maps_at + 3 * block;
        const int bits = tables->bytes[head->bits_at + block];
        double point[2] = {0.0, 0.0};
        int dims[2];
        block_dims(block, dims);
        if (bits > 0) point_of(head, block, bits_of(stream, tables->shorts[head->starts_at + block], bits), point);
        x[dims[0]] = (float)(center_of(head, dims[0]) + gain * ((double)map[0] * point[0]));
        x[dims[1]] = (float)(center_of(head, dims[1]) + gain * ((double)map[1] * point[0] + (double)map[2] * point[1]));
    }
}

/* ---- trellis: coordinates in a basis, each by the 8 bits of the stream that end with its own -- */

static void restore_trellis(const plan_head *head, const uint8_t *record, float *x)
{
    const uint8_t *stream = record + head->codes_at;
    const double gain = gain_of(head, stream);
    double sums[PLAN_MAX_DIMS] = {0.0};
    for (int i = 0; i < head->n_coded; i++) {
        const int width = tables->bytes[head->bits_at + i], end = tables->shorts[head->starts_at + i] + width;
        const int state = bits_of(stream, end - PLAN_STATE_BITS, PLAN_STATE_BITS);
        const double number = (double)tables->floats[tables->trellis_at[width] + state];
        const uint16_t *row = tables->halves + head->basis_at + (int64_t)i * head->dims;
        for (int j = 0; j < head->dims; j++) sums[j] += number * (double)plan_half(row[j]);
    }
    for (int j = 0; j < head->dims; j++) x[j] = (float)(center_of(head, j) + gain * sums[j]);
}

/* ---- any head -------------------------------------------------------------------------------- */

void plan_restore(const plan_head *head, const uint8_t *record, float *x)
{
    switch (head->family) {
    case PLAN_GROUPS: restore_groups(head, record, x); break;
    case PLAN_BLOCK_CODEBOOK: restore_block_codebook(head, record, x); break;
    case PLAN_TRELLIS: restore_trellis(head, record, x); break;
    default:
        for (int i = 0; i < head->dims; i++) x[i] = plan_half(word_at(record + head->codes_at + 2 * i));
    }
}

void plan_turn(int layer, int64_t position, double *x)
{
    const plan_layer *own = &tables->layers[layer];
    for (int block = 0; block < PLAN_ROTARY_DIM / 2; block++) {
        const double angle = (double)position * tables->doubles[own->inv_freq_at + block];
        const double c = own->attention_factor * cos(angle), s = own->attention_factor * sin(angle);
        int dims[2];
        block_dims(block, dims);
        const double a = x[dims[0]], b = x[dims[1]];
        x[dims[0]] = c * a - s * b;
        x[dims[1]] = s * a + c * b;
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

static const uint16_t *row_of(const uint16_t *rows, int64_t row, int kv_head, int dims)
{
    return rows + (row * PLAN_N_KV_HEADS + kv_head) * dims;
}

static void key_of(int layer, int kv_head, int64_t t, int64_t row, const uint8_t *record, plan_exact_rows exact,
                   double *key)
{
    float x[PLAN_HEAD_DIM];
    if (row != PLAN_NONE) {
        for (int i = 0; i < PLAN_HEAD_DIM; i++)
            key[i] = (double)plan_half(row_of(exact.keys, row, kv_head, PLAN_HEAD_DIM)[i]);
        return;
    }
    plan_restore(plan_key_head(layer, kv_head), record, x);
    for (int i = 0; i < PLAN_HEAD_DIM; i++) key[i] = (double)x[i];
    plan_turn(layer, t, key);
}

static void value_of(int layer, int kv_head, int64_t row, const uint8_t *record, plan_exact_rows exact, float *value)
{
    if (row == PLAN_NONE) {
        plan_restore(plan_value_head(layer, kv_head), record, value);
        return;
    }
    for (int i = 0; i < PLAN_VALUE_DIM; i++)
        value[i] = plan_half(row_of(exact.values, row, kv_head, PLAN_VALUE_DIM)[i]);
}

/* The sums so far belong to the largest logit so far; a larger one shrinks them. */
double plan_attend(int layer, int q_head, const float *query, int64_t n_tokens, const uint8_t *cache,
                   plan_exact_rows exact, double *out)
{
    const int kv_head = q_head / (PLAN_N_Q_HEADS / PLAN_N_KV_HEADS);
    double largest = -INFINITY, sum = 0.0;
    memset(out, 0, PLAN_VALUE_DIM * sizeof *out);
    for (int64_t t = 0; t < n_tokens; t++) {
        const uint8_t *record = cache + t * tables->layers[layer].record_bytes;
        const int64_t row = exact.keys ? plan_exact_row(t, n_tokens) : PLAN_NONE;
        double key[PLAN_HEAD_DIM], logit = 0.0;
        float value[PLAN_VALUE_DIM];
        key_of(layer, kv_head, t, row, record, exact, key);
        for (int i = 0; i < PLAN_HEAD_DIM; i++) logit += PLAN_ATTENTION_SCALE * (double)query[i] * key[i];
        value_of(layer, kv_head, row, record, exact, value);
        const double before = logit > largest ? exp(largest - logit) : 1.0;
        if (logit > largest) largest = logit;
        const double weight = exp(logit - largest);
        sum = sum * before + weight;
        for (int i = 0; i < PLAN_VALUE_DIM; i++) out[i] = out[i] * before + weight * (double)value[i];
    }
    for (int i = 0; i < PLAN_VALUE_DIM && n_tokens > 0; i++) out[i] /= sum;
    return n_tokens > 0 ? largest + log(sum) : -INFINITY;
}
