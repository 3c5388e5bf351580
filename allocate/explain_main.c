/* ropebits-explain: why a head of a plan has its bits. */
#include <stdio.h>
#include <stdlib.h>

#include "allocate/plan_explain.h"
#include "allocate/plan_explain_block_codebook.h"
#include "core/json.h"
#include "core/program.h"
#include "plan/plan_read.h"
#include "profile/profile_file.h"
#include "profile/profile_statistics.h"

typedef struct explain_options {
    const char *profile;
    int64_t layer, kv_head; /* -1: not given */
} explain_options;

static double percent(double variance, const explained_head *e)
{
    return e->variance > 0.0 ? 100.0 * variance / e->variance : 0.0;
}
static double percent_per_byte(const width_change *change, const explained_head *e)
{
    return 100.0 * width_change_per_byte(change, e->variance);
}

static void print_head(double bits, const bit_plan *plan, const explain_options *opt)
{
    printf("head     layer %lld, kv head %lld of a %s plan\n", (long long)opt->layer, (long long)opt->kv_head,
           plan->method);
    printf("stores   %.0f bits a token, %.3f true bits a dim\n", bits, bits / plan->model.head_dim);
}

static void print_error(const explained_head *e)
{
    printf("error    logit MAE of %.4g expected; %.3f bits a dim above the rate-distortion bound, %.2f times its MAE\n",
           logit_mae_of_variance(e->variance), e->distance.bits_per_dim, e->distance.mae_ratio);
}

/* What the values of the head do to its layer's output, at their width and beside it, where the profile knows. */
static void print_values(const bit_plan *plan, const explain_options *opt, const profile_table *profile)
{
    const int64_t first = opt->layer * plan->model.n_kv_heads, at = first + opt->kv_head;
    const int width = plan->value_widths[at];
    double energy = 0.0;
    if (width == PLAN_FP16_WIDTH) {
        printf("values   fp16\n");
        return;
    }
    printf("values   %d bits, %.3f true bits a dim", width,
           (double)plan_value_bits(width, plan->model.head_dim) / plan->model.head_dim);
    for (int h = 0; h < plan->model.n_kv_heads && profile->value_error; h++) energy += profile->value_energy[first + h];
    if (energy > 0.0) {
        const double *share = profile->value_error + at * PROFILE_MAX_WIDTH - 1; /* by width */
        printf("; their error is %.3g %% of the layer's output energy", 100.0 * share[width] / energy);
        if (width < PLAN_MAX_WIDTH) printf(", with a bit more %.3g %%", 100.0 * share[width + 1] / energy);
        if (width > PLAN_MIN_WIDTH) printf(", with a bit less %.3g %%", 100.0 * share[width - 1] / energy);
    }
    printf("\n");
}

static void print_groups(const explained_head *e)
{
    printf("\n%-6s %5s %6s %6s %9s %9s %10s %14s %14s\n", "group", "width", "blocks", "bits", "error, %", "c",
           "coherence", "a bit more, %", "a bit less, %");
    for (int g = 0; g < e->n_groups; g++) {
        const explained_group *group = &e->groups[g];
        printf("%-6d %5d %6d %6.0f %9.2f %9.3g %10.3f", g, group->width, group->n_blocks, group->bits,
               percent(group->error.variance, e), group->error.c, group->error.coherence);
        if (group->more.is_possible) printf("  -%.3g a byte", percent_per_byte(&group->more, e));
        if (group->less.is_possible) printf("  +%.3g a byte", percent_per_byte(&group->less, e));
        printf("\n");
    }
}

static void print_blocks(const explained_head *e)
{
    printf("\n%-6s %5s %5s %11s %11s %8s %10s %9s\n", "block", "group", "width", "q energy", "k energy", "scale",
           "centre, %", "error, %");
    for (int block = 0; block < e->n_blocks; block++) {
        const explained_block *b = &e->blocks[block];
        printf("%-6d %5d %5d %11.4g %11.4g %8.3f %10.1f %9.3f\n", block, b->group, e->groups[b->group].width,
               b->q_energy, b->k_energy, b->scale, 100.0 * b->center_share, percent(b->variance, e));
    }
}

