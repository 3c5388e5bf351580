/* Writer of plan.h: see export/plan_header.h and docs/export.md. */
#include "export/plan_header.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/atomic_file.h"
#include "core/program.h"
#include "plan/plan_codebooks.h"

enum { NUMBERS_PER_LINE = 24 };

static void write_comment(FILE *out, const bit_plan *plan)
{
    const plan_cost cost = bit_plan_cost(plan);
    fprintf(out,
            "/* Bit plan of a quantized KV cache, made by ropebits %s.\n"
            " *\n"
            " * model %s, config.json SHA-256 %s\n"
            " * method %s at %g bits: keys cost %.6g true bits per dim, %.6g bytes per token with the values\n"
            " *\n"
            " * Keys of one head are coded group by group: take the group's dims (ropebits_k_dims from first_dim on), "
            "norm in fp16, divide, rotate by\n"
            " * the group's rotation (kind, seed, n_dims), code = number of boundaries below a coordinate, boundaries "
            "half way between centroids. Codes are packed into one\n"
            " * bit stream, least significant bit first. Rotations are named, not stored: docs/kernels.md of ropebits. "
            "*/\n",
            rb_tool_version(), plan->model.model_type, plan->model.config_sha256, plan->method, plan->avg_bits,
            cost.key_true_bits, cost.bytes_per_token);
}

/* What the published form does not have, for plans that are not of it. */
static void write_coding_comment(FILE *out)
{
    fprintf(out,
            "/* This plan goes beyond that, head by head:\n"
            " *   ropebits_v_width    bits of a value's code, %d: values stay fp16\n"
            " *   ropebits_k_scales, ropebits_k_center   a key x, as it enters RoPE, is coded as (x - center) * scale "
            "and put back after. Scales of a block can be folded into\n"
            " *                       the weights: rows of k_proj times them, rows of q_proj over them. A cache of "
            "rotated keys adds q . R_t center to its logits.\n"
            " *   ropebits_k_norm     0: norms are fp16; 1: one byte, 0 is norm 0, c is 2^(norm_exponent - (255 - c) / "
            "16)\n"
            " *   ropebits_k_encoder  1: the plan was measured with an encoder that searches codes (docs/method.md of "
            "ropebits), by the group's coherence; decoding is the same\n"
            " *   width 0             the block is in no group: nothing is stored, it comes back as its center. Its "
            "dims are not in ropebits_k_dims. */\n",
            PLAN_FP16_WIDTH);
}

/* For plans with heads of block-codebook. */
static void write_block_codebook_comment(FILE *out)
{
    fprintf(out, "/* Heads whose ropebits_k_family is 1 have no groups: they are of block-codebook. Every RoPE block "
                 "is one code of ropebits_k_bits bits, a point in the plane for\n"
                 " * both its dims. A vector's stream is ropebits_k_gain_bits bits of the gain's code c, then the code "
                 "of every block in order, least significant bit first, padded\n"
                 " * to a byte. With n = 1 << bits, points = ropebits_points[bits], m = "
                 "ropebits_k_maps[layer][kv_head][block], zero = (1 << gain_bits) / 4 and\n"
                 " * g = 2^((c - zero) / 2) as a float, a block is restored as\n"
                 " *   g * (m[0] * points[code], m[1] * points[code] + m[2] * points[n + code]) + center\n"
                 " * An encoder takes the nearest point, and of the levels of the gain the one with the least error, "
                 "weighed by ropebits_k_weights: ropebits_plan.h of ropebits has\n"
                 " * it in full. */\n");
}

static void write_constants(FILE *out, const bit_plan *plan, int max_groups)
{
    const model_facts *model = &plan->model;
    const value_range range = bit_plan_value_range(plan);
    fprintf(out, "#define ROPEBITS_N_LAYERS %d\n#define ROPEBITS_N_Q_HEADS %d\n#define ROPEBITS_N_KV_HEADS %d\n",
            model->n_layers, model->n_q_heads, model->n_kv_heads);
    fprintf(out, "#define ROPEBITS_HEAD_DIM %d\n#define ROPEBITS_ROTARY_DIM %d\n#define ROPEBITS_N_BLOCKS %d\n",
            model->head_dim, model->rotary_dim, model_n_blocks(model));
    fprintf(out, "#define ROPEBITS_INTERLEAVED %d /* pairing: 0 split-half (i, i + rotary_dim/2), 1 (2i, 2i + 1) */\n",
            model->rope.pairing == ROPE_INTERLEAVED);
    fprintf(out, "#define ROPEBITS_MAX_GROUPS %d\n", max_groups > 0 ? max_groups : 1);
    if (range.least == range.most)
        fprintf(out, "#define ROPEBITS_VALUE_WIDTH %d /* %d: values stay fp16 */\n\n", range.least, PLAN_FP16_WIDTH);
    else fprintf(out, "#define ROPEBITS_VALUE_WIDTH 0 /* a width a head: ropebits_v_width */\n\n");
}

