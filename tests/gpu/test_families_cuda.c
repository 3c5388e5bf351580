/* Both passes on the GPU for every family: against transformers on the golden folders of tests/fixtures/models, of
 * shared/ where they are ($RB_SHARED) and of $RB_TEST_MODELS, and against the CPU's pass on random checkpoints of other
 * geometries (more experts than the ring has slots, heads that only some attention kernel takes).
 *
 * The tokens are run as many sequences of the same ids, in chunks of 128 tokens that cut sequences anywhere; every one
 * must give what is expected of one. */
#include "tests/gpu/gpu_test.h"

#include <dirent.h>

#include "core/threads.h"
#include "model/cuda/forward_cuda.h"
#include "model/cuda/forward_parts_cuda.h"
#include "tests/gpu/random_checkpoint.h"

enum { MIN_TOKENS = 300, MAX_TEST_LAYERS = 64, MAX_CASES = 160, N_LONG = 45 };

/* f32: two implementations differ in the order of their sums. bf16: 8 bits of every activation, so that heads and
 * logits are off by some 2^-8 of their size for each layer; a token that visits another expert for it has quite other
 * numbers from there on. */
#define F32_ABSOLUTE 2e-4
#define BF16_RMS     3e-2
#define BF16_RMS_MOE 2e-1

/* What one sequence must give, and the batch of copies of it. */
typedef struct family_case {
    checkpoint *model;
    const model_config *config;
    safetensors_file *golden;           /* NULL: all is the CPU's */
    int64_t length, n_copies, n_logits; /* n_logits: of the last tokens */
    int32_t *tokens;
    int64_t *starts, *logit_tokens;
    token_batch one, batch;
    float *q_rope[MAX_TEST_LAYERS], *k_rope[MAX_TEST_LAYERS], *v[MAX_TEST_LAYERS];
    float *q_rot[MAX_TEST_LAYERS], *k_rot[MAX_TEST_LAYERS], *attended[MAX_TEST_LAYERS];
    float *logits;
    /* of the current run */
    layer_cuda_precision precision;
    double worst_absolute, worst_rms;
    int64_t n_measured;
    char worst_name[64];
} family_case;

static int64_t q_floats(const family_case *c)
{
    return c->config->facts.n_q_heads * c->length * c->config->facts.head_dim;
}
static int64_t k_floats(const family_case *c)
{
    return c->config->facts.n_kv_heads * c->length * c->config->facts.head_dim;
}
static int64_t v_floats(const family_case *c)
{
    return c->config->facts.n_kv_heads * c->length * c->config->facts.value_dim;
}
static int64_t attended_width(const family_case *c)
{
    return (int64_t)c->config->facts.n_q_heads * c->config->attended_dim;
}

static float *copy_floats(const float *from, int64_t n)
{
    float *out = malloc((size_t)n * sizeof *out);
    if (!out) abort();
    memcpy(out, from, (size_t)n * sizeof *out);
    return out;
}

/* ---- what is expected ------------------------------------------------------------------------ */

static rb_status keep_qkv(void *user, layer_heads *heads, rb_error *err)
{
    family_case *c = user;
    (void)err;
    c->q_rope[heads->layer] = copy_floats(heads->q, q_floats(c));
    c->k_rope[heads->layer] = copy_floats(heads->k, k_floats(c));
    c->v[heads->layer] = copy_floats(heads->v, v_floats(c));
    return RB_OK;
}

static rb_status keep_attended(void *user, const layer_heads *heads, const float *attended, rb_error *err)
{
    family_case *c = user;
    (void)err;
    c->q_rot[heads->layer] = copy_floats(heads->q, q_floats(c));
    c->k_rot[heads->layer] = copy_floats(heads->k, k_floats(c));
    c->attended[heads->layer] = copy_floats(attended, c->length * attended_width(c));
    return RB_OK;
}

static rb_status keep_logits(void *user, int64_t first, int64_t n, const float *logits, rb_error *err)
{
    family_case *c = user;
    (void)err;
    memcpy(c->logits + first * c->config->vocab_size, logits, (size_t)(n * c->config->vocab_size) * sizeof *logits);
    return RB_OK;
}

