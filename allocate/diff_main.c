/* ropebits-diff: two plans of one model, side by side. */
#include <stdio.h>
#include <string.h>

#include "allocate/plan_diff.h"
#include "core/json.h"
#include "core/program.h"
#include "plan/plan_read.h"

enum { N_SHOWN = 5 };

/* Bytes are those of a sequence as long as the first plan's calibration text has them. */
static void print_exact(const plan_diff *diff)
{
    const bit_plan *a = diff->plans[0], *b = diff->plans[1];
    const int64_t context = a->calibration.context;
    if (!bit_plan_keeps_exact(a) && !bit_plan_keeps_exact(b)) return;
    const struct {
        const char *name;
        double a, b;
    } rows[] = {{"first tokens in fp16", (double)a->n_sink, (double)b->n_sink},
                {"last tokens in fp16", (double)a->n_recent, (double)b->n_recent},
                {"bytes of ", plan_cost_bytes(&diff->cost[0], context), plan_cost_bytes(&diff->cost[1], context)}};
    for (size_t i = 0; i < RB_COUNT(rows); i++) {
        char name[48];
        snprintf(name, sizeof name, "%s", rows[i].name);
        if (i == 2) snprintf(name, sizeof name, "bytes of %lld tokens", (long long)context);
        printf("%-24s %14.0f %14.0f %+12.0f\n", name, rows[i].a, rows[i].b, rows[i].b - rows[i].a);
    }
}

static void print_costs(const plan_diff *diff)
{
    const plan_cost *a = &diff->cost[0], *b = &diff->cost[1];
    printf("%-24s %14s %14s %12s\n", "", "A", "B", "B - A");
    printf("%-24s %14s %14s\n", "method", diff->plans[0]->method, diff->plans[1]->method);
    printf("%-24s %14.3f %14.3f %+12.3f\n", "keys, nominal bits", a->key_nominal_bits, b->key_nominal_bits,
           b->key_nominal_bits - a->key_nominal_bits);
    printf("%-24s %14.3f %14.3f %+12.3f\n", "keys, true bits", a->key_true_bits, b->key_true_bits,
           b->key_true_bits - a->key_true_bits);
    printf("%-24s %14.3f %14.3f %+12.3f\n", "values, true bits", a->value_true_bits, b->value_true_bits,
           b->value_true_bits - a->value_true_bits);
    printf("%-24s %14.3f %14.3f %+12.3f\n", "values, mean width", bit_plan_value_range(diff->plans[0]).mean,
           bit_plan_value_range(diff->plans[1]).mean,
           bit_plan_value_range(diff->plans[1]).mean - bit_plan_value_range(diff->plans[0]).mean);
    printf("%-24s %14.0f %14.0f %+12.0f\n", "bytes a token", a->bytes_per_token, b->bytes_per_token,
           b->bytes_per_token - a->bytes_per_token);
    print_exact(diff);
    printf("%-24s %14.3f %14.3f %+12.3f\n", "times smaller than fp16", a->compression, b->compression,
           b->compression - a->compression);
}

static void print_count(const char *what, const char *kind, int a, int b)
{
    if (a > 0 || b > 0)
        printf("%s%-*s %14d %14d %+12d\n", what, (int)(24 - snprintf(NULL, 0, "%s", what)), kind, a, b, b - a);
}

static void print_coding(const plan_diff *diff)
{
    const coding_counts *a = &diff->coding[0], *b = &diff->coding[1];
    printf("\nheads with\n");
    for (int i = 0; i < FAMILY_N_KINDS; i++) print_count("family ", codec_family_names[i], a->family[i], b->family[i]);
    for (int i = 0; i < NORM_N_KINDS; i++) print_count("norm ", norm_kind_names[i], a->norm[i], b->norm[i]);
    for (int i = 0; i < ENCODER_N_KINDS; i++)
        print_count("encoder ", plan_encoder_names[i], a->encoder[i], b->encoder[i]);
    for (int i = 0; i < CODEBOOK_N_KINDS; i++)
        print_count("codebook ", codebook_kind_names[i], a->codebook[i], b->codebook[i]);
    for (int i = 0; i < ROTATION_N_KINDS; i++)
        print_count("rotation ", rotation_kind_names[i], a->rotation[i], b->rotation[i]);
    print_count("a ", "centre", a->centered, b->centered);
    print_count("", "scales", a->scaled, b->scaled);
    print_count("", "blocks without bits", a->with_lost_blocks, b->with_lost_blocks);
}

