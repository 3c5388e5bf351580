/* bench_decode: how long a token takes, and how much GPU memory, with a cache in fp16 and with packed ones, for a model
 * of any geometry with random weights: Llama-3.1-8B's where not said. Weights and cache are made in the GPU's memory.
 *
 * Weights are bf16, uniform with variance 1 / hidden. A page of random tokens is encoded by the plan, and all pages of
 * the cache are copies of it. A step is one token of each sequence: all layers, appending and attention over `length`
 * tokens included, the LM head, and logits that arrive on the host. Its time is the median.
 * The plans are those of random_plans.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/random_plans.h"
#include "core/cuda_device.h"
#include "core/half.h"
#include "core/json.h"
#include "core/message.h"
#include "core/order.h"
#include "core/program.h"
#include "generate/device_attention.h"
#include "model/cuda/decode_cuda.h"

enum { WARM_UP = 3, MAX_REPEATS = 1000, RANDOM_BYTES = 64 << 20 };

typedef struct decode_options {
    int64_t n_layers, hidden, n_q_heads, n_kv_heads, head_dim, intermediate, vocab, n_repeats, max_gpu_bytes;
    rb_string_list plans;
    rb_number_list lengths, batches;
} decode_options;

/* A line of the table. */
typedef struct decode_row {
    random_plan_kind kind;
    int64_t batch, length, cache_bytes, gpu_bytes;
    bool fits;
    double key_bits, value_bits, step_ms;
} decode_row;

typedef struct decode_bench {
    const decode_options *opt;
    model_config config;
    resident_weights weights;
    decode_row *rows;
    int n_rows;
} decode_bench;

/* xorshift64*: speed matters here, statistics hardly. */
static float next_uniform(uint64_t *state) /* [-1, 1) */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (float)(*state * 0x2545f4914f6cdd1dull >> 40) * 0x1p-23f - 1.0f;
}

/* ---- the model ------------------------------------------------------------------------------- */

static rb_status make_config(decode_bench *b, rb_error *err)
{
    const decode_options *o = b->opt;
    char *text = NULL;
    rb_status st = rb_format(
        &text, err,
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\", "
        "\"attention_bias\": false, \"mlp_bias\": false, \"tie_word_embeddings\": false, \"rms_norm_eps\": 1e-5, "
        "\"max_position_embeddings\": 16777216, \"rope_theta\": 500000.0, \"rope_scaling\": null, "
        "\"num_hidden_layers\": %lld, \"hidden_size\": %lld, \"num_attention_heads\": %lld, "
        "\"num_key_value_heads\": %lld, \"head_dim\": %lld, \"intermediate_size\": %lld, \"vocab_size\": %lld}",
        (long long)o->n_layers, (long long)o->hidden, (long long)o->n_q_heads, (long long)o->n_kv_heads,
        (long long)o->head_dim, (long long)o->intermediate, (long long)o->vocab);
    if (st == RB_OK) st = model_config_parse(&b->config, text, strlen(text), "geometry", err);
    free(text);
    return st;
}

/* The same random numbers over and over: no product sees that. */
static rb_status fill_matrices(decode_bench *b, rb_error *err)
{
    const rb_cuda_array *to = &b->weights.matrices;
    const float scale = sqrtf(3.0f / (float)b->opt->hidden);
    uint64_t state = 1;
    uint16_t *random = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&random, RANDOM_BYTES, 1, "random weights", err), done);
    for (size_t i = 0; i < RANDOM_BYTES / sizeof *random; i++) random[i] = rb_f32_to_bf16(next_uniform(&state) * scale);
    for (size_t at = 0; at < to->size_bytes; at += RANDOM_BYTES) {
        const size_t left = to->size_bytes - at;
        RB_TRY(st, rb_cuda()->copy((char *)to->at + at, random, left < RANDOM_BYTES ? left : RANDOM_BYTES, NULL, err),
               done);
    }
    st = rb_cuda()->stream_wait(NULL, err);
done:
    free(random);
    return st;
}

static rb_status fill_parameters(decode_bench *b, rb_error *err)
{
    const size_t n = b->weights.parameters.size_bytes / sizeof(float);
    float *ones = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&ones, n, sizeof *ones, "norms", err), done);
    for (size_t i = 0; i < n; i++) ones[i] = 1.0f;
    RB_TRY(st, rb_cuda()->copy(b->weights.parameters.at, ones, n * sizeof *ones, NULL, err), done);
    st = rb_cuda()->stream_wait(NULL, err);
