/* ropebits-generate: text out of a checkpoint with a packed cache. */
#include <stdio.h>

#include "core/json.h"
#include "core/message.h"
#include "core/program.h"
#include "generate/generate_run.h"

enum { GENERATE_JSON_VERSION = 1, MAX_NEW_TOKENS = 1 << 24, MAX_CHUNK = 1 << 16 };

static const char *const kv_names[] = {[KV_PLAN] = "plan", [KV_FP16] = "fp16", NULL};
static const char *const precision_names[] = {[LAYER_CUDA_BF16] = "bf16", [LAYER_CUDA_F32] = "f32", NULL};

/* ---- what is told ---------------------------------------------------------------------------- */

static void tell(const generate_result *r, const generate_inputs *in, bool is_on_gpu)
{
    const double mib = 0x1p20;
    rb_message_info("%lld tokens of the prompt in %.2f s, %lld new ones in %.2f s: %.1f a second",
                    (long long)in->prompt.n, r->prefill_s, (long long)r->n, r->decode_s, generate_tokens_per_s(r));
    rb_message_info("the cache takes %lld bytes, in fp16 %lld: %.2f times smaller; peak memory %.1f MiB%s",
                    (long long)r->cache_bytes, (long long)r->cache_fp16_bytes,
                    (double)r->cache_fp16_bytes / (double)r->cache_bytes, (double)r->peak_bytes / mib,
                    is_on_gpu ? " of the GPU" : "");
}

static rb_status options_to_json(cJSON **out, const generate_options *opt, bool is_on_gpu, rb_error *err)
{
    const struct {
        const char *name, *value;
    } texts[] = {
        {"model", opt->model}, {"plan", opt->plan}, {"prompt_file", opt->prompt_file}, {"tokens", opt->tokens}};
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"max_tokens", (double)opt->max_tokens}, {"chunk", (double)opt->chunk}, {"temperature", opt->temperature},
        {"top_k", (double)opt->top_k},           {"top_p", opt->top_p},         {"seed", (double)opt->seed}};
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    for (size_t i = 0; i < RB_COUNT(texts); i++)
        if (texts[i].value) RB_TRY(st, rb_json_add_string(*out, texts[i].name, texts[i].value, err), done);
    RB_TRY(st, rb_json_add_string(*out, "kv", kv_names[opt->kv], err), done);
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        RB_TRY(st, rb_json_add_number(*out, numbers[i].name, numbers[i].value, err), done);
    RB_TRY(st, rb_json_add_bool(*out, "bos", !opt->no_bos && !opt->tokens, err), done);
    RB_TRY(st, rb_json_add_bool(*out, "ignore_eos", opt->ignore_eos, err), done);
    RB_TRY(st, rb_json_add_string(*out, "device", is_on_gpu ? "cuda" : "cpu", err), done);
    if (is_on_gpu) st = rb_json_add_string(*out, "precision", precision_names[opt->precision], err);
done:
    return st;
}

static rb_status ids_to_json(cJSON **out, const generate_result *r, rb_error *err)
{
    rb_status st = RB_OK;
    *out = cJSON_CreateArray();
    if (!*out) return rb_fail(err, RB_ENOMEM, "JSON: no memory");
    for (int64_t i = 0; i < r->n && st == RB_OK; i++) {
        cJSON *id = cJSON_CreateNumber(r->ids[i]);
        st = id ? rb_json_append(*out, &id, err) : rb_fail(err, RB_ENOMEM, "JSON: no memory");
    }
    return st;
}

static rb_status put_json(const generate_result *r, const generate_inputs *in, const generate_options *opt,
                          bool is_on_gpu, rb_error *err)
{
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"n_prompt_tokens", (double)in->prompt.n},
                   {"n_new_tokens", (double)r->n},
                   {"prefill_s", r->prefill_s},
                   {"decode_s", r->decode_s},
                   {"tokens_per_s", generate_tokens_per_s(r)},
                   {"cache_bytes", (double)r->cache_bytes},
                   {"cache_fp16_bytes", (double)r->cache_fp16_bytes},
                   {"peak_bytes", (double)r->peak_bytes}};
    cJSON *json = NULL, *options = NULL, *ids = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits.generation", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", GENERATE_JSON_VERSION, err), done);
    RB_TRY(st, rb_json_add_string(json, "tool_version", rb_tool_version(), err), done);
    RB_TRY(st, options_to_json(&options, opt, is_on_gpu, err), done);
    RB_TRY(st, rb_json_add_item(json, "options", &options, err), done);
    RB_TRY(st, rb_json_add_string(json, "text", r->text.text, err), done);
    RB_TRY(st, ids_to_json(&ids, r, err), done);
    RB_TRY(st, rb_json_add_item(json, "token_ids", &ids, err), done);
    if (r->end >= 0) RB_TRY(st, rb_json_add_number(json, "end_token_id", r->end, err), done);
    else RB_TRY(st, rb_json_add_null(json, "end_token_id", err), done);
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        RB_TRY(st, rb_json_add_number(json, numbers[i].name, numbers[i].value, err), done);
    st = rb_json_put(json, err);
done:
    cJSON_Delete(options);
    cJSON_Delete(ids);
    cJSON_Delete(json);
    return st;
}

