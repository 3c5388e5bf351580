/* See calibrate/dry_run.h. */
#include "calibrate/dry_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/cuda_device.h"
#include "core/message.h"
#include "core/threads.h"
#include "model/cuda/cuda_pass.h"
#include "model/layer_tensors.h"
#include "model/linear.h"
#include "model/model_tokenizer.h"

/* Rates of other parts of a run, as measured (docs/benchmarks.md). Reading is from the page cache; from a disk it takes
 * longer. */
static const double CPU_READ_BYTES_PER_S = 2e9, CPU_WRITE_BYTES_PER_S = 1.5e8; /* a thread, compression included */
static const double GPU_READ_BYTES_PER_S = 1e10, GPU_WRITE_BYTES_PER_S = 2.2e9, GPU_SET_UP_S = 0.4;
static const double GPU_BF16_FLOPS_PER_S = 2e12, GPU_F32_FLOPS_PER_S = 2e11; /* of a multiprocessor */

/* ---- what is computed ------------------------------------------------------------------------ */

/* Multiplications and additions that a token takes in the matrix products of a layer; stops_at_heads: only those that
 * lead to q, k and v. */
static double layer_flops(const model_config *config, int layer, bool stops_at_heads)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    double flops = 0;
    for (int i = 0; i < tensors->n_layer; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        if (tensor->columns == DIM_NONE || !layer_tensor_is_used(config, tensor, layer)) continue;
        if (stops_at_heads && tensor->step != STEP_HEADS) continue;
        const int times = tensor->step == STEP_EXPERT ? config->experts.n_per_token : 1;
        flops += 2.0 * times * (double)layer_tensor_count(config, tensor);
    }
    return flops;
}

/* The same of attention over a whole sequence: half of the keys are visible on average, or a window of them. */
static double attention_flops(const model_config *config, int layer, int64_t n_tokens)
{
    const model_facts *facts = &config->facts;
    double seen = (double)n_tokens / 2;
    if (config->layer_slides[layer] && config->sliding_window > 0 && seen > config->sliding_window)
        seen = config->sliding_window;
    return 2.0 * facts->n_q_heads * (config->query_dim + config->attended_dim) * seen * (double)n_tokens;
}

static double pass_flops(const model_config *config, const token_batch *batch, bool with_residual)
{
    double flops = 0;
    for (int layer = 0; layer < config->facts.n_layers; layer++) {
        const bool stops_at_heads = layer == config->facts.n_layers - 1 && !with_residual;
        flops += layer_flops(config, layer, stops_at_heads) * (double)batch->n_tokens;
        for (int64_t i = 0; i < batch->n_sequences && !stops_at_heads; i++)
            flops += attention_flops(config, layer, batch->sequence_start[i + 1] - batch->sequence_start[i]);
    }
    return flops;
}

/* ---- how fast -------------------------------------------------------------------------------- */

/* The rate of the matrix product of a pass on this machine, with the threads of the run. */
static rb_status measure_cpu(double *flops_per_s, rb_error *err)
{
    enum { N = 512 };
    const double enough_s = 0.1;
    float *matrices = NULL;
    int64_t n_products = 0;
    const rb_status st = rb_alloc(&matrices, (size_t)3 * N * N, sizeof *matrices, "a matrix product to measure", err);
    if (st != RB_OK) return st;
    const float *x = matrices, *weight = matrices + N * N;
    float *y = matrices + 2 * N * N;
    linear_forward(x, N, weight, NULL, y, N, N, N, N, 0); /* wakes the threads */
    const double started_s = rb_now_s();
    for (; rb_now_s() - started_s < enough_s; n_products++) linear_forward(x, N, weight, NULL, y, N, N, N, N, 0);
    *flops_per_s = 2.0 * N * N * N * (double)n_products / (rb_now_s() - started_s);
    free(matrices);
    return RB_OK;
}

static void estimate_gpu(dry_run *dry, layer_cuda_precision precision)
{
    const double read_s = (double)dry->read_bytes / GPU_READ_BYTES_PER_S,
                 write_s = (double)dry->capture_bytes / GPU_WRITE_BYTES_PER_S;
    dry->flops_per_s = rb_cuda_device()->n_multiprocessors
                       * (precision == LAYER_CUDA_F32 ? GPU_F32_FLOPS_PER_S : GPU_BF16_FLOPS_PER_S);
    const double compute_s = dry->flops / dry->flops_per_s;
    /* They run side by side. */
    dry->seconds = read_s > compute_s ? read_s : compute_s;
    if (write_s > dry->seconds) dry->seconds = write_s;
    dry->seconds += GPU_SET_UP_S;
}

