/* See export/cuda_source.h. Names that come from the plan (model_type, method) are plain ones: readers of plans refuse
 * others (core/plain_name.h). Nothing else of a plan is text. */
#include "export/cuda_source.h"

#include <string.h>

#include "core/program.h"
#include "kernels/reference/encoder_stretches.h"
#include "kernels/reference/trellis.h"
#include "plan/library/ropebits_plan.h"

static const struct {
    const char *type;
    int per_line;
    size_t bytes;
} numbers[] = {[CUDA_F64] = {"double", 4, sizeof(double)},
               [CUDA_F32] = {"float", 8, sizeof(float)},
               [CUDA_HEX16] = {"uint16_t", 16, sizeof(uint16_t)},
               [CUDA_U16] = {"uint16_t", 16, sizeof(uint16_t)},
               [CUDA_U8] = {"uint8_t", 24, sizeof(uint8_t)}};

/* ---- numbers --------------------------------------------------------------------------------- */

/* "1" becomes "1.0": an f after it makes it a float. */
static void write_real(FILE *out, double value, int digits, const char *end)
{
    char text[40];
    snprintf(text, sizeof text, "%.*g", digits, value);
    fprintf(out, "%s%s%s", text, strpbrk(text, ".e") ? "" : ".0", end);
}

static void write_number(FILE *out, cuda_number number, const void *at)
{
    double f64;
    float f32;
    uint16_t word;
    switch (number) {
    case CUDA_F64:
        memcpy(&f64, at, sizeof f64);
        write_real(out, f64, 17, "");
        break;
    case CUDA_F32:
        memcpy(&f32, at, sizeof f32);
        write_real(out, (double)f32, 9, "f");
        break;
    case CUDA_HEX16:
        memcpy(&word, at, sizeof word);
        fprintf(out, "0x%04x", word);
        break;
    case CUDA_U16:
        memcpy(&word, at, sizeof word);
        fprintf(out, "%u", word);
        break;
    case CUDA_U8: fprintf(out, "%u", *(const uint8_t *)at); break;
    }
}

static void write_rows(FILE *out, cuda_number number, const char **at, const int64_t *dims, int rank)
{
    for (int64_t i = 0; i < dims[0]; i++) {
        if (rank > 1) {
            fputs("\n{", out);
            write_rows(out, number, at, dims + 1, rank - 1);
            fputs(i + 1 < dims[0] ? "}," : "}", out);
            continue;
        }
        if (i % numbers[number].per_line == 0) fputs("\n    ", out);
        write_number(out, number, *at);
        fputs(i + 1 < dims[0] ? ", " : "", out);
        *at += numbers[number].bytes;
    }
}

void cuda_write_array(FILE *out, const char *name, cuda_number number, const void *data, const int64_t *dims, int rank)
{
    const char *at = data;
    fprintf(out, "const %s %s", numbers[number].type, name);
    for (int i = 0; i < rank; i++) fprintf(out, "[%lld]", (long long)dims[i]);
    fputs(" = {", out);
    write_rows(out, number, &at, dims, rank);
    fputs("};\n\n", out);
}

/* ---- plan_constants.h ------------------------------------------------------------------------ */

static int64_t at_least_one(int64_t n) { return n > 0 ? n : 1; } /* C has no empty arrays */

static void write_comment(FILE *out, const bit_plan *plan)
{
    const plan_cost cost = bit_plan_cost(plan);
    fprintf(out,
            "/* Bit plan of a quantized KV cache, made by ropebits %s.\n *\n"
            " * model %s, config.json SHA-256 %s\n"
            " * method %s at %g bits: keys cost %.6g true bits per dim, values %.6g; %.6g bytes per token */\n",
            rb_tool_version(), plan->model.model_type, plan->model.config_sha256, plan->method, plan->avg_bits,
            cost.key_true_bits, cost.value_true_bits, cost.bytes_per_token);
}