static void replace_by_golden(float *values, const family_case *c, const char *name, int64_t n)
{
    rb_error err = {0};
    const safetensor *tensor = safetensors_find(c->golden, name);
    if (!tensor) fail_msg("the golden file has no %s", name);
    assert_int_equal(tensor->size_bytes, (size_t)n * sizeof(float));
    assert_ok(safetensor_to_f32(tensor, 0, n, values, &err));
}

static void take_golden_values(family_case *c)
{
    char name[64];
    for (int layer = 0; layer < c->config->facts.n_layers; layer++) {
        snprintf(name, sizeof name, "q_rope.%d", layer);
        replace_by_golden(c->q_rope[layer], c, name, q_floats(c));
        snprintf(name, sizeof name, "k_rope.%d", layer);
        replace_by_golden(c->k_rope[layer], c, name, k_floats(c));
        snprintf(name, sizeof name, "q_rot.%d", layer);
        replace_by_golden(c->q_rot[layer], c, name, q_floats(c));
        snprintf(name, sizeof name, "k_rot.%d", layer);
        replace_by_golden(c->k_rot[layer], c, name, k_floats(c));
    }
    const safetensor *logits = safetensors_find(c->golden, "logits");
    assert_non_null(logits);
    const int64_t vocab = c->config->vocab_size, n_golden = logits->shape[0];
    replace_by_golden(c->logits + (c->length - n_golden) * vocab, c, "logits", n_golden * vocab);
}

static void make_batch(family_case *c, const int32_t *ids, int64_t length)
{
    const int64_t n_copies = (MIN_TOKENS + length - 1) / length, n = n_copies * length;
    c->length = length;
    c->n_copies = n_copies;
    c->tokens = malloc((size_t)n * sizeof *c->tokens);
    c->starts = malloc((size_t)(n_copies + 1) * sizeof *c->starts);
    c->logit_tokens = malloc((size_t)n * sizeof *c->logit_tokens);
    c->logits = malloc((size_t)(length * c->config->vocab_size) * sizeof *c->logits);
    if (!c->tokens || !c->starts || !c->logit_tokens || !c->logits) abort();
    for (int64_t i = 0; i < n; i++) {
        c->tokens[i] = ids[i % length];
        c->logit_tokens[i] = i;
    }
    for (int64_t s = 0; s <= n_copies; s++) c->starts[s] = s * length;
    c->one = (token_batch){c->tokens, length, c->starts, 1};
    c->batch = (token_batch){c->tokens, n, c->starts, n_copies};
}

/* golden: a path, or NULL. */
static void open_case(family_case *c, const char *folder, const char *golden)
{
    int32_t ids[N_LONG];
    rb_error err = {0};
    *c = (family_case){0};
    assert_ok(checkpoint_open(&c->model, folder, &err));
    c->config = checkpoint_config(c->model);
    assert_true(c->config->facts.n_layers <= MAX_TEST_LAYERS);
    for (int i = 0; i < N_LONG; i++) ids[i] = (i * i * 31 + i * 7919 + 13) % c->config->vocab_size;
    if (golden) assert_ok(safetensors_open(&c->golden, golden, &err));
    const safetensor *golden_ids = golden ? safetensors_find(c->golden, "input_ids") : NULL;
    if (golden_ids) make_batch(c, golden_ids->data, golden_ids->shape[0]);
    else make_batch(c, ids, N_LONG);
    assert_ok(checkpoint_set_longest(c->model, c->length, &err));
    const forward_hooks hooks = {.user = c, .on_qkv = keep_qkv, .on_attended = keep_attended, .on_logits = keep_logits};
    assert_ok(forward_run(c->model, &c->one, &hooks, &err));
    if (golden) take_golden_values(c);
}

static void close_case(family_case *c)
{
    for (int layer = 0; layer < MAX_TEST_LAYERS; layer++) {
        free(c->q_rope[layer]), free(c->k_rope[layer]), free(c->v[layer]);
        free(c->q_rot[layer]), free(c->k_rot[layer]), free(c->attended[layer]);
    }
    free(c->tokens), free(c->starts), free(c->logit_tokens), free(c->logits);
    if (c->golden) safetensors_close(c->golden);
    checkpoint_close(c->model);
}

/* ---- comparing ------------------------------------------------------------------------------- */

typedef struct difference {
    double square_error, square, worst;
} difference;

