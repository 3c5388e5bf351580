/* The forward pass on the demo model, several sequences at once: hooks, parts, threads, memory. Numbers of other
 * implementations are in test_golden.c. */
#include "tests/test_support.h"

#include <omp.h>

#include "core/threads.h"
#include "model/forward.h"
#include "tests/model/float_test.h"

/* Two f32 implementations differ in the order of their sums only. */
#define MAX_ABSOLUTE 2e-4

/* ---- the demo model, several sequences ------------------------------------------------------- */

enum { DEMO_TOKENS = 700, DEMO_SEQUENCES = 3, DEMO_LAYERS = 4, DEMO_VOCAB = 4096, DEMO_QK_FLOATS = (6 + 2) * 64 };
static const int64_t demo_starts[] = {0, 333, 400, DEMO_TOKENS};

/* Everything a run hands out, one call after the other. */
typedef struct recording {
    float *heads, *rotated, *logits; /* [layer][q and k], [layer][q and k], [token][vocab] */
    int n_qkv, n_rotated, n_done;
    int64_t n_logits, n_tokens;
    bool zero_values; /* on_qkv clears v */
    int fail_at;      /* layer whose on_qkv fails; -1: none */
} recording;

static checkpoint *demo_model;

static int open_demo(void **state)
{
    (void)state;
    rb_error err = {0};
    return checkpoint_open(&demo_model, "configs/demo-llama", &err) == RB_OK ? 0 : -1;
}

static int close_demo(void **state)
{
    (void)state;
    checkpoint_close(demo_model);
    return 0;
}

static recording recording_new(int64_t n_tokens)
{
    recording r = {.n_tokens = n_tokens, .fail_at = -1};
    r.heads = calloc((size_t)(DEMO_LAYERS * n_tokens * DEMO_QK_FLOATS), sizeof(float));
    r.rotated = calloc((size_t)(DEMO_LAYERS * n_tokens * DEMO_QK_FLOATS), sizeof(float));
    r.logits = calloc((size_t)(n_tokens * DEMO_VOCAB), sizeof(float));
    assert_true(r.heads && r.rotated && r.logits);
    return r;
}

static void recording_free(recording *r)
{
    free(r->heads);
    free(r->rotated);
    free(r->logits);
}

static void record_heads(const recording *r, float *to, const layer_heads *heads)
{
    const int64_t floats = r->n_tokens * DEMO_QK_FLOATS;
    memcpy(to + heads->layer * floats, heads->q, (size_t)(r->n_tokens * 6 * 64) * sizeof(float));
    memcpy(to + heads->layer * floats + r->n_tokens * 6 * 64, heads->k, (size_t)(r->n_tokens * 2 * 64) * sizeof(float));
}

static rb_status record_qkv(void *user, layer_heads *heads, rb_error *err)
{
    recording *r = user;
    assert_int_equal(heads->layer, r->n_qkv);
    assert_int_equal(heads->n_tokens, r->n_tokens);
    r->n_qkv++;
    record_heads(r, r->heads, heads);
    if (r->zero_values) memset(heads->v, 0, (size_t)(r->n_tokens * 2 * 64) * sizeof(float));
    if (heads->layer == r->fail_at) return rb_fail(err, RB_EDEVICE, "the hook said no");
    return RB_OK;
}

static rb_status record_rotated(void *user, const layer_heads *heads, rb_error *err)
{
    (void)err;
    recording *r = user;
    r->n_rotated++;
    record_heads(r, r->rotated, heads);
    return RB_OK;
}

static rb_status record_logits(void *user, int64_t first_token, int64_t n, const float *logits, rb_error *err)
{
    (void)err;
    recording *r = user;
    r->n_logits += n;
    memcpy(r->logits + first_token * DEMO_VOCAB, logits, (size_t)(n * DEMO_VOCAB) * sizeof(float));
    return RB_OK;
}

