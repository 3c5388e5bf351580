/* Reads capture.h5: see calibrate/capture_file.h, layout in docs/capture-h5.md.
 *
 * capture_open checks everything that can be checked without reading vectors: schema, model facts, the tokens against
 * their hash, and type and shape of every dataset of every layer. Every size that it gives out can then be allocated,
 * and a capture that lacks its last layer is refused at once and not an hour later. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/capture_layout.h"

struct capture_file {
    rb_h5_file file;
    rb_h5_crew *crew, *own_crew; /* crew: own_crew, or another file's */
    capture_header header;
    char *path;
    int32_t *tokens[CAPTURE_N_SETS];
};

/* ---- open ------------------------------------------------------------------------------------ */

static rb_status read_header(capture_file *capture, rb_error *err)
{
    const rb_h5_contents *file = capture->file.contents;
    char text[16];
    int64_t has_values = 0;
    rb_status st;

    RB_TRY(st, rb_h5_check_schema(file, capture->path, CAPTURE_SCHEMA, CAPTURE_VERSION, err), done);
    RB_TRY(st, model_facts_read_h5(&capture->header.model, file, capture->path, err), done);
    RB_TRY(st, rb_h5_get_string(file, "/", "capture_point", text, sizeof text, err), done);
    if (strcmp(text, CAPTURE_POINT) != 0) {
        st = rb_fail(err, RB_EFORMAT, "%s: capture_point %s, expected %s", capture->path, text, CAPTURE_POINT);
        goto done;
    }
    RB_TRY(st, rb_h5_get_string(file, "/", "value_type", text, sizeof text, err), done);
    if (strcmp(text, "f16") != 0 && strcmp(text, "f32") != 0) {
        st = rb_fail(err, RB_EFORMAT, "%s: value_type %s, expected f16 or f32", capture->path, text);
        goto done;
    }
    capture->header.value_type = strcmp(text, "f32") == 0 ? RB_H5_F32 : RB_H5_F16;
    RB_TRY(st, rb_h5_get_int(file, "/", "has_values", 0, 1, &has_values, err), done);
    capture->header.has_values = has_values == 1;
done:
    return st;
}

static rb_status check_hash(const capture_file *capture, capture_set set, rb_error *err)
{
    const text_facts *text = &capture->header.text[set];
    char found[RB_SHA256_HEX];
    const rb_status st =
        rb_sha256_bytes(found, capture->tokens[set], (size_t)text->n_tokens * sizeof **capture->tokens, err);
    if (st != RB_OK || strcmp(found, text->tokens_sha256) == 0) return st;
    return rb_fail(err, RB_EFORMAT, "%s: SHA-256 of the %s tokens is %s, its tokens_sha256 says %s", capture->path,
                   capture_set_name(set), found, text->tokens_sha256);
}

static rb_status read_tokens(capture_file *capture, capture_set set, rb_error *err)
{
    const rb_h5_contents *file = capture->file.contents;
    const capture_path path = capture_tokens_path(set);
    text_facts *text = &capture->header.text[set];
    int64_t dims[1];
    rb_status st;

    RB_TRY(st, rb_h5_dims(file, path.text, 1, dims, err), done);
    if (dims[0] > CAPTURE_MAX_TOKENS) {
        st = rb_fail(err, RB_EFORMAT, "%s: %lld %s tokens, expected 1 to %d", capture->path, (long long)dims[0],
                     capture_set_name(set), CAPTURE_MAX_TOKENS);
        goto done;
    }
    text->n_tokens = dims[0];
    RB_TRY(st, rb_h5_get_int(file, path.text, "context", 1, INT64_MAX, &text->context, err), done);
    RB_TRY(st, rb_h5_get_string(file, path.text, "tokens_sha256", text->tokens_sha256, sizeof text->tokens_sha256, err),
           done);
    RB_TRY(st, text_bos_read_h5(&text->bos, file, path.text, err), done);
    if (rb_h5_has_attribute(file, path.text, "n_counted"))
        RB_TRY(st,
               rb_h5_get_int(file, path.text, "n_counted", text->n_tokens, CAPTURE_MAX_COUNTED,
                             &capture->header.n_counted[set], err),
               done);
    RB_TRY(st, rb_alloc(&capture->tokens[set], (size_t)text->n_tokens, sizeof **capture->tokens, path.text, err), done);
    RB_TRY(st, rb_h5_read(file, path.text, RB_H5_I32, 1, dims, capture->tokens[set], err), done);
    RB_TRY(st, check_hash(capture, set, err), done);
done:
    return st;
}

