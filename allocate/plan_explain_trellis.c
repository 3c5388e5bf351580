/* Family trellis: what a head does with its bits (`ropebits explain`). */
#include <math.h>
#include <stdio.h>

#include "allocate/plan_explain.h"
#include "core/json.h"

typedef struct explained_coordinate {
    int bits;
    double code_share; /* its part of the bits of all codes */
    double weight;     /* what its error counts for in the search, as a share of the largest */
    double length;     /* of its vector in the basis */
    double harm_share; /* its part of the harm that the head's errors are expected to do */
} explained_coordinate;

typedef struct explained_trellis {
    int n_dims, n_coded, gain_bits;
    double bits; /* stored, gain and padding included */
    double least_gain, most_gain;
    double logit_mae; /* to expect: methods/plan_error.h */
    explained_coordinate coordinates[RB_MAX_HEAD_DIM];
} explained_trellis;

/* ---- finding --------------------------------------------------------------------------------- */

static double length_of(const plan_trellis *plan, int i)
{
    double square = 0.0;
    for (int j = 0; j < plan->n_dims; j++) {
        const double x = (double)plan->basis[i * plan->n_dims + j];
        square += x * x;
    }
    return sqrt(square);
}

static void set_coordinates(explained_trellis *out, const plan_trellis *plan)
{
    const double code_bits = plan_head_code_bits(&(plan_head){.family = FAMILY_TRELLIS, .trellis = *plan}, 0);
    double harm = 0.0;
    for (int i = 0; i < plan->n_dims; i++) harm += (double)plan->weights[i] * trellis_errors[plan->widths[i]];
    for (int i = 0; i < plan->n_dims; i++)
        out->coordinates[i] = (explained_coordinate){
            .bits = plan->widths[i],
            .code_share = plan->widths[i] / code_bits,
            .weight = (double)plan->weights[i],
            .length = length_of(plan, i),
            .harm_share = (double)plan->weights[i] * trellis_errors[plan->widths[i]] / harm,
        };
}

static rb_status explain(void *explained, const bit_plan *plan, int h, const head_statistics *statistics, rb_error *err)
{
    const plan_head *head = &plan->heads[h];
    const plan_trellis *own = &head->trellis;
    const int levels = 1 << own->gain_bits;
    explained_trellis *out = explained;
    codec_errors errors = {0};
    coded_head coded;
    (void)err;
    coded_head_of(&coded, head, &plan->model, statistics, h);
    out->n_dims = own->n_dims;
    out->n_coded = plan_trellis_n_coded(own);
    out->gain_bits = own->gain_bits;
    out->bits = plan_head_stored_bits(head, coded.n_blocks);
    out->least_gain = exp2(-0.5 * own->gain_zero);
    out->most_gain = exp2(0.5 * (levels - 1 - own->gain_zero));
    out->logit_mae = logit_mae_of_variance(plan_head_error(&coded, head, &errors));
    set_coordinates(out, own);
    return RB_OK;
}

/* ---- telling --------------------------------------------------------------------------------- */

static rb_status coordinate_to_json(cJSON *list, const explained_coordinate *coordinate, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_number(json, "bits", coordinate->bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "code_share", coordinate->code_share, err), done);
    RB_TRY(st, rb_json_add_number(json, "weight", coordinate->weight, err), done);
    RB_TRY(st, rb_json_add_number(json, "length", coordinate->length, err), done);
    RB_TRY(st, rb_json_add_number(json, "harm_share", coordinate->harm_share, err), done);
    RB_TRY(st, rb_json_append(list, &json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

static rb_status to_json(cJSON **out, const void *explained, rb_error *err)
{
    const explained_trellis *e = explained;
    cJSON *json = NULL, *list = cJSON_CreateArray();
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for an explanation");
    *out = NULL;
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", EXPLAIN_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", EXPLAIN_VERSION, err), done);
    RB_TRY(st, rb_json_add_string(json, "family", codec_family_names[FAMILY_TRELLIS], err), done);
    RB_TRY(st, rb_json_add_number(json, "bits", e->bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "gain_bits", e->gain_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "logit_mae", e->logit_mae, err), done);
    for (int i = 0; i < e->n_dims; i++) RB_TRY(st, coordinate_to_json(list, &e->coordinates[i], err), done);
    RB_TRY(st, rb_json_add_item(json, "coordinates", &list, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    cJSON_Delete(list);
    return st;
}

static void print_error(const void *explained)
{
    const explained_trellis *e = explained;
    printf("family   trellis: %d of %d coordinates in a basis of the head's own have bits, no norm; %d bits for the "
           "gain of a key, %.3g to %.3g\n",
           e->n_coded, e->n_dims, e->gain_bits, e->least_gain, e->most_gain);
    printf("error    logit MAE of %.4g expected; it is not what the bits were given by: that is the harm to the output "
           "of attention\n",
           e->logit_mae);
}

static void print_parts(const void *explained)
{
    const explained_trellis *e = explained;
    printf("\n%-10s %5s %9s %10s %10s %8s\n", "coordinate", "bits", "codes, %", "weight", "length", "harm, %");
    for (int i = 0; i < e->n_dims; i++) {
        const explained_coordinate *c = &e->coordinates[i];
        printf("%-10d %5d %9.2f %10.4g %10.4g %8.2f\n", i, c->bits, 100.0 * c->code_share, c->weight, c->length,
               100.0 * c->harm_share);
    }
}

extern const explain_functions trellis_explain_functions;
const explain_functions trellis_explain_functions = {
    .size_bytes = sizeof(explained_trellis),
    .explain = explain,
    .print_error = print_error,
    .print_parts = print_parts,
    .to_json = to_json,
};