static void record_done(void *user, int layer)
{
    recording *r = user;
    assert_int_equal(layer, r->n_done);
    r->n_done++;
}

static forward_hooks record_all(recording *r)
{
    return (forward_hooks){.user = r,
                           .on_qkv = record_qkv,
                           .on_rotated = record_rotated,
                           .on_logits = record_logits,
                           .on_layer_done = record_done};
}

/* Ids that look like text to nobody, but cover the vocabulary. */
static void fill_tokens(int32_t *tokens, int64_t n)
{
    for (int64_t t = 0; t < n; t++) tokens[t] = (int32_t)((t * 2654435761u) % DEMO_VOCAB);
}

static recording run_demo(const token_batch *batch)
{
    rb_error err = {0};
    recording r = recording_new(batch->n_tokens);
    const forward_hooks hooks = record_all(&r);
    assert_ok(forward_run(demo_model, batch, &hooks, &err));
    return r;
}

static void forward_gives_the_same_bytes_for_any_thread_count(void **state)
{
    (void)state;
    int32_t tokens[DEMO_TOKENS];
    const token_batch batch = {tokens, DEMO_TOKENS, demo_starts, DEMO_SEQUENCES};
    const int threads[] = {1, 2, 4};
    recording r[3];

    fill_tokens(tokens, DEMO_TOKENS);
    for (int i = 0; i < 3; i++) {
        omp_set_num_threads(threads[i]);
        r[i] = run_demo(&batch);
        assert_memory_equal(r[i].heads, r[0].heads, sizeof(float) * DEMO_LAYERS * DEMO_TOKENS * DEMO_QK_FLOATS);
        assert_memory_equal(r[i].rotated, r[0].rotated, sizeof(float) * DEMO_LAYERS * DEMO_TOKENS * DEMO_QK_FLOATS);
        assert_memory_equal(r[i].logits, r[0].logits, sizeof(float) * DEMO_TOKENS * DEMO_VOCAB);
    }
    for (int i = 0; i < 3; i++) recording_free(&r[i]);
    rb_threads_init(0);
}

static void a_sequence_has_the_same_logits_alone_and_among_others(void **state)
{
    (void)state;
    int32_t tokens[DEMO_TOKENS];
    fill_tokens(tokens, DEMO_TOKENS);
    const token_batch together = {tokens, DEMO_TOKENS, demo_starts, DEMO_SEQUENCES};
    recording all = run_demo(&together);

    for (int s = 0; s < DEMO_SEQUENCES; s++) {
        const int64_t first = demo_starts[s], n = demo_starts[s + 1] - first, bounds[] = {0, n};
        const token_batch alone = {tokens + first, n, bounds, 1};
        recording one = run_demo(&alone);
        for (int64_t i = 0; i < n * DEMO_VOCAB; i++)
            assert_close(one.logits[i], all.logits[first * DEMO_VOCAB + i], MAX_ABSOLUTE);
        recording_free(&one);
    }
    recording_free(&all);
}

static void every_hook_is_called_once_a_layer(void **state)
{
    (void)state;
    int32_t tokens[DEMO_TOKENS];
    fill_tokens(tokens, DEMO_TOKENS);
    const token_batch batch = {tokens, DEMO_TOKENS, demo_starts, DEMO_SEQUENCES};
    recording r = run_demo(&batch);
    assert_int_equal(r.n_qkv, DEMO_LAYERS);
    assert_int_equal(r.n_rotated, DEMO_LAYERS);
    assert_int_equal(r.n_done, DEMO_LAYERS);
    assert_int_equal(r.n_logits, DEMO_TOKENS);
    recording_free(&r);
}

