/* The bit plan as data: see plan/bit_plan.h. */
#include "plan/bit_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int bit_plan_n_heads(const bit_plan *plan) { return plan->model.n_layers * plan->model.n_kv_heads; }

/* ---- life ------------------------------------------------------------------------------------ */

rb_status bit_plan_create(bit_plan **out, const model_facts *model, rb_error *err)
{
    bit_plan *plan = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&plan, 1, sizeof *plan, "bit plan", err), done);
    plan->model = *model;
    plan->model.weights_sample_sha256[0] = '\0'; /* a plan serves a model, whatever it was fine-tuned to */
    RB_TRY(st,
           rb_alloc(&plan->heads, (size_t)model->n_layers * (size_t)model->n_kv_heads, sizeof *plan->heads,
                    "heads of a bit plan", err),
           done);
    RB_TRY(st,
           rb_alloc(&plan->value_widths, (size_t)bit_plan_n_heads(plan), sizeof *plan->value_widths,
                    "value widths of a bit plan", err),
           done);
    bit_plan_set_value_width(plan, PLAN_FP16_WIDTH);
    *out = plan;
    plan = NULL;
done:
    bit_plan_free(plan);
    return st;
}

static rb_status copy_value_heads(bit_plan *out, const bit_plan *plan, rb_error *err)
{
    const int value_dim = plan->model.value_dim;
    rb_status st = bit_plan_create_value_heads(out, err);
    for (int h = 0; h < bit_plan_n_heads(plan) && st == RB_OK; h++)
        st = plan_head_copy(&out->value_heads[h], &plan->value_heads[h], value_dim / 2, value_dim, err);
    return st;
}

rb_status bit_plan_create_like(bit_plan **out, const bit_plan *plan, rb_error *err)
{
    bit_plan *made = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, bit_plan_create(&made, &plan->model, err), done);
    made->calibration = plan->calibration;
    memcpy(made->method, plan->method, sizeof made->method);
    made->avg_bits = plan->avg_bits;
    memcpy(made->value_widths, plan->value_widths, (size_t)bit_plan_n_heads(plan));
    made->value_codebook = plan->value_codebook;
    made->n_sink = plan->n_sink;
    made->n_recent = plan->n_recent;
    if (plan->value_heads) RB_TRY(st, copy_value_heads(made, plan, err), done);
    *out = made;
    made = NULL;
done:
    bit_plan_free(made);
    return st;
}

static void free_value_heads(bit_plan *plan)
{
    for (int h = 0; plan->value_heads && h < bit_plan_n_heads(plan); h++) plan_head_clear(&plan->value_heads[h]);
    free(plan->value_heads);
    plan->value_heads = NULL;
}

void bit_plan_free(bit_plan *plan)
{
    if (!plan) return;
    for (int h = 0; plan->heads && h < bit_plan_n_heads(plan); h++) plan_head_clear(&plan->heads[h]);
    free(plan->heads);
    free_value_heads(plan);
    free(plan->value_widths);
    free(plan);
}

plan_head *bit_plan_head(const bit_plan *plan, int layer, int kv_head)
{
    return &plan->heads[(int64_t)layer * plan->model.n_kv_heads + kv_head];
}

/* ---- values ---------------------------------------------------------------------------------- */

rb_status bit_plan_value_head(const bit_plan *plan, int layer, int kv_head, plan_head *out, rb_error *err)
{
    const int h = layer * plan->model.n_kv_heads + kv_head, value_dim = plan->model.value_dim;
    *out = (plan_head){0};
    if (plan->value_heads) return plan_head_copy(out, &plan->value_heads[h], value_dim / 2, value_dim, err);
    return plan_head_set_values(out, plan->value_widths[h], value_dim / 2, kv_head, plan->value_codebook, err);
}

void bit_plan_set_value_width(bit_plan *plan, int width)
{
    free_value_heads(plan);
    memset(plan->value_widths, width, (size_t)bit_plan_n_heads(plan));
}

rb_status bit_plan_create_value_heads(bit_plan *plan, rb_error *err)
{
    bit_plan_set_value_width(plan, PLAN_WIDTH_OF_HEADS);
    return rb_alloc(&plan->value_heads, (size_t)bit_plan_n_heads(plan), sizeof *plan->value_heads,
                    "value heads of a bit plan", err);
}

plan_head *bit_plan_value_head_at(const bit_plan *plan, int layer, int kv_head)
{
    return plan->value_heads ? &plan->value_heads[(int64_t)layer * plan->model.n_kv_heads + kv_head] : NULL;
}

bool bit_plan_quantizes_values(const bit_plan *plan) { return plan->value_widths[0] != PLAN_FP16_WIDTH; }

bool bit_plan_same_values(const bit_plan *a, int head_a, const bit_plan *b, int head_b)
{
    const model_facts values = model_value_facts(&a->model);
    if (a->value_heads && b->value_heads)
        return plan_head_equal(&a->value_heads[head_a], &b->value_heads[head_b], &values);
    return a->value_widths[head_a] == b->value_widths[head_b]
           && (!bit_plan_quantizes_values(a) || a->value_codebook == b->value_codebook);
}

bool bit_plan_same_layer_values(const bit_plan *plan, int layer_a, int layer_b)
{
    const int n = plan->model.n_kv_heads;
    for (int h = 0; h < n; h++)
        if (!bit_plan_same_values(plan, layer_a * n + h, plan, layer_b * n + h)) return false;
    return true;
}

int plan_value_bits(int width, int value_dim)
{
    return width == PLAN_FP16_WIDTH ? PLAN_FP16_WIDTH * value_dim
                                    : (width * value_dim + 7) / 8 * 8 + norm_kind_bits(NORM_FP16);
}

