/* A checkpoint of any configuration with random weights, each tensor with its own. */
#ifndef RB_TESTS_GPU_RANDOM_CHECKPOINT_H
#define RB_TESTS_GPU_RANDOM_CHECKPOINT_H

#include "tests/gpu/gpu_test.h"

#include "model/layer_tensors.h"
#include "model/safetensors.h"

enum { RANDOM_MAX_TENSORS = 4096 };

typedef struct random_tensors {
    safetensor at[RANDOM_MAX_TENSORS];
    int64_t n;
} random_tensors;

/* Matrices keep the size of their input; norms are around 1, or 0 where the family adds 1; biases are small. */
static inline void add_random_tensor(random_tensors *tensors, const model_config *config, const char *name, int rank,
                                     const int64_t *shape)
{
    const int64_t n = shape[0] * (rank == 2 ? shape[1] : 1);
    float *values = normal_floats(1000 + (uint64_t)tensors->n, n);
    const bool is_norm = rank == 1 && !strstr(name, ".bias");
    const float size = rank == 2 ? 1.0f / sqrtf((float)shape[1]) : 0.2f,
                centre = is_norm && config->family->norm != MODEL_NORM_RMS_ONE ? 1.0f : 0.0f;
    for (int64_t i = 0; i < n; i++) values[i] = values[i] * size + centre;
    assert_true(tensors->n < RANDOM_MAX_TENSORS);
    tensors->at[tensors->n++] = (safetensor){.name = strdup(name),
                                             .dtype = TENSOR_F32,
                                             .rank = rank,
                                             .shape = {shape[0], shape[rank - 1]},
                                             .data = values,
                                             .size_bytes = (size_t)n * sizeof *values};
}

static inline void add_random_layer(random_tensors *tensors, const model_config *config, int layer)
{
    const checkpoint_tensors *all = config->family->tensors;
    for (int i = 0; i < all->n_layer; i++) {
        const layer_tensor *tensor = &all->layer[i];
        const int n = tensor->step == STEP_EXPERT ? config->experts.n : 1;
        char name[LAYER_TENSOR_NAME];
        int64_t shape[2];
        if (!layer_tensor_is_used(config, tensor, layer)) continue;
        const int rank = layer_tensor_shape(config, tensor, shape);
        for (int expert = 0; expert < n; expert++) {
            layer_tensor_name(name, config, tensor, layer, expert);
            add_random_tensor(tensors, config, name, rank, shape);
        }
    }
}

/* Makes the folder with config.json and model.safetensors. */
static inline void random_checkpoint_write(const char *folder, const char *json)
{
    static random_tensors tensors;
    model_config *config = malloc(sizeof *config);
    char path[1200];
    rb_error err = {0};
    if (!config) abort();
    tensors.n = 0;
    assert_ok(model_config_parse(config, json, strlen(json), "a test's config.json", &err));
    const checkpoint_tensors *all = config->family->tensors;
    const int64_t vocab[2] = {config->vocab_size, config->hidden_size};
    add_random_tensor(&tensors, config, all->embedding, 2, vocab);
    for (int layer = 0; layer < config->facts.n_layers; layer++) add_random_layer(&tensors, config, layer);
    add_random_tensor(&tensors, config, all->final_norm, 1, &vocab[1]);
    if (all->final_norm_bias) add_random_tensor(&tensors, config, all->final_norm_bias, 1, &vocab[1]);
    if (!config->tied_embeddings) add_random_tensor(&tensors, config, all->lm_head, 2, vocab);
    assert_int_equal(mkdir(folder, 0755), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(safetensors_write(path, tensors.at, tensors.n, NULL, NULL, 0, &err));
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    fputs(json, out);
    assert_int_equal(fclose(out), 0);
    for (int64_t i = 0; i < tensors.n; i++) {
        free((char *)tensors.at[i].name);
        free((float *)tensors.at[i].data);
    }
    free(config);
}

#endif