static void add_difference(difference *d, const float *found, const float *expected, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double error = (double)found[i] - (double)expected[i];
        d->square_error += error * error;
        d->square += (double)expected[i] * (double)expected[i];
        d->worst = isnan(error) ? INFINITY : fmax(d->worst, fabs(error));
    }
}

static void note(family_case *c, const char *what, int layer, const difference *d)
{
    const double rms = sqrt(d->square_error / d->square);
    c->n_measured++;
    if (!(rms <= c->worst_rms) || !(d->worst <= c->worst_absolute))
        snprintf(c->worst_name, sizeof c->worst_name, "%s of layer %d", what, layer);
    c->worst_rms = rms <= c->worst_rms ? c->worst_rms : rms;
    c->worst_absolute = d->worst <= c->worst_absolute ? c->worst_absolute : d->worst;
}

/* found [n_heads][n_copies * length][dims]: each copy against expected [n_heads][length][dims]. */
static void compare_heads(family_case *c, const char *what, int layer, const float *found, int n_heads,
                          int64_t n_copies, int64_t dims, const float *expected)
{
    difference d = {0};
    for (int head = 0; head < n_heads; head++)
        for (int64_t copy = 0; copy < n_copies; copy++)
            add_difference(&d, found + (head * n_copies + copy) * c->length * dims, expected + head * c->length * dims,
                           c->length * dims);
    note(c, what, layer, &d);
}

static void start_comparing(family_case *c) { c->worst_absolute = c->worst_rms = 0.0, c->n_measured = 0; }

static void assert_close(const family_case *c, const char *name, const char *pass)
{
    const bool is_f32 = c->precision == LAYER_CUDA_F32;
    const double bound = is_f32                     ? F32_ABSOLUTE
                         : c->config->experts.n > 0 ? BF16_RMS_MOE
                                                    : BF16_RMS,
                 found = is_f32 ? c->worst_absolute : c->worst_rms;
    if (getenv("RB_TEST_REPORT"))
        print_message("%s, %s, %s: worst absolute %.3g, relative RMS %.3g (%s)\n", name, pass, is_f32 ? "f32" : "bf16",
                      c->worst_absolute, c->worst_rms, c->worst_name);
    if (!(found <= bound))
        fail_msg("%s, %s, %s: %s is off by %.3g, expected at most %.3g", name, pass, is_f32 ? "f32" : "bf16",
                 c->worst_name, found, bound);
}

/* ---- the capturing pass ---------------------------------------------------------------------- */

typedef struct captured_case {
    family_case *of;
    int n_calls;
    float *q[2][MAX_TEST_LAYERS], *k[2][MAX_TEST_LAYERS], *v[2][MAX_TEST_LAYERS];
    double q_squares[2][MAX_TEST_LAYERS]; /* of all heads and dims together */
    float *streams[MAX_TEST_LAYERS];      /* the residual stream after each layer but the last */
    const float *begins_with;             /* that of a pass that begins later */
} captured_case;

static rb_status keep_captured(void *user, const captured_layer *captured, rb_error *err)
{
    captured_case *kept = user;
    const model_facts *facts = &kept->of->config->facts;
    const int layer = captured->layer, set = captured->set;
    (void)err;
    kept->q[set][layer] = copy_floats(captured->q, facts->n_q_heads * captured->n_tokens * facts->head_dim);
    kept->k[set][layer] = copy_floats(captured->k, facts->n_kv_heads * captured->n_tokens * facts->head_dim);
    kept->v[set][layer] = copy_floats(captured->v, facts->n_kv_heads * captured->n_tokens * facts->value_dim);
    for (int i = 0; i < facts->n_q_heads * facts->head_dim; i++) kept->q_squares[set][layer] += captured->q_squares[i];
    kept->n_calls++;
    return RB_OK;
}

static void compare_captured(captured_case *kept, int set, int64_t n_copies)
{
    family_case *c = kept->of;
    const model_facts *facts = &c->config->facts;
    for (int layer = 0; layer < facts->n_layers; layer++) {
        const int64_t d = facts->head_dim;
        difference squares = {0};
        add_difference(&squares, kept->q[set][layer], kept->q[set][layer], facts->n_q_heads * n_copies * c->length * d);
        if (!(fabs(kept->q_squares[set][layer] / squares.square - 1.0)
              < (c->precision == LAYER_CUDA_F32 ? 1e-6 : 1e-3)))
            fail_msg("layer %d: sum of squares %.9g, expected %.9g", layer, kept->q_squares[set][layer],
                     squares.square);
        compare_heads(c, "q", layer, kept->q[set][layer], facts->n_q_heads, n_copies, d, c->q_rope[layer]);
        compare_heads(c, "k", layer, kept->k[set][layer], facts->n_kv_heads, n_copies, d, c->k_rope[layer]);
        compare_heads(c, "v", layer, kept->v[set][layer], facts->n_kv_heads, n_copies, facts->value_dim, c->v[layer]);
        free(kept->q[set][layer]), free(kept->k[set][layer]), free(kept->v[set][layer]);
    }
}

