/* Scoring: see profile/profile_compute.h.
 *
 * For one KV head the candidates are the plans to score, then, for the error curves, the uniform codec of every width.
 * Every candidate's keys are restored (in parallel), then compared with the exact ones: over made-up offsets before
 * RoPE, and, plans only, over causal pairs after RoPE. */
#include "profile/profile_compute.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/message.h"
#include "core/threads.h"
#include "kernels/reference/head_codec.h"
#include "model/rope_apply.h"
#include "profile/attention_error.h"
#include "profile/coverage.h"
#include "profile/logit_error.h"
#include "profile/profile_cuda.h"

/* What is shared by all layers and heads. */
typedef struct scoring {
    const capture_file *capture;
    const model_facts *model;
    const bit_plan *const *plans;
    profile_table *table;
    int n_plans, n_candidates; /* plans, then the widths of the curves */
    int64_t n_tokens, context;
    codec_tables *tables;
    offset_table *offsets[2]; /* of the usual RoPE and of the local one: by layer_is_local */
    rope_table ropes[2];
    int64_t *sequence_start, n_sequences;
    float *q, *k;                 /* a layer: [n_q_heads][n_tokens][head_dim], [n_kv_heads][n_tokens][head_dim] */
    float *q_rotated, *k_rotated; /* one KV head's: [n_q / n_kv][n_tokens][head_dim], [n_tokens][head_dim] */
    float **k_hat;                /* [n_candidates], each [n_tokens][head_dim] */
    float *token_errors;          /* [n_plans][n_tokens]; after them the sizes [n_tokens] */
    double restore_s, offset_s, causal_s, read_s;
} scoring;

/* ---- set-up ---------------------------------------------------------------------------------- */

static rb_status cut_sequences(scoring *s, rb_error *err)
{
    s->n_sequences = (s->n_tokens + s->context - 1) / s->context;
    rb_status st =
        rb_alloc(&s->sequence_start, (size_t)s->n_sequences + 1, sizeof *s->sequence_start, "sequences", err);
    for (int64_t i = 0; st == RB_OK && i <= s->n_sequences; i++)
        s->sequence_start[i] = i * s->context < s->n_tokens ? i * s->context : s->n_tokens;
    return st;
}

static rb_status begin_rope(scoring *s, bool is_local, rb_error *err)
{
    const rope_facts *rope = is_local ? &s->model->local_rope : &s->model->rope;
    const rb_status st = offset_table_create(&s->offsets[is_local], s->model, rope, err);
    return st == RB_OK ? rope_table_init(&s->ropes[is_local], s->model, rope, s->context, err) : st;
}

static rb_status begin(scoring *s, rb_error *err)
{
    const model_facts *model = s->model;
    const size_t head = (size_t)s->n_tokens * (size_t)model->head_dim;
    rb_status st;
    RB_TRY(st, codec_tables_create(&s->tables, err), done);
    RB_TRY(st, begin_rope(s, false, err), done);
    if (model->has_local_rope) RB_TRY(st, begin_rope(s, true, err), done);
    RB_TRY(st, cut_sequences(s, err), done);
    RB_TRY(st, rb_alloc(&s->q, head * (size_t)model->n_q_heads, sizeof *s->q, "queries", err), done);
    RB_TRY(st, rb_alloc(&s->k, head * (size_t)model->n_kv_heads, sizeof *s->k, "keys", err), done);
    RB_TRY(st,
           rb_alloc(&s->q_rotated, head * (size_t)model_q_per_kv(model), sizeof *s->q_rotated, "rotated queries", err),
           done);
    RB_TRY(st, rb_alloc(&s->k_rotated, head, sizeof *s->k_rotated, "rotated keys", err), done);
    RB_TRY(st, rb_alloc(&s->k_hat, (size_t)s->n_candidates, sizeof *s->k_hat, "restored keys", err), done);
    RB_TRY(st,
           rb_alloc(&s->token_errors, ((size_t)s->n_plans + 1) * (size_t)s->n_tokens, sizeof *s->token_errors,
                    "token errors", err),
           done);
    for (int c = 0; c < s->n_candidates; c++)
        RB_TRY(st, rb_alloc(&s->k_hat[c], head, sizeof **s->k_hat, "restored keys", err), done);
done:
    return st;
}