/* Without logits the run ends early, with the same heads on the way. */
static void heads_are_the_same_whether_or_not_logits_are_wanted(void **state)
{
    (void)state;
    rb_error err = {0};
    int32_t tokens[65];
    const int64_t starts[] = {0, 65};
    fill_tokens(tokens, 65);
    const token_batch batch = {tokens, 65, starts, 1};
    recording full = run_demo(&batch), heads_only = recording_new(65), qkv_only = recording_new(65);
    forward_hooks hooks = record_all(&heads_only);

    hooks.on_logits = NULL;
    assert_ok(forward_run(demo_model, &batch, &hooks, &err));
    hooks.on_rotated = NULL;
    hooks.user = &qkv_only;
    assert_ok(forward_run(demo_model, &batch, &hooks, &err));

    const size_t size_bytes = sizeof(float) * DEMO_LAYERS * 65 * DEMO_QK_FLOATS;
    assert_memory_equal(heads_only.heads, full.heads, size_bytes);
    assert_memory_equal(heads_only.rotated, full.rotated, size_bytes);
    assert_memory_equal(qkv_only.heads, full.heads, size_bytes);
    assert_int_equal(heads_only.n_logits, 0);
    assert_int_equal(heads_only.n_done, DEMO_LAYERS);
    assert_int_equal(qkv_only.n_rotated, 0);
    recording_free(&full);
    recording_free(&heads_only);
    recording_free(&qkv_only);
}

/* With every v cleared attention adds nothing, so a token's logits depend on its id alone. A BLAS may sum the last rows
 * of a product in another order than the first: logits of 10 then differ by some 1e-5, those of other tokens by more
 * than 1. */
static void values_changed_by_the_hook_are_the_values_attended(void **state)
{
    (void)state;
    rb_error err = {0};
    const int32_t tokens[] = {17, 900, 17, 33, 17};
    const int64_t starts[] = {0, 5};
    const token_batch batch = {tokens, 5, starts, 1};
    recording plain = run_demo(&batch), cleared = recording_new(5);
    forward_hooks hooks = record_all(&cleared);

    cleared.zero_values = true;
    assert_ok(forward_run(demo_model, &batch, &hooks, &err));
    for (int i = 0; i < DEMO_VOCAB; i++) assert_close(cleared.logits[4 * DEMO_VOCAB + i], cleared.logits[i], 1e-4);
    assert_memory_not_equal(plain.logits, cleared.logits, sizeof(float) * DEMO_VOCAB);
    recording_free(&plain);
    recording_free(&cleared);
}

/* Hooks that note where parts begin and hold what they saw to an earlier run of everything at once. */
typedef struct part_check {
    const recording *whole;
    const int64_t *part_start, *starts;
    int n_attended;
} part_check;

static rb_status check_part_heads(void *user, const layer_heads *heads, const float *attended, rb_error *err)
{
    (void)err;
    part_check *check = user;
    const int64_t d = 64, n_all = check->whole->n_tokens;
    const float *whole = check->whole->rotated + heads->layer * n_all * DEMO_QK_FLOATS;
    assert_int_equal(heads->first_token, check->starts[check->part_start[heads->part]]);
    assert_int_equal(heads->n_tokens, check->starts[check->part_start[heads->part + 1]] - heads->first_token);
    for (int head = 0; head < 6; head++)
        for (int64_t i = 0; i < heads->n_tokens * d; i++)
            assert_close(heads->q[head * heads->n_tokens * d + i], whole[(head * n_all + heads->first_token) * d + i],
                         1e-4);
    assert_ptr_equal(heads->exact_k, heads->k);
    assert_true(isfinite(attended[heads->n_tokens * 6 * d - 1]));
    check->n_attended++;
    return RB_OK;
}

/* Logits of some tokens in an order of their own, as pairs. */
typedef struct logit_check {
    part_check parts; /* first: the hooks share `user` */
    const int64_t *tokens;
    int64_t n_seen;
} logit_check;