static rb_status estimate_cpu(dry_run *dry, rb_error *err)
{
    const rb_status st = measure_cpu(&dry->flops_per_s, err);
    if (st != RB_OK) return st;
    dry->seconds = dry->flops / dry->flops_per_s + (double)dry->read_bytes / CPU_READ_BYTES_PER_S
                   + (double)dry->capture_bytes / CPU_WRITE_BYTES_PER_S / rb_threads_count();
    return RB_OK;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* What this process may still take, by the kernel and its own limit. */
static double available_bytes(void)
{
    char line[256];
    long long kib = 0;
    struct rlimit limit;
    double available = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    FILE *in = fopen("/proc/meminfo", "r");
    while (in && fgets(line, sizeof line, in))
        if (sscanf(line, "MemAvailable: %lld", &kib) == 1) available = (double)kib * 1024;
    if (in) fclose(in);
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && (double)limit.rlim_cur < available)
        available = (double)limit.rlim_cur;
    return available;
}

typedef struct gpu_need {
    const dry_run *dry;
    const token_batch *batch;
    layer_cuda_precision precision;
} gpu_need;

static int64_t need_of_chunk(const void *user, int64_t chunk)
{
    const gpu_need *need = user;
    return capture_cuda_bytes(checkpoint_config(need->dry->ckpt), need->dry->header, need->batch, need->precision,
                              chunk);
}

/* The check of the run itself on a GPU; a warning on the CPU, where swap may help. */
static rb_status check_memory(const dry_run *dry, const token_batch *batch, layer_cuda_precision precision,
                              warning_list *warnings, rb_error *err)
{
    const double available = available_bytes();
    if (dry->device == RB_DEVICE_CUDA) {
        const gpu_need need = {.dry = dry, .batch = batch, .precision = precision};
        cuda_pass probe = {0};
        return cuda_pass_choose_chunk(&probe, need_of_chunk, &need, dry->options->max_gpu_bytes, err);
    }
    if ((double)dry->memory_bytes > available)
        warnings_add(warnings, "memory: about %.0f MiB are needed, %.0f MiB are available",
                     (double)dry->memory_bytes / 0x1p20, available / 0x1p20);
    return RB_OK;
}

/* ---- the estimate ---------------------------------------------------------------------------- */

/* The tokenizer is missing without an error where no text needs it: ids can come from a file. */
static rb_status look_at_tokenizer(dry_run *dry, rb_error *err)
{
    const calibrate_options *options = dry->options;
    tokenizer *tok = NULL;
    char *path = NULL;
    struct stat info;
    rb_status st;
    if (options->tokens && !options->with_needles && !options->test_text) return RB_OK;
    RB_TRY(st, rb_format(&path, err, "%s/tokenizer.json", options->model), done);
    const bool is_folder = stat(options->model, &info) == 0 && S_ISDIR(info.st_mode);
    if (dry->text->tokens.n == 0 && is_folder && access(path, F_OK) != 0) goto done;
    RB_TRY(st, tokenizer_open_model(&tok, options->model, err), done);
    dry->vocab_size = tokenizer_vocab_size(tok);
done:
    free(path);
    tokenizer_close(tok);
    return st;
}

/* Where the residual stream is measured, the last layer is computed whole: its tensors are read as those of others. */
static void use_last_layer(dry_run *dry)
{
    const model_config *config = checkpoint_config(dry->ckpt);
    char prefix[LAYER_TENSOR_NAME];
    model_tensor_name(prefix, config, config->family->tensors->layer_prefix);
    for (int64_t i = 0; i < checkpoint_n_tensors(dry->ckpt); i++)
        if (dry->uses[i] == TENSOR_FOR_LOGITS
            && strncmp(checkpoint_tensor_at(dry->ckpt, i)->name, prefix, strlen(prefix)) == 0)
            dry->uses[i] = TENSOR_FOR_HEADS;
}

rb_status dry_run_estimate(dry_run *dry, const token_batch *batch, layer_cuda_precision precision,
                           warning_list *warnings, rb_error *err)
{
    rb_status st;
    RB_TRY(st, look_at_tokenizer(dry, err), done);
    RB_TRY(st, checkpoint_uses(&dry->uses, dry->ckpt, err), done);
    if (dry->header->output.is_known) use_last_layer(dry);
    for (int64_t i = 0; i < checkpoint_n_tensors(dry->ckpt); i++) {
        if (dry->uses[i] != TENSOR_FOR_HEADS) continue;
        dry->n_read++;
        dry->read_bytes += (int64_t)checkpoint_tensor_at(dry->ckpt, i)->size_bytes;
    }
    RB_TRY(st, check_memory(dry, batch, precision, warnings, err), done);
    dry->flops = pass_flops(checkpoint_config(dry->ckpt), batch, dry->header->output.is_known);
    if (dry->device == RB_DEVICE_CUDA) estimate_gpu(dry, precision);
    else st = estimate_cpu(dry, err);
done:
    return st;
}