static void end(scoring *s)
{
    for (int c = 0; s->k_hat && c < s->n_candidates; c++) free(s->k_hat[c]);
    free(s->k_hat);
    free(s->token_errors);
    free(s->k_rotated);
    free(s->q_rotated);
    free(s->k);
    free(s->q);
    free(s->sequence_start);
    for (int i = 0; i < 2; i++) {
        rope_table_free(&s->ropes[i]);
        offset_table_free(s->offsets[i]);
    }
    codec_tables_free(s->tables);
}

/* ---- one head -------------------------------------------------------------------------------- */

/* The first n_sink keys of every sequence are exact. */
static void keep_sinks(float *k_hat, const float *k, const scoring *s, int64_t n_sink)
{
    const int64_t dim = s->model->head_dim;
    for (int64_t i = 0; i < s->n_sequences && n_sink > 0; i++) {
        const int64_t first = s->sequence_start[i], length = s->sequence_start[i + 1] - first,
                      n = n_sink < length ? n_sink : length;
        memcpy(k_hat + first * dim, k + first * dim, (size_t)(n * dim) * sizeof *k);
    }
}

/* k_hat[c] of one candidate. */
static rb_status restore_keys(const scoring *s, int candidate, int layer, int kv_head, const float *k, rb_error *err)
{
    const int width = candidate - s->n_plans + 1; /* if the candidate is a curve's */
    plan_head uniform = {0};
    const plan_head *head = &uniform;
    head_codec *codec = NULL;
    rb_status st;
    if (candidate < s->n_plans) head = bit_plan_head(s->plans[candidate], layer, kv_head);
    else
        RB_TRY(st,
               plan_head_set_uniform(&uniform, width, model_n_blocks(s->model), UNIFORM_SEED, CODEBOOK_BLOCK_GTQ, err),
               done);
    RB_TRY(st, head_codec_create(&codec, head, s->model, s->tables, err), done);
    RB_TRY(st, head_codec_round_trip(codec, k, s->n_tokens, s->k_hat[candidate], err), done);
    keep_sinks(s->k_hat[candidate], k, s, profile_candidate_sinks(s->table, s->plans, s->n_plans, candidate));
done:
    head_codec_free(codec);
    plan_head_clear(&uniform);
    return st;
}

static rb_status restore_all(const scoring *s, int layer, int kv_head, const float *k, rb_error *err)
{
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic)
    for (int c = 0; c < s->n_candidates; c++) {
        rb_error mine = {0};
        const rb_status st = restore_keys(s, c, layer, kv_head, k, &mine);
        rb_note_failure(&failure, c, st, &mine);
    }
    return rb_tell_failure(&failure, err);
}

static double relative_error(const float *k, const float *k_hat, int64_t n)
{
    double error = 0.0, whole = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double difference = (double)k[i] - (double)k_hat[i];
        error += difference * difference;
        whole += (double)k[i] * (double)k[i];
    }
    return whole > 0.0 ? sqrt(error / whole) : 0.0;
}

/* mse[block] = mean over tokens of |k_i - k^_i|^2. */
static void block_errors(double *mse, const model_facts *model, const float *k, const float *k_hat, int64_t n_tokens)
{
    for (int block = 0; block < model_n_blocks(model); block++) {
        int dims[2];
        double sum = 0.0;
        model_block_dims(model, block, dims);
        for (int64_t t = 0; t < n_tokens; t++)
            for (int i = 0; i < 2; i++) {
                const double difference =
                    (double)k[t * model->head_dim + dims[i]] - (double)k_hat[t * model->head_dim + dims[i]];
                sum += difference * difference;
            }
        mse[block] = sum / (double)n_tokens;
    }
}

static rb_status score_tails(scoring *s, int layer, int kv_head, const float *k, rb_error *err)
{
    const int64_t head = (int64_t)layer * s->model->n_kv_heads + kv_head;
    const int head_dim = s->model->head_dim;
    float weights[RB_MAX_HEAD_DIM], *sizes = s->token_errors + (int64_t)s->n_plans * s->n_tokens;
    rb_first_failure failure = {0};
    token_weights(weights, s->model, layer, s->table->all.q_energy + head * s->table->n_blocks);
    token_errors(sizes, weights, head_dim, k, NULL, s->n_tokens);
#pragma omp parallel for schedule(dynamic)
    for (int c = 0; c < s->n_plans; c++) {
        float *errors = s->token_errors + (int64_t)c * s->n_tokens;
        rb_error mine = {0};
        token_errors(errors, weights, head_dim, k, s->k_hat[c], s->n_tokens);
        const rb_status st =
            method_keep_tail(&s->table->methods[c], s->model, layer, kv_head, errors, sizes, s->n_tokens, &mine);
        rb_note_failure(&failure, c, st, &mine);
    }
    return rb_tell_failure(&failure, err);
}