static rb_status keep_stream(void *user, int layer, const float *stream, rb_error *err)
{
    captured_case *kept = user;
    (void)err;
    if (stream) kept->streams[layer] = copy_floats(stream, kept->of->batch.n_tokens * kept->of->config->hidden_size);
    return RB_OK;
}

static rb_status fill_stream(void *user, int64_t first, int64_t n, float *rows, rb_error *err)
{
    const captured_case *kept = user;
    const int64_t width = kept->of->config->hidden_size;
    (void)err;
    memcpy(rows, kept->begins_with + first * width, (size_t)(n * width) * sizeof *rows);
    return RB_OK;
}

static void assert_same_floats(float *found, const float *expected, int64_t n)
{
    assert_memory_equal(found, expected, (size_t)n * sizeof *found);
    free(found);
}

/* A pass that begins at a later layer with the stream that the whole one had there gives the same bytes, and asking for
 * the stream changes none. */
static void check_later_beginning(const captured_case *whole, forward_cuda_options options)
{
    const family_case *c = whole->of;
    const model_facts *facts = &c->config->facts;
    captured_case later = {.of = whole->of};
    const forward_cuda_hooks hooks = {
        .user = &later, .on_captured = keep_captured, .on_stream = keep_stream, .fill_stream = fill_stream};
    forward_cuda_report report;
    rb_error err = {0};
    options.first_layer = facts->n_layers / 2;
    if (options.first_layer > 0) later.begins_with = whole->streams[options.first_layer - 1];
    assert_ok(forward_cuda_run(c->model, &c->batch, &options, &hooks, &report, &err));
    assert_int_equal(later.n_calls, 2 * (facts->n_layers - options.first_layer));
    for (int layer = options.first_layer; layer < facts->n_layers; layer++) {
        for (int set = 0; set < 2; set++) {
            const int64_t n = options.set_start[set + 1] - options.set_start[set];
            assert_same_floats(later.q[set][layer], whole->q[set][layer], n * facts->n_q_heads * facts->head_dim);
            assert_same_floats(later.k[set][layer], whole->k[set][layer], n * facts->n_kv_heads * facts->head_dim);
            assert_same_floats(later.v[set][layer], whole->v[set][layer], n * facts->n_kv_heads * facts->value_dim);
        }
        if (layer + 1 < facts->n_layers)
            assert_same_floats(later.streams[layer], whole->streams[layer], c->batch.n_tokens * c->config->hidden_size);
    }
}

static void check_capture(family_case *c, const char *name)
{
    const int64_t n_first = c->n_copies / 3 + 1, set_start[] = {0, n_first * c->length, c->batch.n_tokens};
    captured_case kept = {.of = c};
    forward_cuda_options options = {
        .precision = c->precision, .capture_is_f32 = true, .with_values = true, .set_start = set_start, .n_sets = 2};
    const forward_cuda_hooks hooks = {.user = &kept, .on_captured = keep_captured, .on_stream = keep_stream};
    forward_cuda_report report;
    rb_error err = {0};
    options.max_bytes = forward_cuda_bytes(c->config, &c->batch, &options, 128);
    assert_ok(forward_cuda_run(c->model, &c->batch, &options, &hooks, &report, &err));
    assert_int_equal(report.chunk_tokens, 128);
    assert_true(report.gpu_bytes <= options.max_bytes);
    assert_int_equal(kept.n_calls, 2 * c->config->facts.n_layers);
    check_later_beginning(&kept, options);
    for (int layer = 0; layer < MAX_TEST_LAYERS; layer++) free(kept.streams[layer]);
    start_comparing(c);
    compare_captured(&kept, 0, n_first);
    compare_captured(&kept, 1, c->n_copies - n_first);
    assert_close(c, name, "capture");
}