static void write_centroids(FILE *out, const codebook_spec *spec, const codebook *book)
{
    fprintf(out, "static const float ropebits_centroids_%d_w%d_d%d[%d] = {", (int)spec->kind, spec->width, spec->dims,
            book->size);
    for (int i = 0; i < book->size; i++)
        fprintf(out, "%s%.9gf%s", i % 8 ? " " : "\n    ", (double)book->centroid_f32[i], i + 1 < book->size ? "," : "");
    fprintf(out, "\n};\n");
}

static rb_status write_codebooks(FILE *out, const bit_plan *plan, rb_error *err)
{
    plan_codebooks books = {0};
    rb_status st = plan_codebooks_collect(&books, plan, err);
    fprintf(out, "/* ropebits_centroids_KIND_wWIDTH_dDIMS, kind 0 block-gtq, 1 sphere; ascending */\n");
    for (int i = 0; i < books.n && st == RB_OK; i++) {
        codebook book;
        st = codebook_build(&book, books.at[i].kind, books.at[i].width, books.at[i].dims, err);
        if (st == RB_OK) write_centroids(out, &books.at[i], &book);
    }
    plan_codebooks_free(&books);
    return st;
}

static void write_groups(FILE *out, const plan_head *head)
{
    int first_dim = 0;
    fprintf(out, "     {");
    for (int g = 0; g < plan_head_groups(head)->n; g++) {
        const plan_group *group = &plan_head_groups(head)->at[g];
        fprintf(out, "%s{%d, %d, %d, %d, %" PRIu64 "u, ropebits_centroids_%d_w%d_d%d}", g ? ", " : "", group->width,
                (int)group->rotation.kind, first_dim, group->rotation.dims, group->rotation.seed, (int)group->codebook,
                group->width, group->rotation.dims);
        first_dim += group->rotation.dims;
    }
    fprintf(out, "%s},\n", plan_head_groups(head)->n == 0 ? "{0, 0, 0, 0, 0u, 0}" : "");
}

/* One row of numbers a head. */
static void write_row(FILE *out, const int *numbers, int n)
{
    fprintf(out, "     {%s", n == 0 ? "0" : "");
    for (int i = 0; i < n; i++)
        fprintf(out, "%s%d%s", i && i % NUMBERS_PER_LINE == 0 ? "\n      " : "", numbers[i], i + 1 < n ? ", " : "");
    fprintf(out, "},\n");
}

static void write_dims_row(FILE *out, const plan_head *head, const model_facts *model)
{
    int dims[RB_MAX_HEAD_DIM], n = 0;
    for (int g = 0; g < plan_head_groups(head)->n; g++) {
        plan_group_dims(&plan_head_groups(head)->at[g], model, dims + n);
        n += plan_head_groups(head)->at[g].rotation.dims;
    }
    write_row(out, dims, n);
}

static void write_bits_row(FILE *out, const plan_head *head, const model_facts *model)
{
    uint8_t bits[RB_MAX_BLOCKS];
    int numbers[RB_MAX_BLOCKS];
    plan_head_bits(head, bits, model_n_blocks(model));
    for (int i = 0; i < model_n_blocks(model); i++) numbers[i] = bits[i];
    write_row(out, numbers, model_n_blocks(model));
}

static void write_groups_row(FILE *out, const plan_head *head, const model_facts *model)
{
    (void)model;
    write_groups(out, head);
}

static void write_table(FILE *out, const bit_plan *plan, const char *declaration,
                        void (*row)(FILE *, const plan_head *, const model_facts *))
{
    fprintf(out, "\n%s = {\n", declaration);
    for (int layer = 0; layer < plan->model.n_layers; layer++) {
        fprintf(out, "    {   /* layer %d */\n", layer);
        for (int kv_head = 0; kv_head < plan->model.n_kv_heads; kv_head++)
            row(out, bit_plan_head(plan, layer, kv_head), &plan->model);
        fprintf(out, "    },\n");
    }
    fprintf(out, "};\n");
}

/* One number a head, h counted over layers. */
static void write_head_numbers(FILE *out, const bit_plan *plan, const char *name,
                               int (*number)(const bit_plan *, int h))
{
    fprintf(out, "\nstatic const uint8_t %s[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS] = {\n", name);
    for (int layer = 0; layer < plan->model.n_layers; layer++) {
        fprintf(out, "    {");
        for (int kv_head = 0; kv_head < plan->model.n_kv_heads; kv_head++)
            fprintf(out, "%s%d", kv_head ? ", " : "", number(plan, layer * plan->model.n_kv_heads + kv_head));
        fprintf(out, "},\n");
    }
    fprintf(out, "};\n");
}