static rb_status score_offsets(scoring *s, int layer, int kv_head, const float *q, const float *k, rb_error *err)
{
    profile_table *table = s->table;
    const int64_t head = (int64_t)layer * s->model->n_kv_heads + kv_head, n = s->n_tokens * s->model->head_dim;
    double *mae = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&mae, (size_t)s->n_candidates, sizeof *mae, "logit errors", err), done);
    RB_TRY(st,
           logit_mae(mae, s->offsets[s->model->layer_is_local[layer]], q, model_q_per_kv(s->model), k,
                     (const float *const *)s->k_hat, s->n_candidates, s->n_tokens, err),
           done);
#pragma omp parallel for schedule(dynamic)
    for (int c = 0; c < s->n_candidates; c++) {
        if (c < s->n_plans) {
            head_score *score = method_head(&table->methods[c], s->model, layer, kv_head);
            score->logit_mae = mae[c];
            score->relative_error = relative_error(k, s->k_hat[c], n);
            score->true_bits = plan_head_true_bits(bit_plan_head(s->plans[c], layer, kv_head), s->model->head_dim);
        } else {
            const int64_t curve = head * PROFILE_MAX_WIDTH + c - s->n_plans;
            table->curve_logit_mae[curve] = mae[c];
            block_errors(table->curve_block_mse + curve * table->n_blocks, s->model, k, s->k_hat[c], s->n_tokens);
        }
    }
done:
    free(mae);
    return st;
}

/* Turns queries, keys and the plans' restored keys by RoPE (those in place: nothing needs them unturned any more) and
 * compares the attention. */
static rb_status score_attention(scoring *s, int layer, int kv_head, const float *q, const float *k, rb_error *err)
{
    const int n_q = model_q_per_kv(s->model), head_dim = s->model->head_dim;
    const size_t head = (size_t)s->n_tokens * (size_t)head_dim;
    const rope_table *rope = &s->ropes[s->model->layer_is_local[layer]];
    attention_error *errors = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&errors, (size_t)s->n_plans, sizeof *errors, "attention errors", err), done);
    memcpy(s->q_rotated, q, head * (size_t)n_q * sizeof *q);
    memcpy(s->k_rotated, k, head * sizeof *k);
    rope_apply(rope, s->q_rotated, n_q, head_dim, s->sequence_start, s->n_sequences);
    rope_apply(rope, s->k_rotated, 1, head_dim, s->sequence_start, s->n_sequences);
    for (int c = 0; c < s->n_plans; c++) rope_apply(rope, s->k_hat[c], 1, head_dim, s->sequence_start, s->n_sequences);
    RB_TRY(st,
           attention_errors(errors, s->model, s->q_rotated, n_q, s->k_rotated, (const float *const *)s->k_hat,
                            s->n_plans, s->n_tokens, s->context, err),
           done);
    for (int c = 0; c < s->n_plans; c++) {
        head_score *score = method_head(&s->table->methods[c], s->model, layer, kv_head);
        score->causal_mae = errors[c].causal_mae;
        score->attended_mae = errors[c].attended_mae;
        score->attention_kl = errors[c].attention_kl;
    }
done:
    free(errors);
    return st;
}

static rb_status score_head(scoring *s, int layer, int kv_head, rb_error *err)
{
    const int64_t head = s->n_tokens * s->model->head_dim;
    const float *q = s->q + (int64_t)kv_head * model_q_per_kv(s->model) * head, *k = s->k + kv_head * head;
    const double started_s = rb_now_s();
    rb_status st;
    RB_TRY(st, restore_all(s, layer, kv_head, k, err), done);
    const double restored_s = rb_now_s();
    RB_TRY(st, score_offsets(s, layer, kv_head, q, k, err), done);
    RB_TRY(st, score_tails(s, layer, kv_head, k, err), done);
    const double compared_s = rb_now_s();
    if (s->n_plans > 0) RB_TRY(st, score_attention(s, layer, kv_head, q, k, err), done);
    s->restore_s += restored_s - started_s;
    s->offset_s += compared_s - restored_s;
    s->causal_s += rb_now_s() - compared_s;
done:
    return st == RB_OK ? RB_OK : rb_fail_in(err, st, "layer %d kv_head %d", layer, kv_head);
}

