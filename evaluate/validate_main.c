/* ropebits-validate: the CUDA kernels against the C reference, on captured keys. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/cuda_device.h"
#include "core/json.h"
#include "core/message.h"
#include "core/table.h"
#include "evaluate/validate.h"
#include "plan/plan_read.h"

enum { AS_PLANNED = -1 }; /* of --sink */

typedef struct validate_options {
    rb_string_list types;
    int64_t n_tokens, n_sink;
    bool no_timing;
} validate_options;

static rb_status read_plan(bit_plan **plan, const char *path, const capture_file *capture, rb_error *err)
{
    const rb_status st = plan_read_to_code(plan, path, err);
    if (st != RB_OK) return st;
    return model_facts_same(&(*plan)->model, path, &capture_file_header(capture)->model, capture_file_path(capture),
                            err);
}

/* ---- what it says ---------------------------------------------------------------------------- */

static double gb_per_s(double bytes, double seconds) { return seconds > 0.0 ? bytes / seconds * 1e-9 : NAN; }

static void add_row(rb_table *cells, const validate_row *row)
{
    const codec_report *r = &row->report;
    rb_table_add(cells, "%s", row->what);
    rb_table_add(cells, "%s", codec_dtype_name(row->type));
    rb_table_add(cells, "%lld", (long long)r->n_codes);
    rb_table_add(cells, "%lld/%lld", (long long)r->codes_tied, (long long)r->codes_wrong);
    rb_table_add(cells, "%lld/%lld", (long long)r->norms_tied, (long long)r->norms_wrong);
    rb_table_add(cells, "%lld", (long long)r->bytes_wrong);
    rb_table_add(cells, "%.1e/%lld", r->worst_value, (long long)r->values_wrong);
    rb_table_add(cells, "%.1e/%lld", r->worst_logit, (long long)r->logits_wrong);
    rb_table_add(cells, "%lld", (long long)row->bytes_outside);
    rb_table_add(cells, "%lld", (long long)row->bytes_unstable);
    rb_table_add_number(cells, 0, gb_per_s(row->vector_bytes, row->times.encode_s));
    rb_table_add_number(cells, 0, gb_per_s(row->vector_bytes, row->times.decode_s));
    rb_table_add_number(cells, 0, gb_per_s(row->packed_bytes, row->times.logits_s));
    rb_table_add(cells, "%s", validate_row_is_good(row) ? "ok" : "DIFFERS");
    rb_table_end_row(cells);
}

/* On the CPU the reference stands on both sides, which proves nothing of any kernel. */
static void print_verdict(const validate_result *result)
{
    if (result->device == RB_DEVICE_CUDA)
        printf("%s against the C reference: %s\n", rb_cuda_device()->name,
               validate_is_good(result) ? "valid" : "NOT valid");
    else if (validate_is_good(result))
        printf("only the C reference ran: its own round trip holds, no kernel was compared with it, nothing is proven "
               "(--device cuda compares)\n");
    else printf("only the C reference ran, and its own round trip does NOT hold\n");
}

static rb_status print_table(const validate_result *result, int64_t n_sink, rb_error *err)
{
    static const char *const heads[] = {"",          "type",     "codes",           "codes tied/wrong",
                                        "norms t/w", "bytes",    "worst value/bad", "worst logit/bad",
                                        "outside",   "unstable", "enc GB/s",        "dec GB/s",
                                        "log GB/s"};
    rb_table cells = {.n_left = 2};
    for (size_t i = 0; i < RB_COUNT(heads); i++) rb_table_add(&cells, "%s", heads[i]);
    rb_table_end_row(&cells);
    for (int i = 0; i < result->n_rows; i++) add_row(&cells, &result->rows[i]);
    const rb_status st = rb_table_print(stdout, &cells, err);
    rb_table_free(&cells);
    if (st != RB_OK) return st;
    if (n_sink > 0)
        printf("without the first %lld of the tokens of every sequence, which stay fp16\n", (long long)n_sink);
    print_verdict(result);
    return RB_OK;
}

