/* checkpoint + texts -> capture.h5: see calibrate/calibrate_run.h.
 *
 * Calibration and test text go through the model in one pass, as sequences laid end to end, so that every layer's
 * weights are read once. */
#include "calibrate/calibrate_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/calibration_text.h"
#include "calibrate/capture_cpu.h"
#include "calibrate/capture_cuda.h"
#include "calibrate/dry_run.h"
#include "calibrate/interruption.h"
#include "calibrate/output_metric.h"
#include "calibrate/run_identity.h"
#include "core/cuda_device.h"
#include "core/json.h"
#include "core/message.h"
#include "core/threads.h"
#include "model/forward.h"
#include "model/weights_identity.h"
#include "texts/sequences.h"
#include "texts/token_source.h"

/* ---- options --------------------------------------------------------------------------------- */

static bool gives_texts(const calibrate_options *opt)
{
    return opt->texts.n > 0 || opt->tokens || opt->test_text || opt->test_tokens;
}

/* Without any text a dry run only tells whether the model is supported. */
static rb_status check_options(const calibrate_options *opt, rb_error *err)
{
    if (opt->dry_run && !gives_texts(opt)) return RB_OK;
    if (!opt->dry_run && !opt->output) return rb_fail(err, RB_EUSAGE, "no output: give -o CAPTURE.h5, or --dry-run");
    if ((opt->texts.n == 0) == !opt->tokens)
        return rb_fail(err, RB_EUSAGE, "give the calibration text as either --text or --tokens");
    if (opt->test_text && opt->test_tokens)
        return rb_fail(err, RB_EUSAGE, "give the test text as either --test-text or --test-tokens");
    if (opt->texts.n > 1 && !opt->test_text && !opt->test_tokens)
        return rb_fail(err, RB_EUSAGE,
                       "no test text: %d calibration texts leave none behind them, give --test-text or --test-tokens",
                       opt->texts.n);
    return RB_OK;
}

/* The options that made the file, as it records them. Paths are recorded as they were given; the hashes of ids and
 * config say what they held. */