static int n_groups_of(const bit_plan *plan, int h) { return plan_head_groups(&plan->heads[h])->n; }

/* n numbers a head, or as many times `otherwise`. */
static void write_floats(FILE *out, const float *numbers, int n, const char *otherwise)
{
    fprintf(out, "     {");
    for (int i = 0; i < n; i++) {
        fprintf(out, "%s", i == 0 ? "" : i % 8 ? ", " : ",\n      ");
        if (numbers) fprintf(out, "%.9g", (double)numbers[i]);
        else fprintf(out, "%s", otherwise);
    }
    fprintf(out, "},\n");
}

static void write_scales_row(FILE *out, const plan_head *head, const model_facts *model)
{
    write_floats(out, plan_head_groups(head)->scales, model_n_blocks(model), "1");
}
static void write_center_row(FILE *out, const plan_head *head, const model_facts *model)
{
    write_floats(out, head->center, model->head_dim, "0");
}

static void write_coherence_row(FILE *out, const plan_head *head, const model_facts *model)
{
    (void)model;
    fprintf(out, "     {%s", plan_head_groups(head)->n == 0 ? "1" : "");
    for (int g = 0; g < plan_head_groups(head)->n; g++)
        fprintf(out, "%s%.9g", g ? ", " : "", (double)plan_head_groups(head)->at[g].coherence);
    fprintf(out, "},\n");
}

static void write_exponent_row(FILE *out, const plan_head *head, const model_facts *model)
{
    int exponents[RB_MAX_BLOCKS];
    (void)model;
    for (int g = 0; g < plan_head_groups(head)->n; g++) exponents[g] = plan_head_groups(head)->at[g].norm_exponent;
    write_row(out, exponents, plan_head_groups(head)->n);
}

static int norm_of(const bit_plan *plan, int h) { return (int)plan_head_groups(&plan->heads[h])->norm; }
static int encoder_of(const bit_plan *plan, int h) { return (int)plan_head_groups(&plan->heads[h])->encoder; }
static int value_width_of(const bit_plan *plan, int h) { return plan->value_widths[h]; }

static void write_coding(FILE *out, const bit_plan *plan)
{
    write_head_numbers(out, plan, "ropebits_v_width", value_width_of);
    write_head_numbers(out, plan, "ropebits_k_norm", norm_of);
    write_table(
        out, plan,
        "static const int8_t ropebits_k_norm_exponent[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS][ROPEBITS_MAX_GROUPS]",
        write_exponent_row);
    write_head_numbers(out, plan, "ropebits_k_encoder", encoder_of);
    write_table(out, plan,
                "static const float ropebits_k_coherence[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS][ROPEBITS_MAX_GROUPS]",
                write_coherence_row);
    write_table(out, plan,
                "/* 1: none */\nstatic const float "
                "ropebits_k_scales[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS][ROPEBITS_N_BLOCKS]",
                write_scales_row);
    write_table(out, plan,
                "/* 0: none */\nstatic const float "
                "ropebits_k_center[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS][ROPEBITS_HEAD_DIM]",
                write_center_row);
}

/* ---- block-codebook -------------------------------------------------------------------------- */

static rb_status write_points(FILE *out, const bit_plan *plan, rb_error *err)
{
    plan_codebooks books = {0};
    block_codebook *points = NULL;
    rb_status st = plan_codebooks_collect(&books, plan, err);
    if (st == RB_OK) st = rb_alloc(&points, 1, sizeof *points, "points of a plan", err);
    fprintf(out, "\n/* every point's x, then every point's y, in the order of their codes */");
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_BITS && st == RB_OK; bits++) {
        if (!books.has_points[bits]) continue;
        st = block_codebook_build(points, bits, err);
        fprintf(out, "\nstatic const float ropebits_points_b%d[%d] = {", bits, 2 * points->size);
        for (int i = 0; i < 2 * points->size; i++)
            fprintf(out, "%s%.9g%s", i % 8 ? " " : "\n    ",
                    (double)(i < points->size ? points->x[i] : points->y[i - points->size]),
                    i + 1 < 2 * points->size ? "," : "");
        fprintf(out, "\n};\n");
    }
    fprintf(out, "\n/* by bits */\nstatic const float *const ropebits_points[%d] = {0", BLOCK_CODEBOOK_MAX_BITS + 1);
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_BITS; bits++)
        if (books.has_points[bits]) fprintf(out, ", ropebits_points_b%d", bits);
        else fprintf(out, ", 0");
    fprintf(out, "};\n");
    free(points);
    plan_codebooks_free(&books);
    return st;
}

