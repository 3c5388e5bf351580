/* See projection.h. */
#include "export/runtimes/projection.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "methods/global_budget.h"

/* What has a choice of its own: by bytes, the best choice that takes just so many, and later within so many. */
typedef struct choice_unit {
    int n_points;
    double *cost;    /* [n_points], INFINITY: no choice */
    int64_t *choice; /* [n_points] */
} choice_unit;

/* The first n_first layers have the type `first`, the last n_last `last`, those between `middle`. */
typedef struct ends_choice {
    int first, n_first, middle, last, n_last;
} ends_choice;

typedef struct projector {
    const bit_plan *plan;
    const runtime *runtime;
    const model_facts *model;
    const projection_costs *costs;
    int64_t head_bytes[N_SIDES][RUNTIME_MAX_TYPES]; /* of a vector */
    int64_t budget;                                 /* bytes */
} projector;

/* ---- costs ----------------------------------------------------------------------------------- */

static void fill_head_bytes(projector *p)
{
    for (int side = 0; side < N_SIDES; side++)
        for (int type = 0; type < p->runtime->n_types; type++)
            p->head_bytes[side][type] =
                (runtime_quantizer_bits(runtime_side(p->runtime, type, side), p->model->head_dim) + 7) / 8;
}

/* Cost of a type in the heads [from, to) of a side, counted over all layers. */
static double cost_of(const projector *p, projection_side side, int type, int from, int to)
{
    double sum = 0.0;
    for (int h = from; h < to; h++) sum += *projection_cost(p->costs, side, h, type);
    return sum;
}

/* ---- units ----------------------------------------------------------------------------------- */

static rb_status unit_create(choice_unit *unit, int64_t max_bytes, rb_error *err)
{
    rb_status st;
    unit->n_points = (int)max_bytes + 1;
    RB_TRY(st, rb_alloc(&unit->cost, (size_t)unit->n_points, sizeof *unit->cost, "choices of a runtime", err), done);
    RB_TRY(st, rb_alloc(&unit->choice, (size_t)unit->n_points, sizeof *unit->choice, "choices of a runtime", err),
           done);
    for (int i = 0; i < unit->n_points; i++) unit->cost[i] = INFINITY;
done:
    return st;
}

static void unit_free(choice_unit *unit)
{
    free(unit->cost);
    free(unit->choice);
}

static void unit_offer(choice_unit *unit, int64_t bytes, double cost, int64_t choice)
{
    if (cost >= unit->cost[bytes]) return;
    unit->cost[bytes] = cost;
    unit->choice[bytes] = choice;
}

/* From "just so many bytes" to "within so many". */
static void unit_finish(choice_unit *unit)
{
    for (int i = 1; i < unit->n_points; i++)
        if (unit->cost[i - 1] <= unit->cost[i]) {
            unit->cost[i] = unit->cost[i - 1];
            unit->choice[i] = unit->choice[i - 1];
        }
}

static int64_t unit_least(const choice_unit *unit)
{
    int least = 0;
    while (unit->cost[least] == INFINITY) least++;
    return least;
}

/* Whether a layer may have a type; only: the one type besides 16 bits that may be taken, -1: all. */
static bool may_have(const projector *p, int layer, int type, int only)
{
    if (layer >= 0 && runtime_is_forced(p->runtime, layer, p->model->n_layers)) return type == RUNTIME_FP16_TYPE;
    return runtime_has_type(p->runtime, type, p->model) && (only < 0 || type == RUNTIME_FP16_TYPE || type == only);
}

/* A unit of the heads [from, to) of one side, or of both where side is N_SIDES. layer: theirs, -1: of several. */
static rb_status fill_unit(choice_unit *unit, const projector *p, int side, int from, int to, int layer, int only,
                           rb_error *err)
{
    const int first = side == N_SIDES ? 0 : side, last = side == N_SIDES ? N_SIDES - 1 : side;
    rb_status st =
        unit_create(unit, (int64_t)(to - from) * (last - first + 1) * p->head_bytes[0][RUNTIME_FP16_TYPE], err);
    for (int type = 0; type < p->runtime->n_types && st == RB_OK; type++) {
        int64_t bytes = 0;
        double cost = 0.0;
        if (!may_have(p, layer, type, only)) continue;
        for (int s = first; s <= last; s++) {
            bytes += (to - from) * p->head_bytes[s][type];
            cost += cost_of(p, s, type, from, to);
        }
        unit_offer(unit, bytes, cost, type);
    }
    if (st == RB_OK) unit_finish(unit);
    return st;
}

