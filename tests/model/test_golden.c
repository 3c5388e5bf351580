/* The forward pass against transformers: what enters RoPE, what leaves it, and the logits, of every family. Golden
 * files are f32 runs of the bf16 weights; docs/models.md (Adding a family) says what is in them. The folders of
 * tests/fixtures/models are tiny random models, one for each feature of a family. */
#include "tests/test_support.h"

#include <dirent.h>

#include "core/sha256.h"
#include "core/threads.h"
#include "model/forward.h"

/* Two f32 implementations differ in the order of their sums alone. Measured over all files below: at most 6.7e-5
 * absolute (logits of small-qwen2) and 1.2e-6 relative RMS. */
#define MAX_ABSOLUTE     2e-4
#define MAX_RELATIVE_RMS 1e-5

/* ---- comparison with a golden file ----------------------------------------------------------- */

typedef struct golden_run {
    safetensors_file *golden;
    const model_config *config;
    int64_t n_tokens, logits_seen;
    int n_compared;
    double worst_absolute, worst_relative_rms;
} golden_run;

static const safetensor *golden_tensor(const golden_run *run, const char *name)
{
    const safetensor *tensor = safetensors_find(run->golden, name);
    if (!tensor) fail_msg("the golden file has no %s", name);
    return tensor;
}

/* count elements of the tensor from element `first` on against `found`. */
static void compare(golden_run *run, const char *name, int64_t first, const float *found, int64_t count)
{
    rb_error err = {0};
    const safetensor *tensor = golden_tensor(run, name);
    float *expected = malloc((size_t)count * sizeof *expected);
    double square_error = 0.0, square = 0.0, worst = 0.0;

    assert_non_null(expected);
    assert_true(first >= 0 && (size_t)(first + count) * sizeof(float) <= tensor->size_bytes);
    assert_ok(safetensor_to_f32(tensor, first, count, expected, &err));
    for (int64_t i = 0; i < count; i++) {
        const double difference = (double)found[i] - (double)expected[i];
        if (!(fabs(difference) <= MAX_ABSOLUTE))
            fail_msg("%s[%lld] is %.8g, expected %.8g", name, (long long)(first + i), (double)found[i],
                     (double)expected[i]);
        worst = fmax(worst, fabs(difference));
        square_error += difference * difference;
        square += (double)expected[i] * (double)expected[i];
    }
    const double relative = sqrt(square_error / square);
    if (!(relative <= MAX_RELATIVE_RMS)) fail_msg("%s: relative RMS error %.3g", name, relative);
    run->worst_absolute = fmax(run->worst_absolute, worst);
    run->worst_relative_rms = fmax(run->worst_relative_rms, relative);
    run->n_compared++;
    free(expected);
}

static void compare_heads(golden_run *run, const layer_heads *heads, const char *suffix)
{
    const model_facts *facts = &run->config->facts;
    char name[64];
    snprintf(name, sizeof name, "q_%s.%d", suffix, heads->layer);
    compare(run, name, 0, heads->q, facts->n_q_heads * run->n_tokens * facts->head_dim);
    snprintf(name, sizeof name, "k_%s.%d", suffix, heads->layer);
    compare(run, name, 0, heads->k, facts->n_kv_heads * run->n_tokens * facts->head_dim);
}

static rb_status golden_qkv(void *user, layer_heads *heads, rb_error *err)
{
    (void)err;
    compare_heads(user, heads, "rope");
    return RB_OK;
}

static rb_status golden_rotated(void *user, const layer_heads *heads, rb_error *err)
{
    (void)err;
    compare_heads(user, heads, "rot");
    return RB_OK;
}

/* The golden file holds the logits of the last tokens, or of all. */
static rb_status golden_logits(void *user, int64_t first_token, int64_t n, const float *logits, rb_error *err)
{
    (void)err;
    golden_run *run = user;
    const int64_t vocab = run->config->vocab_size,
                  first_golden = run->n_tokens - golden_tensor(run, "logits")->shape[0];

    assert_int_equal(first_token, run->logits_seen);
    run->logits_seen += n;
    for (int64_t t = 0; t < n; t++) {
        const int64_t row = first_token + t - first_golden;
        if (row >= 0) compare(run, "logits", row * vocab, logits + t * vocab, vocab);
    }
    return RB_OK;
}

/* ---- a pass that begins at a later layer ----------------------------------------------------- */

typedef struct stream_run {
    int64_t width; /* hidden_size */
    int64_t n_tokens;
    float *streams[MODEL_MAX_LAYERS];            /* after each layer but the last */
    char heads[MODEL_MAX_LAYERS][RB_SHA256_HEX]; /* of q and k leaving RoPE */
    char logits[RB_SHA256_HEX];                  /* of the first call */
    const float *begins_with;                    /* NULL: the embeddings */
} stream_run;

static rb_status hash_heads(void *user, const layer_heads *heads, rb_error *err)
{
    stream_run *run = user; /* q, k and v lie one after the other */
    return rb_sha256_bytes(run->heads[heads->layer], heads->q, (size_t)(heads->v - heads->q) * sizeof(float), err);
}

static rb_status hash_logits(void *user, int64_t first_token, int64_t n, const float *logits, rb_error *err)
{
    stream_run *run = user;
    return first_token > 0 ? RB_OK : rb_sha256_bytes(run->logits, logits, (size_t)n * sizeof *logits, err);
}

static rb_status keep_stream(void *user, int layer, const float *stream, rb_error *err)
{
    stream_run *run = user;
    const size_t n = (size_t)(run->n_tokens * run->width);
    if (!stream) return RB_OK;
    const rb_status st = rb_alloc(&run->streams[layer], n, sizeof *stream, "a stream", err);
    if (st == RB_OK) memcpy(run->streams[layer], stream, n * sizeof *stream);
    return st;
}

