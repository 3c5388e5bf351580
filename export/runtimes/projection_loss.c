/* See projection_loss.h. */
#include "export/runtimes/projection_loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/message.h"
#include "core/threads.h"
#include "kernels/reference/head_codec.h"
#include "model/rope_apply.h"
#include "profile/logit_error.h"

/* What is shared by all layers and heads. */
typedef struct measuring {
    const bit_plan *plan;
    const loss_candidate *candidates;
    const capture_file *capture;
    capture_set set;
    const model_facts *model;
    model_facts values;
    codec_tables *tables;
    head_losses *losses;
    int n_candidates;
    int64_t n_stored, n_tokens, context; /* tokens of the set, those that count, a sequence's */
    offset_table *offsets[2];            /* of the usual RoPE and of the local one: by layer_is_local */
    rope_table ropes[2];
    float *q, *k, *v; /* a layer: [heads][n_tokens][dims], with room for n_stored */
    float **restored; /* [n_candidates], each [n_tokens][head_dim] */
} measuring;

void head_losses_clear(head_losses *losses)
{
    free(losses->logit_mae);
    free(losses->value_error);
    *losses = (head_losses){0};
}

/* ---- what comes back ------------------------------------------------------------------------- */

/* The first n_sink vectors of every sequence are exact. */
static void keep_sinks(float *restored, const float *x, const measuring *m, int64_t dims)
{
    for (int64_t first = 0; first < m->n_tokens && m->plan->n_sink > 0; first += m->context) {
        const int64_t length = m->n_tokens - first < m->context ? m->n_tokens - first : m->context,
                      n = m->plan->n_sink < length ? m->plan->n_sink : length;
        memcpy(restored + first * dims, x + first * dims, (size_t)(n * dims) * sizeof *x);
    }
}

static rb_status restore_by_head(float *restored, const measuring *m, const plan_head *head, const model_facts *facts,
                                 const float *x, rb_error *err)
{
    head_codec *codec = NULL;
    rb_status st;
    RB_TRY(st, head_codec_create(&codec, head, facts, m->tables, err), done);
    RB_TRY(st, head_codec_round_trip(codec, x, m->n_tokens, restored, err), done);
    keep_sinks(restored, x, m, facts->head_dim);
done:
    head_codec_free(codec);
    return st;
}

static rb_status restore_plan_values(float *restored, const measuring *m, int layer, int kv_head, const float *x,
                                     rb_error *err)
{
    const plan_head *own = bit_plan_value_head_at(m->plan, layer, kv_head);
    plan_head head = {0};
    rb_status st = RB_OK;
    if (!bit_plan_quantizes_values(m->plan)) {
        memcpy(restored, x, (size_t)(m->n_tokens * m->values.head_dim) * sizeof *x);
        return RB_OK;
    }
    if (own) return restore_by_head(restored, m, own, &m->values, x, err);
    RB_TRY(st, bit_plan_value_head(m->plan, layer, kv_head, &head, err), done);
    RB_TRY(st, restore_by_head(restored, m, &head, &m->values, x, err), done);
done:
    plan_head_clear(&head);
    return st;
}

/* Turns keys, or turns them back; RoPE's factor is multiplied by, or divided by. */
static void turn(float *k, const measuring *m, int layer, bool back)
{
    const rope_table *rope = &m->ropes[m->model->layer_is_local[layer]];
    const double gain = model_rope(m->model, layer)->attention_factor;
    const int dims = m->model->head_dim;
    for (int64_t first = 0; first < m->n_tokens; first += m->context) {
        const int64_t n = m->n_tokens - first < m->context ? m->n_tokens - first : m->context, start[2] = {0, n};
        if (!back) rope_apply(rope, k + first * dims, 1, dims, start, 1);
        for (int64_t t = 0; back && t < n; t++) {
            float *at = k + (first + t) * dims;
            rope_turn_back(rope, at, t);
            for (int i = 0; i < m->model->rotary_dim; i++) at[i] = (float)(at[i] / (gain * gain));
        }
    }
}

static rb_status restore_runtime_keys(float *restored, const measuring *m, const runtime *r,
                                      const runtime_quantizer *quantizer, int layer, const float *k, rb_error *err)
{
    const int dims = m->model->head_dim;
    const bool in_pairs = runtime_holds_pairs(r, m->model);
    memcpy(restored, k, (size_t)(m->n_tokens * dims) * sizeof *k);
    turn(restored, m, layer, false);
    if (in_pairs) runtime_reorder(restored, m->n_tokens, m->model, false);
    const rb_status st =
        runtime_quantizer_restore(quantizer, restored, m->n_tokens, dims, m->context, m->tables, restored, err);
    if (in_pairs) runtime_reorder(restored, m->n_tokens, m->model, true);
    turn(restored, m, layer, true);
    return st;
}

