/* Tensors of another program -> capture.h5: see calibrate/import_run.h. */
#include "calibrate/import_run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/import_facts.h"
#include "calibrate/import_layout.h"
#include "core/json.h"
#include "core/message.h"
#include "texts/token_source.h"

static rb_status check_options(const import_options *opt, rb_error *err)
{
    if (!opt->output) return rb_fail(err, RB_EUSAGE, "no output: give -o CAPTURE.h5");
    if (opt->tests.n > 0 && opt->n_test_tokens > 0)
        return rb_fail(err, RB_EUSAGE, "give the test set as either --test or --n-test-tokens");
    return RB_OK;
}

static rb_status add_names(cJSON *json, const char *key, const rb_string_list *names, rb_error *err)
{
    cJSON *list = cJSON_CreateStringArray(names->at, names->n);
    return list ? rb_json_add_item(json, key, &list, err) : rb_fail(err, RB_ENOMEM, "out of memory for JSON");
}

/* The options that made the file, as it records them. */
static rb_status options_to_json(char **out, const import_options *opt, const rb_string_list *files, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, add_names(json, "import", files, err), done);
    if (opt->tests.n > 0) RB_TRY(st, add_names(json, "import_test", &opt->tests, err), done);
    if (opt->config) RB_TRY(st, rb_json_add_string(json, "config", opt->config, err), done);
    RB_TRY(st, rb_json_add_string(json, "q_name", opt->q_name, err), done);
    RB_TRY(st, rb_json_add_string(json, "k_name", opt->k_name, err), done);
    RB_TRY(st, rb_json_add_string(json, "v_name", opt->v_name, err), done);
    RB_TRY(st, rb_json_add_string(json, "tokens_name", opt->tokens_name, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_test_tokens", (double)opt->n_test_tokens, err), done);
    RB_TRY(st, rb_json_add_number(json, "context", (double)opt->context, err), done);
    RB_TRY(st, rb_json_add_string(json, "dtype", opt->dtype == CAPTURE_DTYPE_F32 ? "f32" : "f16", err), done);
    RB_TRY(st, rb_json_print(out, json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

/* ---- token ids ------------------------------------------------------------------------------- */

/* Ids for a text that came without: 31 bits of the SHA-256 of a token's keys in layer 0. Those depend on the token only
 * in most models, so that equal texts are found as equal. */
static rb_status ids_of_keys(int32_t *ids, const import_layout *layout, const import_set *set, rb_error *err)
{
    enum { HASH_DIGITS = 8 };
    const size_t dim = (size_t)layout->head_dim, n_heads = (size_t)layout->n_kv_heads, n = (size_t)set->n_tokens;
    char hex[RB_SHA256_HEX];
    float *keys = NULL, *token = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&keys, n_heads * n * dim, sizeof *keys, "keys", err), done);
    RB_TRY(st, rb_alloc(&token, n_heads * dim, sizeof *token, "keys of a token", err), done);
    RB_TRY(st, import_tensor_floats(set->tensors, &set->vectors[CAPTURE_K], set->first, set->n_tokens, keys, err),
           done);
    for (size_t t = 0; t < n; t++) {
        for (size_t head = 0; head < n_heads; head++)
            memcpy(token + head * dim, keys + (head * n + t) * dim, dim * sizeof *token);
        RB_TRY(st, rb_sha256_bytes(hex, token, n_heads * dim * sizeof *token, err), done);
        hex[HASH_DIGITS] = '\0';
        ids[t] = (int32_t)(strtoul(hex, NULL, 16) >> 1);
    }
done:
    free(token);
    free(keys);
    return st;
}

static rb_status read_ids(int32_t **out, const import_layout *layout, const import_set *set, rb_error *err)
{
    int32_t *ids = NULL;
    rb_status st;
    if (!set->tokens.tensor) {
        RB_TRY(st, rb_alloc(out, (size_t)set->n_tokens, sizeof **out, "token ids", err), done);
        return ids_of_keys(*out, layout, set, err);
    }
    RB_TRY(st, rb_alloc(&ids, (size_t)set->tokens.tensor->shape[0], sizeof *ids, "token ids", err), done);
    RB_TRY(st, import_tensor_ids(set->tensors, &set->tokens, ids, err), done);
    memmove(ids, ids + set->first, (size_t)set->n_tokens * sizeof *ids);
    *out = ids;
    ids = NULL;
done:
    free(ids);
    return st;
}

/* ---- layers ---------------------------------------------------------------------------------- */

typedef struct layer_buffers {
    float *at[CAPTURE_N_VECTORS]; /* q, k and v of a layer of a set; v NULL without values */
    block_statistics statistics;
} layer_buffers;

static void buffers_free(layer_buffers *buffers)
{
    for (int i = 0; i < CAPTURE_N_VECTORS; i++) free(buffers->at[i]);
    block_statistics_free(&buffers->statistics);
}

static rb_status buffers_create(layer_buffers *buffers, const capture_header *header, rb_error *err)
{
    rb_status st = block_statistics_create(&buffers->statistics, &header->model, err);
    for (int i = 0; i < capture_n_vectors(header) && st == RB_OK; i++) {
        size_t most = 0;
        for (int set = 0; set < CAPTURE_N_SETS; set++) {
            int64_t dims[3];
            capture_vectors_dims(header, (capture_set)set, (capture_vectors)i, dims);
            const size_t n = (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2];
            if (n > most) most = n;
        }
        st = rb_alloc(&buffers->at[i], most, sizeof(float), "vectors of a layer", err);
    }
    return st;
}

static rb_status copy_layer(capture_writer *writer, layer_buffers *buffers, const capture_header *header,
                            const import_layout *layout, capture_set set, int layer, rb_error *err)
{
    const import_set *from = &layout->set[set];
    const import_tensor *vectors = from->vectors + (size_t)layer * CAPTURE_N_VECTORS;
    rb_status st;
    for (int i = 0; i < capture_n_vectors(header); i++)
        RB_TRY(st, import_tensor_floats(from->tensors, &vectors[i], from->first, from->n_tokens, buffers->at[i], err),
               done);
    st = block_statistics_compute(&buffers->statistics, &header->model, layer, buffers->at[CAPTURE_Q],
                                  buffers->at[CAPTURE_K], from->n_tokens, err);
    if (st != RB_OK) {
        rb_fail_in(err, st, "%s: %s", vectors[CAPTURE_K].path, capture_set_name(set));
        goto done;
    }
    RB_TRY(st,
           capture_write_layer(writer, set, layer, buffers->at[CAPTURE_Q], buffers->at[CAPTURE_K],
                               buffers->at[CAPTURE_V], &buffers->statistics, err),
           done);
done:
    return st;
}

static rb_status copy_layers(capture_writer *writer, const capture_header *header, const import_layout *layout,
                             rb_error *err)
{
    layer_buffers buffers = {0};
    rb_progress progress;
    rb_status st;
    RB_TRY(st, buffers_create(&buffers, header, err), done);
    rb_progress_start(&progress, "import", header->model.n_layers);
    for (int layer = 0; layer < header->model.n_layers && st == RB_OK; layer++) {
        for (int set = 0; set < CAPTURE_N_SETS && st == RB_OK; set++)
            st = copy_layer(writer, &buffers, header, layout, (capture_set)set, layer, err);
        if (st == RB_OK) rb_progress_step(&progress, NULL);
    }
    rb_progress_finish(&progress);
done:
    buffers_free(&buffers);
    return st;
}

static rb_status write_capture(const capture_header *header, const import_layout *layout, const import_options *opt,
                               const rb_string_list *files, rb_error *err)
{
    int32_t *ids[CAPTURE_N_SETS] = {NULL};
    capture_writer *writer = NULL;
    char *options_json = NULL;
    rb_status st;
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        RB_TRY(st, read_ids(&ids[set], layout, &layout->set[set], err), done);
    RB_TRY(st,
           tokens_check_disjoint(ids[CAPTURE_CALIBRATION], header->text[CAPTURE_CALIBRATION].n_tokens,
                                 ids[CAPTURE_TEST], header->text[CAPTURE_TEST].n_tokens, err),
           done);
    RB_TRY(st, options_to_json(&options_json, opt, files, err), done);
    RB_TRY(st, capture_create(&writer, opt->output, header, (const int32_t *const *)ids, options_json, err), done);
    RB_TRY(st, copy_layers(writer, header, layout, err), done);
    RB_TRY(st, capture_publish(writer, err), done);
done:
    capture_writer_free(writer);
    free(options_json);
    for (int set = 0; set < CAPTURE_N_SETS; set++) free(ids[set]);
    return st;
}

/* ---- what it says ---------------------------------------------------------------------------- */

static void print_result(const capture_header *header, const import_layout *layout, const import_options *opt)
{
    const model_facts *model = &header->model;
    const char *first_unread;
    const int64_t n_unread = import_layout_unread(layout, &first_unread);
    printf("model        %s, %d layers, %d query heads and %d KV heads of %d dims\n", model->model_type,
           model->n_layers, model->n_q_heads, model->n_kv_heads, model->head_dim);
    printf("rope         %s, %s pairing, %d blocks of %d turn, theta %g\n", rope_kind_name(model->rope.kind),
           rope_pairing_name(model->rope.pairing), model->rotary_dim / 2, model_n_blocks(model), model->rope.theta);
    printf("tokens       %" PRId64 " calibration, %" PRId64 " test, sequences of %" PRId64 " and %" PRId64 "\n",
           header->text[CAPTURE_CALIBRATION].n_tokens, header->text[CAPTURE_TEST].n_tokens,
           header->text[CAPTURE_CALIBRATION].context, header->text[CAPTURE_TEST].context);
    printf("values       %s\n", header->has_values ? "imported" : "none");
    if (n_unread > 0)
        printf("not read     %" PRId64 " other tensors, the first is \"%s\"\n", n_unread, rb_shown(first_unread).text);
    printf("capture      %s\n", rb_shown(opt->output).text);
}

static rb_status text_to_json(cJSON **out, const text_facts *text, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n_tokens", (double)text->n_tokens, err), done);
    RB_TRY(st, rb_json_add_number(*out, "context", (double)text->context, err), done);
done:
    return st;
}

static rb_status print_json(const capture_header *header, const import_layout *layout, const import_options *opt,
                            rb_error *err)
{
    const char *first_unread;
    cJSON *json = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-import-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, model_facts_to_json(&item, &header->model, err), done);
    RB_TRY(st, rb_json_add_item(json, "model", &item, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        RB_TRY(st, text_to_json(&item, &header->text[set], err), done);
        RB_TRY(st, rb_json_add_item(json, capture_set_name((capture_set)set), &item, err), done);
    }
    RB_TRY(st, rb_json_add_bool(json, "has_values", header->has_values, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_unread", (double)import_layout_unread(layout, &first_unread), err), done);
    RB_TRY(st, rb_json_add_string(json, "capture", opt->output, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(item);
    cJSON_Delete(json);
    return st;
}

/* ---- run ------------------------------------------------------------------------------------- */

static rb_status fill_header(capture_header *header, import_layout *layout, const import_options *opt, rb_error *err)
{
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        const int64_t n_tokens = layout->set[set].n_tokens;
        header->text[set] = (text_facts){.n_tokens = n_tokens, .context = opt->context > 0 ? opt->context : n_tokens};
    }
    header->value_type = opt->dtype == CAPTURE_DTYPE_F32 ? RB_H5_F32 : RB_H5_F16;
    header->has_values = layout->has_values;
    return import_facts_resolve(&header->model, layout, opt, err);
}

rb_status import_run(const rb_run_args *args, rb_error *err)
{
    const import_options *opt = args->context;
    capture_header header = {0};
    import_layout layout = {0};
    rb_status st;
    RB_TRY(st, check_options(opt, err), done);
    RB_TRY(st, import_layout_open(&layout, args->positionals, opt, err), done);
    RB_TRY(st, fill_header(&header, &layout, opt, err), done);
    RB_TRY(st, write_capture(&header, &layout, opt, args->positionals, err), done);
    if (args->common->json) st = print_json(&header, &layout, opt, err);
    else print_result(&header, &layout, opt);
done:
    import_layout_free(&layout);
    return st;
}
