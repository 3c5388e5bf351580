/* See plan_options.h. */
#include "allocate/plan_options.h"

#include <math.h>
#include <string.h>

#include "core/message.h"
#include "profile/profile_statistics.h"

plan_options plan_options_default(void)
{
    const optimal_options usual = optimal_options_default();
    return (plan_options){.method = -1,
                          .n_sink = SINK_AUTO,
                          .values = value_options_default(),
                          .rotation = ROTATION_HAAR,
                          .gain_bits = usual.gain_bits,
                          .norm = (int)usual.norm,
                          .encoder = (int)usual.encoder,
                          .codebook = (int)usual.codebook,
                          .scope = usual.scope,
                          .least_share = (double)NAN};
}

/* An option that would do nothing is refused. `own`: what is asked for. */
static rb_status check_options(allocation_method method, const optimal_options *own, const plan_options *opt,
                               rb_error *err)
{
    const optimal_options usual = optimal_options_default();
    const bool has_budget = own->scope != usual.scope || own->least_share != usual.least_share;
    if (allocation_method_is_published(method)) {
        optimal_options unrotated = *own;
        unrotated.rotation = usual.rotation;
        if (!optimal_foreign_options(&unrotated, &usual, -1) && !has_budget && !opt->center) return RB_OK;
        return rb_fail(err, RB_EUSAGE,
                       "%s has no options but its budget, values and rotation; the others are of --method optimal",
                       allocation_method_name(method));
    }
    if (opt->method < 0) return RB_OK; /* a sweep over all has a method for every option */
    const char *refusal = optimal_foreign_options(own, &usual, (int)allocation_method_family(method));
    return refusal ? rb_fail(err, RB_EUSAGE, "%s %s", allocation_method_name(method), refusal) : RB_OK;
}

rb_status plan_options_resolve(optimal_options *out, allocation_method *method, const plan_options *opt, rb_error *err)
{
    optimal_options own = optimal_options_default();
    own.equalize = !opt->no_equalize;
    if (*method == METHOD_OPTIMAL && opt->center) *method = METHOD_OPTIMAL_CENTER;
    own.gain_bits = (int)opt->gain_bits;
    own.codebook = (codebook_kind)opt->codebook;
    own.norm = (norm_kind)opt->norm;
    own.encoder = (plan_encoder)opt->encoder;
    own.max_groups = (int)opt->max_groups;
    own.scope = opt->scope;
    if (!isnan(opt->least_share)) own.least_share = opt->least_share;
    if (opt->widths.n > 0) own.widths = 0;
    for (int i = 0; i < opt->widths.n; i++) {
        if (opt->widths.at[i] != floor(opt->widths.at[i]))
            return rb_fail(err, RB_EUSAGE, "--widths has %g, expected whole numbers of bits", opt->widths.at[i]);
        own.widths |= 1u << (int)opt->widths.at[i];
    }
    if (own.widths >> 1 == 0) return rb_fail(err, RB_EUSAGE, "--widths has 0 alone, expected a width above it");
    own.rotation = (rotation_kind)opt->rotation;
    const rb_status st = check_options(*method, &own, opt, err);
    if (st == RB_OK) *out = own;
    return st;
}

int64_t plan_options_sinks(const plan_options *opt, bool is_published, const profile_table *profile)
{
    if (opt->n_sink != SINK_AUTO) return opt->n_sink;
    return is_published ? 0 : profile->n_sink;
}

void plan_options_warn_of_sinks(int64_t n_sink, const profile_table *profile)
{
    if (n_sink == 0 || n_sink == profile->n_sink) return;
    if (profile->n_sink == 0)
        rb_message_warn(
            "--sink is %lld, and the profile's statistics are of all tokens: profile --sink %lld leaves the "
            "first ones out",
            (long long)n_sink, (long long)n_sink);
    else
        rb_message_warn("--sink is %lld, and the profile's statistics are of all tokens but the first %lld: profile "
                        "--sink %lld fits",
                        (long long)n_sink, (long long)profile->n_sink, (long long)n_sink);
}