static rb_status add_counts(cJSON *json, const validate_row *row, rb_error *err)
{
    const codec_report *r = &row->report;
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"n_vectors", (double)r->n_vectors},
                   {"n_codes", (double)r->n_codes},
                   {"n_norms", (double)r->n_norms},
                   {"n_logits", (double)r->n_logits},
                   {"codes_tied", (double)r->codes_tied},
                   {"codes_wrong", (double)r->codes_wrong},
                   {"worst_tie", r->worst_tie},
                   {"code_tie_bound", row->bounds.code_tie},
                   {"norms_tied", (double)r->norms_tied},
                   {"norms_wrong", (double)r->norms_wrong},
                   {"norm_tie_bound", row->bounds.norm_tie},
                   {"searches_tied", (double)r->searches_tied},
                   {"worst_cosine", r->worst_cosine},
                   {"cosine_tie_bound", row->bounds.cosine_tie},
                   {"packed_bytes_wrong", (double)r->bytes_wrong},
                   {"values_wrong", (double)r->values_wrong},
                   {"worst_value", r->worst_value},
                   {"value_bound", row->bounds.restore},
                   {"value_rounding", row->bounds.rounding},
                   {"value_rounding_least", row->bounds.rounding_least},
                   {"logits_wrong", (double)r->logits_wrong},
                   {"worst_logit", r->worst_logit},
                   {"logit_bound", row->bounds.logits},
                   {"plane_tie_bound", row->bounds.block_codebook_tie},
                   {"plane_value_bound", row->bounds.block_codebook_restore},
                   {"bytes_outside", (double)row->bytes_outside},
                   {"bytes_unstable", (double)row->bytes_unstable}};
    const struct {
        const char *name;
        double bytes, seconds;
    } rates[] = {{"encode_gb_per_s", row->vector_bytes, row->times.encode_s},
                 {"decode_gb_per_s", row->vector_bytes, row->times.decode_s},
                 {"logits_packed_gb_per_s", row->packed_bytes, row->times.logits_s}};
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(numbers) && st == RB_OK; i++)
        st = rb_json_add_number(json, numbers[i].name, numbers[i].value, err);
    for (size_t i = 0; i < RB_COUNT(rates) && st == RB_OK; i++)
        if (rates[i].seconds > 0.0 && rates[i].bytes > 0.0)
            st = rb_json_add_number(json, rates[i].name, gb_per_s(rates[i].bytes, rates[i].seconds), err);
    return st;
}

static rb_status row_to_json(cJSON **out, const validate_row *row, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "what", row->what, err), done);
    RB_TRY(st, rb_json_add_string(*out, "type", codec_dtype_name(row->type), err), done);
    RB_TRY(st, rb_json_add_bool(*out, "is_valid", validate_row_is_good(row), err), done);
    st = add_counts(*out, row, err);
done:
    return st;
}