static rb_status restore_by_plan(float *restored, const measuring *m, int layer, int kv_head, const float *x,
                                 bool are_values, rb_error *err)
{
    return are_values ? restore_plan_values(restored, m, layer, kv_head, x, err)
                      : restore_by_head(restored, m, bit_plan_head(m->plan, layer, kv_head), m->model, x, err);
}

static rb_status restore_one(const measuring *m, int candidate, int layer, int kv_head, const float *x, bool are_values,
                             rb_error *err)
{
    const loss_candidate *c = &m->candidates[candidate];
    const projection *p = c->projection;
    const runtime *r = p ? p->runtime : c->runtime;
    float *restored = m->restored[candidate];
    if (!r) return restore_by_plan(restored, m, layer, kv_head, x, are_values, err);
    const projection_side side = are_values ? SIDE_VALUES : SIDE_KEYS;
    const runtime_quantizer *quantizer = !p           ? runtime_side(r, c->type, side)
                                         : are_values ? projection_values(p, layer, kv_head)
                                                      : projection_keys(p, layer, kv_head);
    const rb_status st = are_values ? runtime_quantizer_restore(quantizer, x, m->n_tokens, m->values.head_dim,
                                                                m->context, m->tables, restored, err)
                                    : restore_runtime_keys(restored, m, r, quantizer, layer, x, err);
    return st == RB_OK ? RB_OK : rb_fail_in(err, st, "%s", r->name);
}

static rb_status restore_all(const measuring *m, int layer, int kv_head, const float *x, bool are_values, rb_error *err)
{
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic)
    for (int c = 0; c < m->n_candidates; c++) {
        rb_error mine = {0};
        rb_note_failure(&failure, c, restore_one(m, c, layer, kv_head, x, are_values, &mine), &mine);
    }
    return rb_tell_failure(&failure, err);
}

/* ---- what it costs --------------------------------------------------------------------------- */

static double relative_error(const float *x, const float *restored, int64_t n)
{
    double error = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double difference = (double)x[i] - (double)restored[i];
        error += difference * difference;
        size += (double)x[i] * (double)x[i];
    }
    return size > 0.0 ? sqrt(error / size) : 0.0;
}

static rb_status measure_keys(measuring *m, int layer, int kv_head, rb_error *err)
{
    const int n_q = model_q_per_kv(m->model), h = layer * m->model->n_kv_heads + kv_head;
    const int64_t head = m->n_tokens * m->model->head_dim;
    const float *k = m->k + kv_head * head;
    double *mae = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&mae, (size_t)m->n_candidates, sizeof *mae, "logit errors", err), done);
    RB_TRY(st, restore_all(m, layer, kv_head, k, false, err), done);
    RB_TRY(st,
           logit_mae(mae, m->offsets[m->model->layer_is_local[layer]], m->q + (int64_t)kv_head * n_q * head, n_q, k,
                     (const float *const *)m->restored, m->n_candidates, m->n_tokens, err),
           done);
    for (int c = 0; c < m->n_candidates; c++) m->losses[c].logit_mae[h] = mae[c];
done:
    free(mae);
    return st;
}

static rb_status measure_values(measuring *m, int layer, int kv_head, rb_error *err)
{
    const int64_t n = m->n_tokens * m->values.head_dim;
    const float *v = m->v + kv_head * n;
    const rb_status st = restore_all(m, layer, kv_head, v, true, err);
    for (int c = 0; c < m->n_candidates && st == RB_OK; c++)
        m->losses[c].value_error[layer * m->model->n_kv_heads + kv_head] = relative_error(v, m->restored[c], n);
    return st;
}

/* The tokens that count, head after head, to the front. */
static void keep_first_tokens(float *heads, int n_heads, int dims, const measuring *m)
{
    for (int h = 1; h < n_heads && m->n_tokens < m->n_stored; h++)
        memmove(heads + h * m->n_tokens * dims, heads + h * m->n_stored * dims,
                (size_t)(m->n_tokens * dims) * sizeof *heads);
}

static rb_status measure_layer(measuring *m, int layer, rb_error *err)
{
    const int n_kv = m->model->n_kv_heads;
    rb_status st;
    RB_TRY(st, capture_read_q(m->capture, m->set, layer, m->q, err), done);
    RB_TRY(st, capture_read_k(m->capture, m->set, layer, m->k, err), done);
    if (m->v) RB_TRY(st, capture_read_v(m->capture, m->set, layer, m->v, err), done);
    keep_first_tokens(m->q, m->model->n_q_heads, m->model->head_dim, m);
    keep_first_tokens(m->k, n_kv, m->model->head_dim, m);
    if (m->v) keep_first_tokens(m->v, n_kv, m->values.head_dim, m);
    for (int h = 0; h < n_kv; h++) {
        st = measure_keys(m, layer, h, err);
        if (st == RB_OK && m->v) st = measure_values(m, layer, h, err);
        if (st != RB_OK) return rb_fail_in(err, st, "layer %d kv_head %d", layer, h);
    }
done:
    return st;
}