done:
    free(ones);
    return st;
}

/* ---- the cache ------------------------------------------------------------------------------- */

/* Random keys or values of a page's tokens on the device, [64][n_kv_heads][dim]. */
static rb_status random_vectors(cache_memory *out, int n_heads, int dim, uint64_t seed, rb_error *err)
{
    const size_t n = (size_t)CACHE_PAGE_TOKENS * (size_t)n_heads * (size_t)dim;
    uint64_t state = seed;
    float *random = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&random, n, sizeof *random, "random vectors", err), done);
    for (size_t i = 0; i < n; i++)
        random[i] = next_uniform(&state) + next_uniform(&state) + next_uniform(&state); /* of variance 1 */
    RB_TRY(st, cache_memory_alloc(out, n * sizeof *random, true, "random vectors", err), done);
    st = cache_memory_write(out->at, random, n * sizeof *random, true, err);
done:
    free(random);
    return st;
}

/* Page 0 of a layer to all its pages: what is there is doubled until all are. */
static rb_status copy_page(const sequence_cache *cache, int layer, rb_error *err)
{
    const cache_memory *pages = &cache->pages[layer];
    rb_status st = RB_OK;
    for (size_t done = (size_t)kv_cache_layout(cache->kv, layer)->page_bytes;
         done < pages->size_bytes && st == RB_OK;) {
        const size_t left = pages->size_bytes - done, n = left < done ? left : done;
        st = rb_cuda()->copy((char *)pages->at + done, pages->at, n, NULL, err);
        done += n;
    }
    return st;
}

static rb_status fill_cache(const decode_bench *b, const sequence_cache *cache, rb_error *err)
{
    const model_facts *model = &b->config.facts;
    int64_t slots[CACHE_PAGE_TOKENS];
    int32_t positions[CACHE_PAGE_TOKENS];
    cache_memory keys = {0}, values = {0}, on_slots = {0}, on_positions = {0};
    rb_status st;
    for (int i = 0; i < CACHE_PAGE_TOKENS; i++) slots[i] = positions[i] = i;
    RB_TRY(st, random_vectors(&keys, model->n_kv_heads, model->head_dim, 2, err), done);
    RB_TRY(st, random_vectors(&values, model->n_kv_heads, model->value_dim, 3, err), done);
    RB_TRY(st, cache_memory_alloc(&on_slots, sizeof slots, true, "slots", err), done);
    RB_TRY(st, cache_memory_alloc(&on_positions, sizeof positions, true, "positions", err), done);
    RB_TRY(st, cache_memory_write(on_slots.at, slots, sizeof slots, true, err), done);
    RB_TRY(st, cache_memory_write(on_positions.at, positions, sizeof positions, true, err), done);
    for (int layer = 0; layer < model->n_layers; layer++) {
        const ropebits_kv_vectors k = {.data = keys.at,
                                       .dtype = ROPEBITS_KV_F32,
                                       .token_stride = (int64_t)model->n_kv_heads * model->head_dim,
                                       .head_stride = model->head_dim},
                                  v = {.data = values.at,
                                       .dtype = ROPEBITS_KV_F32,
                                       .token_stride = (int64_t)model->n_kv_heads * model->value_dim,
                                       .head_stride = model->value_dim};
        RB_TRY(st,
               kv_cache_encode(cache->kv, layer, CACHE_PAGE_TOKENS, &k, &v, on_positions.at, on_slots.at,
                               cache->pages[layer].at, cache->workspace.at, NULL, err),
               done);
        RB_TRY(st, copy_page(cache, layer, err), done);
    }
    st = rb_cuda()->stream_wait(NULL, err);
done:
    cache_memory_free(&keys);
    cache_memory_free(&values);
    cache_memory_free(&on_slots);
    cache_memory_free(&on_positions);
    return st;
}

/* ---- a row ----------------------------------------------------------------------------------- */

typedef struct step {
    const decode_bench *bench;
    const sequence_cache *cache;
    int32_t length;
} step;

static rb_status attend(void *user, const device_decode_heads *heads, rb_error *err)
{
    const step *s = user;
    return device_attention_run(s->cache, &s->bench->config, heads, s->length, err);
}

