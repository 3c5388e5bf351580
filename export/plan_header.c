/* Writer of plan.h: see export/plan_header.h and docs/export.md. */
#include "export/plan_header.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/atomic_file.h"
#include "core/half.h"
#include "core/program.h"
#include "plan/plan_family.h"

enum { WHOLE_PER_LINE = 24, FLOATS_PER_LINE = 8, LISTS_PER_LINE = 4, WORDS_PER_LINE = 16 };
/* Numbers of matrices that C text is fit for: about 7 MB of it, a second of a compiler's time. */
enum { MAX_MATRIX_NUMBERS = 1 << 20 };

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
            " * bit stream, least significant bit first. Rotations are named, not stored: docs/kernels.md of "
            "ropebits. */\n",
            rb_tool_version(), plan->model.model_type, plan->model.config_sha256, plan->method, plan->avg_bits,
            cost.key_true_bits, cost.bytes_per_token);
}

/* What the families have to say of what a plan of this version may hold. */
static void write_family_comments(FILE *out, const bit_plan *plan, int version)
{
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        for (const plan_comment *comment = plan_families[f]->header_comments; comment && comment->text; comment++)
            if (comment->since <= version
                && (!comment->only_with_family || bit_plan_has_family(plan, (codec_family)f) || plan->value_heads))
                fputs(comment->text, out);
}

static void write_family_types(FILE *out)
{
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        if (plan_families[f]->header_types) fputs(plan_families[f]->header_types, out);
}

/* Of a model that is new to PLAN_VERSION_MODEL; the size of a value also where values have heads of their own. */
static void write_model_constants(FILE *out, const bit_plan *plan)
{
    const model_facts *model = &plan->model;
    if (plan_model_is_new(model) || plan->value_heads)
        fprintf(out, "#define ROPEBITS_VALUE_DIM %d /* of a value in the cache */\n", model->value_dim);
    if (!plan_model_is_new(model)) return;
    fprintf(out, "#define ROPEBITS_ATTENTION_FACTOR %#.17g /* RoPE multiplies queries and keys by it too */\n",
            model->rope.attention_factor);
    if (model->has_local_rope)
        fprintf(out, "#define ROPEBITS_LOCAL_ATTENTION_FACTOR %#.17g /* in layers with ropebits_layer_is_local */\n",
                model->local_rope.attention_factor);
}

/* Of plans of PLAN_VERSION_EXACT: a program asks #ifdef. */
static void write_exact_constants(FILE *out, const bit_plan *plan)
{
    if (!bit_plan_keeps_exact(plan)) return;
    fprintf(out, "/* Tokens of a sequence whose keys and values stay fp16: the first ones, and the last ones before a "
                 "query, its "
                 "own included. All\n * tables below are for the others. */\n");
    fprintf(out, "#define ROPEBITS_SINK %lld\n#define ROPEBITS_RECENT %lld\n", (long long)plan->n_sink,
            (long long)plan->n_recent);
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
    write_model_constants(out, plan);
    fprintf(out, "#define ROPEBITS_MAX_GROUPS %d\n", max_groups);
    if (plan->value_heads)
        fprintf(out, "#define ROPEBITS_VALUE_WIDTH 0 /* values have heads of their own: ropebits_v_trellis_... */\n\n");
    else if (range.least == range.most)
        fprintf(out, "#define ROPEBITS_VALUE_WIDTH %g /* %d: values stay fp16 */\n\n", range.least, PLAN_FP16_WIDTH);
    else fprintf(out, "#define ROPEBITS_VALUE_WIDTH 0 /* a width a head: ropebits_v_width */\n\n");
}

static void write_centroids(FILE *out, const codebook_spec *spec, const codebook *book)
{
    fprintf(out, "static const float ropebits_centroids_%d_w%d_d%d[%d] = {", (int)spec->kind, spec->width, spec->dims,
            book->size);
    for (int i = 0; i < book->size; i++)
        fprintf(out, "%s%.9gf%s", i % FLOATS_PER_LINE ? " " : "\n    ", (double)book->centroid_f32[i],
                i + 1 < book->size ? "," : "");
    fprintf(out, "\n};\n");
}