static int64_t pack_ends(const ends_choice *c)
{
    return ((((int64_t)c->first * MODEL_FACTS_MAX_LAYERS + c->n_first) * RUNTIME_MAX_TYPES + c->middle)
                * RUNTIME_MAX_TYPES
            + c->last)
               * MODEL_FACTS_MAX_LAYERS
           + c->n_last;
}

static ends_choice unpack_ends(int64_t packed)
{
    ends_choice c;
    c.n_last = (int)(packed % MODEL_FACTS_MAX_LAYERS);
    packed /= MODEL_FACTS_MAX_LAYERS;
    c.last = (int)(packed % RUNTIME_MAX_TYPES);
    packed /= RUNTIME_MAX_TYPES;
    c.middle = (int)(packed % RUNTIME_MAX_TYPES);
    packed /= RUNTIME_MAX_TYPES;
    c.n_first = (int)(packed % MODEL_FACTS_MAX_LAYERS);
    c.first = (int)(packed / MODEL_FACTS_MAX_LAYERS);
    return c;
}

/* sums [type][layer]: cost of the type in all layers before. */
typedef double layer_sums[MODEL_FACTS_MAX_LAYERS + 1];

static void offer_ends(choice_unit *unit, const projector *p, projection_side side, const layer_sums *sums,
                       const ends_choice *c)
{
    const int n_layers = p->model->n_layers, from = c->n_first, to = n_layers - c->n_last;
    const int64_t *bytes = p->head_bytes[side];
    const double cost = sums[c->first][from] + (sums[c->middle][to] - sums[c->middle][from])
                        + (sums[c->last][n_layers] - sums[c->last][to]);
    const int64_t taken = bytes[c->first] * from + bytes[c->middle] * (to - from) + bytes[c->last] * c->n_last;
    unit_offer(unit, p->model->n_kv_heads * taken, cost, pack_ends(c));
}

/* Every number of layers at the ends, for these types; an end of the middle's type is empty. */
static void offer_all_ends(choice_unit *unit, const projector *p, projection_side side, const layer_sums *sums,
                           int middle, int first, int last)
{
    const int n_layers = p->model->n_layers, most_first = first == middle ? 0 : n_layers - 1;
    for (int n_first = first == middle ? 0 : 1; n_first <= most_first; n_first++) {
        const int most_last = last == middle ? 0 : n_layers - 1 - n_first;
        for (int n_last = last == middle ? 0 : 1; n_last <= most_last; n_last++)
            offer_ends(unit, p, side, sums, &(ends_choice){first, n_first, middle, last, n_last});
    }
}

static rb_status sum_layers(layer_sums **out, const projector *p, projection_side side, rb_error *err)
{
    const int n_kv = p->model->n_kv_heads;
    const rb_status st = rb_alloc(out, RUNTIME_MAX_TYPES, sizeof **out, "costs of layers", err);
    for (int type = 0; type < p->runtime->n_types && st == RB_OK; type++)
        for (int layer = 0; layer < p->model->n_layers; layer++)
            (*out)[type][layer + 1] = (*out)[type][layer] + cost_of(p, side, type, layer * n_kv, (layer + 1) * n_kv);
    return st;
}

