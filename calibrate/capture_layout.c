/* See calibrate/capture_layout.h and docs/capture-h5.md. */
#include "calibrate/capture_layout.h"

#include <math.h>
#include <stdio.h>

const char *capture_set_name(capture_set set) { return set == CAPTURE_CALIBRATION ? "calibration" : "test"; }

int64_t capture_n_counted(const capture_header *header, capture_set set)
{
    return header->n_counted[set] > 0 ? header->n_counted[set] : header->text[set].n_tokens;
}

capture_path capture_path_of(capture_set set, int layer, const char *name)
{
    capture_path path;
    snprintf(path.text, sizeof path.text, "%s/layer_%03d%s%s", capture_set_name(set), layer, name[0] ? "/" : "", name);
    return path;
}

capture_path capture_tokens_path(capture_set set)
{
    capture_path path;
    snprintf(path.text, sizeof path.text, "%s/tokens", capture_set_name(set));
    return path;
}

capture_path capture_output_metric_path(int layer)
{
    capture_path path;
    snprintf(path.text, sizeof path.text, CAPTURE_OUTPUT "/layer_%03d", layer);
    return path;
}

void capture_output_metric_dims(const capture_header *header, int64_t dims[3])
{
    dims[0] = header->model.n_kv_heads;
    dims[1] = dims[2] = (int64_t)model_q_per_kv(&header->model) * header->model.value_dim;
}

const char *capture_value_type_name(rb_h5_type type) { return type == RB_H5_F32 ? "f32" : "f16"; }

const char *capture_vectors_name(capture_vectors vectors)
{
    static const char *const names[] = {[CAPTURE_Q] = "q", [CAPTURE_K] = "k", [CAPTURE_V] = "v"};
    return names[vectors];
}

int capture_vectors_dim(const capture_header *header, capture_vectors vectors)
{
    return vectors == CAPTURE_V ? header->model.value_dim : header->model.head_dim;
}

void capture_vectors_dims(const capture_header *header, capture_set set, capture_vectors vectors, int64_t dims[3])
{
    dims[0] = vectors == CAPTURE_Q ? header->model.n_q_heads : header->model.n_kv_heads;
    dims[1] = header->text[set].n_tokens;
    dims[2] = capture_vectors_dim(header, vectors);
}

int capture_n_vectors(const capture_header *header) { return header->has_values ? CAPTURE_N_VECTORS : CAPTURE_V; }

void capture_tables(capture_table tables[CAPTURE_N_TABLES], const model_facts *model,
                    const block_statistics *statistics)
{
    const int64_t n_heads = model->n_kv_heads, n_blocks = model_n_blocks(model);
    tables[0] = (capture_table){"q_energy", {n_heads, n_blocks}, statistics ? statistics->q_energy : NULL};
    tables[1] = (capture_table){"k_energy", {n_heads, n_blocks}, statistics ? statistics->k_energy : NULL};
    tables[2] = (capture_table){"k_mean", {n_heads, model->head_dim}, statistics ? statistics->k_mean : NULL};
}

int capture_n_datasets(const capture_header *header) { return capture_n_vectors(header) + CAPTURE_N_TABLES; }

capture_dataset capture_dataset_at(const capture_header *header, capture_set set, int layer, int index)
{
    const int n_vectors = capture_n_vectors(header);
    capture_table tables[CAPTURE_N_TABLES];
    capture_dataset dataset = {.type = RB_H5_F64, .rank = 2};
    if (index < n_vectors) {
        dataset.path = capture_path_of(set, layer, capture_vectors_name((capture_vectors)index));
        dataset.type = header->value_type;
        dataset.rank = 3;
        capture_vectors_dims(header, set, (capture_vectors)index, dataset.dims);
        return dataset;
    }
    capture_tables(tables, &header->model, NULL);
    dataset.path = capture_path_of(set, layer, tables[index - n_vectors].name);
    for (int i = 0; i < 2; i++) dataset.dims[i] = tables[index - n_vectors].dims[i];
    return dataset;
}

int64_t capture_token_dims(const capture_header *header)
{
    const model_facts *model = &header->model;
    return (int64_t)(model->n_q_heads + model->n_kv_heads) * model->head_dim
           + (header->has_values ? (int64_t)model->n_kv_heads * model->value_dim : 0);
}

int64_t capture_payload_bytes(const capture_header *header)
{
    const int64_t n_tokens = header->text[CAPTURE_CALIBRATION].n_tokens + header->text[CAPTURE_TEST].n_tokens;
    int64_t metric[3];
    capture_output_metric_dims(header, metric);
    return header->model.n_layers
           * (capture_token_dims(header) * n_tokens * (header->value_type == RB_H5_F32 ? 4 : 2)
              + (header->output.has_metric ? metric[0] * metric[1] * metric[2] * 4 : 0));
}

rb_status capture_fail_unfit(rb_error *err, const char *path, const capture_header *header, capture_set set, int layer,
                             capture_vectors vectors, double value, int64_t index)
{
    static const char *const words[] = {[CAPTURE_Q] = "query", [CAPTURE_K] = "key", [CAPTURE_V] = "value"};
    const int64_t n_dims = capture_vectors_dim(header, vectors), dim = index % n_dims, vector = index / n_dims,
                  n_tokens = header->text[set].n_tokens;
    return rb_fail(err, RB_ENONFINITE, "%s: %s layer %d %s %lld token %lld dim %lld: %s %g %s", path,
                   capture_set_name(set), layer, vectors == CAPTURE_Q ? "q_head" : "kv_head",
                   (long long)(vector / n_tokens), (long long)(vector % n_tokens), (long long)dim, words[vectors],
                   value,
                   isfinite(value) ? "does not fit f16, whose largest is 65504; f32 would hold it" : "is not finite");
}