static rb_status check_wanted_logits(void *user, int64_t first, int64_t n, const float *logits, rb_error *err)
{
    (void)err;
    logit_check *check = user;
    assert_int_equal(first, check->n_seen);
    assert_int_equal(n % 2, 0);
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = 0; t < DEMO_VOCAB; t++)
            assert_close(logits[i * DEMO_VOCAB + t],
                         check->parts.whole->logits[check->tokens[first + i] * DEMO_VOCAB + t], MAX_ABSOLUTE);
    check->n_seen += n;
    return RB_OK;
}

static void parts_and_wanted_tokens_get_what_the_whole_batch_gets(void **state)
{
    (void)state;
    rb_error err = {0};
    int32_t tokens[DEMO_TOKENS];
    const int64_t part_start[] = {0, 1, DEMO_SEQUENCES}, wanted[] = {DEMO_TOKENS - 1, 0, 5, 5};
    fill_tokens(tokens, DEMO_TOKENS);
    const token_batch batch = {tokens, DEMO_TOKENS, demo_starts, DEMO_SEQUENCES};
    recording whole = run_demo(&batch);
    logit_check check = {.parts = {.whole = &whole, .part_start = part_start, .starts = demo_starts}, .tokens = wanted};
    const forward_hooks hooks = {.user = &check,
                                 .on_attended = check_part_heads,
                                 .on_logits = check_wanted_logits,
                                 .part_start = part_start,
                                 .n_parts = 2,
                                 .logit_tokens = wanted,
                                 .n_logit_tokens = 4,
                                 .logit_group = 2};
    assert_ok(forward_run(demo_model, &batch, &hooks, &err));
    assert_int_equal(check.parts.n_attended, 2 * DEMO_LAYERS);
    assert_int_equal(check.n_seen, 4);
    recording_free(&whole);
}

/* A buffer as long as the context hides every change; one of the query's own token leaves the others changed. */
static void recent_tokens_are_attended_as_they_were_before_the_hook(void **state)
{
    (void)state;
    rb_error err = {0};
    const int32_t tokens[] = {17, 900, 17, 33, 17};
    const int64_t starts[] = {0, 5};
    const token_batch batch = {tokens, 5, starts, 1};
    recording plain = run_demo(&batch), cleared = recording_new(5);
    forward_hooks hooks = record_all(&cleared);

    cleared.zero_values = true;
    hooks.n_recent = 5;
    assert_ok(forward_run(demo_model, &batch, &hooks, &err));
    for (int i = 0; i < 5 * DEMO_VOCAB; i++) assert_close(cleared.logits[i], plain.logits[i], 1e-4);

    recording_free(&cleared);
    cleared = recording_new(5);
    cleared.zero_values = true;
    hooks.n_recent = 1;
    assert_ok(forward_run(demo_model, &batch, &hooks, &err));
    for (int i = 0; i < DEMO_VOCAB; i++) assert_close(cleared.logits[i], plain.logits[i], 1e-4);
    double largest = 0.0;
    for (int i = 0; i < DEMO_VOCAB; i++)
        largest =
            fmax(largest, fabs((double)cleared.logits[4 * DEMO_VOCAB + i] - (double)plain.logits[4 * DEMO_VOCAB + i]));
    assert_true(largest > 0.1);
    recording_free(&plain);
    recording_free(&cleared);
}

static void a_failing_hook_ends_the_run_with_its_message(void **state)
{
    (void)state;
    rb_error err = {0};
    const int32_t token = 5;
    const int64_t starts[] = {0, 1};
    const token_batch batch = {&token, 1, starts, 1};
    recording r = recording_new(1);
    const forward_hooks hooks = record_all(&r);

    r.fail_at = 1;
    assert_fails(forward_run(demo_model, &batch, &hooks, &err), RB_EDEVICE, "the hook said no");
    assert_int_equal(r.n_qkv, 2);
    assert_int_equal(r.n_done, 1);
    recording_free(&r);
}

