/* Checkpoints for the tests of plan_folded: copies of a model, those with folded tensors, and passes of them. Include
 * after tests/test_support.h. */
#ifndef RB_TESTS_EXPORT_FOLDED_MODELS_H
#define RB_TESTS_EXPORT_FOLDED_MODELS_H

#include <limits.h>

#include "model/forward.h"

#define DEMO   "configs/demo-llama"
#define MODELS "tests/fixtures/models/"
enum { N_TOKENS = 48 };

static inline void absolute(char out[PATH_MAX], const char *path)
{
    if (!realpath(path, out)) fail_msg("%s: no such file", path);
}

static inline void in_folder(char out[PATH_MAX], const char *folder, const char *name)
{
    snprintf(out, PATH_MAX, "%.2000s/%s", folder, name);
}

static inline void link_config(const char *folder, const char *model)
{
    char from[PATH_MAX], to[PATH_MAX], source[PATH_MAX];
    in_folder(source, model, "config.json");
    absolute(from, source);
    in_folder(to, folder, "config.json");
    assert_int_equal(symlink(from, to), 0);
}

/* A checkpoint of the model's tensors, those of `folded` in their place, in one file, as docs/export.md has it. */
static inline void assemble(const char *folder, const char *model, const char *folded)
{
    rb_error err = {0};
    enum { MOST = 64 };
    char path[PATH_MAX];
    safetensors_file *original = NULL, *changed = NULL;
    safetensor tensors[MOST];
    int64_t n_changed = 0;
    in_folder(path, model, "model.safetensors");
    assert_ok(safetensors_open(&original, path, &err));
    assert_ok(safetensors_open(&changed, folded, &err));
    assert_in_range(safetensors_count(original), 1, MOST);
    for (int64_t i = 0; i < safetensors_count(original); i++) {
        const safetensor *own = safetensors_at(original, i), *other = safetensors_find(changed, own->name);
        n_changed += other != NULL;
        tensors[i] = other ? *other : *own;
    }
    assert_int_equal(n_changed, safetensors_count(changed));
    in_folder(path, folder, "model.safetensors");
    assert_ok(safetensors_write(path, tensors, safetensors_count(original), NULL, NULL, 0, &err));
    safetensors_close(original);
    safetensors_close(changed);
}

/* The model with all of its weights in this dtype, without loss where it is F32; returns the folder. */
static inline const char *copy_model(const char *model, tensor_dtype dtype, const char *name)
{
    rb_error err = {0};
    enum { MOST = 64 };
    const char *folder = scratch_path(name);
    char path[PATH_MAX];
    safetensors_file *file = NULL;
    safetensor tensors[MOST];
    float *values = NULL;
    assert_int_equal(mkdir(folder, 0700), 0);
    link_config(folder, model);
    in_folder(path, model, "model.safetensors");
    assert_ok(safetensors_open(&file, path, &err));
    assert_in_range(safetensors_count(file), 1, MOST);
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        tensors[i] = *safetensors_at(file, i);
        const int64_t n = (int64_t)(tensors[i].size_bytes / tensor_dtype_size(tensors[i].dtype));
        void *data = malloc((size_t)n * sizeof(float));
        values = malloc((size_t)n * sizeof *values);
        assert_true(data && values);
        assert_ok(safetensor_to_f32(&tensors[i], 0, n, values, &err));
        assert_ok(tensor_from_f32(dtype, values, n, data, &err));
        tensors[i].dtype = dtype;
        tensors[i].size_bytes = (size_t)n * tensor_dtype_size(dtype);
        tensors[i].data = data;
        free(values);
    }
    in_folder(path, folder, "model.safetensors");
    assert_ok(safetensors_write(path, tensors, safetensors_count(file), NULL, NULL, 0, &err));
    for (int64_t i = 0; i < safetensors_count(file); i++) free((void *)tensors[i].data);
    safetensors_close(file);
    return folder;
}

/* What a pass gives: queries and keys entering RoPE, and values, [layer][head][token][dim], and logits. head_dim is
 * value_dim. */
typedef struct pass {
    model_config config;
    float *q, *k, *v, *logits;
} pass;

static inline int64_t head_floats(const pass *p) { return (int64_t)N_TOKENS * p->config.facts.head_dim; }

static inline rb_status keep_heads(void *user, layer_heads *heads, rb_error *error)
{
    pass *p = user;
    const int64_t nq = p->config.facts.n_q_heads * head_floats(p), nk = p->config.facts.n_kv_heads * head_floats(p);
    (void)error;
    memcpy(p->q + heads->layer * nq, heads->q, (size_t)nq * sizeof(float));
    memcpy(p->k + heads->layer * nk, heads->k, (size_t)nk * sizeof(float));
    memcpy(p->v + heads->layer * nk, heads->v, (size_t)nk * sizeof(float));
    return RB_OK;
}

static inline rb_status keep_logits(void *user, int64_t first, int64_t n, const float *logits, rb_error *error)
{
    pass *p = user;
    (void)error;
    memcpy(p->logits + first * p->config.vocab_size, logits, (size_t)(n * p->config.vocab_size) * sizeof(float));
    return RB_OK;
}

static inline void run_pass(pass *p, const char *folder)
{
    rb_error err = {0};
    checkpoint *model = NULL;
    int32_t tokens[N_TOKENS];
    const int64_t starts[] = {0, N_TOKENS};
    assert_ok(checkpoint_open(&model, folder, &err));
    p->config = *checkpoint_config(model);
    const model_facts *facts = &p->config.facts;
    for (int i = 0; i < N_TOKENS; i++) tokens[i] = (i * 131 + 7) % p->config.vocab_size;
    p->q = malloc((size_t)(facts->n_layers * facts->n_q_heads * head_floats(p)) * sizeof(float));
    p->k = malloc((size_t)(facts->n_layers * facts->n_kv_heads * head_floats(p)) * sizeof(float));
    p->v = malloc((size_t)(facts->n_layers * facts->n_kv_heads * head_floats(p)) * sizeof(float));
    p->logits = malloc((size_t)N_TOKENS * (size_t)p->config.vocab_size * sizeof(float));
    assert_true(p->q && p->k && p->v && p->logits);
    const forward_hooks hooks = {.user = p, .on_qkv = keep_heads, .on_logits = keep_logits};
    assert_ok(forward_run(model, &(token_batch){tokens, N_TOKENS, starts, 1}, &hooks, &err));
    checkpoint_close(model);
}

static inline void pass_free(pass *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->logits);
}

static inline double logits_differ(const pass *a, const pass *b)
{
    double error = 0.0, size = 0.0;
    for (int64_t i = 0; i < (int64_t)N_TOKENS * a->config.vocab_size; i++) {
        error += pow((double)a->logits[i] - (double)b->logits[i], 2.0);
        size += pow((double)a->logits[i], 2.0);
    }
    return sqrt(error / size);
}

#endif