/* Without a tokenizer, the new ids on a line each, which --tokens reads. */
static void put_ids(const generate_result *r)
{
    for (int64_t i = 0; i < r->n; i++) printf("%d\n", (int)r->ids[i]);
}

/* ---- the run --------------------------------------------------------------------------------- */

static rb_status generate_run(const rb_run_args *args, rb_error *err)
{
    const generate_options *opt = args->context;
    const bool is_json = args->common->json;
    generate_inputs in = {0};
    generate_result result = {0};
    rb_device_kind device;
    rb_status st;
    RB_TRY(st, generate_inputs_read(&in, opt, err), done);
    RB_TRY(st, rb_resolve_device(&device, args->common, err), done);
    const bool is_on_gpu = device == RB_DEVICE_CUDA;
    RB_TRY(st, generate_text(&result, &in, opt, is_on_gpu, !is_json, err), done);
    if (is_json) {
        RB_TRY(st, put_json(&result, &in, opt, is_on_gpu, err), done);
    } else if (!in.words) {
        put_ids(&result);
    } else if (result.text.length > 0 && result.text.text[result.text.length - 1] != '\n') {
        putchar('\n');
    }
    tell(&result, &in, is_on_gpu);
done:
    generate_result_free(&result);
    generate_inputs_free(&in);
    return st;
}

int main(int argc, char **argv)
{
    generate_options opt = generate_options_default();
    const rb_option table[] = {
        {.long_name = "model",
         .kind = RB_OPT_STRING,
         .value = &opt.model,
         .metavar = "MODEL",
         .required = true,
         .help = "checkpoint: a Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file"},
        {.long_name = "plan",
         .kind = RB_OPT_STRING,
         .value = &opt.plan,
         .metavar = "FILE",
         .help = "plan.json or plan.rbp by which keys and values are packed"},
        {.long_name = "kv",
         .kind = RB_OPT_CHOICE,
         .value = &opt.kv,
         .metavar = "KIND",
         .choices = kv_names,
         .help = "the cache: as --plan says, or all of it in fp16, without a plan"},
        {.long_name = "prompt",
         .kind = RB_OPT_STRING,
         .value = &opt.prompt,
         .metavar = "TEXT",
         .help = "the text to go on with"},
        {.long_name = "prompt-file",
         .kind = RB_OPT_STRING,
         .value = &opt.prompt_file,
         .metavar = "FILE",
         .help = "the same out of a file, UTF-8"},
        {.long_name = "tokens",
         .kind = RB_OPT_STRING,
         .value = &opt.tokens,
         .metavar = "FILE",
         .help = "token ids in place of a text, as they are: JSON list, lines, or int32 binary"},
        {.long_name = "no-bos",
         .kind = RB_OPT_FLAG,
         .value = &opt.no_bos,
         .help = "nothing in front of the text, where the model's tokenizer puts a beginning-of-text token there"},
        {.long_name = "max-tokens",
         .kind = RB_OPT_INT,
         .value = &opt.max_tokens,
         .metavar = "N",
         .min = 1,
         .max = MAX_NEW_TOKENS,
         .help = "new tokens at most"},
        {.long_name = "ignore-eos",
         .kind = RB_OPT_FLAG,
         .value = &opt.ignore_eos,
         .help = "go on after the tokens that end a text"},
        {.long_name = "temperature",
         .kind = RB_OPT_NUMBER,
         .value = &opt.temperature,
         .metavar = "T",
         .min = 0,
         .max = 100,
         .help = "0: the most likely token; above: a draw from softmax(logits / T)"},
        {.long_name = "top-k",
         .kind = RB_OPT_INT,
         .value = &opt.top_k,
         .metavar = "N",
         .min = 0,
         .max = 1 << 30,
         .help = "draw from the N most likely tokens; 0: from all"},
        {.long_name = "top-p",
         .kind = RB_OPT_NUMBER,
         .value = &opt.top_p,
         .metavar = "P",
         .min = 1e-6,
         .max = 1,
         .help = "draw from as many of the most likely tokens as together have this probability"},
        {.long_name = "seed",
         .kind = RB_OPT_INT,
         .value = &opt.seed,
         .metavar = "N",
         .min = 0,
         .max = 9007199254740992.0,
         .help = "of the draws"},
        {.long_name = "chunk",
         .kind = RB_OPT_INT,
         .value = &opt.chunk,
         .metavar = "N",
         .min = 1,
         .max = MAX_CHUNK,
         .help = "tokens of the prompt that go through the model at a time"},
        {.long_name = "precision",
         .kind = RB_OPT_CHOICE,
         .value = &opt.precision,
         .metavar = "TYPE",
         .choices = precision_names,
         .help = "of the matrix products on a GPU; the CPU computes in f32"},
    };
    const rb_program program = {
        .name = "generate",
        .synopsis = "ropebits generate --model MODEL --plan PLAN.json --prompt TEXT [options]",
        .summary =
            "Goes on with a text, one token after another, with keys and values packed as the plan says. The text "
            "goes to standard output as it comes; what it took is told on standard error.",
        .options = table,
        .n_options = RB_COUNT(table),
        .run = generate_run,
        .multiplies = true,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}