double bit_plan_value_code_bits(const bit_plan *plan, int h)
{
    return plan->value_heads ? plan_head_nominal_bits(&plan->value_heads[h], plan->model.value_dim)
                             : plan->value_widths[h];
}

int bit_plan_value_stored_bits(const bit_plan *plan, int h)
{
    const int value_dim = plan->model.value_dim;
    return plan->value_heads ? plan_head_stored_bits(&plan->value_heads[h], value_dim / 2)
                             : plan_value_bits(plan->value_widths[h], value_dim);
}

value_range bit_plan_value_range(const bit_plan *plan)
{
    value_range range = {.least = HUGE_VAL};
    double sum = 0.0;
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const double bits = bit_plan_value_code_bits(plan, h);
        range.least = fmin(range.least, bits);
        range.most = fmax(range.most, bits);
        sum += bits;
    }
    range.mean = sum / bit_plan_n_heads(plan);
    return range;
}

void bit_plan_describe_values(char *out, size_t size, const bit_plan *plan)
{
    const value_range range = bit_plan_value_range(plan);
    const bool is_one = range.least == range.most;
    int n = snprintf(out, size, "%.3f true bits a dim", bit_plan_cost(plan).value_true_bits);
    if (plan->value_heads && n > 0 && (size_t)n < size)
        n += snprintf(out + n, size - (size_t)n, ", %s", codec_family_names[plan->value_heads->family]);
    if (!is_one && n > 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, plan->value_heads ? ", %.3g to %.3g a head" : ", widths %g to %g",
                 range.least, range.most);
}

/* ---- the whole ------------------------------------------------------------------------------- */

bool bit_plan_has_family(const bit_plan *plan, codec_family family)
{
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        if (plan->heads[h].family == family) return true;
    return false;
}

bool bit_plan_is_published_form(const bit_plan *plan)
{
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        if (!plan_head_is_published_form(&plan->heads[h], model_n_blocks(&plan->model)) || plan->value_heads
            || plan->value_widths[h] != plan->value_widths[0])
            return false;
    return true;
}

/* ---- exact tokens ---------------------------------------------------------------------------- */

bool bit_plan_keeps_exact(const bit_plan *plan) { return plan->n_sink > 0 || plan->n_recent > 0; }

void bit_plan_describe_exact(char *out, size_t size, const bit_plan *plan)
{
    const struct {
        const char *which;
        int64_t n;
    } ends[] = {{"first", plan->n_sink}, {"last", plan->n_recent}};
    size_t at = 0;
    snprintf(out, size, "no token");
    for (size_t i = 0; i < RB_COUNT(ends); i++) {
        if (ends[i].n == 0 || at >= size) continue;
        const bool is_last = i + 1 == RB_COUNT(ends) || ends[i + 1].n == 0;
        at += (size_t)snprintf(out + at, size - at, "%sthe %s", at > 0 ? " and " : "", ends[i].which);
        if (ends[i].n > 1 && at < size) at += (size_t)snprintf(out + at, size - at, " %lld", (long long)ends[i].n);
        if (is_last && at < size) at += (size_t)snprintf(out + at, size - at, " token%s", ends[i].n > 1 ? "s" : "");
    }
}

double plan_cost_bytes(const plan_cost *cost, int64_t n_tokens)
{
    const int64_t n_exact = n_tokens < cost->n_exact ? n_tokens : cost->n_exact;
    return cost->bytes_per_token * (double)(n_tokens - n_exact) + cost->fp16_bytes_per_token * (double)n_exact;
}

plan_cost bit_plan_cost(const bit_plan *plan)
{
    const double n = bit_plan_n_heads(plan), head_dim = plan->model.head_dim, value_dim = plan->model.value_dim;
    int64_t nominal = 0, stored = 0, values = 0;
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        nominal += plan_head_code_bits(&plan->heads[h], model_n_blocks(&plan->model));
        stored += plan_head_stored_bits(&plan->heads[h], model_n_blocks(&plan->model));
        values += bit_plan_value_stored_bits(plan, h);
    }
    plan_cost cost = {
        .key_nominal_bits = (double)nominal / (n * head_dim),
        .key_true_bits = (double)stored / (n * head_dim),
        .value_true_bits = (double)values / (n * value_dim),
        .bytes_per_token = (double)(stored + values) / 8.0,
        .fp16_bytes_per_token = 2.0 * n * (head_dim + value_dim),
        .n_exact = plan->n_sink + plan->n_recent,
    };
    cost.compression = cost.fp16_bytes_per_token / cost.bytes_per_token;
    return cost;
}

void bit_plan_describe_cache(char *out, size_t size, const bit_plan *plan, int64_t n_tokens)
{
    const plan_cost cost = bit_plan_cost(plan);
    const double bytes = plan_cost_bytes(&cost, n_tokens);
    char exact[80];
    const int n = snprintf(out, size, "%.0f bytes a token, fp16 takes %.0f: %.2f times smaller", cost.bytes_per_token,
                           cost.fp16_bytes_per_token, cost.compression);
    if (!bit_plan_keeps_exact(plan) || n_tokens <= 0 || n < 0 || (size_t)n >= size) return;
    bit_plan_describe_exact(exact, sizeof exact, plan);
    snprintf(out + n, size - (size_t)n, "; %s fp16: %.0f bytes at %lld tokens, %.2f times smaller", exact, bytes,
             (long long)n_tokens, cost.fp16_bytes_per_token * (double)n_tokens / bytes);
}
