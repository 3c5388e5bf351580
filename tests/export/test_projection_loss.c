/* The loss of other runtimes on a capture, against its definition written out once more: a key turned by its position,
 * rounded, turned back. The capture has all that most models lack: attention factors, a RoPE of its own in layer 1,
 * interleaved pairs, and dims that do not turn. */
#include "tests/test_support.h"

#include "core/half.h"
#include "export/runtimes/projection_loss.h"
#include "tests/calibrate/tiny_capture.h"
#include "tests/profile/profile_test.h"

static rb_error err;
static codec_tables *tables;
static int make_tables(void **state) { return (void)state, codec_tables_create(&tables, &err) == RB_OK ? 0 : 1; }
static int free_tables(void **state) { return (void)state, codec_tables_free(tables), 0; }

static capture_header header_of_all(void)
{
    capture_header header = tiny_new_header();
    header.model.value_dim = TINY_DIM;
    return header;
}

static bit_plan *plan_of(const model_facts *model)
{
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, model, &err));
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        assert_ok(plan_head_set_uniform(&plan->heads[h], 3, model_n_blocks(model), 42, CODEBOOK_BLOCK_GTQ, &err));
    bit_plan_set_value_width(plan, 3);
    return plan;
}

static float fp16(double x) { return rb_f16_to_f32(rb_f32_to_f16((float)x)); }

/* One key as a cache of 16 bits after RoPE gives it back. */
static void restore_by_hand(float *out, const model_facts *model, const rope_facts *rope, const float *k,
                            int64_t position)
{
    for (int block = 0; block < model->head_dim / 2; block++) {
        const bool is_turned = block < model->rotary_dim / 2;
        const double angle = is_turned ? (double)position * rope->inv_freq[block] : 0.0,
                     gain = is_turned ? rope->attention_factor : 1.0;
        int dims[2];
        block_dims_by_hand(model, block, dims);
        const double a = (double)k[dims[0]], b = (double)k[dims[1]],
                     turned_a = (double)fp16(gain * (a * cos(angle) - b * sin(angle))),
                     turned_b = (double)fp16(gain * (b * cos(angle) + a * sin(angle)));
        out[dims[0]] = (float)((turned_a * cos(angle) + turned_b * sin(angle)) / gain);
        out[dims[1]] = (float)((turned_b * cos(angle) - turned_a * sin(angle)) / gain);
    }
}

static double loss_by_hand(const capture_header *header, capture_set set, int layer, int kv_head, int64_t n_tokens)
{
    const model_facts *model = &header->model;
    const tiny_layer x = tiny_vectors(header, set, layer);
    const int64_t stored = header->text[set].n_tokens;
    float q[2 * TINY_MAX_TOKENS * TINY_DIM], k_hat[TINY_MAX_TOKENS * TINY_DIM];
    const float *k = x.k + kv_head * stored * TINY_DIM;
    for (int i = 0; i < 2; i++)
        memcpy(q + i * n_tokens * TINY_DIM, x.q + (kv_head * 2 + i) * stored * TINY_DIM,
               (size_t)(n_tokens * TINY_DIM) * sizeof *q);
    for (int64_t t = 0; t < n_tokens; t++)
        restore_by_hand(k_hat + t * TINY_DIM, model, model_rope(model, layer), k + t * TINY_DIM,
                        t % header->text[set].context);
    return naive_logit_mae_by(model, model_rope(model, layer), q, 2, k, k_hat, n_tokens);
}

static void measure(head_losses *losses, const capture_header *header, capture_set set, int64_t max_tokens)
{
    const char *path = scratch_path("capture.h5");
    const loss_candidate candidates[2] = {{0}, {NULL, runtime_of(RUNTIME_LLAMA_CPP), RUNTIME_FP16_TYPE}};
    bit_plan *plan = plan_of(&header->model);
    capture_file *capture = NULL;
    assert_ok(tiny_write_header(path, header, &err));
    assert_ok(capture_open(&capture, path, &err));
    assert_ok(measure_losses(losses, plan, candidates, 2, capture, set, max_tokens, tables, "test", &err));
    capture_close(capture);
    bit_plan_free(plan);
}

static void assert_losses(capture_set set, int64_t max_tokens)
{
    const capture_header header = header_of_all();
    const int64_t n_tokens = max_tokens > 0 ? max_tokens : header.text[set].n_tokens;
    head_losses losses[2] = {{0}};
    measure(losses, &header, set, max_tokens);
    for (int h = 0; h < TINY_LAYERS * TINY_KV_HEADS; h++) {
        const double expected = loss_by_hand(&header, set, h / TINY_KV_HEADS, h % TINY_KV_HEADS, n_tokens);
        /* Angles in f32 move a few of some hundred roundings. */
        if (!(fabs(losses[1].logit_mae[h] - expected) < 0.02 * expected))
            fail_msg("head %d: loss is %g, expected %g", h, losses[1].logit_mae[h], expected);
        assert_true(losses[0].logit_mae[h] > 20 * expected);                             /* the plan's 3 bits */
        assert_true(losses[0].value_error[h] > 0.05 && losses[1].value_error[h] == 0.0); /* eighths are in fp16 */
    }
    for (int i = 0; i < 2; i++) head_losses_clear(&losses[i]);
}

static void keys_are_rounded_as_they_leave_rope(void **state)
{
    (void)state;
    assert_losses(CAPTURE_TEST, 0);
}

static void the_first_tokens_are_those_of_every_head(void **state)
{
    (void)state;
    assert_losses(CAPTURE_CALIBRATION, 11);
}

static void a_capture_of_another_model_is_refused(void **state)
{
    const capture_header header = header_of_all();
    const char *path = scratch_path("other.h5");
    capture_file *capture = NULL;
    head_losses losses = {0};
    bit_plan *plan = plan_of(&header.model);
    (void)state;
    assert_ok(tiny_write_header(path, &header, &err));
    assert_ok(capture_open(&capture, path, &err));
    plan->model.attention_scale = 1.0;
    assert_int_equal(
        measure_losses(&losses, plan, &(loss_candidate){0}, 1, capture, CAPTURE_TEST, 0, tables, "test", &err),
        RB_EMISMATCH);
    assert_non_null(strstr(err.msg, "attention_scale"));
    err = (rb_error){0};
    head_losses_clear(&losses);
    capture_close(capture);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_rounded_as_they_leave_rope),
        cmocka_unit_test(the_first_tokens_are_those_of_every_head),
        cmocka_unit_test(a_capture_of_another_model_is_refused),
    };
    return cmocka_run_group_tests(tests, make_tables, free_tables);
}