void dry_run_free(dry_run *dry)
{
    free(dry->uses);
    *dry = (dry_run){0};
}

/* ---- what it says ---------------------------------------------------------------------------- */

void dry_run_rope_text(char *text, size_t size, const rope_facts *rope)
{
    int used = 0;
    text[0] = '\0';
    if (rope->kind == ROPE_DEFAULT) return;
    used = snprintf(text, size, "factor %g", rope->factor);
    if (rope->kind == ROPE_LLAMA3)
        used += snprintf(text + used, size - (size_t)used, ", low_freq_factor %g, high_freq_factor %g",
                         rope->low_freq_factor, rope->high_freq_factor);
    if (rope_kind_has_original(rope->kind))
        used += snprintf(text + used, size - (size_t)used, ", original_max_position_embeddings %lld",
                         (long long)rope->original_max_position);
    if (rope->attention_factor > 0 && rope->attention_factor != 1)
        snprintf(text + used, size - (size_t)used, ", attention_factor %g", rope->attention_factor);
}

/* Parameters of RoPE, and where they lead: the frequencies of the first and the last block that turns. */
static void print_rope(const char *label, const model_facts *facts, const rope_facts *rope)
{
    char text[256];
    dry_run_rope_text(text, sizeof text, rope);
    printf("%-12s %s, theta %g%s%s; inv_freq %.4g to %.4g\n", label, rope_kind_name(rope->kind), rope->theta,
           text[0] ? ", " : "", text, rope->inv_freq[0], rope->inv_freq[facts->rotary_dim / 2 - 1]);
}

/* "BF16", or "BF16 99.9 %, F32 0.1 %" of the bytes that are read. */
static void dtype_text(char *text, size_t size, const dry_run *dry)
{
    int64_t bytes[TENSOR_N_DTYPES] = {0};
    size_t used = 0;
    text[0] = '\0';
    for (int64_t i = 0; i < checkpoint_n_tensors(dry->ckpt); i++)
        if (dry->uses[i] == TENSOR_FOR_HEADS)
            bytes[checkpoint_tensor_at(dry->ckpt, i)->dtype] += (int64_t)checkpoint_tensor_at(dry->ckpt, i)->size_bytes;
    for (int dtype = 0; dtype < TENSOR_N_DTYPES && used < size; dtype++) {
        if (bytes[dtype] == 0) continue;
        used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "",
                                 tensor_dtype_name((tensor_dtype)dtype));
        if (bytes[dtype] < dry->read_bytes && used < size)
            used += (size_t)snprintf(text + used, size - used, " %.3g %%",
                                     100.0 * (double)bytes[dtype] / (double)dry->read_bytes);
    }
}

static void print_tensors(const dry_run *dry)
{
    char dtypes[160];
    int64_t n_logits = 0;
    const int n_layers = dry->header->model.n_layers;
    const model_config *config = checkpoint_config(dry->ckpt);
    char embedding[LAYER_TENSOR_NAME];
    for (int64_t i = 0; i < checkpoint_n_tensors(dry->ckpt); i++) n_logits += dry->uses[i] == TENSOR_FOR_LOGITS;
    dtype_text(dtypes, sizeof dtypes, dry);
    model_tensor_name(embedding, config, config->family->tensors->embedding);
    printf("tensors      %lld to read, %.1f MiB of %s: %s and %lld in %d layers (all names: --json); %lld more are for "
           "the logits\n",
           (long long)dry->n_read, (double)dry->read_bytes / 0x1p20, dtypes, embedding, (long long)dry->n_read - 1,
           n_layers, (long long)n_logits);
}

static void print_texts(const dry_run *dry)
{
    const calibration_text *text = dry->text;
    const calibrate_options *options = dry->options;
    for (int i = 0; i < text->n_parts && text->n_parts == 1; i++)
        printf("text         %s: %lld tokens used\n", rb_shown(text->parts[i].path).text,
               (long long)text->parts[i].n_tokens);
    if (options->tokens) printf("text         ids from %s\n", rb_shown(options->tokens).text);
    if (options->test_text || options->test_tokens)
        printf("test text    %s\n", rb_shown(options->test_text ? options->test_text : options->test_tokens).text);
    if (text->tokens.n == 0) printf("texts        none given: no token ids were looked at\n");
    if (dry->vocab_size > 0) printf("tokenizer    %lld tokens\n", (long long)dry->vocab_size);
    else if (!options->tokens) printf("tokenizer    none: ids from --tokens only\n");
}