/* Milliseconds of a step, the median of opt->n_repeats. */
static rb_status time_steps(double *ms, step *s, decode_cuda *decode, int64_t batch, rb_error *err)
{
    const int n = (int)s->bench->opt->n_repeats;
    const size_t n_hidden = (size_t)(batch * s->bench->opt->hidden);
    const decode_cuda_hooks hooks = {.user = s, .attend = attend, .same_work = s->length};
    uint64_t state = 4;
    float *hidden = NULL;
    int32_t *positions = NULL;
    double times[MAX_REPEATS];
    rb_status st;
    RB_TRY(st, rb_alloc(&hidden, n_hidden, sizeof *hidden, "embeddings", err), done);
    RB_TRY(st, rb_alloc(&positions, (size_t)batch, sizeof *positions, "positions", err), done);
    for (size_t i = 0; i < n_hidden; i++) hidden[i] = next_uniform(&state);
    for (int64_t i = 0; i < batch; i++) positions[i] = s->length - 1;
    for (int i = -WARM_UP; i < n; i++) {
        const float *logits;
        const double started_s = rb_now_s();
        RB_TRY(st, decode_cuda_run(decode, hidden, positions, batch, &hooks, batch, &logits, err), done);
        if (i >= 0) times[i] = 1e3 * (rb_now_s() - started_s);
        if (!isfinite(logits[0])) st = rb_fail(err, RB_ENONFINITE, "logit 0 is not finite");
        if (st != RB_OK) goto done;
    }
    rb_sort_doubles(times, n);
    *ms = times[n / 2];
done:
    free(hidden);
    free(positions);
    return st;
}

static rb_status used_bytes(int64_t *used, rb_error *err)
{
    size_t free_bytes = 0;
    const rb_status st = rb_cuda()->free_bytes(&free_bytes, err);
    *used = (int64_t)(rb_cuda_device()->memory_bytes - free_bytes);
    return st;
}

/* Whether the cache has room; row->cache_bytes is set. */
static rb_status find_room(decode_row *row, const decode_bench *b, const bit_plan *plan, rb_error *err)
{
    const model_facts *m = &b->config.facts;
    const double fp16 = 2.0 * m->n_layers * m->n_kv_heads * (m->head_dim + m->value_dim);
    const int64_t limit = b->opt->max_gpu_bytes > 0 ? b->opt->max_gpu_bytes : (int64_t)rb_cuda_device()->memory_bytes;
    int64_t used = 0;
    const rb_status st = used_bytes(&used, err);
    row->cache_bytes =
        (int64_t)((plan ? bit_plan_cost(plan).bytes_per_token : fp16) * (double)(row->batch * row->length));
    row->gpu_bytes = used + row->cache_bytes;
    row->fits = row->gpu_bytes <= limit;
    return st;
}

static rb_status run_row(decode_row *row, const decode_bench *b, const bit_plan *plan, rb_error *err)
{
    const int64_t max_new = row->batch > CACHE_PAGE_TOKENS ? row->batch : CACHE_PAGE_TOKENS;
    sequence_cache cache = {0};
    decode_cuda *decode = NULL;
    step s = {.bench = b, .cache = &cache, .length = (int32_t)row->length};
    rb_status st;
    RB_TRY(st, find_room(row, b, plan, err), done);
    if (!row->fits) goto done;
    RB_TRY(st, sequence_cache_create(&cache, &b->config.facts, plan, true, row->batch, row->length, max_new, err),
           done);
    RB_TRY(st, fill_cache(b, &cache, err), done);
    RB_TRY(st, decode_cuda_open(&decode, &b->weights, row->batch, row->batch, row->length, err), done);
    RB_TRY(st, time_steps(&row->step_ms, &s, decode, row->batch, err), done);
    row->cache_bytes = row->batch * sequence_cache_bytes(&cache, row->length);
    st = used_bytes(&row->gpu_bytes, err);
done:
    decode_cuda_close(decode);
    sequence_cache_free(&cache);
    if (st == RB_ENOMEM) {
        *err = (rb_error){0};
        row->fits = false;
        st = RB_OK;
    }
    return st;
}

