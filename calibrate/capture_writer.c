/* Writes capture.h5: see calibrate/capture_file.h, layout in docs/capture-h5.md. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/capture_layout.h"

/* Level 1. zstd can shorten the exponents of f16 activations and little else. On the queries and keys of a small Llama
 * 3 model levels 1, 3 and 9 all leave 89 %, and level 1 is the fastest. */
enum { ZSTD_LEVEL = 1 };

struct capture_writer {
    rb_h5_file file;
    rb_h5_crew *crew;
    capture_header header; /* with the hashes of the tokens */
    char *path;
    bool *is_written;        /* [CAPTURE_N_SETS][n_layers] */
    bool *has_metric;        /* [n_layers] */
    double *residual_energy; /* [n_layers]; below 0: not known yet */
    rb_h5_frame *frames;     /* [capture_layer_n_frames] of the layer that was written last; NULL: not noted */
};

static bool *written_flag(const capture_writer *writer, capture_set set, int layer)
{
    return &writer->is_written[(size_t)set * (size_t)writer->header.model.n_layers + (size_t)layer];
}

/* ---- start ----------------------------------------------------------------------------------- */

static rb_status check_header(const capture_header *header, const char *path, rb_error *err)
{
    const rb_status st = model_facts_check(&header->model, path, err);
    if (st != RB_OK) return st;
    if (header->value_type != RB_H5_F16 && header->value_type != RB_H5_F32)
        return rb_fail(err, RB_EINVAL, "%s: value type %d, expected f16 or f32", path, (int)header->value_type);
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        const text_facts *text = &header->text[set];
        if (text->n_tokens < 1 || text->n_tokens > CAPTURE_MAX_TOKENS)
            return rb_fail(err, RB_EINVAL, "%s: %lld %s tokens, expected 1 to %d", path, (long long)text->n_tokens,
                           capture_set_name((capture_set)set), CAPTURE_MAX_TOKENS);
        const int64_t n_counted = capture_n_counted(header, (capture_set)set);
        if (n_counted < text->n_tokens || n_counted > CAPTURE_MAX_COUNTED)
            return rb_fail(err, RB_EINVAL, "%s: %lld %s tokens counted, expected %lld to %lld", path,
                           (long long)n_counted, capture_set_name((capture_set)set), (long long)text->n_tokens,
                           (long long)CAPTURE_MAX_COUNTED);
        if (text->context < 1)
            return rb_fail(err, RB_EINVAL, "%s: %s context %lld, expected at least 1", path,
                           capture_set_name((capture_set)set), (long long)text->context);
    }
    return RB_OK;
}

/* Hashes the ids. A hash that the caller has already must be the same. */
static rb_status hash_tokens(text_facts *text, const int32_t *tokens, capture_set set, const char *path, rb_error *err)
{
    char found[RB_SHA256_HEX];
    const rb_status st = rb_sha256_bytes(found, tokens, (size_t)text->n_tokens * sizeof *tokens, err);
    if (st != RB_OK) return st;
    if (text->tokens_sha256[0] != '\0' && strcmp(text->tokens_sha256, found) != 0)
        return rb_fail(err, RB_EINVAL, "%s: SHA-256 of the %s tokens is %s, the header says %s", path,
                       capture_set_name(set), found, text->tokens_sha256);
    memcpy(text->tokens_sha256, found, sizeof found);
    return RB_OK;
}

static rb_status write_header(const capture_writer *writer, const char *options_json, rb_error *err)
{
    const hid_t file = writer->file.id;
    rb_status st;
    RB_TRY(st, rb_h5_set_schema(file, CAPTURE_SCHEMA, CAPTURE_VERSION, err), done);
    RB_TRY(st, model_facts_write_h5(file, &writer->header.model, err), done);
    RB_TRY(st, rb_h5_set_string(file, "/", "capture_point", CAPTURE_POINT, err), done);
    RB_TRY(st, rb_h5_set_string(file, "/", "value_type", capture_value_type_name(writer->header.value_type), err),
           done);
    RB_TRY(st, rb_h5_set_int(file, "/", "has_values", writer->header.has_values, err), done);
    RB_TRY(st, rb_h5_set_string(file, "/", "options", options_json, err), done);
done:
    return st;
}