static void a_bad_batch_is_refused_by_name(void **state)
{
    (void)state;
    rb_error err = {0};
    const forward_hooks hooks = {0};
    const int32_t good[] = {1, 2, 3, 4}, too_large[] = {1, 2, 4096, 4}, negative[] = {1, 2, 3, -7};
    const int64_t one[] = {0, 4}, late[] = {1, 4}, early_end[] = {0, 3}, empty_sequence[] = {0, 2, 2, 4},
                  backwards[] = {0, 3, 2, 4};

    assert_fails(forward_run(demo_model, &(token_batch){good, 0, one, 1}, &hooks, &err), RB_EINVAL, "0 tokens");
    assert_fails(forward_run(demo_model, &(token_batch){good, 4, one, 0}, &hooks, &err), RB_EINVAL, "0 sequences");
    assert_fails(forward_run(demo_model, &(token_batch){too_large, 4, one, 1}, &hooks, &err), RB_EINVAL,
                 "token 2 has id 4096, expected 0 to 4095");
    assert_fails(forward_run(demo_model, &(token_batch){negative, 4, one, 1}, &hooks, &err), RB_EINVAL,
                 "token 3 has id -7");
    assert_fails(forward_run(demo_model, &(token_batch){good, 4, late, 1}, &hooks, &err), RB_EINVAL,
                 "span tokens 1 to 4");
    assert_fails(forward_run(demo_model, &(token_batch){good, 4, early_end, 1}, &hooks, &err), RB_EINVAL,
                 "span tokens 0 to 3");
    assert_fails(forward_run(demo_model, &(token_batch){good, 4, empty_sequence, 3}, &hooks, &err), RB_EINVAL,
                 "sequence 1 has 0 tokens");
    assert_fails(forward_run(demo_model, &(token_batch){good, 4, backwards, 3}, &hooks, &err), RB_EINVAL,
                 "sequence 1 has -1 tokens");
}

/* demo-llama, counted by hand; the margin covers alignment, norms and tile lists. */
static void memory_bound_is_weights_activations_and_scratch(void **state)
{
    (void)state;
    const int64_t starts[] = {0, 1024, 2048};
    const token_batch batch = {NULL, 2048, starts, 2};
    const int64_t layer = 192 * 640 + 384 * 192 + 3 * 192 * 512, per_token = 192 + 384 + 640, mlp = 512 * 2 * 512,
                  rope = 1024 * 64;
    const int64_t head = 256 * (4096 + 192), attention_thread = 192 * (512 + 2 * 64 + 2), head_thread = 256 * 192,
                  blas_thread = 2 * 1024 * 1024;
    const int64_t fixed = 4 * (layer + 2048 * per_token + mlp + rope + head),
                  thread = 4 * (attention_thread + head_thread + blas_thread);

    for (int n_threads = 1; n_threads <= 4; n_threads *= 4) {
        const int64_t bytes = forward_memory_bytes(checkpoint_config(demo_model), &batch, NULL, n_threads);
        assert_in_range(bytes, fixed + n_threads * thread, fixed + n_threads * thread + 16384);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_gives_the_same_bytes_for_any_thread_count),
        cmocka_unit_test(a_sequence_has_the_same_logits_alone_and_among_others),
        cmocka_unit_test(every_hook_is_called_once_a_layer),
        cmocka_unit_test(heads_are_the_same_whether_or_not_logits_are_wanted),
        cmocka_unit_test(values_changed_by_the_hook_are_the_values_attended),
        cmocka_unit_test(parts_and_wanted_tokens_get_what_the_whole_batch_gets),
        cmocka_unit_test(recent_tokens_are_attended_as_they_were_before_the_hook),
        cmocka_unit_test(a_failing_hook_ends_the_run_with_its_message),
        cmocka_unit_test(a_bad_batch_is_refused_by_name),
        cmocka_unit_test(memory_bound_is_weights_activations_and_scratch),
    };
    rb_threads_init(0);
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