static rb_status fill_ends(choice_unit *unit, const projector *p, projection_side side, rb_error *err)
{
    const int n_heads = bit_plan_n_heads(p->plan), n_types = p->runtime->n_types;
    layer_sums *sums = NULL;
    rb_status st;
    RB_TRY(st, sum_layers(&sums, p, side, err), done);
    RB_TRY(st, unit_create(unit, n_heads * p->head_bytes[side][RUNTIME_FP16_TYPE], err), done);
    for (int i = 0; i < n_types * n_types * n_types; i++) {
        const int middle = i / (n_types * n_types), first = i / n_types % n_types, last = i % n_types;
        if (runtime_has_type(p->runtime, middle, p->model) && runtime_has_type(p->runtime, first, p->model)
            && runtime_has_type(p->runtime, last, p->model))
            offer_all_ends(unit, p, side, sums, middle, first, last);
    }
    unit_finish(unit);
done:
    free(sums);
    return st;
}

/* ---- what the runtime's granularity makes of them -------------------------------------------- */

/* Units of one kind: n heads each, in the order of the heads; keys' first, then values', where these are apart. */
typedef struct unit_list {
    int n, heads_per_unit, n_sides;
    choice_unit *at; /* [n] */
} unit_list;

static void free_units(unit_list *units)
{
    for (int i = 0; units->at && i < units->n; i++) unit_free(&units->at[i]);
    free(units->at);
    *units = (unit_list){0};
}

static int heads_per_unit(const projector *p)
{
    switch (p->runtime->granularity) {
    case GRANULARITY_HEAD: return 1;
    case GRANULARITY_SKIP:
    case GRANULARITY_LAYER: return p->model->n_kv_heads;
    case GRANULARITY_MODEL:
    case GRANULARITY_ENDS: break;
    }
    return bit_plan_n_heads(p->plan);
}

static rb_status make_units(unit_list *units, const projector *p, int only, rb_error *err)
{
    const int n_heads = bit_plan_n_heads(p->plan), size = heads_per_unit(p),
              n_sides = p->runtime->is_joint ? 1 : N_SIDES, n_kv = p->model->n_kv_heads;
    *units = (unit_list){n_heads / size * n_sides, size, n_sides, NULL};
    rb_status st = rb_alloc(&units->at, (size_t)units->n, sizeof *units->at, "choices of a runtime", err);
    for (int i = 0; i < units->n && st == RB_OK; i++) {
        const int per_side = n_heads / size, from = i % per_side * size, side = n_sides == 1 ? N_SIDES : i / per_side;
        if (p->runtime->granularity == GRANULARITY_ENDS) st = fill_ends(&units->at[i], p, side, err);
        else st = fill_unit(&units->at[i], p, side, from, from + size, size <= n_kv ? from / n_kv : -1, only, err);
    }
    return st;
}

static int64_t least_bytes(const unit_list *units)
{
    int64_t sum = 0;
    for (int i = 0; i < units->n; i++) sum += unit_least(&units->at[i]);
    return sum;
}

static rb_status solve_units(int32_t *points, double *cost, const unit_list *units, int64_t bytes, rb_error *err)
{
    budget_curve *curves = NULL;
    budget_answer answer = {0};
    rb_status st = rb_alloc(&curves, (size_t)units->n, sizeof *curves, "choices of a runtime", err);
    for (int i = 0; i < units->n && st == RB_OK; i++)
        curves[i] = (budget_curve){units->at[i].n_points, units->at[i].cost};
    const budget_request request = {.n_layers = 1,
                                    .heads_per_layer = units->n,
                                    .curves = curves,
                                    .objective = OBJECTIVE_VARIANCE,
                                    .scope = SCOPE_MODEL,
                                    .total_bits = 8 * bytes};
    if (st == RB_OK) st = budget_solve(points, &answer, &request, err);
    *cost = answer.objective;
    free(curves);
    return st;
}

static void take_ends(uint8_t *types, const projector *p, const ends_choice *c)
{
    const int n_layers = p->model->n_layers, n_kv = p->model->n_kv_heads;
    for (int h = 0; h < n_layers * n_kv; h++) {
        const int layer = h / n_kv;
        types[h] = (uint8_t)(layer < c->n_first ? c->first : layer >= n_layers - c->n_last ? c->last : c->middle);
    }
}