static rb_status run_plan(decode_bench *b, random_plan_kind kind, rb_error *err)
{
    const decode_options *o = b->opt;
    bit_plan *plan = NULL;
    rb_status st;
    RB_TRY(st, random_plan_create(&plan, &b->config.facts, kind, err), done);
    const plan_cost cost = plan ? bit_plan_cost(plan) : (plan_cost){.key_true_bits = 16.0, .value_true_bits = 16.0};
    for (int i = 0; i < o->batches.n; i++) {
        for (int j = 0; j < o->lengths.n; j++) {
            decode_row *row = &b->rows[b->n_rows++];
            *row = (decode_row){.kind = kind,
                                .batch = (int64_t)o->batches.at[i],
                                .length = (int64_t)o->lengths.at[j],
                                .key_bits = cost.key_true_bits,
                                .value_bits = cost.value_true_bits};
            RB_TRY(st, run_row(row, b, plan, err), done);
            rb_message_info("%s, %lld x %lld tokens: %s", random_plan_names[kind], (long long)row->batch,
                            (long long)row->length, row->fits ? "done" : "does not fit");
        }
    }
done:
    bit_plan_free(plan);
    return st;
}

/* ---- results --------------------------------------------------------------------------------- */

/* How many times the step of fp16 takes as long, 0 where fp16 was not run. */
static double times_faster(const decode_bench *b, const decode_row *row)
{
    for (int i = 0; i < b->n_rows; i++) {
        const decode_row *other = &b->rows[i];
        if (other->kind == RANDOM_FP16 && other->batch == row->batch && other->length == row->length && other->fits
            && row->fits)
            return other->step_ms / row->step_ms;
    }
    return 0.0;
}

static void print_table(const decode_bench *b)
{
    printf("%-16s %6s %6s %6s %9s %10s %10s %10s %10s %8s\n", "cache", "key b", "val b", "batch", "tokens", "ms a step",
           "tokens/s", "cache GB", "GPU GB", "x fp16");
    for (int i = 0; i < b->n_rows; i++) {
        const decode_row *r = &b->rows[i];
        const double faster = times_faster(b, r);
        printf("%-16s %6.3f %6.3f %6lld %9lld ", random_plan_names[r->kind], r->key_bits, r->value_bits,
               (long long)r->batch, (long long)r->length);
        if (r->fits) printf("%10.3f %10.1f ", r->step_ms, 1e3 * (double)r->batch / r->step_ms);
        else printf("%21s ", "does not fit");
        printf("%10.2f %10.2f ", (double)r->cache_bytes * 1e-9, (double)r->gpu_bytes * 1e-9);
        if (faster > 0) printf("%8.2f\n", faster);
        else printf("%8s\n", "-");
    }
}

static rb_status row_to_json(cJSON **out, const decode_bench *b, const decode_row *r, rb_error *err)
{
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"key_true_bits", r->key_bits}, {"value_true_bits", r->value_bits},      {"batch", (double)r->batch},
        {"length", (double)r->length},  {"cache_bytes", (double)r->cache_bytes}, {"gpu_bytes", (double)r->gpu_bytes}};
    const double faster = times_faster(b, r);
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "plan", random_plan_names[r->kind], err), done);
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        RB_TRY(st, rb_json_add_number(*out, numbers[i].name, numbers[i].value, err), done);
    RB_TRY(st, rb_json_add_bool(*out, "fits", r->fits, err), done);
    if (r->fits) RB_TRY(st, rb_json_add_number(*out, "step_ms", r->step_ms, err), done);
    if (faster > 0) st = rb_json_add_number(*out, "times_faster_than_fp16", faster, err);
done:
    return st;
}

static rb_status put_json(const decode_bench *b, rb_error *err)
{
    cJSON *json = NULL, *rows = cJSON_CreateArray(), *row = NULL;
    rb_status st = rows ? RB_OK : rb_fail(err, RB_ENOMEM, "JSON: no memory");
    if (st == RB_OK) st = rb_json_new_object(&json, err);
    if (st == RB_OK) st = rb_json_add_string(json, "gpu", rb_cuda_device()->name, err);
    if (st == RB_OK) st = rb_json_add_number(json, "n_layers", (double)b->opt->n_layers, err);
    if (st == RB_OK) st = rb_json_add_number(json, "weight_bytes", (double)b->weights.matrices.size_bytes, err);
    for (int i = 0; i < b->n_rows && st == RB_OK; i++) {
        st = row_to_json(&row, b, &b->rows[i], err);
        if (st == RB_OK) st = rb_json_append(rows, &row, err);
    }
    if (st == RB_OK) st = rb_json_add_item(json, "rows", &rows, err);
    if (st == RB_OK) st = rb_json_put(json, err);
    cJSON_Delete(row);
    cJSON_Delete(rows);
    cJSON_Delete(json);
    return st;
}