/* ---- the evaluating pass --------------------------------------------------------------------- */

/* What its hook does to keys and values. */
typedef enum kv_change { KV_SAME, KV_ZERO, KV_HALF } kv_change;

typedef struct parts_case {
    family_case *of;
    kv_change change;
    const float *logits; /* expected */
    bool is_of_logits_only;
} parts_case;

static void halve(float *device, int64_t n, void *stream)
{
    rb_error err = {0};
    float *x = malloc((size_t)n * sizeof *x);
    if (!x) abort();
    assert_ok(rb_cuda()->copy(x, device, (size_t)n * sizeof *x, stream, &err));
    assert_ok(rb_cuda()->stream_wait(stream, &err));
    for (int64_t i = 0; i < n; i++) x[i] *= 0.5f;
    assert_ok(rb_cuda()->copy(device, x, (size_t)n * sizeof *x, stream, &err));
    assert_ok(rb_cuda()->stream_wait(stream, &err));
    free(x);
}

static rb_status change_part(void *user, const device_heads *heads, void *stream, rb_error *err)
{
    const parts_case *p = user;
    const model_facts *facts = &p->of->config->facts;
    const int64_t k = facts->n_kv_heads * heads->n_tokens * facts->head_dim,
                  v = facts->n_kv_heads * heads->n_tokens * facts->value_dim;
    rb_status st = RB_OK;
    if (p->change == KV_HALF) halve(heads->k, k, stream), halve(heads->v, v, stream);
    if (p->change != KV_ZERO) return RB_OK;
    st = rb_cuda()->fill(heads->k, 0, (size_t)k * sizeof(float), stream, err);
    return st == RB_OK ? rb_cuda()->fill(heads->v, 0, (size_t)v * sizeof(float), stream, err) : st;
}

static rb_status do_nothing(void *user, int layer, rb_error *err)
{
    (void)user, (void)layer, (void)err;
    return RB_OK;
}

static rb_status compare_part(void *user, const layer_heads *heads, const float *attended, rb_error *err)
{
    const parts_case *p = user;
    family_case *c = p->of;
    const model_facts *facts = &c->config->facts;
    const int64_t n_copies = heads->n_tokens / c->length, width = attended_width(c);
    difference d = {0};
    (void)err;
    if (p->is_of_logits_only) return RB_OK;
    compare_heads(c, "turned q", heads->layer, heads->q, facts->n_q_heads, n_copies, facts->head_dim,
                  c->q_rot[heads->layer]);
    compare_heads(c, "turned k", heads->layer, heads->exact_k, facts->n_kv_heads, n_copies, facts->head_dim,
                  c->k_rot[heads->layer]);
    if (p->change == KV_SAME)
        compare_heads(c, "v", heads->layer, heads->v, facts->n_kv_heads, n_copies, facts->value_dim,
                      c->v[heads->layer]);
    for (int64_t copy = 0; copy < n_copies; copy++)
        add_difference(&d, attended + copy * c->length * width, c->attended[heads->layer], c->length * width);
    note(c, "attention", heads->layer, &d);
    return RB_OK;
}

static rb_status compare_logits(void *user, int64_t first, int64_t n, const float *logits, void *stream, rb_error *err)
{
    const parts_case *p = user;
    family_case *c = p->of;
    const int64_t vocab = c->config->vocab_size;
    difference d = {0};
    float *found = malloc((size_t)(n * vocab) * sizeof *found);
    if (!found) abort();
    rb_status st = rb_cuda()->copy(found, logits, (size_t)(n * vocab) * sizeof *found, stream, err);
    if (st == RB_OK) st = rb_cuda()->stream_wait(stream, err);
    for (int64_t i = 0; i < n; i++)
        add_difference(&d, found + i * vocab, p->logits + (first + i) % c->length * vocab, vocab);
    note(c, "logits", c->config->facts.n_layers, &d);
    free(found);
    return st;
}