static rb_status options_to_json(char **out, const calibrate_options *opt, const calibration_text *text,
                                 rb_device_kind device, int64_t context, int64_t n_test, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "model", opt->model, err), done);
    RB_TRY(st, calibration_text_to_json(json, text, opt, err), done);
    if (opt->tokens) RB_TRY(st, rb_json_add_string(json, "tokens", opt->tokens, err), done);
    if (opt->test_text) RB_TRY(st, rb_json_add_string(json, "test_text", opt->test_text, err), done);
    if (opt->test_tokens) RB_TRY(st, rb_json_add_string(json, "test_tokens", opt->test_tokens, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_tokens", (double)opt->n_tokens, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_test_tokens", (double)n_test, err), done);
    RB_TRY(st, rb_json_add_number(json, "context", (double)context, err), done);
    RB_TRY(st, rb_json_add_string(json, "bos", bos_choice_names[opt->bos], err), done);
    RB_TRY(st, rb_json_add_string(json, "dtype", opt->dtype == CAPTURE_DTYPE_F32 ? "f32" : "f16", err), done);
    RB_TRY(st, rb_json_add_bool(json, "values", opt->values, err), done);
    if (device == RB_DEVICE_CUDA)
        RB_TRY(st, rb_json_add_string(json, "cuda_precision", opt->precision == CALIBRATE_F32 ? "f32" : "bf16", err),
               done);
    RB_TRY(st, rb_json_print(out, json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

/* ---- the pass -------------------------------------------------------------------------------- */

/* Cuts both texts into sequences of `context` tokens; the last of each may be shorter. */
static rb_status cut_sequences(int64_t **starts, int64_t *n_sequences, const text_facts text[CAPTURE_N_SETS],
                               rb_error *err)
{
    int64_t n = 0, first = 0;
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        n += (text[set].n_tokens + text[set].context - 1) / text[set].context;
    rb_status st = rb_alloc(starts, (size_t)n + 1, sizeof **starts, "sequences", err);
    if (st != RB_OK) return st;
    *n_sequences = 0;
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        for (int64_t at = 0; at < text[set].n_tokens; at += text[set].context) (*starts)[(*n_sequences)++] = first + at;
        first += text[set].n_tokens;
    }
    (*starts)[n] = first;
    return RB_OK;
}

static layer_cuda_precision cuda_precision(const calibrate_options *opt)
{
    return opt->precision == CALIBRATE_F32 ? LAYER_CUDA_F32 : LAYER_CUDA_BF16;
}

/* What a run on a text needs beside the texts themselves. */
typedef struct capture_job {
    const checkpoint *ckpt;
    const capture_header *header;
    const calibrate_options *opt;
    rb_device_kind device;
    const int32_t *tokens[CAPTURE_N_SETS];
    const char *options_json;
    forward_cuda_report *gpu; /* the report of a run on a GPU */
    capture_parts **parts;    /* what this run could be continued from: NULL, until there is something */
} capture_job;

/* Takes the parts of the output, and what they have. */
static rb_status open_parts(const capture_job *job, rb_error *err)
{
    char *identity = NULL;
    rb_status st;
    RB_TRY(st,
           run_identity_to_json(&identity, job->ckpt, job->header, job->tokens, job->options_json, job->device,
                                job->opt->max_gpu_bytes, err),
           done);
    const capture_parts_options options = {.output = job->opt->output,
                                           .identity = identity,
                                           .header = job->header,
                                           .hidden_size = checkpoint_config(job->ckpt)->hidden_size,
                                           .saves_sparingly = job->device == RB_DEVICE_CUDA};
    st = capture_parts_open(job->parts, &options, err);
    if (*job->parts) interruption_tell(job->opt->output);
done:
    free(identity);
    return st;
}

/* The layers that the parts do not have. */
static rb_status run_pass(const capture_job *job, const token_batch *batch, capture_writer *writer,
                          capture_watch *watch, rb_error *err)
{
    capture_parts *parts = *job->parts;
    if (parts && capture_parts_n_finished(parts) == job->header->model.n_layers) return RB_OK;
    if (job->device != RB_DEVICE_CUDA) return capture_on_cpu(job->ckpt, job->header, batch, writer, watch, parts, err);
    const capture_cuda_options cuda = {
        .precision = cuda_precision(job->opt), .max_bytes = job->opt->max_gpu_bytes, .watch = watch, .parts = parts};
    return capture_on_cuda(job->ckpt, job->header, batch, &cuda, writer, job->gpu, err);
}

/* Runs the text through the model and writes the file. A dry run stops where the pass would start. */
static rb_status capture_texts(const capture_job *job, const token_list *tokens, warning_list *warnings, rb_error *err)
{
    const calibrate_options *opt = job->opt;
    int64_t *starts = NULL, n_sequences = 0;
    capture_writer *writer = NULL;
    capture_watch watch = {0};
    rb_status st;

    RB_TRY(st, cut_sequences(&starts, &n_sequences, job->header->text, err), done);
    RB_TRY(st, capture_watch_create(&watch, checkpoint_config(job->ckpt), starts[1], err), done);
    if (!opt->dry_run && !opt->no_resume) RB_TRY(st, open_parts(job, err), done);
    if (*job->parts) {
        RB_TRY(st, capture_parts_create(*job->parts, &writer, &watch, job->tokens, job->options_json, err), done);
    } else if (opt->output) {
        RB_TRY(st, capture_create(&writer, opt->output, job->header, job->tokens, job->options_json, err), done);
    }
    if (opt->dry_run) goto done;
    const token_batch batch = {
        .tokens = tokens->ids, .n_tokens = tokens->n, .sequence_start = starts, .n_sequences = n_sequences};
    RB_TRY(st, run_pass(job, &batch, writer, &watch, err), done);
    capture_watch_warn(&watch, warnings);
    if (job->header->output.is_known) RB_TRY(st, output_metric_write(writer, job->ckpt, err), done);
    st = *job->parts ? capture_parts_publish(*job->parts, writer, err) : capture_publish(writer, err);
done:
    capture_watch_free(&watch);
    capture_writer_free(writer);
    free(starts);
    return st;
}

/* ---- what it says ---------------------------------------------------------------------------- */

typedef struct calibrate_result {
    const calibrate_options *options;
    const calibration_text *text; /* empty in a dry run without texts */
    const capture_header *header;
    int64_t weight_bytes, memory_bytes;
    int64_t gpu_bytes,
        gpu_least_bytes; /* what a run on a GPU would take, and what it would take in the smallest chunks of tokens */
    const forward_cuda_report *gpu; /* the report of a run on a GPU, or NULL */
    const warning_list *warnings;
    const dry_run *dry; /* NULL in a run */
    double seconds;
} calibrate_result;

static double weight_gb_per_s(const forward_cuda_report *gpu)
{
    return (double)gpu->weight_bytes * 1e-9 / gpu->total_s;
}

/* Prints nothing where there are no such tokens. */
static void print_bos(const text_bos *bos)
{
    if (bos->tokens.n == 0) return;
    printf("bos          token");
    for (int i = 0; i < bos->tokens.n; i++) printf(" %d", bos->tokens.ids[i]);
    printf(" in front of every %s\n", bos_mode_name(bos->mode));
}

static void print_result(const calibrate_result *result)
{
    const model_facts *model = &result->header->model;
    const text_facts *text = result->header->text;
    printf("model        %s (%s), %d layers, %d query and %d KV heads of %d dims\n",
           rb_shown(result->options->model).text, model->model_type, model->n_layers, model->n_q_heads,
           model->n_kv_heads, model->head_dim);
    printf("rope         %s, %s pairing, %d blocks of %d turn, theta %g\n", rope_kind_name(model->rope.kind),
           rope_pairing_name(model->rope.pairing), model->rotary_dim / 2, model_n_blocks(model), model->rope.theta);
    printf("weights      %.1f MiB in the checkpoint\n", (double)result->weight_bytes / 0x1p20);
    printf("tokens       %lld calibration, %lld test, sequences of %lld\n",
           (long long)text[CAPTURE_CALIBRATION].n_tokens, (long long)text[CAPTURE_TEST].n_tokens,
           (long long)text[CAPTURE_CALIBRATION].context);
    print_bos(&text[CAPTURE_CALIBRATION].bos);
    calibration_text_print(result->text, result->options->n_tokens, text[CAPTURE_CALIBRATION].context);
    if (result->dry) {
        dry_run_print(result->dry);
    } else {
        if (result->gpu)
            printf("GPU          %s: %.2f ms a layer, %.1f GB/s of weights, %.0f MiB\n", rb_cuda_device()->name,
                   result->gpu->layer_ms, weight_gb_per_s(result->gpu), (double)result->gpu->gpu_bytes / 0x1p20);
        printf("capture      %s, %.1f s\n", rb_shown(result->options->output).text, result->seconds);
    }
}

/* {"name", "seconds", "layer_ms", ...}: what a run on a GPU took. */
static rb_status gpu_to_json(cJSON **out, const forward_cuda_report *gpu, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "name", rb_cuda_device()->name, err), done);
    RB_TRY(st, rb_json_add_number(*out, "seconds", gpu->total_s, err), done);
    RB_TRY(st, rb_json_add_number(*out, "set_up_seconds", gpu->set_up_s, err), done);
    RB_TRY(st, rb_json_add_number(*out, "layer_ms", gpu->layer_ms, err), done);
    RB_TRY(st, rb_json_add_number(*out, "weights_read_bytes", (double)gpu->weight_bytes, err), done);
    RB_TRY(st, rb_json_add_number(*out, "weights_gb_per_s", weight_gb_per_s(gpu), err), done);
    RB_TRY(st, rb_json_add_number(*out, "memory_size_bytes", (double)gpu->gpu_bytes, err), done);
    RB_TRY(st, rb_json_add_number(*out, "chunk_tokens", (double)gpu->chunk_tokens, err), done);