static rb_status check_layer(const capture_file *capture, capture_set set, int layer, rb_error *err)
{
    const capture_header *header = &capture->header;
    capture_table tables[CAPTURE_N_TABLES];
    rb_status st = RB_OK;
    for (int i = 0; i < capture_n_vectors(header) && st == RB_OK; i++) {
        const capture_path path = capture_path_of(set, layer, capture_vectors_name((capture_vectors)i));
        int64_t dims[3];
        capture_vectors_dims(header, set, (capture_vectors)i, dims);
        st = rb_h5_check_dataset(capture->file.contents, path.text, header->value_type, 3, dims, err);
    }
    capture_tables(tables, &header->model, NULL);
    for (int i = 0; i < CAPTURE_N_TABLES && st == RB_OK; i++)
        st = rb_h5_check_dataset(capture->file.contents, capture_path_of(set, layer, tables[i].name).text, RB_H5_F64, 2,
                                 tables[i].dims, err);
    return st;
}

/* Captures of builds before have none. If one of attribute and group is there, both must be: a single one is damage. */
static rb_status read_output(capture_file *capture, rb_error *err)
{
    const rb_h5_contents *file = capture->file.contents;
    capture_output *output = &capture->header.output;
    int64_t n_layers[] = {capture->header.model.n_layers}, dims[3], has_output = 0, has_metric = 0;
    int32_t window[MODEL_FACTS_MAX_LAYERS];
    rb_status st;
    if (!rb_h5_has_attribute(file, "/", "has_output") && !rb_h5_exists(file, CAPTURE_OUTPUT)) return RB_OK;
    RB_TRY(st, rb_h5_get_int(file, "/", "has_output", 1, 1, &has_output, err), done);
    output->is_known = true;
    RB_TRY(st, rb_h5_get_int(file, CAPTURE_OUTPUT, "has_metric", 0, 1, &has_metric, err), done);
    RB_TRY(st, rb_h5_get_number(file, CAPTURE_OUTPUT, "softcap", &output->softcap, err), done);
    output->has_metric = has_metric == 1;
    if (output->softcap < 0.0) {
        st = rb_fail(err, RB_EFORMAT, "%s: %s: softcap %g, expected a number from 0", capture->path, CAPTURE_OUTPUT,
                     output->softcap);
        goto done;
    }
    RB_TRY(st, rb_h5_read(file, CAPTURE_WINDOW, RB_H5_I32, 1, n_layers, window, err), done);
    for (int layer = 0; layer < n_layers[0]; layer++) {
        output->window[layer] = window[layer];
        if (window[layer] >= 0) continue;
        st = rb_fail(err, RB_EFORMAT, "%s: %s: layer %d sees %d keys, expected a number from 0", capture->path,
                     CAPTURE_WINDOW, layer, (int)window[layer]);
        goto done;
    }
    RB_TRY(st, rb_h5_check_dataset(file, CAPTURE_RESIDUAL_ENERGY, RB_H5_F64, 1, n_layers, err), done);
    capture_output_metric_dims(&capture->header, dims);
    for (int layer = 0; layer < n_layers[0] && output->has_metric; layer++)
        RB_TRY(st, rb_h5_check_dataset(file, capture_output_metric_path(layer).text, RB_H5_F32, 3, dims, err), done);
done:
    return st;
}

rb_status capture_open(capture_file **out, const char *path, rb_error *err)
{
    capture_file *capture = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&capture, 1, sizeof *capture, "capture", err), done);
    RB_TRY(st, rb_format(&capture->path, err, "%s", path), done);
    RB_TRY(st, rb_h5_crew_create(&capture->own_crew, err), done);
    capture->crew = capture->own_crew;
    RB_TRY(st, rb_h5_open(&capture->file, path, err), done);
    RB_TRY(st, read_header(capture, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        RB_TRY(st, read_tokens(capture, (capture_set)set, err), done);
        for (int layer = 0; layer < capture->header.model.n_layers; layer++)
            RB_TRY(st, check_layer(capture, (capture_set)set, layer, err), done);
    }
    RB_TRY(st, read_output(capture, err), done);
    *out = capture;
    capture = NULL;
done:
    capture_close(capture);
    return st;
}

const capture_header *capture_file_header(const capture_file *file) { return &file->header; }
const char *capture_file_path(const capture_file *file) { return file->path; }

void capture_share_threads(capture_file *file, const capture_file *of)
{
    if (file == of) return;
    rb_h5_crew_free(file->own_crew);
    file->own_crew = NULL;
    file->crew = of->crew;
}