/* ---- all ------------------------------------------------------------------------------------- */

int64_t profile_candidate_sinks(const profile_table *table, const bit_plan *const *plans, int n_plans, int candidate)
{
    return candidate < n_plans ? plans[candidate]->n_sink : table->n_sink;
}

static void name_methods(profile_table *table, const bit_plan *const *plans)
{
    for (int m = 0; m < table->n_methods; m++) {
        table->methods[m].n_sink = plans[m]->n_sink;
        snprintf(table->methods[m].method, sizeof table->methods[m].method, "%s", plans[m]->method);
        table->methods[m].avg_bits = plans[m]->avg_bits;
        table->methods[m].seeds = plan_seeds_of(plans[m]);
    }
}

static rb_status score_layer(scoring *s, int layer, rb_error *err)
{
    const double started_s = rb_now_s();
    rb_status st;
    RB_TRY(st, capture_read_q(s->capture, CAPTURE_TEST, layer, s->q, err), done);
    RB_TRY(st, capture_read_k(s->capture, CAPTURE_TEST, layer, s->k, err), done);
    s->read_s += rb_now_s() - started_s;
    for (int kv_head = 0; kv_head < s->model->n_kv_heads; kv_head++)
        RB_TRY(st, score_head(s, layer, kv_head, err), done);
done:
    return st;
}

static rb_status score_cpu(profile_table *table, const capture_file *capture, const bit_plan *const *plans, int n_plans,
                           bool with_curves, rb_error *err)
{
    const text_facts *test = &capture_file_header(capture)->text[CAPTURE_TEST];
    scoring s = {.capture = capture,
                 .model = &table->model,
                 .plans = plans,
                 .table = table,
                 .n_plans = n_plans,
                 .n_candidates = n_plans + (with_curves ? PROFILE_MAX_WIDTH : 0),
                 .n_tokens = test->n_tokens,
                 .context = test->context};
    rb_progress progress;
    char detail[32];
    rb_status st;
    if (s.context > s.n_tokens) s.context = s.n_tokens;
    RB_TRY(st, begin(&s, err), done);
    rb_progress_start(&progress, "profile", s.model->n_layers);
    for (int layer = 0; layer < s.model->n_layers; layer++) {
        st = score_layer(&s, layer, err);
        if (st != RB_OK) break;
        snprintf(detail, sizeof detail, "layer %d", layer);
        rb_progress_step(&progress, detail);
    }
    rb_progress_finish(&progress);
    rb_message_verbose(
        "reading took %.3f s, quantizing took %.3f s, logit errors took %.3f s, attention errors took %.3f s", s.read_s,
        s.restore_s, s.offset_s, s.causal_s);
done:
    end(&s);
    return st;
}

/* What the worst tokens are: their ids. */
static rb_status name_worst_tokens(profile_table *table, const capture_file *capture, rb_error *err)
{
    int32_t *ids = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&ids, (size_t)table->test.n_tokens, sizeof *ids, "token ids", err), done);
    RB_TRY(st, capture_read_tokens(capture, CAPTURE_TEST, ids, err), done);
    for (int m = 0; m < table->n_methods; m++)
        for (int i = 0; i < table->methods[m].worst.n; i++)
            table->methods[m].worst.at[i].id = ids[table->methods[m].worst.at[i].position];
done:
    free(ids);
    return st;
}

rb_status profile_score(profile_table *table, const capture_file *capture, const bit_plan *const *plans, int n_plans,
                        bool with_curves, rb_device_kind device, rb_error *err)
{
    rb_status st;
    RB_TRY(st, profile_table_add_methods(table, n_plans, err), done);
    if (with_curves) RB_TRY(st, profile_table_add_curves(table, err), done);
    name_methods(table, plans);
    if (device == RB_DEVICE_CUDA)
        RB_TRY(st, profile_score_cuda(table, capture, plans, n_plans, with_curves, err), done);
    else RB_TRY(st, score_cpu(table, capture, plans, n_plans, with_curves, err), done);
    RB_TRY(st, name_worst_tokens(table, capture, err), done);
    RB_TRY(st, coverage_measure(table, capture, err), done);
    st = rb_sha256_file_finish(&table->hashing, table->capture_sha256, err);
done:
    return st;
}
