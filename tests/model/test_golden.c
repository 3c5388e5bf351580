/* The forward pass against transformers: what enters RoPE, what leaves it, and the logits, of every family. Golden
 * files are f32 runs of the bf16 weights; docs/models.md (Adding a family) says what is in them. The folders of
 * tests/fixtures/models are tiny random models, one for each feature of a family. */
#include "tests/test_support.h"

#include <dirent.h>

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
