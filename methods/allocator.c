/* Allocation methods: see methods/allocator.h. */
#include "methods/allocator.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "methods/optimal.h"

#define RB_METHOD_NAME(NAME, name, family, is_published, is_centered) name,
const char *const allocation_method_names[METHOD_N + 1] = {RB_ALLOCATION_METHODS(RB_METHOD_NAME) NULL};
#undef RB_METHOD_NAME

typedef struct method_facts {
    codec_family family;
    bool is_published, is_centered;
} method_facts;

#define RB_METHOD_FACTS(NAME, name, family, is_published, is_centered) {family, is_published, is_centered},
static const method_facts methods[METHOD_N] = {RB_ALLOCATION_METHODS(RB_METHOD_FACTS)};
#undef RB_METHOD_FACTS

bool allocation_method_is_published(allocation_method method) { return methods[method].is_published; }
bool allocation_method_is_centered(allocation_method method) { return methods[method].is_centered; }
codec_family allocation_method_family(allocation_method method) { return methods[method].family; }
const char *allocation_method_name(allocation_method method) { return allocation_method_names[method]; }

bool allocation_method_from_name(const char *name, allocation_method *method)
{
    for (int i = 0; i < METHOD_N; i++)
        if (strcmp(allocation_method_names[i], name) == 0) {
            *method = (allocation_method)i;
            return true;
        }
    return false;
}

void head_energy_mean(const head_energy *energy, double *out)
{
    for (int i = 0; i < energy->n_blocks; i++) {
        const double gain = energy->model ? model_block_gain(energy->model, energy->layer, i) : 1.0;
        out[i] = 0.5 * (energy->q_energy[i] + energy->k_energy[i]) * (gain * gain);
    }
}

static rb_status check_budget(double avg_bits, rb_error *err)
{
    if (avg_bits >= ALLOCATE_MIN_BITS && avg_bits <= ALLOCATE_MAX_BITS) return RB_OK;
    return rb_fail(err, RB_EINVAL, "budget is %g bits, expected %d to %d", avg_bits, ALLOCATE_MIN_BITS,
                   ALLOCATE_MAX_BITS);
}

/* floor(n_blocks * avg_bits). A product that only rounding keeps from a whole number counts as that number: 30 * 2.3 is
 * 69. */
static int whole_budget(int n_blocks, double avg_bits)
{
    static const double rounding = 1e-9;
    return (int)floor(n_blocks * avg_bits + rounding);
}

/* Block with the largest energy * 4^-bits below the maximum; -1 when all are there. ldexp is exact, so equal energies
 * tie exactly. */
static int neediest_block(const uint8_t *bits, const double *energy, int n_blocks)
{
    int best = -1;
    double most = -1.0;
    for (int i = 0; i < n_blocks; i++) {
        if (bits[i] >= ALLOCATE_MAX_BITS) continue;
        const double need = ldexp(energy[i], -2 * bits[i]);
        if (need > most) {
            most = need;
            best = i;
        }
    }
    return best;
}

static rb_status start_greedy(uint8_t *bits, const double *energy, int n_blocks, rb_error *err)
{
    for (int i = 0; i < n_blocks; i++) {
        if (!(energy[i] >= 0.0 && isfinite(energy[i])))
            return rb_fail(err, RB_ENONFINITE, "block %d: energy is %g, expected a finite number from 0", i, energy[i]);
        bits[i] = ALLOCATE_MIN_BITS;
    }
    return RB_OK;
}

rb_status allocate_greedy(uint8_t *bits, const double *energy, int n_blocks, double avg_bits, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_budget(avg_bits, err), done);
    RB_TRY(st, start_greedy(bits, energy, n_blocks, err), done);
    for (int left = whole_budget(n_blocks, avg_bits) - n_blocks * ALLOCATE_MIN_BITS; left > 0; left--) {
        const int block = neediest_block(bits, energy, n_blocks);
        assert(block >= 0); /* a budget of at most ALLOCATE_MAX_BITS fits */
        bits[block]++;
    }
done:
    return st;
}

/* Adds what a head stores under block-gtq with `s` bits over its blocks, n_blocks <= s <= most_bits, to key_bits[s]:
 * the greedy steps do not depend on the budget. */
static rb_status add_greedy_bits(int64_t *key_bits, int most_bits, const double *energy, int n_blocks, rb_error *err)
{
    uint8_t bits[RB_MAX_BLOCKS];
    int count[ALLOCATE_MAX_BITS + 1] = {[ALLOCATE_MIN_BITS] = n_blocks}, n_groups = 1;
    const rb_status st = start_greedy(bits, energy, n_blocks, err);
    if (st != RB_OK) return st;
    for (int s = n_blocks * ALLOCATE_MIN_BITS; s <= most_bits; s++) {
        key_bits[s] += (2 * s + 7) / 8 * 8 + n_groups * norm_kind_bits(NORM_FP16);
        if (s == n_blocks * ALLOCATE_MAX_BITS) break;
        const int block = neediest_block(bits, energy, n_blocks);
        n_groups -= --count[bits[block]++] == 0;
        n_groups += count[bits[block]]++ == 0;
    }
    return RB_OK;
}

rb_status allocate_greedy_bits(int64_t *key_bits, int most_bits, const model_facts *model,
                               const head_statistics *statistics, rb_error *err)
{
    const int n_blocks = model_n_blocks(model);
    double mean[RB_MAX_BLOCKS];
    for (int s = 0; s <= most_bits; s++) key_bits[s] = 0;
    for (int64_t h = 0; h < (int64_t)model->n_layers * model->n_kv_heads; h++) {
        const head_energy energy = {n_blocks, statistics->q_energy + h * n_blocks, statistics->k_energy + h * n_blocks,
                                    model, (int)h / model->n_kv_heads};
        head_energy_mean(&energy, mean);
        const rb_status st = add_greedy_bits(key_bits, most_bits, mean, n_blocks, err);
        if (st != RB_OK)
            return rb_fail_in(err, st, "layer %d kv_head %d", (int)h / model->n_kv_heads, (int)h % model->n_kv_heads);
    }
    return RB_OK;
}

