/* ropebits-explain: why a head of a plan has its bits. */
#include <stdio.h>
#include <stdlib.h>

#include "allocate/plan_explain.h"
#include "core/json.h"
#include "core/program.h"
#include "plan/plan_read.h"
#include "profile/profile_file.h"
#include "profile/profile_statistics.h"

#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const explain_functions prefix##_explain_functions;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION

#define RB_FAMILY_ROW(NAME, prefix, name) &prefix##_explain_functions,
static const explain_functions *const families[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW

typedef struct explain_options {
    const char *profile;
    int64_t layer, kv_head; /* -1: not given */
} explain_options;

static int head_of(const explain_options *opt, const bit_plan *plan)
{
    return (int)opt->layer * plan->model.n_kv_heads + (int)opt->kv_head;
}

/* ---- as text --------------------------------------------------------------------------------- */

static void print_head(const bit_plan *plan, const explain_options *opt)
{
    const double bits = plan_head_stored_bits(&plan->heads[head_of(opt, plan)], model_n_blocks(&plan->model));
    printf("head     layer %lld, kv head %lld of a %s plan\n", (long long)opt->layer, (long long)opt->kv_head,
           plan->method);
    printf("stores   %.0f bits a token, %.3f true bits a dim\n", bits, bits / plan->model.head_dim);
}

static void print_exact(const bit_plan *plan)
{
    char exact[80];
    bit_plan_describe_exact(exact, sizeof exact, plan);
    if (bit_plan_keeps_exact(plan)) printf("fp16     %s: what follows is of the others\n", exact);
}

/* What the values of the head do to its layer's output, at their width and beside it, where the profile knows. */
static void print_values(const bit_plan *plan, const explain_options *opt, const profile_table *profile)
{
    const int64_t first = opt->layer * plan->model.n_kv_heads, at = first + opt->kv_head;
    const int width = plan->value_widths[at];
    const token_statistics *known = profile_table_statistics(profile, plan->n_sink);
    double energy = 0.0;
    if (!bit_plan_quantizes_values(plan)) {
        printf("values   fp16\n");
        return;
    }
    printf("values   %.4g bits, %.3f true bits a dim", bit_plan_value_code_bits(plan, (int)at),
           (double)bit_plan_value_stored_bits(plan, (int)at) / plan->model.value_dim);
    if (plan->value_heads) printf(", %s", codec_family_names[plan->value_heads[at].family]);
    /* What is known is the error of a width. */
    for (int h = 0; !plan->value_heads && h < plan->model.n_kv_heads && known->value_error; h++)
        energy += known->value_energy[first + h];
    if (energy > 0.0) {
        const double *share = known->value_error + at * PROFILE_MAX_WIDTH - 1; /* by width */
        printf("; their error is %.3g %% of the layer's output energy", 100.0 * share[width] / energy);
        if (width < PLAN_MAX_WIDTH) printf(", with a bit more %.3g %%", 100.0 * share[width + 1] / energy);
        if (width > PLAN_MIN_WIDTH) printf(", with a bit less %.3g %%", 100.0 * share[width - 1] / energy);
    }
    printf("\n");
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static rb_status put_json(const explain_functions *family, const void *explained, const bit_plan *plan,
                          const explain_options *opt, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, family->to_json(&json, explained, err), done);
    RB_TRY(st, rb_json_add_string(json, "method", plan->method, err), done);
    RB_TRY(st, rb_json_add_number(json, "layer", (double)opt->layer, err), done);
    RB_TRY(st, rb_json_add_number(json, "kv_head", (double)opt->kv_head, err), done);
    RB_TRY(st, rb_json_add_number(json, "value_width", bit_plan_value_code_bits(plan, head_of(opt, plan)), err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

/* ---- all ------------------------------------------------------------------------------------- */

static rb_status explain_head(const bit_plan *plan, const profile_table *profile, const explain_options *opt,
                              bool as_json, rb_error *err)
{
    const int h = head_of(opt, plan);
    const explain_functions *family = families[plan->heads[h].family];
    const head_statistics statistics = profile_statistics(profile, plan->n_sink);
    void *explained = NULL;
    rb_status st = rb_alloc(&explained, 1, family->size_bytes, "an explanation", err);
    if (st != RB_OK) return st;
    RB_TRY(st, family->explain(explained, plan, h, &statistics, err), done);
    if (as_json) {
        st = put_json(family, explained, plan, opt, err);
        goto done;
    }
    print_head(plan, opt);
    print_exact(plan);
    family->print_error(explained);
    print_values(plan, opt, profile);
    family->print_parts(explained);
done:
    if (family->clear) family->clear(explained);
    free(explained);
    return st;
}

static rb_status check_place(const explain_options *opt, const model_facts *model, rb_error *err)
{
    if (opt->layer >= model->n_layers)
        return rb_fail(err, RB_EINVAL, "--layer is %lld, expected less than the plan's %d layers",
                       (long long)opt->layer, model->n_layers);
    if (opt->kv_head >= model->n_kv_heads)
        return rb_fail(err, RB_EINVAL, "--kv-head is %lld, expected less than the plan's %d KV heads",
                       (long long)opt->kv_head, model->n_kv_heads);
    return RB_OK;
}

static rb_status explain_run(const rb_run_args *args, rb_error *err)
{
    const explain_options *opt = args->context;
    profile_table *profile = NULL;
    bit_plan *plan = NULL;
    rb_status st;
    RB_TRY(st,
           opt->layer < 0 || opt->kv_head < 0
               ? rb_fail(err, RB_EUSAGE, "--layer N and --kv-head N say which head, expected both")
               : RB_OK,
           done);
    RB_TRY(st, plan_read(&plan, args->positionals->at[0], err), done);
    RB_TRY(st, check_place(opt, &plan->model, err), done);
    RB_TRY(st, profile_file_read(&profile, opt->profile, err), done);
    RB_TRY(st, model_facts_same(&plan->model, "the plan", &profile->model, "the profile", err), done);
    st = explain_head(plan, profile, opt, args->common->json, err);
done:
    profile_table_free(profile);
    bit_plan_free(plan);
    return st;
}

int main(int argc, char **argv)
{
    explain_options opt = {.layer = -1, .kv_head = -1};
    const rb_option table[] = {
        {.long_name = "profile",
         .kind = RB_OPT_STRING,
         .value = &opt.profile,
         .metavar = "PROFILE.h5",
         .required = true,
         .help = "statistics of the model's queries and keys; any text's"},
        {.long_name = "layer",
         .kind = RB_OPT_INT,
         .value = &opt.layer,
         .metavar = "N",
         .min = -1,
         .max = 65535,
         .help = "of the head; required"},
        {.long_name = "kv-head",
         .kind = RB_OPT_INT,
         .value = &opt.kv_head,
         .metavar = "N",
         .min = -1,
         .max = 65535,
         .help = "the head; required"},
    };
    const rb_program program = {
        .name = "explain",
        .synopsis = "ropebits explain PLAN --profile PROFILE.h5 --layer N --kv-head N",
        .summary = "Says why the blocks of a head have their bits: what each group of the plan (plan.json or plan.rbp) "
                   "costs and errs, and what a bit more or less would do.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 1,
        .max_positionals = 1,
        .positional_names = "PLAN",
        .run = explain_run,
        .multiplies = true,
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