static void write_geometry(FILE *out, const bit_plan *plan)
{
    const model_facts *m = &plan->model;
    const int largest = m->head_dim > m->value_dim ? m->head_dim : m->value_dim;
    fprintf(out, "#define PLAN_N_LAYERS %d\n#define PLAN_N_Q_HEADS %d\n#define PLAN_N_KV_HEADS %d\n", m->n_layers,
            m->n_q_heads, m->n_kv_heads);
    fprintf(out, "#define PLAN_HEAD_DIM %d\n#define PLAN_VALUE_DIM %d\n#define PLAN_MAX_DIMS %d\n", m->head_dim,
            m->value_dim, largest);
    fprintf(out, "#define PLAN_ROTARY_DIM %d\n", m->rotary_dim);
    fprintf(out, "#define PLAN_INTERLEAVED %d /* pairing: 0 split-half (i, i + rotary_dim/2), 1 (2i, 2i + 1) */\n",
            m->rope.pairing == ROPE_INTERLEAVED);
    fprintf(out, "#define PLAN_ATTENTION_SCALE %#.17g /* of logits */\n", m->attention_scale);
    fprintf(out,
            "/* Tokens of a sequence that stay fp16: the first, and the last before a query, its own included. */\n"
            "#define PLAN_N_SINK %lld\n#define PLAN_N_RECENT %lld\n",
            (long long)plan->n_sink, (long long)plan->n_recent);
}

static void write_sizes(FILE *out, const cuda_tables *t)
{
    fprintf(out, "/* Of the arrays of plan_tables. */\n");
    fprintf(out, "#define PLAN_N_GROUPS %lld\n", (long long)at_least_one(t->groups.n));
    fprintf(out, "#define PLAN_N_DOUBLES %lld\n", (long long)at_least_one(t->doubles.n));
    fprintf(out, "#define PLAN_N_FLOATS %lld\n", (long long)at_least_one(t->floats.n));
    fprintf(out, "#define PLAN_N_HALVES %lld\n", (long long)at_least_one(t->halves.n));
    fprintf(out, "#define PLAN_N_SHORTS %lld\n", (long long)at_least_one(t->shorts.n));
    fprintf(out, "#define PLAN_N_BYTES %lld\n", (long long)at_least_one(t->bytes.n));
    fprintf(out, "#define PLAN_MAX_RECORD_BYTES %d\n#define PLAN_MAX_CODE_BYTES %d\n", t->max_record_bytes,
            t->max_code_bytes);
}

static void write_list(FILE *out, const char *name, const double *values, size_t n)
{
    fprintf(out, "#define %s {", name);
    for (size_t i = 0; i < n; i++) fprintf(out, "%s%.9g", i ? ", " : "", values[i]);
    fprintf(out, "}\n");
}

void cuda_write_constants(FILE *out, const bit_plan *plan, const cuda_tables *tables, int n_test_tokens)
{
    static const double stretches[] = ENCODER_STRETCHES;
    write_comment(out, plan);
    fprintf(out, "#ifndef PLAN_CONSTANTS_H\n#define PLAN_CONSTANTS_H\n\n");
    write_geometry(out, plan);
    fprintf(out, "/* Which families heads of keys or values have. */\n");
    fprintf(out, "#define PLAN_HAS_GROUPS %d\n", tables->has_family[ROPEBITS_FAMILY_GROUPS]);
    fprintf(out, "#define PLAN_HAS_BLOCK_CODEBOOK %d\n", tables->has_family[ROPEBITS_FAMILY_BLOCK_CODEBOOK]);
    fprintf(out, "#define PLAN_HAS_TRELLIS %d\n", tables->has_family[ROPEBITS_FAMILY_TRELLIS]);
    write_sizes(out, tables);
    fprintf(out,
            "/* For encoders: what a vector of groups is stretched by, and the mean squared error of a trellis for a "
            "normal\n * variable, by width. */\n");
    write_list(out, "PLAN_STRETCHES", stretches, RB_COUNT(stretches));
    write_list(out, "PLAN_TRELLIS_ERRORS", trellis_errors, TRELLIS_MAX_WIDTH + 1);
    fprintf(out, "#define TEST_N_TOKENS %d\n\n#endif\n", n_test_tokens);
}

/* ---- plan_tables.c --------------------------------------------------------------------------- */