static rb_status write_table_of_points(FILE *out, int bits, rb_error *err)
{
    const int n = 2 << bits;
    float *points = NULL;
    const rb_status st = plan_points_build(&points, bits, err);
    if (st != RB_OK) return st;
    fprintf(out, "\nstatic const float ropebits_points_b%d[%d] = {", bits, n);
    for (int i = 0; i < n; i++)
        fprintf(out, "%s%.9g%s", i % FLOATS_PER_LINE ? " " : "\n    ", (double)points[i], i + 1 < n ? "," : "");
    fprintf(out, "\n};\n");
    free(points);
    return RB_OK;
}

static rb_status write_table_of_levels(FILE *out, int bits, rb_error *err)
{
    block_levels levels;
    const rb_status st = block_levels_build(&levels, bits, err);
    if (st != RB_OK) return st;
    fprintf(out, "\nstatic const float ropebits_levels_b%d[%d] = {", bits, levels.size);
    for (int i = 0; i < levels.size; i++)
        fprintf(out, "%s%.9g%s", i % FLOATS_PER_LINE ? " " : "\n    ", (double)levels.level[i],
                i + 1 < levels.size ? "," : "");
    fprintf(out, "\n};\n");
    return RB_OK;
}

static rb_status write_levels(FILE *out, const bit_plan *plan, rb_error *err)
{
    plan_codebooks books = {0};
    rb_status st = plan_codebooks_collect(&books, plan, err);
    fprintf(out, "\n/* levels of one dim, ascending */");
    for (int bits = 1; bits <= PLAN_MAX_LEVEL_BITS && st == RB_OK; bits++)
        if (books.has_levels[bits]) st = write_table_of_levels(out, bits, err);
    fprintf(out, "\n/* by bits */\nstatic const float *const ropebits_levels[%d] = {0", PLAN_MAX_LEVEL_BITS + 1);
    for (int bits = 1; bits <= PLAN_MAX_LEVEL_BITS; bits++)
        if (books.has_levels[bits]) fprintf(out, ", ropebits_levels_b%d", bits);
        else fprintf(out, ", 0");
    fprintf(out, "};\n");
    plan_codebooks_free(&books);
    return st;
}

static rb_status write_points(FILE *out, const bit_plan *plan, rb_error *err)
{
    plan_codebooks books = {0};
    rb_status st = plan_codebooks_collect(&books, plan, err);
    fprintf(out, "\n/* every point's x, then every point's y, in the order of their codes */");
    for (int bits = 1; bits <= PLAN_MAX_POINT_BITS && st == RB_OK; bits++)
        if (books.has_points[bits]) st = write_table_of_points(out, bits, err);
    fprintf(out, "\n/* by bits */\nstatic const float *const ropebits_points[%d] = {0", PLAN_MAX_POINT_BITS + 1);
    for (int bits = 1; bits <= PLAN_MAX_POINT_BITS; bits++)
        if (books.has_points[bits]) fprintf(out, ", ropebits_points_b%d", bits);
        else fprintf(out, ", 0");
    fprintf(out, "};\n");
    plan_codebooks_free(&books);
    return st;
}