static int64_t parts_bytes(const dry_run *dry)
{
    return dry->options->no_resume ? 0
                                   : capture_parts_stream_bytes(dry->header, checkpoint_config(dry->ckpt)->hidden_size);
}

void dry_run_print(const dry_run *dry)
{
    const model_config *config = checkpoint_config(dry->ckpt);
    const model_facts *facts = &dry->header->model;
    printf("architecture %s: hidden_size %d, intermediate_size %d, vocab_size %d, attention scale %g\n",
           config->family->architecture, config->hidden_size, config->intermediate_size, config->vocab_size,
           facts->attention_scale);
    print_rope("frequencies", facts, &facts->rope);
    if (facts->has_local_rope) print_rope("local layers", facts, &facts->local_rope);
    print_tensors(dry);
    print_texts(dry);
    printf("memory       about %.0f MiB\n", (double)dry->memory_bytes / 0x1p20);
    printf("GPU memory   about %.0f MiB; %.0f MiB are enough (--max-gpu-memory)\n", (double)dry->gpu_bytes / 0x1p20,
           (double)dry->gpu_least_bytes / 0x1p20);
    printf("capture      about %.0f MiB before compression\n", (double)dry->capture_bytes / 0x1p20);
    if (!dry->options->no_resume)
        printf("parts        about %.1f MiB beside it while it is written, to continue from (--no-resume: none)\n",
               (double)parts_bytes(dry) / 0x1p20);
    if (dry->device == RB_DEVICE_CUDA)
        printf("time         about %.2g s on %s, weights in the page cache\n", dry->seconds, rb_cuda_device()->name);
    else
        printf("time         about %.2g s on the CPU: %.3g GFLOP with %d threads at %.3g GFLOP/s\n", dry->seconds,
               dry->flops * 1e-9, rb_threads_count(), dry->flops_per_s * 1e-9);
    printf("supported: a run would work\n");
}

static rb_status tensor_names(cJSON **out, const dry_run *dry, rb_error *err)
{
    rb_status st = RB_OK;
    *out = cJSON_CreateArray();
    if (!*out) return rb_fail(err, RB_ENOMEM, "out of memory for the list of tensors");
    for (int64_t i = 0; i < checkpoint_n_tensors(dry->ckpt) && st == RB_OK; i++) {
        if (dry->uses[i] != TENSOR_FOR_HEADS) continue;
        cJSON *item = cJSON_CreateString(checkpoint_tensor_at(dry->ckpt, i)->name);
        st = rb_json_append(*out, &item, err);
    }
    return st;
}

rb_status dry_run_to_json(cJSON *object, const dry_run *dry, rb_error *err)
{
    const model_config *config = checkpoint_config(dry->ckpt);
    cJSON *json = NULL, *names = NULL;
    char dtypes[160];
    rb_status st;
    dtype_text(dtypes, sizeof dtypes, dry);
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "architecture", config->family->architecture, err), done);
    RB_TRY(st, rb_json_add_number(json, "hidden_size", config->hidden_size, err), done);
    RB_TRY(st, rb_json_add_number(json, "intermediate_size", config->intermediate_size, err), done);
    RB_TRY(st, rb_json_add_number(json, "vocab_size", config->vocab_size, err), done);
    RB_TRY(st, rb_json_add_string(json, "dtypes", dtypes, err), done);
    RB_TRY(st, rb_json_add_number(json, "read_size_bytes", (double)dry->read_bytes, err), done);
    RB_TRY(st, rb_json_add_number(json, "parts_size_bytes", (double)parts_bytes(dry), err), done);
    RB_TRY(st, tensor_names(&names, dry, err), done);
    RB_TRY(st, rb_json_add_item(json, "tensors", &names, err), done);
    RB_TRY(st, rb_json_add_bool(json, "has_texts", dry->text->tokens.n > 0, err), done);
    RB_TRY(st, rb_json_add_number(json, "tokenizer_size", (double)dry->vocab_size, err), done);
    RB_TRY(st, rb_json_add_string(json, "device", dry->device == RB_DEVICE_CUDA ? "cuda" : "cpu", err), done);
    RB_TRY(st, rb_json_add_number(json, "flop", dry->flops, err), done);
    RB_TRY(st, rb_json_add_number(json, "flop_per_s", dry->flops_per_s, err), done);
    RB_TRY(st, rb_json_add_number(json, "seconds", dry->seconds, err), done);
    RB_TRY(st, rb_json_add_item(object, "dry_run", &json, err), done);
done:
    cJSON_Delete(names);
    cJSON_Delete(json);
    return st;
}