/* softcap, windows; the metrics and energies follow. */
static rb_status write_output(const capture_writer *writer, rb_error *err)
{
    const hid_t file = writer->file.id;
    const capture_output *output = &writer->header.output;
    const int64_t dims[] = {writer->header.model.n_layers};
    int32_t window[MODEL_FACTS_MAX_LAYERS];
    rb_status st;
    if (!output->is_known) return RB_OK;
    for (int layer = 0; layer < dims[0]; layer++) window[layer] = (int32_t)output->window[layer];
    RB_TRY(st, rb_h5_set_int(file, "/", "has_output", 1, err), done);
    RB_TRY(st, rb_h5_make_group(file, CAPTURE_OUTPUT, err), done);
    RB_TRY(st, rb_h5_set_number(file, CAPTURE_OUTPUT, "softcap", output->softcap, err), done);
    RB_TRY(st, rb_h5_set_int(file, CAPTURE_OUTPUT, "has_metric", output->has_metric, err), done);
    st = rb_h5_write(file, CAPTURE_WINDOW, RB_H5_I32, 1, dims, window, ZSTD_LEVEL, err);
done:
    return st;
}

static rb_status write_tokens(const capture_writer *writer, capture_set set, const int32_t *tokens, rb_error *err)
{
    const hid_t file = writer->file.id;
    const text_facts *text = &writer->header.text[set];
    const capture_path path = capture_tokens_path(set);
    const int64_t dims[] = {text->n_tokens};
    rb_status st;
    RB_TRY(st, rb_h5_make_group(file, capture_set_name(set), err), done);
    RB_TRY(st, rb_h5_write(file, path.text, RB_H5_I32, 1, dims, tokens, ZSTD_LEVEL, err), done);
    RB_TRY(st, rb_h5_set_int(file, path.text, "context", text->context, err), done);
    RB_TRY(st, rb_h5_set_string(file, path.text, "tokens_sha256", text->tokens_sha256, err), done);
    RB_TRY(st, text_bos_write_h5(file, path.text, &text->bos, err), done);
    if (capture_n_counted(&writer->header, set) != text->n_tokens)
        RB_TRY(st, rb_h5_set_int(file, path.text, "n_counted", writer->header.n_counted[set], err), done);
done:
    return st;
}

static rb_status create_output(capture_writer *writer, rb_error *err)
{
    const size_t n = (size_t)writer->header.model.n_layers;
    rb_status st = rb_alloc(&writer->has_metric, n, sizeof *writer->has_metric, "capture layers", err);
    if (st == RB_OK) st = rb_alloc(&writer->residual_energy, n, sizeof *writer->residual_energy, "capture layers", err);
    for (size_t i = 0; i < n && st == RB_OK; i++) writer->residual_energy[i] = -1.0;
    return st;
}

rb_status capture_create(capture_writer **out, const char *path, const capture_header *header,
                         const int32_t *const tokens[CAPTURE_N_SETS], const char *options_json, rb_error *err)
{
    return capture_create_at(out, path, NULL, header, tokens, options_json, err);
}