static rb_status write_trellis_tables(FILE *out, const bit_plan *plan, rb_error *err)
{
    plan_codebooks books = {0};
    const rb_status st = plan_codebooks_collect(&books, plan, err);
    for (int width = 1; width <= PLAN_MAX_TRELLIS_WIDTH && books.n_trellis > 0; width++) {
        if (!books.has_trellis[width]) continue;
        fprintf(out, "\nstatic const float ropebits_trellis_w%d[%d] = {", width, TRELLIS_STATES);
        for (int i = 0; i < TRELLIS_STATES; i++)
            fprintf(out, "%s%.9g%s", i % FLOATS_PER_LINE ? " " : "\n    ", (double)trellis_tables[width][i],
                    i + 1 < TRELLIS_STATES ? "," : "");
        fprintf(out, "\n};\n");
    }
    if (books.n_trellis > 0)
        fprintf(out, "\n/* by width */\nstatic const float *const ropebits_trellis[%d] = {0",
                PLAN_MAX_TRELLIS_WIDTH + 1);
    for (int width = 1; width <= PLAN_MAX_TRELLIS_WIDTH && books.n_trellis > 0; width++)
        if (books.has_trellis[width]) fprintf(out, ", ropebits_trellis_w%d", width);
        else fprintf(out, ", 0");
    if (books.n_trellis > 0) fprintf(out, "};\n");
    plan_codebooks_free(&books);
    return st;
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

/* ---- columns --------------------------------------------------------------------------------- */

static const char *type_name(const plan_column *column)
{
    static const char *const names[] = {[COLUMN_U8] = "uint8_t",
                                        [COLUMN_I8] = "int8_t",
                                        [COLUMN_U16] = "uint16_t",
                                        [COLUMN_U64] = "uint64_t",
                                        [COLUMN_F16] = "float"};
    if (column->floats) return "uint16_t"; /* fp16 words */
    return column->header_type ? column->header_type : names[column->type];
}

/* Items of a head that it may have fewer of than the array: only those are written, and one item where there is none.
 */
static bool is_of_any_length(const plan_column *column)
{
    return column->extent == COLUMN_OF_GROUP || column->extent == COLUMN_OF_POSITION;
}

static int n_items(const plan_column *column, const model_facts *model)
{
    switch (column->extent) {
    case COLUMN_OF_BLOCK: return model_n_blocks(model);
    case COLUMN_OF_DIM: return plan_column_dims(column, model);
    default: return 1;
    }
}

/* Between items: "" before the first, a line end after every so many. */
static const char *separator(const plan_column *column, int item)
{
    if (item == 0) return "";
    if (column->write_item || (column->type == COLUMN_F16 && column->extent == COLUMN_OF_GROUP)) return ", ";
    if (column->type != COLUMN_F16) return item % WHOLE_PER_LINE ? ", " : ", \n      ";
    return item % (plan_column_size(column) > 1 ? LISTS_PER_LINE : FLOATS_PER_LINE) ? ", " : ",\n      ";
}

/* Number i of a head that has n, or what stands in its place. */
static void write_number(FILE *out, const plan_column *column, const plan_number *numbers, int n, int i)
{
    if (i >= n) fprintf(out, "%.9g", column->otherwise);
    else if (column->type == COLUMN_F16) fprintf(out, "%.9g", (double)numbers[i].real);
    else fprintf(out, "%" PRId64, numbers[i].whole);
}

static void write_item(FILE *out, const plan_column *column, const plan_number *numbers, int n, int item)
{
    const int size = plan_column_size(column);
    if (size == 1) {
        write_number(out, column, numbers, n, item);
        return;
    }
    for (int i = 0; i < size; i++) {
        fputs(i == 0 ? "{" : ", ", out);
        write_number(out, column, numbers, n, size * item + i);
    }
    fputs("}", out);
}

static void write_head_row(FILE *out, const plan_column *column, const bit_plan *plan, int h)
{
    plan_number numbers[PLAN_COLUMN_ROOM];
    const int n = plan_column_take(column, numbers, plan, h);
    const int n_written = is_of_any_length(column) && n > 0 ? n : n_items(column, &plan->model);
    fprintf(out, "     {");
    for (int item = 0; item < n_written; item++) {
        fputs(separator(column, item), out);
        if (!column->write_item) write_item(out, column, numbers, n, item);
        else if (item < n) column->write_item(out, &plan->heads[h], item);
        else fputs(column->header_otherwise, out);
    }
    fprintf(out, "},\n");
}

/* A matrix as fp16 words, a line after the other without the braces of its rows, as C allows; zeroes where the head has
 * none. */
static void write_matrix(FILE *out, const plan_column *column, const bit_plan *plan, int h)
{
    const int dims = plan_column_dims(column, &plan->model);
    const float *floats = plan_column_floats(column, plan, h);
    fprintf(out, "     {");
    for (int row = 0; row < dims; row++) {
        fputs(row ? ",\n      {" : "{", out);
        for (int i = 0; i < dims; i++)
            fprintf(out, "%s%u",
                    i == 0               ? ""
                    : i % WORDS_PER_LINE ? ","
                                         : ",\n       ",
                    floats ? rb_f32_to_f16(floats[row * dims + i]) : 0u);
        fputs("}", out);
    }
    fprintf(out, "},\n");
}

/* All heads of a layer on a line: one number each. */
static void write_layer_row(FILE *out, const plan_column *column, const bit_plan *plan, int layer)
{
    plan_number numbers[PLAN_COLUMN_ROOM];
    fprintf(out, "    {");
    for (int kv_head = 0; kv_head < plan->model.n_kv_heads; kv_head++) {
        const int n = plan_column_take(column, numbers, plan, layer * plan->model.n_kv_heads + kv_head);
        fputs(kv_head ? ", " : "", out);
        write_item(out, column, numbers, n, 0);
    }
    fprintf(out, "},\n");
}

static void write_declaration(FILE *out, const plan_column *column)
{
    static const char *const sizes[] = {[COLUMN_OF_HEAD] = "",
                                        [COLUMN_OF_GROUP] = "[ROPEBITS_MAX_GROUPS]",
                                        [COLUMN_OF_POSITION] = "[ROPEBITS_HEAD_DIM]",
                                        [COLUMN_OF_BLOCK] = "[ROPEBITS_N_BLOCKS]",
                                        [COLUMN_OF_DIM] = "[ROPEBITS_HEAD_DIM]",
                                        [COLUMN_OF_MATRIX] = "[ROPEBITS_HEAD_DIM][ROPEBITS_HEAD_DIM]"};
    static const char *const value_sizes[] = {[COLUMN_OF_HEAD] = "",
                                              [COLUMN_OF_DIM] = "[ROPEBITS_VALUE_DIM]",
                                              [COLUMN_OF_MATRIX] = "[ROPEBITS_VALUE_DIM][ROPEBITS_VALUE_DIM]"};
    fprintf(out, "\n%sstatic const %s %s[ROPEBITS_N_LAYERS][ROPEBITS_N_KV_HEADS]%s",
            column->header_comment ? column->header_comment : "", type_name(column), column->header_name,
            column->of_values ? value_sizes[column->extent] : sizes[column->extent]);
    if (plan_column_size(column) > 1) fprintf(out, "[%d]", plan_column_size(column));
    fprintf(out, " = {\n");
}

static void write_column(FILE *out, const plan_column *column, const bit_plan *plan)
{
    const int n_heads = plan->model.n_kv_heads;
    write_declaration(out, column);
    for (int layer = 0; layer < plan->model.n_layers; layer++) {
        if (column->extent == COLUMN_OF_HEAD) {
            write_layer_row(out, column, plan, layer);
            continue;
        }
        fprintf(out, "    {   /* layer %d */\n", layer);
        for (int kv_head = 0; kv_head < n_heads; kv_head++)
            if (column->floats) write_matrix(out, column, plan, layer * n_heads + kv_head);
            else write_head_row(out, column, plan, layer * n_heads + kv_head);
        fprintf(out, "    },\n");
    }
    fprintf(out, "};\n");
}

/* The most groups of a head. */
static int most_groups(const bit_plan *plan, const plan_column *const *columns, int n_columns)
{
    plan_number numbers[PLAN_COLUMN_ROOM];
    int most = 1;
    for (int i = 0; i < n_columns; i++)
        for (int h = 0; h < bit_plan_n_heads(plan) && columns[i]->extent == COLUMN_OF_GROUP; h++) {
            const int n = plan_column_take(columns[i], numbers, plan, h);
            if (n > most) most = n;
        }
    return most;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void write_frequencies(FILE *out, const char *name, const rope_facts *rope, int rotary_dim)
{
    fprintf(out, "static const double %s[%d] = {", name, rotary_dim > 0 ? rotary_dim / 2 : 1);
    for (int i = 0; i < rotary_dim / 2; i++) fprintf(out, "%s%.17g,", i % 4 ? " " : "\n    ", rope->inv_freq[i]);
    fprintf(out, "%s\n};\n", rotary_dim > 0 ? "" : "0");
}

static void write_local_layers(FILE *out, const model_facts *model)
{
    fprintf(out, "\n/* 1: the layer turns by ropebits_local_inv_freq */\n"
                 "static const uint8_t ropebits_layer_is_local[ROPEBITS_N_LAYERS] = {");
    for (int layer = 0; layer < model->n_layers; layer++)
        fprintf(out, "%s%d", layer == 0 ? "" : layer % WHOLE_PER_LINE ? ", " : ",\n    ", model->layer_is_local[layer]);
    fprintf(out, "};\n");
}

static void write_ropes(FILE *out, const model_facts *model)
{
    fprintf(out, "\n/* radians per token of each RoPE block, scaling included */\n");
    write_frequencies(out, "ropebits_inv_freq", &model->rope, model->rotary_dim);
    if (!model->has_local_rope) return;
    write_frequencies(out, "ropebits_local_inv_freq", &model->local_rope, model->rotary_dim);
    write_local_layers(out, model);
}

/* Matrices that are too many for C text are left out. */
static int drop_large_matrices(const plan_column **columns, int n, const bit_plan *plan)
{
    int64_t n_numbers = 0;
    int n_kept = 0;
    for (int i = 0; i < n; i++) {
        const int64_t dims = plan_column_dims(columns[i], &plan->model);
        if (columns[i]->floats) n_numbers += dims * dims * bit_plan_n_heads(plan);
    }
    for (int i = 0; i < n; i++)
        if (!columns[i]->floats || n_numbers <= MAX_MATRIX_NUMBERS) columns[n_kept++] = columns[i];
    return n_kept;
}

static rb_status write_all(FILE *out, const bit_plan *plan, rb_error *err)
{
    const plan_column *columns[PLAN_COLUMNS_ROOM];
    const int version = plan_version(plan), n_all = plan_columns_of(columns, FORM_HEADER, plan),
              n_columns = drop_large_matrices(columns, n_all, plan);
    rb_status st;
    write_comment(out, plan);
    write_family_comments(out, plan, version);
    fprintf(out, "#ifndef ROPEBITS_PLAN_DATA_H\n#define ROPEBITS_PLAN_DATA_H\n\n#include <stdint.h>\n\n");
    write_constants(out, plan, most_groups(plan, columns, n_columns));
    write_exact_constants(out, plan);
    if (n_columns < n_all)
        fprintf(out, "/* The bases of this plan are too large for a header: plan.rbp has them (ropebits_plan.h). */\n"
                     "#define ROPEBITS_TRELLIS_BASIS_IN_PLAN_RBP 1\n\n");
    RB_TRY(st, write_codebooks(out, plan, err), done);
    write_family_types(out);
    for (int i = 0; i < n_columns; i++) write_column(out, columns[i], plan);
    if (version >= PLAN_VERSION_POINTS) RB_TRY(st, write_points(out, plan, err), done);
    if (version >= PLAN_VERSION_LEVELS) RB_TRY(st, write_levels(out, plan, err), done);
    RB_TRY(st, write_trellis_tables(out, plan, err), done);
    write_ropes(out, &plan->model);
    fprintf(out, "\n#endif\n");
done:
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