static void print_reason(const explained_head *e, int g)
{
    const explained_group *group = &e->groups[g];
    const int other = explained_cheapest_other(e, g);
    printf(group->n_blocks == 1 ? "Block" : "Blocks");
    for (int i = 0; i < group->n_blocks; i++) printf("%s %d", i ? "," : "", group->blocks[i]);
    if (group->width > 0)
        printf(group->n_blocks == 1 ? " is in a %d-bit group" : " are in a %d-bit group", group->width);
    else printf(group->n_blocks == 1 ? " is in no group" : " are in no group");
    if (group->less.is_possible)
        printf(": a bit less would add %.3g %% of the head's error and save %g bytes (%.3g %% a byte)",
               percent(group->less.variance, e), group->less.bits / 8.0, percent_per_byte(&group->less, e));
    if (group->more.is_possible)
        printf("%s a bit more would take off %.3g %% for %g bytes (%.3g %% a byte)",
               group->less.is_possible ? ";" : ":", percent(group->more.variance, e), group->more.bits / 8.0,
               percent_per_byte(&group->more, e));
    if (group->more.is_possible && other >= 0) {
        const double price = percent_per_byte(&e->groups[other].less, e);
        printf(", where the cheapest bytes of the others, those of group %d, cost %.3g %% each: %s", other, price,
               percent_per_byte(&group->more, e) > price ? "it would pay" : "it would not pay");
    }
    printf(".\n");
}

/* json: of the head; deleted. */
static rb_status put_json(cJSON *json, const bit_plan *plan, const explain_options *opt, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_add_string(json, "method", plan->method, err), done);
    RB_TRY(st, rb_json_add_number(json, "layer", (double)opt->layer, err), done);
    RB_TRY(st, rb_json_add_number(json, "kv_head", (double)opt->kv_head, err), done);
    RB_TRY(st,
           rb_json_add_number(json, "value_width",
                              plan->value_widths[opt->layer * plan->model.n_kv_heads + opt->kv_head], err),
           done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

static rb_status explain_groups(const bit_plan *plan, int h, const head_statistics *statistics,
                                const profile_table *profile, const explain_options *opt, bool as_json, rb_error *err)
{
    codec_errors errors = {.n_blocks = model_n_blocks(&plan->model)};
    explained_head explained = {0};
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, codec_errors_measure(&errors, plan, err), done);
    RB_TRY(st, plan_explain_head(&explained, plan, h, statistics, &errors, err), done);
    if (as_json) {
        RB_TRY(st, explained_head_to_json(&json, &explained, err), done);
        st = put_json(json, plan, opt, err);
        goto done;
    }
    print_head(explained.bits, plan, opt);
    print_error(&explained);
    print_values(plan, opt, profile);
    print_groups(&explained);
    print_blocks(&explained);
    printf("\n");
    for (int g = 0; g < explained.n_groups; g++) print_reason(&explained, g);
done:
    explained_head_free(&explained);
    codec_errors_free(&errors);
    return st;
}

/* ---- block-codebook -------------------------------------------------------------------------- */

static void print_block_codebook(const explained_block_codebook *e)
{
    printf("\n%-6s %5s %9s %10s %10s %9s %10s %11s %11s %10s %11s %11s\n", "block", "bits", "codes, %", "axis 1",
           "axis 2", "angle", "weight", "q energy", "k energy", "centre, %", "a bit more", "a bit less");
    for (int block = 0; block < e->n_blocks; block++) {
        const explained_code *b = &e->blocks[block];
        printf("%-6d %5d %9.2f %10.4g %10.4g %9.1f %10.4g %11.4g %11.4g %10.1f %+10.2f%% %+10.2f%%\n", block, b->bits,
               100.0 * b->code_share, b->axes[0], b->axes[1], b->angle, b->weight, b->q_energy, b->k_energy,
               100.0 * b->center_share, 100.0 * b->more, 100.0 * b->less);
    }
}

static rb_status explain_block_codebook(const bit_plan *plan, int h, const head_statistics *statistics,
                                        const profile_table *profile, const explain_options *opt, bool as_json,
                                        rb_error *err)
{
    explained_block_codebook explained;
    cJSON *json = NULL;
    rb_status st;
    plan_explain_block_codebook(&explained, plan, h, statistics);
    if (as_json) {
        st = explained_block_codebook_to_json(&json, &explained, err);
        return st == RB_OK ? put_json(json, plan, opt, err) : st;
    }
    print_head(explained.bits, plan, opt);
    printf("family   block-codebook: one code for both dims of a block, no norm; %d bits for the gain of a key, %.3g "
           "to %.3g\n",
           explained.gain_bits, explained.least_gain, explained.most_gain);
    printf("error    logit MAE of %.4g expected; what its variance would be with a bit more or less of a block, the "
           "others as they are, is told below\n",
           explained.logit_mae);
    print_values(plan, opt, profile);
    print_block_codebook(&explained);
    return RB_OK;
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
    const head_statistics statistics = profile_statistics(profile);
    const int h = (int)opt->layer * plan->model.n_kv_heads + (int)opt->kv_head;
    st = (plan->heads[h].family == FAMILY_BLOCK_CODEBOOK ? explain_block_codebook : explain_groups)(
        plan, h, &statistics, profile, opt, args->common->json, err);
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
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