/* ---- all ------------------------------------------------------------------------------------- */

static rb_status begin_rope(measuring *m, bool is_local, rb_error *err)
{
    const rope_facts *rope = is_local ? &m->model->local_rope : &m->model->rope;
    const rb_status st = offset_table_create(&m->offsets[is_local], m->model, rope, err);
    return st == RB_OK ? rope_table_init(&m->ropes[is_local], m->model, rope, m->context, err) : st;
}

static rb_status begin_losses(measuring *m, bool has_values, rb_error *err)
{
    const size_t n_heads = (size_t)bit_plan_n_heads(m->plan);
    rb_status st = RB_OK;
    for (int c = 0; c < m->n_candidates && st == RB_OK; c++) {
        head_losses *losses = &m->losses[c];
        RB_TRY(st, rb_alloc(&losses->logit_mae, n_heads, sizeof *losses->logit_mae, "losses", err), done);
        if (has_values) st = rb_alloc(&losses->value_error, n_heads, sizeof *losses->value_error, "losses", err);
    }
done:
    return st;
}

static rb_status begin(measuring *m, bool has_values, rb_error *err)
{
    const size_t dims = (size_t)m->model->head_dim, stored = (size_t)m->n_stored * dims,
                 head = (size_t)m->n_tokens * dims, n_kv = (size_t)m->model->n_kv_heads;
    rb_status st;
    RB_TRY(st, begin_losses(m, has_values, err), done);
    RB_TRY(st, begin_rope(m, false, err), done);
    if (m->model->has_local_rope) RB_TRY(st, begin_rope(m, true, err), done);
    RB_TRY(st, rb_alloc(&m->q, stored * (size_t)m->model->n_q_heads, sizeof *m->q, "queries", err), done);
    RB_TRY(st, rb_alloc(&m->k, stored * n_kv, sizeof *m->k, "keys", err), done);
    if (has_values) RB_TRY(st, rb_alloc(&m->v, stored * n_kv, sizeof *m->v, "values", err), done);
    RB_TRY(st, rb_alloc(&m->restored, (size_t)m->n_candidates, sizeof *m->restored, "restored vectors", err), done);
    for (int c = 0; c < m->n_candidates; c++)
        RB_TRY(st, rb_alloc(&m->restored[c], head, sizeof **m->restored, "restored vectors", err), done);
done:
    return st;
}

static void end(measuring *m)
{
    for (int c = 0; m->restored && c < m->n_candidates; c++) free(m->restored[c]);
    free(m->restored);
    free(m->q);
    free(m->k);
    free(m->v);
    for (int i = 0; i < 2; i++) {
        rope_table_free(&m->ropes[i]);
        offset_table_free(m->offsets[i]);
    }
}

rb_status measure_losses(head_losses *losses, const bit_plan *plan, const loss_candidate *candidates, int n,
                         const capture_file *capture, capture_set set, int64_t max_tokens, codec_tables *tables,
                         const char *label, rb_error *err)
{
    const capture_header *header = capture_file_header(capture);
    measuring m = {.plan = plan,
                   .candidates = candidates,
                   .capture = capture,
                   .set = set,
                   .model = &plan->model,
                   .values = model_value_facts(&plan->model),
                   .tables = tables,
                   .losses = losses,
                   .n_candidates = n,
                   .n_stored = header->text[set].n_tokens,
                   .context = header->text[set].context};
    rb_progress progress;
    rb_status st;
    m.n_tokens = max_tokens > 0 && max_tokens < m.n_stored ? max_tokens : m.n_stored;
    if (m.context > m.n_tokens) m.context = m.n_tokens;
    RB_TRY(st, model_facts_same(&plan->model, "the plan", &header->model, capture_file_path(capture), err), done);
    if (m.n_tokens == 0) {
        st = rb_fail(err, RB_EFORMAT, "%s: has no %s text to measure on", capture_file_path(capture),
                     capture_set_name(set));
        goto done;
    }
    RB_TRY(st, begin(&m, header->has_values, err), done);
    rb_progress_start(&progress, label, plan->model.n_layers);
    for (int layer = 0; layer < plan->model.n_layers && st == RB_OK; layer++) {
        st = measure_layer(&m, layer, err);
        rb_progress_step(&progress, "layers");
    }
    rb_progress_finish(&progress);
done:
    end(&m);
    return st;
}