static void check_parts(family_case *c, const char *name, kv_change change, int64_t n_recent, const float *logits,
                        bool is_of_logits_only)
{
    const int64_t part_start[] = {0, c->n_copies / 2 + 1, c->n_copies};
    parts_case p = {.of = c, .change = change, .logits = logits, .is_of_logits_only = is_of_logits_only};
    const forward_hooks host = {.user = &p,
                                .on_attended = compare_part,
                                .part_start = part_start,
                                .n_parts = 2,
                                .n_recent = n_recent,
                                .logit_tokens = c->logit_tokens,
                                .n_logit_tokens = c->batch.n_tokens,
                                .logit_group = 1};
    const forward_parts_cuda_hooks hooks = {
        .user = &p, .on_qkv = change_part, .on_layer_done = do_nothing, .on_logits = compare_logits, .n_host_parts = 2};
    forward_parts_cuda_options options = {.precision = c->precision};
    forward_parts_cuda_report report;
    rb_error err = {0};
    char what[64];
    options.max_bytes = forward_parts_cuda_bytes(c->config, &c->batch, &host, &options, 128);
    start_comparing(c);
    assert_ok(forward_parts_cuda_run(c->model, &c->batch, &host, &hooks, &options, &report, &err));
    assert_true(report.gpu_bytes <= options.max_bytes);
    assert_true(c->n_measured >= (is_of_logits_only ? 1 : 2 * 3 * c->config->facts.n_layers));
    snprintf(what, sizeof what, "parts with %d recent keys", (int)n_recent);
    assert_close(c, name, what);
}

/* The CPU's logits where keys and values are halved but for the last n_recent. */
static rb_status halve_on_cpu(void *user, layer_heads *heads, rb_error *err)
{
    const family_case *c = user;
    (void)err;
    for (int64_t i = 0; i < k_floats(c); i++) heads->k[i] *= 0.5f;
    for (int64_t i = 0; i < v_floats(c); i++) heads->v[i] *= 0.5f;
    return RB_OK;
}

static void check_recent(family_case *c, const char *name)
{
    enum { N_RECENT = 3 };
    float *const usual = c->logits, *halved = copy_floats(usual, c->length * c->config->vocab_size);
    const forward_hooks hooks = {.user = c, .on_qkv = halve_on_cpu, .on_logits = keep_logits, .n_recent = N_RECENT};
    rb_error err = {0};
    c->logits = halved;
    assert_ok(forward_run(c->model, &c->one, &hooks, &err));
    c->logits = usual;
    check_parts(c, name, KV_HALF, N_RECENT, halved, true);
    free(halved);
}

static void check_model(const char *folder, const char *golden, const char *name)
{
    family_case c;
    open_case(&c, folder, golden);
    for (int precision = 0; precision < 2; precision++) {
        c.precision = (layer_cuda_precision)precision;
        check_capture(&c, name);
        check_parts(&c, name, KV_SAME, 0, c.logits, false);
        check_parts(&c, name, KV_ZERO, c.length, c.logits, false); /* all keys are recent */
        check_recent(&c, name);
    }
    close_case(&c);
}

/* ---- golden folders -------------------------------------------------------------------------- */

static char *folders[MAX_CASES];
static int n_folders;

static void folder_matches_transformers(void **state)
{
    GPU_OR_SKIP();
    const char *folder = *state;
    char golden[1200];
    snprintf(golden, sizeof golden, "%s/golden.safetensors", folder);
    check_model(folder, golden, folder);
}

/* Adds the folders below `root` that hold a golden file. */
static void add_folders(const char *root)
{
    DIR *dir = root ? opendir(root) : NULL;
    for (const struct dirent *entry; dir && (entry = readdir(dir)) && n_folders < MAX_CASES;) {
        char golden[1200], folder[1024];
        snprintf(folder, sizeof folder, "%s/%s", root, entry->d_name);
        snprintf(golden, sizeof golden, "%s/golden.safetensors", folder);
        if (access(golden, R_OK) == 0) folders[n_folders++] = strdup(folder);
    }
    if (dir) closedir(dir);
}

/* ---- random checkpoints ---------------------------------------------------------------------- */

#define SIZES(layers, hidden, heads, mlp)                                                                          \
    "\"num_hidden_layers\": " #layers ", \"hidden_size\": " #hidden ", \"num_attention_heads\": " #heads           \
    ", \"intermediate_size\": " #mlp ", \"vocab_size\": 96, \"max_position_embeddings\": 4096, \"rms_norm_eps\": " \
    "1e-6, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\""