done:
    return st;
}

static rb_status text_to_json(cJSON **out, const text_facts *text, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n_tokens", (double)text->n_tokens, err), done);
    RB_TRY(st, rb_json_add_number(*out, "context", (double)text->context, err), done);
    RB_TRY(st, text_bos_to_json(*out, &text->bos, err), done);
done:
    return st;
}

static rb_status print_json(const calibrate_result *result, rb_error *err)
{
    cJSON *json = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-calibrate-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, model_facts_to_json(&item, &result->header->model, err), done);
    RB_TRY(st, rb_json_add_item(json, "model", &item, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        RB_TRY(st, text_to_json(&item, &result->header->text[set], err), done);
        RB_TRY(st, rb_json_add_item(json, capture_set_name((capture_set)set), &item, err), done);
    }
    RB_TRY(st, rb_json_add_number(json, "weights_size_bytes", (double)result->weight_bytes, err), done);
    RB_TRY(st, rb_json_add_number(json, "memory_size_bytes", (double)result->memory_bytes, err), done);
    RB_TRY(st,
           rb_json_add_number(json, "capture_payload_size_bytes", (double)capture_payload_bytes(result->header), err),
           done);
    RB_TRY(st, rb_json_add_number(json, "gpu_memory_size_bytes", (double)result->gpu_bytes, err), done);
    RB_TRY(st, rb_json_add_number(json, "gpu_memory_least_size_bytes", (double)result->gpu_least_bytes, err), done);
    RB_TRY(st, calibration_text_to_json(json, result->text, result->options, err), done);
    if (!result->dry) RB_TRY(st, rb_json_add_string(json, "capture", result->options->output, err), done);
    if (result->gpu) {
        RB_TRY(st, gpu_to_json(&item, result->gpu, err), done);
        RB_TRY(st, rb_json_add_item(json, "gpu", &item, err), done);
    }
    RB_TRY(st, warnings_to_json(json, result->warnings, err), done);
    if (result->dry) RB_TRY(st, dry_run_to_json(json, result->dry, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(item);
    cJSON_Delete(json);
    return st;
}

/* ---- run ------------------------------------------------------------------------------------- */

static rb_status fill_header(capture_header *header, checkpoint *ckpt, const calibrate_options *opt, rb_error *err)
{
    const model_config *config = checkpoint_config(ckpt);
    int64_t context = 0, longest = opt->n_tokens > opt->n_test_tokens ? opt->n_tokens : opt->n_test_tokens;
    rb_status st = tokens_resolve_context(&context, opt->context, model_config_max_context(config), err);
    if (st == RB_OK) st = checkpoint_set_longest(ckpt, longest < context ? longest : context, err);
    if (st == RB_OK) st = checkpoint_identify_weights(ckpt, err);
    if (st != RB_OK) return st;
    *header = (capture_header){
        .model = config->facts,
        .text = {{.n_tokens = opt->n_tokens, .context = context},
                 {.n_tokens = opt->n_test_tokens ? opt->n_test_tokens : opt->n_tokens, .context = context}},
        .value_type = opt->dtype == CAPTURE_DTYPE_F32 ? RB_H5_F32 : RB_H5_F16,
        .has_values = opt->values,
        .output = opt->values ? output_facts(config) : (capture_output){0},
    };
    return opt->hash_weights ? checkpoint_weights_sha256(ckpt, header->model.weights_sha256, err) : RB_OK;
}

/* What a run would need, on the CPU and on a GPU. */
static rb_status estimate_memory(calibrate_result *result, const model_config *config, rb_error *err)
{
    const capture_header *header = result->header;
    const int64_t n_calibration = header->text[CAPTURE_CALIBRATION].n_tokens,
                  n_test = header->text[CAPTURE_TEST].n_tokens;
    int64_t *starts = NULL, n_sequences = 0;
    const rb_status st = cut_sequences(&starts, &n_sequences, header->text, err);
    if (st != RB_OK) return st;
    const token_batch batch = {
        .n_tokens = n_calibration + n_test, .sequence_start = starts, .n_sequences = n_sequences};
    const layer_cuda_precision precision = cuda_precision(result->options);
    result->memory_bytes =
        forward_memory_bytes(config, &batch, NULL, rb_threads_count())
        + capture_token_dims(header) * (n_calibration > n_test ? n_calibration : n_test) * (int64_t)sizeof(float);
    result->gpu_bytes = capture_cuda_bytes(config, header, &batch, precision, CUDA_PASS_MAX_CHUNK);
    result->gpu_least_bytes = capture_cuda_bytes(config, header, &batch, precision, CUDA_PASS_MIN_CHUNK);
    free(starts);
    return RB_OK;
}

/* Reads the texts and captures a part of them; a dry run does all but the pass. */
static rb_status run_texts(calibration_text *text, const checkpoint *ckpt, capture_header *header, const shard *part,
                           const calibrate_options *opt, rb_device_kind device, forward_cuda_report *gpu,
                           capture_parts **parts, warning_list *warnings, rb_error *err)
{
    const int64_t n_test = header->text[CAPTURE_TEST].n_tokens, context = header->text[CAPTURE_CALIBRATION].context;
    const double tokens_from_s = rb_now_s();
    char *options_json = NULL;
    rb_status st;
    RB_TRY(st, calibration_text_load(text, opt, n_test, context, checkpoint_config(ckpt)->vocab_size, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++) header->text[set].bos = text->bos[set];
    rb_message_verbose("token ids took %.3f s", rb_now_s() - tokens_from_s);
    text->part = *part;
    RB_TRY(st, shard_cut(&text->part, text->tokens.ids, &text->tokens.n, header->text, err), done);
    RB_TRY(st, options_to_json(&options_json, opt, text, device, context, n_test, err), done);
    const capture_job job = {
        .ckpt = ckpt,
        .header = header,
        .opt = opt,
        .device = device,
        .tokens = {text->tokens.ids, text->tokens.ids + header->text[CAPTURE_CALIBRATION].n_tokens},
        .options_json = options_json,
        .gpu = gpu,
        .parts = parts};
    st = capture_texts(&job, &text->tokens, warnings, err);
done:
    free(options_json);
    return st;
}

static rb_status describe_run(dry_run *dry, const calibrate_result *result, const checkpoint *ckpt,
                              rb_device_kind device, warning_list *warnings, rb_error *err)
{
    int64_t *starts = NULL, n_sequences = 0;
    const rb_status st = cut_sequences(&starts, &n_sequences, result->header->text, err);
    if (st != RB_OK) return st;
    const token_batch batch = {.n_tokens = starts[n_sequences], .sequence_start = starts, .n_sequences = n_sequences};
    *dry = (dry_run){.ckpt = ckpt,
                     .options = result->options,
                     .header = result->header,
                     .text = result->text,
                     .device = device,
                     .memory_bytes = result->memory_bytes,
                     .gpu_bytes = result->gpu_bytes,
                     .gpu_least_bytes = result->gpu_least_bytes,
                     .capture_bytes = capture_payload_bytes(result->header)};
    const rb_status estimated = dry_run_estimate(dry, &batch, cuda_precision(result->options), warnings, err);
    free(starts);
    return estimated;
}

rb_status calibrate_run(const rb_run_args *args, rb_error *err)
{
    calibrate_options own = *(const calibrate_options *)args->context;
    const calibrate_options *opt = &own;
    char *output = NULL;
    shard part;
    checkpoint *ckpt = NULL;
    capture_header header = {0};
    calibration_text text = {0};
    rb_device_kind device = RB_DEVICE_CPU;
    forward_cuda_report gpu = {0};
    capture_parts *parts = NULL;
    warning_list warnings = {0};
    dry_run dry = {0};
    const double started_s = rb_now_s();
    rb_status st;

    RB_TRY(st, check_options(opt, err), done);
    RB_TRY(st, shard_choose(&part, opt->shard, err), done);
    RB_TRY(st, shard_output(&output, opt->output, &part, err), done);
    own.output = output;
    RB_TRY(st, checkpoint_open(&ckpt, opt->model, err), done);
    RB_TRY(st, checkpoint_check(ckpt, err), done);
    checkpoint_warn_quantized(ckpt);
    RB_TRY(st, fill_header(&header, ckpt, opt, err), done);
    RB_TRY(st, rb_resolve_device(&device, args->common, err), done);
    if (gives_texts(opt))
        RB_TRY(st, run_texts(&text, ckpt, &header, &part, opt, device, &gpu, &parts, &warnings, err), done);
    RB_TRY(st, warnings_add_key_bias(&warnings, ckpt, err), done);
    calibrate_result result = {.options = opt,
                               .text = &text,
                               .header = &header,
                               .weight_bytes = checkpoint_weight_bytes(ckpt),
                               .gpu = gpu.total_s > 0 ? &gpu : NULL,
                               .warnings = &warnings,
                               .dry = opt->dry_run ? &dry : NULL,
                               .seconds = rb_now_s() - started_s};
    RB_TRY(st, estimate_memory(&result, checkpoint_config(ckpt), err), done);
    if (opt->dry_run) RB_TRY(st, describe_run(&dry, &result, ckpt, device, &warnings, err), done);
    warnings_tell(&warnings);
    warnings_add_quantized(&warnings, ckpt);
    if (args->common->json) st = print_json(&result, err);
    else print_result(&result);
done:
    capture_parts_close(parts, st); /* last: a run that is killed before has all its layers */
    dry_run_free(&dry);
    calibration_text_free(&text);
    checkpoint_close(ckpt);
    free(output);
    return st;
}