void capture_close(capture_file *file)
{
    if (!file) return;
    rb_h5_close(&file->file);
    rb_h5_crew_free(file->own_crew);
    for (int set = 0; set < CAPTURE_N_SETS; set++) free(file->tokens[set]);
    free(file->path);
    free(file);
}

/* ---- read ------------------------------------------------------------------------------------ */

rb_status capture_read_options(const capture_file *file, char **json, rb_error *err)
{
    rb_status st = rb_alloc(json, CAPTURE_MAX_OPTIONS, sizeof **json, "options of a capture", err);
    if (st != RB_OK) return st;
    st = rb_h5_get_string(file->file.contents, "/", "options", *json, CAPTURE_MAX_OPTIONS, err);
    if (st == RB_OK) return RB_OK;
    free(*json);
    *json = NULL;
    return st;
}

rb_status capture_read_tokens(const capture_file *file, capture_set set, int32_t *tokens, rb_error *err)
{
    (void)err; /* read and checked by capture_open */
    memcpy(tokens, file->tokens[set], (size_t)file->header.text[set].n_tokens * sizeof *tokens);
    return RB_OK;
}

static rb_status read_vectors(const capture_file *file, capture_set set, int layer, capture_vectors vectors,
                              float *data, rb_error *err)
{
    const capture_path path = capture_path_of(set, layer, capture_vectors_name(vectors));
    rb_error inner = {0};
    int64_t dims[3];
    assert(layer >= 0 && layer < file->header.model.n_layers);
    capture_vectors_dims(&file->header, set, vectors, dims);
    const rb_status st =
        rb_h5_read_by(file->crew, file->file.contents, path.text, file->header.value_type, 3, dims, data, &inner);
    if (st != RB_ENONFINITE) return st == RB_OK ? RB_OK : rb_fail(err, st, "%s", inner.msg);
    const int64_t unfit = rb_h5_first_unfit(RB_H5_F32, data, dims[0] * dims[1] * dims[2]);
    return capture_fail_unfit(err, file->path, &file->header, set, layer, vectors, (double)data[unfit], unfit);
}

rb_status capture_read_k(const capture_file *file, capture_set set, int layer, float *k, rb_error *err)
{
    return read_vectors(file, set, layer, CAPTURE_K, k, err);
}

rb_status capture_read_q(const capture_file *file, capture_set set, int layer, float *q, rb_error *err)
{
    return read_vectors(file, set, layer, CAPTURE_Q, q, err);
}

rb_status capture_read_v(const capture_file *file, capture_set set, int layer, float *v, rb_error *err)
{
    assert(file->header.has_values);
    return read_vectors(file, set, layer, CAPTURE_V, v, err);
}

rb_status capture_read_statistics(const capture_file *file, capture_set set, int layer, block_statistics *statistics,
                                  rb_error *err)
{
    capture_table tables[CAPTURE_N_TABLES];
    rb_status st = RB_OK;
    assert(layer >= 0 && layer < file->header.model.n_layers);
    capture_tables(tables, &file->header.model, statistics);
    for (int i = 0; i < CAPTURE_N_TABLES && st == RB_OK; i++) {
        const capture_path path = capture_path_of(set, layer, tables[i].name);
        st = rb_h5_read_by(file->crew, file->file.contents, path.text, RB_H5_F64, 2, tables[i].dims, tables[i].values,
                           err);
    }
    return st;
}

rb_status capture_read_output_metric(const capture_file *file, int layer, float *metric, rb_error *err)
{
    int64_t dims[3];
    assert(file->header.output.has_metric && layer >= 0 && layer < file->header.model.n_layers);
    capture_output_metric_dims(&file->header, dims);
    return rb_h5_read_by(file->crew, file->file.contents, capture_output_metric_path(layer).text, RB_H5_F32, 3, dims,
                         metric, err);
}

rb_status capture_read_residual_energy(const capture_file *file, double *energy, rb_error *err)
{
    int64_t dims[] = {file->header.model.n_layers};
    assert(file->header.output.is_known);
    const rb_status st = rb_h5_read(file->file.contents, CAPTURE_RESIDUAL_ENERGY, RB_H5_F64, 1, dims, energy, err);
    for (int64_t layer = 0; layer < dims[0] && st == RB_OK; layer++)
        if (energy[layer] < 0.0)
            return rb_fail(err, RB_EFORMAT, "%s: %s: layer %d has %g, expected a number from 0", file->path,
                           CAPTURE_RESIDUAL_ENERGY, (int)layer, energy[layer]);
    return st;
}