static rb_status fill_stream(void *user, int64_t first, int64_t n, float *rows, rb_error *err)
{
    const stream_run *run = user;
    (void)err;
    memcpy(rows, run->begins_with + first * run->width, (size_t)(n * run->width) * sizeof *rows);
    return RB_OK;
}

static void free_streams(stream_run *run)
{
    for (int layer = 0; layer < MODEL_MAX_LAYERS; layer++) free(run->streams[layer]);
}

/* The residual stream is all that crosses from layer to layer, in every family: a pass that begins with it gives the
 * same bytes. */
static void check_later_beginnings(const checkpoint *model, const token_batch *batch)
{
    static stream_run whole, later;
    const model_config *config = checkpoint_config(model);
    rb_error err = {0};
    forward_hooks hooks = {
        .user = &whole, .on_rotated = hash_heads, .on_logits = hash_logits, .on_stream = keep_stream};
    whole = (stream_run){.width = config->hidden_size, .n_tokens = batch->n_tokens};
    assert_ok(forward_run(model, batch, &hooks, &err));
    for (int first = 1; first < config->facts.n_layers; first++) {
        later = (stream_run){
            .width = config->hidden_size, .n_tokens = batch->n_tokens, .begins_with = whole.streams[first - 1]};
        hooks.user = &later;
        hooks.first_layer = first;
        hooks.fill_stream = fill_stream;
        assert_ok(forward_run(model, batch, &hooks, &err));
        for (int layer = 0; layer < config->facts.n_layers; layer++)
            assert_string_equal(later.heads[layer], layer < first ? "" : whole.heads[layer]);
        assert_string_equal(later.logits, whole.logits);
        free_streams(&later);
    }
    free_streams(&whole);
}

static void check_golden(const char *folder, const char *golden_path)
{
    rb_error err = {0};
    checkpoint *model = NULL;
    golden_run run = {0};

    assert_ok(checkpoint_open(&model, folder, &err));
    assert_ok(safetensors_open(&run.golden, golden_path, &err));
    run.config = checkpoint_config(model);
    const safetensor *ids = golden_tensor(&run, "input_ids");
    assert_true(ids->dtype == TENSOR_I32 && ids->rank == 1);
    run.n_tokens = ids->shape[0];

    int32_t *tokens = malloc(ids->size_bytes);
    assert_non_null(tokens);
    memcpy(tokens, ids->data, ids->size_bytes);
    const int64_t starts[] = {0, run.n_tokens};
    const token_batch batch = {tokens, run.n_tokens, starts, 1};
    assert_ok(checkpoint_set_longest(model, run.n_tokens, &err));
    const forward_hooks hooks = {
        .user = &run, .on_qkv = golden_qkv, .on_rotated = golden_rotated, .on_logits = golden_logits};

    assert_ok(forward_run(model, &batch, &hooks, &err));
    check_later_beginnings(model, &batch);
    assert_int_equal(run.logits_seen, run.n_tokens);
    assert_int_equal(run.n_compared, 4 * run.config->facts.n_layers + golden_tensor(&run, "logits")->shape[0]);
    if (getenv("RB_TEST_REPORT"))
        fprintf(stderr, "%s: worst absolute %.3g, worst relative RMS %.3g\n", folder, run.worst_absolute,
                run.worst_relative_rms);
    free(tokens);
    safetensors_close(run.golden);
    checkpoint_close(model);
}

/* ---- the folders ----------------------------------------------------------------------------- */

enum { MAX_FOLDERS = 128 };
static char *folders[MAX_FOLDERS];
static int n_folders;

static void folder_matches_transformers(void **state)
{
    const char *folder = *state;
    char golden[1200];
    snprintf(golden, sizeof golden, "%s/golden.safetensors", folder);
    check_golden(folder, golden);
}

static void demo_llama_matches_transformers(void **state)
{
    (void)state;
    check_golden("configs/demo-llama", "tests/fixtures/demo-llama-golden.safetensors");
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Adds the folders below `root` that hold a golden file. */
static void add_folders(const char *root)
{
    const int first = n_folders;
    DIR *dir = root ? opendir(root) : NULL;
    for (const struct dirent *entry; dir && (entry = readdir(dir)) && n_folders < MAX_FOLDERS;) {
        char golden[1200], folder[1024];
        snprintf(folder, sizeof folder, "%s/%s", root, entry->d_name);
        snprintf(golden, sizeof golden, "%s/golden.safetensors", folder);
        if (access(golden, R_OK) == 0) folders[n_folders++] = strdup(folder);
    }
    if (dir) closedir(dir);
    qsort(folders + first, (size_t)(n_folders - first), sizeof *folders, compare_names);
}

static void shared_models_are_here(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "oracle");
    assert_non_null(path);
}

int main(void)
{
    struct CMUnitTest tests[MAX_FOLDERS + 2] = {cmocka_unit_test(demo_llama_matches_transformers),
                                                cmocka_unit_test(shared_models_are_here)};
    const char *more = getenv("RB_TEST_MODELS"); /* a folder of further folders */
    rb_threads_init(0);
    add_folders("tests/fixtures/models");
    if (n_folders == 0) return 1;
    add_folders(shared_path("oracle"));
    add_folders(shared_path("models"));
    add_folders(more);
    for (int i = 0; i < n_folders; i++)
        tests[2 + i] = (struct CMUnitTest){
            .name = folders[i], .test_func = folder_matches_transformers, .initial_state = folders[i]};
    const int failed = _cmocka_run_group_tests("golden", tests, (size_t)n_folders + 2, NULL, NULL);
    for (int i = 0; i < n_folders; i++) free(folders[i]);
    return failed;
}