static rb_status allocate_block_gtq(plan_head *head, double avg_bits, const head_energy *energy, rb_error *err)
{
    double mean[RB_MAX_BLOCKS];
    uint8_t bits[RB_MAX_BLOCKS];
    head_energy_mean(energy, mean);
    rb_status st = allocate_greedy(bits, mean, energy->n_blocks, avg_bits, err);
    return st == RB_OK ? plan_head_set_block_widths(head, bits, energy->n_blocks, CODEBOOK_BLOCK_GTQ, err) : st;
}

/* What does not depend on the head. */
static rb_status check_request(allocation_method method, double avg_bits, rb_error *err)
{
    rb_status st = check_budget(avg_bits, err);
    if (st == RB_OK && (unsigned)method >= METHOD_N)
        st = rb_fail(err, RB_EINVAL, "allocation method is %d, expected 0 to %d", (int)method, METHOD_N - 1);
    if (st == RB_OK && method == METHOD_UNIFORM && avg_bits != floor(avg_bits))
        st = rb_fail(err, RB_EINVAL, "uniform at %g bits, expected a whole number of bits", avg_bits);
    return st;
}

rb_status allocate_head(plan_head *head, allocation_method method, double avg_bits, const head_energy *energy,
                        rb_error *err)
{
    rb_status st = check_request(method, avg_bits, err);
    if (st != RB_OK) return st;
    switch (method) {
    case METHOD_UNIFORM:
        return plan_head_set_uniform(head, (int)avg_bits, energy->n_blocks, UNIFORM_SEED, CODEBOOK_BLOCK_GTQ, err);
    case METHOD_BLOCK_GTQ: return allocate_block_gtq(head, avg_bits, energy, err);
    default: return rb_fail(err, RB_EINVAL, "%s allots a whole model, not one head", allocation_method_name(method));
    }
}

rb_status allocate_values(bit_plan **out, const model_facts *model, const text_facts *calibration, int value_width,
                          rb_error *err)
{
    const rb_status st = bit_plan_create(out, model, err);
    if (st != RB_OK) return st;
    (*out)->calibration = *calibration;
    bit_plan_set_value_width(*out, value_width);
    (*out)->value_codebook = CODEBOOK_BLOCK_GTQ;
    return RB_OK;
}

static rb_status allocate_published(bit_plan *plan, allocation_method method, double avg_bits,
                                    const head_statistics *statistics, rb_error *err)
{
    const model_facts *model = &plan->model;
    const int n_blocks = model_n_blocks(model);
    snprintf(plan->method, sizeof plan->method, "%s", allocation_method_name(method));
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        const head_energy energy = {n_blocks, statistics->q_energy + (int64_t)h * n_blocks,
                                    statistics->k_energy + (int64_t)h * n_blocks, model, h / model->n_kv_heads};
        const rb_status st = allocate_head(&plan->heads[h], method, avg_bits, &energy, err);
        if (st != RB_OK)
            return rb_fail_in(err, st, "layer %d kv_head %d", h / model->n_kv_heads, h % model->n_kv_heads);
    }
    return RB_OK;
}

int64_t allocate_key_bits(const bit_plan *plan)
{
    const plan_cost cost = bit_plan_cost(plan);
    return llround(cost.key_true_bits * plan->model.head_dim * plan->model.n_layers * plan->model.n_kv_heads);
}

/* The published allocation says how many bits there are, and is replaced. */
static rb_status allocate_optimal(bit_plan *plan, allocation_method method, double avg_bits,
                                  const head_statistics *statistics, rb_error *err)
{
    optimal_options options = optimal_options_default();
    const head_statistics published = head_statistics_of_all(statistics);
    optimal_curves *curves = NULL;
    budget_answer answer;
    rb_status st;
    options.method = method;
    RB_TRY(st, allocate_published(plan, METHOD_BLOCK_GTQ, avg_bits, &published, err), done);
    RB_TRY(st, optimal_curves_build(&curves, &plan->model, statistics, &options, err), done);
    RB_TRY(st, optimal_plan_keys(plan, &answer, curves, allocate_key_bits(plan), err), done);
done:
    optimal_curves_free(curves);
    return st;
}

rb_status allocate_plan(bit_plan **out, const model_facts *model, const text_facts *calibration,
                        allocation_method method, double avg_bits, int value_width, const head_statistics *statistics,
                        rb_error *err)
{
    bit_plan *plan = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, check_request(method, avg_bits, err), done);
    RB_TRY(st, allocate_values(&plan, model, calibration, value_width, err), done);
    plan->avg_bits = avg_bits;
    if (allocation_method_is_published(method))
        RB_TRY(st, allocate_published(plan, method, avg_bits, statistics, err), done);
    else RB_TRY(st, allocate_optimal(plan, method, avg_bits, statistics, err), done);
    RB_TRY(st, bit_plan_check(plan, "plan", err), done);
    *out = plan;
    plan = NULL;
done:
    bit_plan_free(plan);
    return st;
}

void allocate_set_rotation(bit_plan *plan, rotation_kind kind)
{
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const plan_groups *groups = plan_head_groups(&plan->heads[h]);
        for (int g = 0; g < groups->n; g++) groups->at[g].rotation.kind = kind;
    }
}