static void write_maps_row(FILE *out, const plan_head *head, const model_facts *model)
{
    fprintf(out, "     {");
    for (int block = 0; block < model_n_blocks(model); block++) {
        const float *map = head->family == FAMILY_BLOCK_CODEBOOK
                               ? head->block_codebook.maps + BLOCK_CODEBOOK_MAP_SIZE * block
                               : (const float[BLOCK_CODEBOOK_MAP_SIZE]){0.0f};
        fprintf(out, "%s{%.9g, %.9g, %.9g}",
                block == 0  ? ""
                : block % 4 ? ", "
                            : ",\n      ",
                (double)map[0], (double)map[1], (double)map[2]);
    }
    fprintf(out, "},\n");
}

static void write_weights_row(FILE *out, const plan_head *head, const model_facts *model)
{
    write_floats(out, head->family == FAMILY_BLOCK_CODEBOOK ? head->block_codebook.weights : NULL,
                 model_n_blocks(model), "0");
}

static int family_of(const bit_plan *plan, int h) { return (int)plan->heads[h].family; }
static int gain_bits_of(const bit_plan *plan, int h)
{
    return plan->heads[h].family == FAMILY_BLOCK_CODEBOOK ? plan->heads[h].block_codebook.gain_bits : 0;
}

static rb_status write_block_codebook(FILE *out, const bit_plan *plan, rb_error *err)
{
    write_head_numbers(out, plan, "ropebits_k_family", family_of);
    write_head_numbers(out, plan, "ropebits_k_gain_bits", gain_bits_of);
    write_table(out, plan,
                "static const float ropebits_k_maps[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS][ROPEBITS_N_BLOCKS][3]",
                write_maps_row);
    write_table(out, plan,
                "static const float ropebits_k_weights[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS][ROPEBITS_N_BLOCKS]",
                write_weights_row);
    return write_points(out, plan, err);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void write_frequencies(FILE *out, const model_facts *model)
{
    fprintf(
        out,
        "\n/* radians per token of each RoPE block, scaling included */\nstatic const double ropebits_inv_freq[%d] = {",
        model->rotary_dim > 0 ? model->rotary_dim / 2 : 1);
    for (int i = 0; i < model->rotary_dim / 2; i++)
        fprintf(out, "%s%.17g,", i % 4 ? " " : "\n    ", model->rope.inv_freq[i]);
    fprintf(out, "%s\n};\n", model->rotary_dim > 0 ? "" : "0");
}

static rb_status write_all(FILE *out, const bit_plan *plan, rb_error *err)
{
    const bool is_published = bit_plan_is_published_form(plan);
    int max_groups = 0;
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++)
        if (plan_head_groups(&plan->heads[h])->n > max_groups) max_groups = plan_head_groups(&plan->heads[h])->n;
    write_comment(out, plan);
    if (!is_published) write_coding_comment(out);
    if (bit_plan_has_family(plan, FAMILY_BLOCK_CODEBOOK)) write_block_codebook_comment(out);
    fprintf(out, "#ifndef ROPEBITS_PLAN_DATA_H\n#define ROPEBITS_PLAN_DATA_H\n\n#include <stdint.h>\n\n");
    write_constants(out, plan, max_groups);
    rb_status st = write_codebooks(out, plan, err);
    fprintf(out,
            "\ntypedef struct ropebits_plan_group {\n    uint8_t width;          /* bits a code */\n    uint8_t "
            "rotation;       /* kind: 0 haar, 1 hadamard */\n    uint16_t first_dim;     /* of ropebits_k_dims */\n"
            "    uint16_t n_dims;\n    uint64_t seed;          /* of the rotation */\n    const float *centroids; /* "
            "[1 << width] */\n} ropebits_plan_group;\n");
    write_table(out, plan,
                "/* width of every RoPE block */\nstatic const uint8_t "
                "ropebits_k_bits[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS][ROPEBITS_N_BLOCKS]",
                write_bits_row);
    write_head_numbers(out, plan, "ropebits_n_groups", n_groups_of);
    write_table(out, plan,
                "static const ropebits_plan_group "
                "ropebits_k_groups[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS][ROPEBITS_MAX_GROUPS]",
                write_groups_row);
    write_table(out, plan,
                "/* dims of the head in coding order */\nstatic const uint16_t "
                "ropebits_k_dims[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS][ROPEBITS_HEAD_DIM]",
                write_dims_row);
    if (!is_published) write_coding(out, plan);
    if (st == RB_OK && bit_plan_has_family(plan, FAMILY_BLOCK_CODEBOOK)) st = write_block_codebook(out, plan, err);
    write_frequencies(out, &plan->model);
    fprintf(out, "\n#endif\n");
    return st;
}

rb_status plan_header_write(const bit_plan *plan, const char *path, rb_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    if (!memory) return rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    rb_status st = write_all(memory, plan, err);
    if (fclose(memory) != 0 && st == RB_OK) st = rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    if (st == RB_OK) st = rb_atomic_write(path, text, size, err);
    free(text);
    return st;
}