static rb_status print_json(const validate_result *result, const rb_string_list *paths, int64_t n_sink, rb_error *err)
{
    const bool is_compared = result->device == RB_DEVICE_CUDA;
    cJSON *json = NULL, *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the result");
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-validation", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, rb_json_add_string(json, "plan", paths->at[0], err), done);
    RB_TRY(st, rb_json_add_string(json, "capture", paths->at[1], err), done);
    RB_TRY(st, rb_json_add_number(json, "sink", (double)n_sink, err), done);
    RB_TRY(st,
           rb_json_add_string(json, "device", result->device == RB_DEVICE_CUDA ? rb_cuda_device()->name : "cpu", err),
           done);
    RB_TRY(st, rb_json_add_bool(json, "is_compared", is_compared, err), done);
    if (is_compared || !validate_is_good(result))
        RB_TRY(st, rb_json_add_bool(json, "is_valid", validate_is_good(result), err), done);
    else RB_TRY(st, rb_json_add_null(json, "is_valid", err), done);
    for (int i = 0; i < result->n_rows; i++) {
        RB_TRY(st, row_to_json(&item, &result->rows[i], err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    RB_TRY(st, rb_json_add_item(json, "rows", &list, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    cJSON_Delete(json);
    return st;
}

/* ---- run ------------------------------------------------------------------------------------- */

static rb_status validate_run(const rb_run_args *args, rb_error *err)
{
    const validate_options *opt = args->context;
    validate_request request = {.n_tokens = opt->n_tokens};
    validate_result result;
    capture_file *capture = NULL;
    bit_plan *plan = NULL;
    rb_status st;
    RB_TRY(st, capture_open(&capture, args->positionals->at[1], err), done);
    RB_TRY(st, read_plan(&plan, args->positionals->at[0], capture, err), done);
    RB_TRY(st, rb_resolve_device(&request.device, args->common, err), done);
    request.n_sink = opt->n_sink == AS_PLANNED ? plan->n_sink : opt->n_sink;
    if (request.n_sink != plan->n_sink)
        rb_message_info("%s: --sink %lld instead of the plan's %lld", args->positionals->at[0],
                        (long long)request.n_sink, (long long)plan->n_sink);
    request.capture = capture;
    request.plan = plan;
    request.n_timed = opt->no_timing || request.device != RB_DEVICE_CUDA ? 0 : VALIDATE_TIMED_VECTORS;
    for (int i = 0; i < opt->types.n; i++)
        for (int type = 0; type < CODEC_N_DTYPES; type++)
            request.types[type] |= strcmp(opt->types.at[i], codec_dtype_name((codec_dtype)type)) == 0;
    if (bit_plan_quantizes_values(plan) && !capture_file_header(capture)->has_values)
        rb_message_warn("the plan's values are not validated: %s has none (calibrate --values)",
                        args->positionals->at[1]);
    RB_TRY(st, validate_plan(&result, &request, err), done);
    if (args->common->json) RB_TRY(st, print_json(&result, args->positionals, request.n_sink, err), done);
    else RB_TRY(st, print_table(&result, request.n_sink, err), done);
    if (!validate_is_good(&result)) st = RB_ECHECK;
done:
    bit_plan_free(plan);
    capture_close(capture);
    return st;
}

int main(int argc, char **argv)
{
    static const char *const types[] = {"f16", "bf16", "f32", NULL};
    static const char *const as_planned[] = {"plan", NULL}; /* AS_PLANNED */
    validate_options opt = {.n_sink = AS_PLANNED, .types = {.n = 3, .at = {"f16", "bf16", "f32"}}};
    const rb_option table[] = {
        {.long_name = "types",
         .kind = RB_OPT_STRINGS,
         .value = &opt.types,
         .metavar = "LIST",
         .choices = types,
         .help = "element types of keys and values to run"},
        {.long_name = "n-tokens",
         .kind = RB_OPT_INT,
         .value = &opt.n_tokens,
         .metavar = "N",
         .min = 0,
         .max = 1 << 24,
         .help = "test tokens to use; 0: all"},
        {.long_name = "sink",
         .kind = RB_OPT_INT,
         .value = &opt.n_sink,
         .metavar = "N",
         .min = 0,
         .max = PLAN_MAX_EXACT,
         .choices = as_planned,
         .help = "first tokens of a sequence that stay fp16 and are left out; plan: as the plan says"},
        {.long_name = "no-timing", .kind = RB_OPT_FLAG, .value = &opt.no_timing, .help = "leave out the throughput"},
    };
    const rb_program program = {
        .name = "validate",
        .synopsis = "ropebits validate [options] PLAN.rbp CAPTURE.h5",
        .summary =
            "Runs the quantize kernels of a plan on the captured test keys and holds every code, norm, packed "
            "byte, restored value and logit to the C reference; "
            "checks that nothing else is written and that a second run gives the same bytes; measures the "
            "throughput. Without a GPU it checks only the "
            "reference's own round trip, which proves nothing of the kernels. Exit code 3 when anything differs.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 2,
        .max_positionals = 2,
        .positional_names = "PLAN.rbp CAPTURE.h5",
        .run = validate_run,
        .multiplies = true,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}