static void print_changes(const plan_diff *diff)
{
    const model_facts *model = &diff->plans[0]->model;
    int largest[N_SHOWN];
    const int n = plan_diff_largest(largest, N_SHOWN, diff);
    printf("\n%d of %d heads differ: %d in their norms, %d in their encoder, %d in their scales, %d in their centre, "
           "%d in the width of their values",
           diff->heads_differing, diff->n_heads, diff->norms_differing, diff->encoders_differing,
           diff->scales_differing, diff->centers_differing, diff->values_differing);
    if (diff->by_block)
        printf(", %d in their family, %d in their maps", diff->families_differing, diff->maps_differing);
    printf("\n\n%-8s %11s %11s %11s %16s\n", "layer", "true bits A", "true bits B", "B - A", "blocks changed");
    for (int layer = 0; layer < model->n_layers; layer++) {
        const head_change change = plan_diff_layer(diff, layer);
        printf("%-8d %11.3f %11.3f %+11.3f %9d of %d\n", layer, change.true_bits[0], change.true_bits[1],
               change.true_bits[1] - change.true_bits[0], change.blocks_changed,
               model->n_kv_heads * model_n_blocks(model));
    }
    if (n > 0)
        printf("\nlargest changes of %s\n", diff->by_block ? "the bits of blocks, both dims together" : "widths");
    for (int i = 0; i < n; i++) {
        const head_change *change = &diff->heads[largest[i]];
        printf("layer %d, kv head %d: %.3f -> %.3f true bits, %d blocks changed by %d bits in all\n", change->layer,
               change->kv_head, change->true_bits[0], change->true_bits[1], change->blocks_changed,
               change->width_moved);
    }
}

static void print_equal(const plan_diff *diff)
{
    const bit_plan *a = diff->plans[0], *b = diff->plans[1];
    printf("the plans are equal: their %d heads, their values and their exact tokens; %.0f bytes a token\n",
           diff->n_heads, diff->cost[0].bytes_per_token);
    if (strcmp(a->method, b->method) != 0 || a->avg_bits != b->avg_bits)
        printf("A is called %s at %g bits, B %s at %g bits\n", a->method, a->avg_bits, b->method, b->avg_bits);
}

static rb_status diff_run(const rb_run_args *args, rb_error *err)
{
    const char *const *names = args->positionals->at;
    bit_plan *a = NULL, *b = NULL;
    plan_diff diff = {0};
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, plan_read(&a, names[0], err), done);
    RB_TRY(st, plan_read(&b, names[1], err), done);
    RB_TRY(st, plan_diff_find(&diff, a, names[0], b, names[1], err), done);
    if (args->common->json) {
        RB_TRY(st, plan_diff_to_json(&json, &diff, err), done);
        RB_TRY(st, rb_json_put(json, err), done);
        goto done;
    }
    if (plan_diff_is_none(&diff)) {
        print_equal(&diff);
        goto done;
    }
    print_costs(&diff);
    print_coding(&diff);
    print_changes(&diff);
done:
    cJSON_Delete(json);
    plan_diff_free(&diff);
    bit_plan_free(a);
    bit_plan_free(b);
    return st;
}

int main(int argc, char **argv)
{
    const rb_program program = {
        .name = "diff",
        .synopsis = "ropebits diff A B",
        .summary = "Shows how two plans of one model differ (each a plan.json or a plan.rbp): what they cost, how they "
                   "code, where widths changed. A difference is no failure.",
        .min_positionals = 2,
        .max_positionals = 2,
        .positional_names = "A B",
        .run = diff_run,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