static random_plan_kind kind_of(const char *name)
{
    int kind = 0;
    while (strcmp(random_plan_names[kind], name) != 0) kind++;
    return (random_plan_kind)kind;
}

static rb_status bench_run(const rb_run_args *args, rb_error *err)
{
    decode_bench b = {.opt = args->context};
    const size_t n_rows = (size_t)(b.opt->plans.n * b.opt->lengths.n * b.opt->batches.n);
    rb_device_kind device;
    rb_status st;
    RB_TRY(st, make_config(&b, err), done);
    RB_TRY(st, rb_resolve_device(&device, args->common, err), done);
    if (device != RB_DEVICE_CUDA) {
        st = rb_fail(err, RB_EDEVICE, "there is no GPU, expected one");
        goto done;
    }
    RB_TRY(st, rb_alloc(&b.rows, n_rows, sizeof *b.rows, "rows", err), done);
    RB_TRY(st, resident_weights_alloc(&b.weights, &b.config, LAYER_CUDA_BF16, err), done);
    RB_TRY(st, fill_matrices(&b, err), done);
    RB_TRY(st, fill_parameters(&b, err), done);
    for (int i = 0; i < b.opt->plans.n; i++) RB_TRY(st, run_plan(&b, kind_of(b.opt->plans.at[i]), err), done);
    if (args->common->json) st = put_json(&b, err);
    else print_table(&b);
done:
    if (b.config.family) resident_weights_free(&b.weights);
    free(b.rows);
    return st;
}

int main(int argc, char **argv)
{
    decode_options opt = {.n_layers = 32,
                          .hidden = 4096,
                          .n_q_heads = 32,
                          .n_kv_heads = 8,
                          .head_dim = 128,
                          .intermediate = 14336,
                          .vocab = 128256,
                          .n_repeats = 20,
                          .plans = {.n = 4, .at = {"fp16", "block-codebook", "trellis", "k3v3"}},
                          .lengths = {.n = 4, .at = {32768, 131072, 262144, 524288}},
                          .batches = {.n = 2, .at = {1, 8}}};
    const struct {
        const char *name;
        int64_t *value;
        double max;
        const char *help;
    } numbers[] = {{"layers", &opt.n_layers, 1000, "decoder layers"},
                   {"hidden", &opt.hidden, 1 << 20, "hidden size"},
                   {"q-heads", &opt.n_q_heads, 1000, "query heads"},
                   {"kv-heads", &opt.n_kv_heads, 1000, "KV heads"},
                   {"head-dim", &opt.head_dim, 256, "dims of a head"},
                   {"mlp", &opt.intermediate, 1 << 20, "intermediate size"},
                   {"vocab", &opt.vocab, 1 << 24, "vocabulary"},
                   {"repeats", &opt.n_repeats, MAX_REPEATS, "steps that are timed"}};
    const rb_option own[] = {{.long_name = "plans",
                              .kind = RB_OPT_STRINGS,
                              .value = &opt.plans,
                              .metavar = "LIST",
                              .choices = random_plan_names,
                              .help = "caches"},
                             {.long_name = "lengths",
                              .kind = RB_OPT_NUMBERS,
                              .value = &opt.lengths,
                              .metavar = "LIST",
                              .min = 1,
                              .max = 1 << 24,
                              .help = "tokens of a sequence"},
                             {.long_name = "batches",
                              .kind = RB_OPT_NUMBERS,
                              .value = &opt.batches,
                              .metavar = "LIST",
                              .min = 1,
                              .max = 256,
                              .help = "sequences"},
                             {.long_name = "max-gpu-memory",
                              .kind = RB_OPT_SIZE,
                              .value = &opt.max_gpu_bytes,
                              .metavar = "SIZE",
                              .help = "what needs more does not fit; 0: all that the GPU has"}};
    rb_option table[RB_COUNT(numbers) + RB_COUNT(own)];
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        table[i] = (rb_option){.long_name = numbers[i].name,
                               .kind = RB_OPT_INT,
                               .value = numbers[i].value,
                               .metavar = "N",
                               .min = 1,
                               .max = numbers[i].max,
                               .help = numbers[i].help};
    const rb_program program = {
        .name = "bench_decode",
        .synopsis = "bench_decode [options]",
        .summary = "Times a token of a model with random weights, with a cache in fp16 and with packed ones.",
        .options = table,
        .n_options = rb_options_append(table, RB_COUNT(numbers), own, RB_COUNT(own)),
        .run = bench_run,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}