static void take_points(projection *out, const projector *p, const unit_list *units, const int32_t *points)
{
    for (int i = 0; i < units->n; i++) {
        const int per_side = units->n / units->n_sides, from = i % per_side * units->heads_per_unit;
        const int64_t choice = units->at[i].choice[points[i]];
        uint8_t *types = i < per_side ? out->keys : out->values;
        if (p->runtime->granularity == GRANULARITY_ENDS) {
            const ends_choice ends = unpack_ends(choice);
            take_ends(types, p, &ends);
        } else {
            memset(types + from, (int)choice, (size_t)units->heads_per_unit);
            if (p->runtime->is_joint) memset(out->values + from, (int)choice, (size_t)units->heads_per_unit);
        }
    }
}

/* The best choice with one type besides 16 bits (-1: any). Where it is the best so far it goes to *out. *least: the
 * least bytes of all that were tried. */
static rb_status try_type(projection *out, double *best, int64_t *least, const projector *p, int only, rb_error *err)
{
    unit_list units = {0};
    int32_t *points = NULL;
    double cost;
    rb_status st;
    RB_TRY(st, make_units(&units, p, only, err), done);
    const int64_t needed = least_bytes(&units);
    if (needed < *least) *least = needed;
    if (needed > p->budget) goto done;
    RB_TRY(st, rb_alloc(&points, (size_t)units.n, sizeof *points, "choices of a runtime", err), done);
    RB_TRY(st, solve_units(points, &cost, &units, p->budget, err), done);
    if (cost < *best) {
        *best = cost;
        take_points(out, p, &units, points);
    }
done:
    free(points);
    free_units(&units);
    return st;
}

/* Where one type serves all layers that are not 16 bits, every type is tried. */
static rb_status try_types(projection *out, double *best, int64_t *least, const projector *p, rb_error *err)
{
    rb_status st = RB_OK;
    if (p->runtime->granularity != GRANULARITY_SKIP) return try_type(out, best, least, p, -1, err);
    for (int type = 0; type < p->runtime->n_types && st == RB_OK; type++)
        if (type != RUNTIME_FP16_TYPE && runtime_has_type(p->runtime, type, p->model))
            st = try_type(out, best, least, p, type, err);
    return st;
}

static rb_status choose_types(projection *out, const projector *p, bool may_be_larger, rb_error *err)
{
    projector smallest = *p;
    double best = INFINITY;
    int64_t least = INT64_MAX;
    rb_status st = try_types(out, &best, &least, p, err);
    if (st != RB_OK || best < INFINITY) return st;
    if (!may_be_larger)
        return rb_fail(
            err, RB_EUNSUPPORTED,
            "%s: takes %lld bytes a token at least, the plan %lld; --allow-larger takes the least that there "
            "is",
            p->runtime->name, (long long)least, (long long)p->budget);
    smallest.budget = least;
    return try_types(out, &best, &least, &smallest, err);
}

/* ---- life ------------------------------------------------------------------------------------ */

rb_status projection_create(projection **out, const bit_plan *plan, const runtime *r, const projection_costs *costs,
                            bool may_be_larger, rb_error *err)
{
    const size_t n_heads = (size_t)bit_plan_n_heads(plan);
    projector p = {.plan = plan, .runtime = r, .model = &plan->model, .costs = costs};
    projection *made = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, runtime_check_model(r, &plan->model, err), done);
    for (int layer = 0; layer < plan->model.n_layers; layer++) p.budget += projection_plan_layer_bytes(plan, layer);
    fill_head_bytes(&p);
    RB_TRY(st, rb_alloc(&made, 1, sizeof *made, "projection", err), done);
    made->runtime = r;
    made->model = plan->model;
    RB_TRY(st, rb_alloc(&made->keys, n_heads, sizeof *made->keys, "projection", err), done);
    RB_TRY(st, rb_alloc(&made->values, n_heads, sizeof *made->values, "projection", err), done);
    RB_TRY(st, choose_types(made, &p, may_be_larger, err), done);
    *out = made;
    made = NULL;
done:
    projection_free(made);
    return st;
}

