/* ropebits-allocate: from a profile's energies to a plan. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "allocate/allocator.h"
#include "allocate/plan_json.h"
#include "core/json.h"
#include "core/program.h"
#include "profile/profile_file.h"

enum { VALUES_AS_KEYS = 0 };

typedef struct allocate_options {
    int method;             /* allocation_method */
    double avg_bits;
    int64_t value_bits;     /* VALUES_AS_KEYS: floor(avg_bits) */
    int rotation;           /* rotation_kind, of the keys */
    const char *output;
} allocate_options;

/* How many blocks of a layer have each width, over its KV heads. */
static void print_histogram(const bit_plan *plan)
{
    const int n_blocks = model_n_blocks(&plan->model);
    uint8_t bits[RB_MAX_BLOCKS];
    printf("\nblocks of each width\n%-8s", "layer");
    for (int width = PLAN_MIN_WIDTH; width <= PLAN_MAX_WIDTH; width++) printf("%5d", width);
    printf("   true bits\n");
    for (int layer = 0; layer < plan->model.n_layers; layer++) {
        int count[PLAN_MAX_WIDTH + 1] = {0};
        double true_bits = 0.0;
        for (int kv_head = 0; kv_head < plan->model.n_kv_heads; kv_head++) {
            const plan_head *head = bit_plan_head(plan, layer, kv_head);
            plan_head_bits(head, bits, n_blocks);
            for (int i = 0; i < n_blocks; i++) count[bits[i]]++;
            true_bits += plan_head_true_bits(head, plan->model.head_dim) / plan->model.n_kv_heads;
        }
        printf("%-8d", layer);
        for (int width = PLAN_MIN_WIDTH; width <= PLAN_MAX_WIDTH; width++) printf("%5d", count[width]);
        printf("%12.3f\n", true_bits);
    }
}

static void print_plan(const bit_plan *plan, const char *path)
{
    const plan_cost cost = bit_plan_cost(plan);
    printf("method   %s at %g bits\n", plan->method, plan->avg_bits);
    printf("keys     %.3f true bits a dim (%.3f nominal)\n", cost.key_true_bits, cost.key_nominal_bits);
    printf("values   %.3f true bits a dim\n", cost.value_true_bits);
    printf("cache    %.0f bytes a token, fp16 takes %.0f: %.2f times smaller\n", cost.bytes_per_token, cost.fp16_bytes_per_token, cost.compression);
    printf("plan     %s\n", path);
    print_histogram(plan);
}

static rb_status print_json(const bit_plan *plan, const allocate_options *opt, rb_error *err)
{
    const plan_cost cost = bit_plan_cost(plan);
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-allocate-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, rb_json_add_string(json, "method", plan->method, err), done);
    RB_TRY(st, rb_json_add_number(json, "avg_bits", plan->avg_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "value_width", plan->value_width, err), done);
    RB_TRY(st, rb_json_add_string(json, "rotation", rotation_kind_name((rotation_kind)opt->rotation), err), done);
    RB_TRY(st, plan_cost_to_json(json, &cost, err), done);
    RB_TRY(st, rb_json_add_string(json, "plan", opt->output, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

static rb_status value_width(int *out, const allocate_options *opt, rb_error *err)
{
    *out = opt->value_bits == VALUES_AS_KEYS ? (int)floor(opt->avg_bits) : (int)opt->value_bits;
    if (*out > PLAN_MAX_WIDTH && *out != PLAN_FP16_WIDTH)
        return rb_fail(err, RB_EUSAGE, "--value-bits is %d, expected %d to %d, or %d", *out, PLAN_MIN_WIDTH, PLAN_MAX_WIDTH, PLAN_FP16_WIDTH);
    return RB_OK;
}

static rb_status allocate_run(const rb_run_args *args, rb_error *err)
{
    const allocate_options *opt = args->context;
    profile_table *profile = NULL;
    bit_plan *plan = NULL;
    int width = 0;
    rb_status st;
    RB_TRY(st, value_width(&width, opt, err), done);
    RB_TRY(st, profile_file_read(&profile, args->positionals->at[0], err), done);
    const head_statistics statistics = {profile->q_energy, profile->k_energy, profile->k_mean, profile->logit_moment, profile->logit_moment_centered};
    RB_TRY(st, allocate_plan(&plan, &profile->model, &profile->calibration, (allocation_method)opt->method, opt->avg_bits, width, &statistics, err), done);
    allocate_set_rotation(plan, (rotation_kind)opt->rotation);
    RB_TRY(st, plan_json_write(plan, opt->output, err), done);
    if (args->common->json)
        st = print_json(plan, opt, err);
    else
        print_plan(plan, opt->output);
done:
    bit_plan_free(plan);
    profile_table_free(profile);
    return st;
}

int main(int argc, char **argv)
{
    allocate_options opt = {.method = -1, .avg_bits = (double)NAN, .value_bits = VALUES_AS_KEYS, .rotation = ROTATION_HAAR};
    const rb_option table[] = {
        {.long_name = "method", .kind = RB_OPT_CHOICE, .value = &opt.method, .metavar = "NAME", .choices = allocation_method_names, .required = true,
         .help = "who gets how many bits"},
        {.long_name = "avg-bits", .kind = RB_OPT_NUMBER, .value = &opt.avg_bits, .metavar = "B", .min = ALLOCATE_MIN_BITS, .max = ALLOCATE_MAX_BITS,
         .required = true,
         .help = "nominal bits per dim of the keys"},
        {.long_name = "value-bits", .kind = RB_OPT_INT, .value = &opt.value_bits, .metavar = "N", .min = VALUES_AS_KEYS, .max = PLAN_FP16_WIDTH,
         .help = "bits per dim of the values, 1 to 8, or 16: they stay fp16; 0: as the keys, rounded down"},
        {.long_name = "rotation", .kind = RB_OPT_CHOICE, .value = &opt.rotation, .metavar = "KIND", .choices = rotation_kind_names,
         .help = "of the key groups; hadamard is the faster one for a runtime that transforms by butterflies"},
        {.short_name = 'o', .long_name = "output", .kind = RB_OPT_STRING, .value = &opt.output, .metavar = "PLAN.json", .required = true,
         .help = "the plan"},
    };
    const rb_program program = {
        .name = "allocate",
        .synopsis = "ropebits allocate PROFILE.h5 --method NAME --avg-bits B [options] -o PLAN.json",
        .summary = "Decides who gets how many bits from the energies of a profile, and says what the plan costs in true bits: codes, norms and padding.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 1,
        .max_positionals = 1,
        .positional_names = "PROFILE.h5",
        .run = allocate_run,
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