static const struct {
    const char *name, *config;
} RANDOM[] = {
    {"300 experts",
     "{\"model_type\": \"qwen3_moe\", " SIZES(
         3, 64, 4, 96) ", \"num_key_value_heads\": 2, \"head_dim\": 32, \"num_experts\": 300, "
                       "\"num_experts_per_tok\": 5, \"moe_intermediate_size\": 40, \"norm_topk_prob\": true, "
                       "\"mlp_only_layers\": [1]}"},
    {"whole queries of 192 dims",
     "{\"model_type\": \"deepseek_v2\", " SIZES(
         3, 128, 4,
         160) ", \"qk_rope_head_dim\": 64, \"qk_nope_head_dim\": 128, \"v_head_dim\": 128, \"kv_lora_rank\": 512, "
              "\"q_lora_rank\": null, \"n_routed_experts\": 12, \"n_shared_experts\": 2, \"num_experts_per_tok\": 3, "
              "\"moe_intermediate_size\": 48, \"first_k_dense_replace\": 1, \"routed_scaling_factor\": 1.5}"},
    {"groups of experts, heads of odd sizes",
     "{\"model_type\": \"deepseek_v2\", " SIZES(
         3, 96, 3,
         160) ", \"qk_rope_head_dim\": 12, \"qk_nope_head_dim\": 30, \"v_head_dim\": 26, \"kv_lora_rank\": 36, "
              "\"q_lora_rank\": 50, \"n_routed_experts\": 40, \"num_experts_per_tok\": 4, \"topk_method\": "
              "\"group_limited_greedy\", \"n_group\": 5, \"topk_group\": 2, \"moe_intermediate_size\": 20, "
              "\"first_k_dense_replace\": 0, \"attention_bias\": true}"},
    {"heads of 256 dims with a cap",
     "{\"model_type\": \"gemma2\", \"num_hidden_layers\": 4, \"hidden_size\": 160, \"num_attention_heads\": 4, "
     "\"num_key_value_heads\": 2, \"head_dim\": 256, \"intermediate_size\": 200, \"vocab_size\": 96, "
     "\"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, \"hidden_activation\": "
     "\"gelu_pytorch_tanh\", \"query_pre_attn_scalar\": 64, \"sliding_window\": 17, \"attn_logit_softcapping\": 3.0, "
     "\"final_logit_softcapping\": 2.0}"},
    {"heads of 40 dims, 10 of them turned",
     "{\"model_type\": \"gpt_neox\", \"num_hidden_layers\": 3, \"hidden_size\": 120, \"num_attention_heads\": 3, "
     "\"intermediate_size\": 200, \"vocab_size\": 96, \"max_position_embeddings\": 4096, \"layer_norm_eps\": 1e-5, "
     "\"rotary_pct\": 0.25, \"rotary_emb_base\": 10000, \"hidden_act\": \"gelu\", \"use_parallel_residual\": true, "
     "\"tie_word_embeddings\": false}"},
};

static void random_model_matches_the_cpu(void **state)
{
    GPU_OR_SKIP();
    const size_t i = *(const size_t *)*state;
    char name[32];
    snprintf(name, sizeof name, "family-%zu", i);
    const char *folder = scratch_path(name);
    random_checkpoint_write(folder, RANDOM[i].config);
    check_model(folder, NULL, RANDOM[i].name);
}

int main(void)
{
    static struct CMUnitTest tests[MAX_CASES + RB_COUNT(RANDOM)];
    static size_t numbers[RB_COUNT(RANDOM)];
    rb_threads_init(0);
    add_folders("tests/fixtures/models");
    if (n_folders == 0) return 1;
    add_folders(shared_path("oracle"));
    add_folders(getenv("RB_TEST_MODELS"));
    for (int i = 0; i < n_folders; i++)
        tests[i] = (struct CMUnitTest){
            .name = folders[i], .test_func = folder_matches_transformers, .initial_state = folders[i]};
    for (size_t i = 0; i < RB_COUNT(RANDOM); i++) {
        numbers[i] = i;
        tests[(size_t)n_folders + i] = (struct CMUnitTest){
            .name = RANDOM[i].name, .test_func = random_model_matches_the_cpu, .initial_state = &numbers[i]};
    }
    const int failed = _cmocka_run_group_tests("families", tests, (size_t)n_folders + RB_COUNT(RANDOM), NULL, NULL);
    for (int i = 0; i < n_folders; i++) free(folders[i]);
    return failed;
}