void projection_free(projection *p)
{
    if (!p) return;
    free(p->keys);
    free(p->values);
    free(p);
}

const runtime_quantizer *projection_keys(const projection *p, int layer, int kv_head)
{
    return &p->runtime->types[p->keys[layer * p->model.n_kv_heads + kv_head]].keys;
}

const runtime_quantizer *projection_values(const projection *p, int layer, int kv_head)
{
    return &p->runtime->types[p->values[layer * p->model.n_kv_heads + kv_head]].values;
}

int64_t projection_layer_bytes(const projection *p, int layer)
{
    int64_t bytes = 0;
    for (int h = 0; h < p->model.n_kv_heads; h++)
        bytes += (runtime_quantizer_bits(projection_keys(p, layer, h), p->model.head_dim) + 7) / 8
                 + (runtime_quantizer_bits(projection_values(p, layer, h), p->model.value_dim) + 7) / 8;
    return bytes;
}

int64_t projection_bytes(const projection *p)
{
    int64_t bytes = 0;
    for (int layer = 0; layer < p->model.n_layers; layer++) bytes += projection_layer_bytes(p, layer);
    return bytes;
}

int64_t projection_plan_layer_bytes(const bit_plan *plan, int layer)
{
    const int n_kv = plan->model.n_kv_heads;
    int64_t bytes = 0;
    for (int h = layer * n_kv; h < (layer + 1) * n_kv; h++)
        bytes += (plan_head_stored_bits(&plan->heads[h], model_n_blocks(&plan->model))
                  + bit_plan_value_stored_bits(plan, h) + 7)
                 / 8;
    return bytes;
}

int projection_layer_type(const projection *p, int layer, bool of_values)
{
    return (of_values ? p->values : p->keys)[layer * p->model.n_kv_heads];
}

int projection_n_fp16_layers(const projection *p)
{
    int n = 0;
    for (int layer = 0; layer < p->model.n_layers; layer++)
        n += projection_layer_type(p, layer, false) == RUNTIME_FP16_TYPE
             && projection_layer_type(p, layer, true) == RUNTIME_FP16_TYPE;
    return n;
}

/* ---- what is lost ---------------------------------------------------------------------------- */

static const char *granularity_sentence(runtime_granularity granularity)
{
    switch (granularity) {
    case GRANULARITY_MODEL:
        return "bits of a layer or a head: one type for the keys of all layers, one for their values";
    case GRANULARITY_SKIP: return "bits of a layer or a head: one type for all layers that are not 16 bits";
    case GRANULARITY_ENDS:
        return "bits of a layer or a head: the first layers, the last ones and those between have types";
    case GRANULARITY_LAYER: return "bits of a head: the heads of a layer have one width";
    case GRANULARITY_HEAD: break;
    }
    return NULL;
}

static bool has_center(const bit_plan *plan)
{
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        if (plan->heads[h].center) return true;
    return false;
}

int projection_describe_lost(char lost[PROJECTION_MAX_LOST][PROJECTION_LOST_SIZE], const projection *p,
                             const bit_plan *plan)
{
    const char *granularity = granularity_sentence(p->runtime->granularity);
    char exact[80];
    int n = 0;
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        if (bit_plan_has_family(plan, (codec_family)f))
            snprintf(lost[n++], PROJECTION_LOST_SIZE,
                     "the codec %s: the runtime has its own, after RoPE, of one width a head", codec_family_names[f]);
    if (granularity) snprintf(lost[n++], PROJECTION_LOST_SIZE, "%s", granularity);
    if (p->runtime->is_joint) snprintf(lost[n++], PROJECTION_LOST_SIZE, "bits of keys apart from those of values");
    if (has_center(plan)) snprintf(lost[n++], PROJECTION_LOST_SIZE, "the mean key that is taken off");
    if (bit_plan_keeps_exact(plan)) {
        bit_plan_describe_exact(exact, sizeof exact, plan);
        snprintf(lost[n++], PROJECTION_LOST_SIZE, "%s in fp16", exact);
    }
    return n;
}