int plan_options_rows(rb_option rows[PLAN_OPTIONS_N_ROWS], plan_options *options)
{
    static const char *const sinks[] = {"auto", NULL}; /* SINK_AUTO */
    const rb_option own[PLAN_OPTIONS_N_ROWS] = {
        {.long_name = "sink",
         .kind = RB_OPT_INT,
         .value = &options->n_sink,
         .metavar = "N",
         .min = 0,
         .max = PLAN_MAX_EXACT,
         .choices = sinks,
         .help =
             "first tokens of a sequence that stay fp16; auto: as many as pays by the profile, and none for uniform "
             "and block-gtq"},
        {.long_name = "recent",
         .kind = RB_OPT_INT,
         .value = &options->n_recent,
         .metavar = "N",
         .min = 0,
         .max = PLAN_MAX_EXACT,
         .help = "last tokens before a query, its own included, that stay fp16"},
        {.long_name = "value-bits",
         .kind = RB_OPT_NUMBER,
         .value = &options->values.bits,
         .metavar = "B",
         .min = VALUES_AS_KEYS,
         .max = PLAN_FP16_WIDTH,
         .help = "bits per dim of the values, 1 to 8, or 16: they stay fp16; 0: as the keys, rounded down. Of trellis "
                 "stored bits, any number; 0: as the keys, or of a budget for both"},
        {.long_name = "value-codec",
         .kind = RB_OPT_CHOICE,
         .value = &options->values.codec,
         .metavar = "NAME",
         .choices = value_codec_names,
         .help = "how values are coded: as published, or by a trellis; auto: trellis with method trellis"},
        {.long_name = "equal-heads",
         .kind = RB_OPT_FLAG,
         .value = &options->equal_heads,
         .help = "trellis: the keys of a layer have one size, and so have its values, as paged caches want it"},
        {.long_name = "value-per",
         .kind = RB_OPT_CHOICE,
         .value = &options->values.scope,
         .metavar = "SCOPE",
         .choices = value_scope_names,
         .help = "who shares a width of the values; head: each KV head its own, --value-bits on average, by measured "
                 "errors"},
        {.long_name = "least-value-bits",
         .kind = RB_OPT_INT,
         .value = &options->values.least_bits,
         .metavar = "N",
         .min = PLAN_MIN_WIDTH,
         .max = PLAN_MAX_WIDTH,
         .help = "least width with --value-per head; an average below it has its own whole bits"},
        {.long_name = "rotation",
         .kind = RB_OPT_CHOICE,
         .value = &options->rotation,
         .metavar = "KIND",
         .choices = rotation_kind_names,
         .help = "of the key groups; hadamard is the faster one for a runtime that transforms by butterflies"},
        {.long_name = "center",
         .kind = RB_OPT_FLAG,
         .value = &options->center,
         .help = "optimal: take the mean key off before coding; the runtime quantizes before RoPE or adds its part of "
                 "the logit"},
        {.long_name = "gain-bits",
         .kind = RB_OPT_INT,
         .value = &options->gain_bits,
         .metavar = "N",
         .min = 0,
         .max = BLOCK_CODEBOOK_MAX_GAIN_BITS,
         .help = "block-codebook: of the gain that brings a rare key within the codebooks; 0: none, which "
                 "averages do not notice and retrieval does"},
        {.long_name = "no-equalize",
         .kind = RB_OPT_FLAG,
         .value = &options->no_equalize,
         .help = "optimal: leave the scale of every block as it is"},
        {.long_name = "norm",
         .kind = RB_OPT_CHOICE,
         .value = &options->norm,
         .metavar = "KIND",
         .choices = norm_kind_names,
         .help = "optimal: how a group's norm is stored"},
        {.long_name = "encoder",
         .kind = RB_OPT_CHOICE,
         .value = &options->encoder,
         .metavar = "KIND",
         .choices = plan_encoder_names,
         .help = "optimal: how codes are chosen; decoders are the same"},
        {.long_name = "codebook",
         .kind = RB_OPT_CHOICE,
         .value = &options->codebook,
         .metavar = "KIND",
         .choices = codebook_kind_names,
         .help = "optimal: of the keys"},
        {.long_name = "groups",
         .kind = RB_OPT_INT,
         .value = &options->max_groups,
         .metavar = "N",
         .min = 0,
         .max = RB_MAX_BLOCKS,
         .help = "optimal: most groups of a head; 0: any number"},
        {.long_name = "widths",
         .kind = RB_OPT_NUMBERS,
         .value = &options->widths,
         .metavar = "LIST",
         .min = 0,
         .max = PLAN_MAX_WIDTH,
         .help = "optimal: widths that the runtime's kernels know, as 2,4,8; 0: blocks may be dropped"},
        {.long_name = "per",
         .kind = RB_OPT_CHOICE,
         .value = &options->scope,
         .metavar = "SCOPE",
         .choices = budget_scope_names,
         .help = "optimal: who shares the budget; otherwise the model, with block-codebook a head"},
        {.long_name = "least-share",
         .kind = RB_OPT_NUMBER,
         .value = &options->least_share,
         .metavar = "X",
         .min = 0,
         .max = 1,
         .help = "optimal and trellis: least part of an equal share of the budget that a head gets; otherwise 0.9, of "
                 "trellis 0.5"},
    };
    memcpy(rows, own, sizeof own);
    return PLAN_OPTIONS_N_ROWS;
}