rb_status capture_create_at(capture_writer **out, const char *path, const char *tmp_path, const capture_header *header,
                            const int32_t *const tokens[CAPTURE_N_SETS], const char *options_json, rb_error *err)
{
    capture_writer *writer = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, check_header(header, path, err), done);
    RB_TRY(st, rb_alloc(&writer, 1, sizeof *writer, "capture writer", err), done);
    writer->header = *header;
    RB_TRY(st, rb_format(&writer->path, err, "%s", path), done);
    RB_TRY(st,
           rb_alloc(&writer->is_written, CAPTURE_N_SETS * (size_t)header->model.n_layers, sizeof *writer->is_written,
                    "capture layers", err),
           done);
    RB_TRY(st, create_output(writer, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        RB_TRY(st, hash_tokens(&writer->header.text[set], tokens[set], (capture_set)set, path, err), done);
    RB_TRY(st, rb_h5_crew_create(&writer->crew, err), done);
    if (tmp_path)
        RB_TRY(st,
               rb_alloc(&writer->frames, (size_t)capture_layer_n_frames(header), sizeof *writer->frames,
                        "frames of a layer", err),
               done);
    if (tmp_path) RB_TRY(st, rb_h5_create_at(&writer->file, path, tmp_path, err), done);
    else RB_TRY(st, rb_h5_create(&writer->file, path, err), done);
    RB_TRY(st, write_header(writer, options_json, err), done);
    RB_TRY(st, write_output(writer, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        RB_TRY(st, write_tokens(writer, (capture_set)set, tokens[set], err), done);
    *out = writer;
    writer = NULL;
done:
    capture_writer_free(writer);
    return st;
}

/* ---- layers ---------------------------------------------------------------------------------- */

static int64_t dataset_n_frames(const capture_header *header, capture_set set, int index)
{
    const capture_dataset dataset = capture_dataset_at(header, set, 0, index);
    return rb_h5_n_frames(dataset.type, dataset.rank, dataset.dims);
}

/* Where the frames of a dataset of the current layer are noted, or NULL. */
static rb_h5_frame *frames_of(const capture_writer *writer, capture_set set, int index)
{
    int64_t first = 0;
    if (!writer->frames) return NULL;
    for (int before = 0; before <= (int)set; before++)
        for (int i = 0; i < (before < (int)set ? capture_n_datasets(&writer->header) : index); i++)
            first += dataset_n_frames(&writer->header, (capture_set)before, i);
    return writer->frames + first;
}

/* type: RB_H5_F16_BITS, or the header's type with data in f32. */
static rb_status write_vectors(const capture_writer *writer, capture_set set, int layer, capture_vectors vectors,
                               rb_h5_type type, const void *data, rb_error *err)
{
    const capture_header *header = &writer->header;
    const capture_path path = capture_path_of(set, layer, capture_vectors_name(vectors));
    rb_error inner = {0}; /* its message names no head and no token */
    int64_t dims[3];
    capture_vectors_dims(header, set, vectors, dims);
    const rb_status st = rb_h5_write_noted(writer->crew, writer->file.id, path.text, type, 3, dims, data, ZSTD_LEVEL,
                                           frames_of(writer, set, (int)vectors), &inner);
    if (st != RB_ENONFINITE) return st == RB_OK ? RB_OK : rb_fail(err, st, "%s", inner.msg);
    const int64_t unfit = rb_h5_first_unfit(type, data, dims[0] * dims[1] * dims[2]);
    return capture_fail_unfit(err, writer->path, header, set, layer, vectors, rb_h5_value(type, data, unfit), unfit);
}

static rb_status write_statistics(const capture_writer *writer, capture_set set, int layer,
                                  const block_statistics *statistics, rb_error *err)
{
    capture_table tables[CAPTURE_N_TABLES];
    rb_status st = RB_OK;
    capture_tables(tables, &writer->header.model, statistics);
    for (int i = 0; i < CAPTURE_N_TABLES && st == RB_OK; i++) {
        const capture_path path = capture_path_of(set, layer, tables[i].name);
        st = rb_h5_write_noted(writer->crew, writer->file.id, path.text, RB_H5_F64, 2, tables[i].dims, tables[i].values,
                               ZSTD_LEVEL, frames_of(writer, set, capture_n_vectors(&writer->header) + i), err);
    }
    return st;
}

static rb_status check_unwritten(const capture_writer *writer, capture_set set, int layer, rb_error *err)
{
    assert(layer >= 0 && layer < writer->header.model.n_layers);
    if (!*written_flag(writer, set, layer)) return RB_OK;
    return rb_fail(err, RB_EINVAL, "%s: %s layer %d is written already", writer->path, capture_set_name(set), layer);
}

static rb_status write_layer(capture_writer *writer, capture_set set, int layer, rb_h5_type type,
                             const void *const data[CAPTURE_N_VECTORS], const block_statistics *statistics,
                             rb_error *err)
{
    const model_facts *model = &writer->header.model;
    rb_status st;

    assert((data[CAPTURE_V] != NULL) == writer->header.has_values);
    assert(statistics->n_kv_heads == model->n_kv_heads && statistics->head_dim == model->head_dim);
    RB_TRY(st, check_unwritten(writer, set, layer, err), done);
    RB_TRY(st, rb_h5_make_group(writer->file.id, capture_path_of(set, layer, "").text, err), done);
    for (int i = 0; i < capture_n_vectors(&writer->header); i++)
        RB_TRY(st, write_vectors(writer, set, layer, (capture_vectors)i, type, data[i], err), done);
    RB_TRY(st, write_statistics(writer, set, layer, statistics, err), done);
    *written_flag(writer, set, layer) = true;
done:
    return st;
}

rb_status capture_write_layer(capture_writer *writer, capture_set set, int layer, const float *q, const float *k,
                              const float *v, const block_statistics *statistics, rb_error *err)
{
    const void *const data[CAPTURE_N_VECTORS] = {[CAPTURE_Q] = q, [CAPTURE_K] = k, [CAPTURE_V] = v};
    return write_layer(writer, set, layer, writer->header.value_type, data, statistics, err);
}

rb_status capture_write_layer_f16(capture_writer *writer, capture_set set, int layer, const uint16_t *q,
                                  const uint16_t *k, const uint16_t *v, const block_statistics *statistics,
                                  rb_error *err)
{
    const void *const data[CAPTURE_N_VECTORS] = {[CAPTURE_Q] = q, [CAPTURE_K] = k, [CAPTURE_V] = v};
    assert(writer->header.value_type == RB_H5_F16);
    return write_layer(writer, set, layer, RB_H5_F16_BITS, data, statistics, err);
}

/* ---- frames ---------------------------------------------------------------------------------- */

int64_t capture_layer_n_frames(const capture_header *header)
{
    int64_t n = 0;
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        for (int i = 0; i < capture_n_datasets(header); i++) n += dataset_n_frames(header, (capture_set)set, i);
    return n;
}

int64_t capture_max_frame_bytes(const capture_header *header)
{
    int64_t most = 0;
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        for (int i = 0; i < capture_n_datasets(header); i++) {
            const capture_dataset dataset = capture_dataset_at(header, (capture_set)set, 0, i);
            const int64_t bytes = rb_h5_max_frame_bytes(dataset.type, dataset.rank, dataset.dims);
            if (bytes > most) most = bytes;
        }
    return most;
}

const rb_h5_frame *capture_layer_frames(const capture_writer *writer) { return writer->frames; }

rb_status capture_take_layer(capture_writer *writer, int layer, int fd, const char *from, const rb_h5_frame *frames,
                             rb_error *err)
{
    rb_status st = RB_OK;
    assert(writer->frames);
    memcpy(writer->frames, frames, (size_t)capture_layer_n_frames(&writer->header) * sizeof *frames);
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        RB_TRY(st, check_unwritten(writer, (capture_set)set, layer, err), done);
        RB_TRY(st, rb_h5_make_group(writer->file.id, capture_path_of((capture_set)set, layer, "").text, err), done);
        for (int i = 0; i < capture_n_datasets(&writer->header); i++) {
            const capture_dataset d = capture_dataset_at(&writer->header, (capture_set)set, layer, i);
            RB_TRY(st,
                   rb_h5_write_frames(writer->file.id, d.path.text, d.type, d.rank, d.dims, ZSTD_LEVEL, fd, from,
                                      frames_of(writer, (capture_set)set, i), err),
                   done);
        }
        *written_flag(writer, (capture_set)set, layer) = true;
    }
done:
    return st;
}

/* ---- what follows the logits ------------------------------------------------------------------ */

rb_status capture_write_output_metric(capture_writer *writer, int layer, const float *metric, rb_error *err)
{
    int64_t dims[3];
    assert(writer->header.output.has_metric && !writer->has_metric[layer]);
    capture_output_metric_dims(&writer->header, dims);
    writer->has_metric[layer] = true;
    return rb_h5_write_by(writer->crew, writer->file.id, capture_output_metric_path(layer).text, RB_H5_F32, 3, dims,
                          metric, ZSTD_LEVEL, err);
}

void capture_set_residual_energy(capture_writer *writer, int layer, double energy)
{
    assert(writer->header.output.is_known && layer >= 0 && layer < writer->header.model.n_layers);
    writer->residual_energy[layer] = energy;
}

double capture_residual_energy(const capture_writer *writer, int layer)
{
    return writer->header.output.is_known ? writer->residual_energy[layer] : 0.0;
}

static rb_status finish_output(const capture_writer *writer, rb_error *err)
{
    const capture_output *output = &writer->header.output;
    const int64_t dims[] = {writer->header.model.n_layers};
    if (!output->is_known) return RB_OK;
    for (int layer = 0; layer < dims[0]; layer++) {
        if (output->has_metric && !writer->has_metric[layer])
            return rb_fail(err, RB_EINVAL, "%s: output metric of layer %d was not written", writer->path, layer);
        if (writer->residual_energy[layer] < 0.0)
            return rb_fail(err, RB_EINVAL, "%s: residual energy of layer %d was not set", writer->path, layer);
    }
    return rb_h5_write(writer->file.id, CAPTURE_RESIDUAL_ENERGY, RB_H5_F64, 1, dims, writer->residual_energy,
                       ZSTD_LEVEL, err);
}

/* ---- end ------------------------------------------------------------------------------------- */

rb_status capture_publish(capture_writer *writer, rb_error *err)
{
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        for (int layer = 0; layer < writer->header.model.n_layers; layer++)
            if (!*written_flag(writer, (capture_set)set, layer))
                return rb_fail(err, RB_EINVAL, "%s: %s layer %d was not written", writer->path,
                               capture_set_name((capture_set)set), layer);
    const rb_status st = finish_output(writer, err);
    return st == RB_OK ? rb_h5_publish(&writer->file, err) : st;
}

void capture_writer_free(capture_writer *writer)
{
    if (!writer) return;
    rb_h5_close(&writer->file);
    rb_h5_crew_free(writer->crew);
    free(writer->path);
    free(writer->is_written);
    free(writer->has_metric);
    free(writer->residual_energy);
    free(writer->frames);
    free(writer);
}