static void write_flat(FILE *out, const char *name, const char *size, cuda_number number, const cuda_array *array)
{
    static const double zero[1] = {0.0};
    const int64_t n = at_least_one(array->n);
    const char *at = array->n > 0 ? array->at : zero;
    fprintf(out, "static const %s %s[%s] = {", numbers[number].type, name, size);
    write_rows(out, number, &at, &n, 1);
    fputs("};\n\n", out);
}

/* ROW(NAME) of the members that are not what a head without such a part has. */
#define WRITE_MEMBER(name) fprintf(out, "%s." #name " = %d", first++ ? ", " : "", item->name);

static void write_groups(FILE *out, const cuda_array *groups)
{
    fprintf(out, "static const plan_group groups[PLAN_N_GROUPS] = {\n");
    for (int64_t i = 0; i < groups->n; i++) {
        const cuda_group *item = (const cuda_group *)groups->at + i;
        int first = 0;
        fprintf(out, "    {");
        CUDA_GROUP_MEMBERS(WRITE_MEMBER)
        fprintf(out, ", .coherence = ");
        write_real(out, (double)item->coherence, 9, "f");
        fprintf(out, "},\n");
    }
    fprintf(out, "%s};\n\n", groups->n ? "" : "    {0}\n");
}

static void write_heads(FILE *out, const cuda_array *heads)
{
    fprintf(out, "static const plan_head heads[PLAN_N_LAYERS * 2 * PLAN_N_KV_HEADS] = {\n");
    for (int64_t i = 0; i < heads->n; i++) {
        const cuda_head *item = (const cuda_head *)heads->at + i;
        int first = 0;
        fprintf(out, "    {");
        CUDA_HEAD_MEMBERS(WRITE_MEMBER)
        fprintf(out, "},\n");
    }
    fprintf(out, "};\n\n");
}
#undef WRITE_MEMBER

static void write_layers(FILE *out, const cuda_array *layers)
{
    fprintf(out, "static const plan_layer layers[PLAN_N_LAYERS] = {\n");
    for (int64_t i = 0; i < layers->n; i++) {
        const cuda_layer *layer = (const cuda_layer *)layers->at + i;
        fprintf(out, "    {.record_bytes = %d, .inv_freq_at = %d, .attention_factor = ", layer->record_bytes,
                layer->inv_freq_at);
        write_real(out, layer->attention_factor, 17, "},\n");
    }
    fprintf(out, "};\n\n");
}

static void write_indexes(FILE *out, const char *name, const int32_t *indexes, int n)
{
    fprintf(out, "    .%s = {", name);
    for (int i = 0; i < n; i++) fprintf(out, "%s%d", i ? ", " : "", indexes[i]);
    fprintf(out, "},\n");
}

void cuda_write_tables(FILE *out, const cuda_tables *t)
{
    fprintf(out, "/* The tables of the plan: see plan_tables.h. */\n#include \"plan_tables.h\"\n\n");
    write_layers(out, &t->layers);
    write_heads(out, &t->heads);
    write_groups(out, &t->groups);
    write_flat(out, "doubles", "PLAN_N_DOUBLES", CUDA_F64, &t->doubles);
    write_flat(out, "floats", "PLAN_N_FLOATS", CUDA_F32, &t->floats);
    write_flat(out, "halves", "PLAN_N_HALVES", CUDA_HEX16, &t->halves);
    write_flat(out, "shorts", "PLAN_N_SHORTS", CUDA_U16, &t->shorts);
    write_flat(out, "bytes", "PLAN_N_BYTES", CUDA_U8, &t->bytes);
    fprintf(out, "const plan_tables plan_host_tables = {\n"
                 "    .layers = layers,\n    .heads = heads,\n    .groups = groups,\n    .doubles = doubles,\n"
                 "    .floats = floats,\n    .halves = halves,\n    .shorts = shorts,\n    .bytes = bytes,\n");
    write_indexes(out, "points_at", t->points_at, ROPEBITS_MAX_POINT_BITS + 1);
    write_indexes(out, "levels_at", t->levels_at, ROPEBITS_MAX_LEVEL_BITS + 1);
    write_indexes(out, "trellis_at", t->trellis_at, ROPEBITS_MAX_TRELLIS_WIDTH + 1);
    fprintf(out, "};\n");
}
