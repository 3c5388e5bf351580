/* See generate/generate_run.h. */
#include "generate/generate_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/cuda_device.h"
#include "core/message.h"

typedef struct generation {
    const generate_inputs *in;
    const generate_options *opt;
    generate_result *out;
    generator *model;
    sampler draw;
    float *logits; /* [vocab_size] */
    bool streams;
    size_t n_written; /* bytes of the text that are on stdout */
} generation;

void generate_result_free(generate_result *result)
{
    free(result->ids);
    text_stream_free(&result->text);
    *result = (generate_result){0};
}

double generate_tokens_per_s(const generate_result *result)
{
    return result->n > 1 && result->decode_s > 0 ? (double)(result->n - 1) / result->decode_s : 0.0;
}

/* A model may say anything. Only lines and tabs steer a terminal; other characters that would are shown as \xNN. */
static void put_on_terminal(const char *text)
{
    while (*text) {
        uint32_t point = 0;
        const int n = rb_take_character(text, &point);
        if (n > 0 && (rb_is_shown(point) || *text == '\n' || *text == '\t')) fwrite(text, 1, (size_t)n, stdout);
        else printf("\\x%02x", (unsigned)(unsigned char)*text);
        text += n > 0 && rb_is_shown(point) ? n : 1;
    }
}

/* Puts what is new of the text on stdout; rb_finish_stdout finds what could not be written. A file gets it as it is. */
static void show_text(generation *g)
{
    const text_stream *text = &g->out->text;
    if (!g->streams || text->length == g->n_written) return;
    if (isatty(STDOUT_FILENO)) put_on_terminal(text->text + g->n_written);
    else fwrite(text->text + g->n_written, 1, text->length - g->n_written, stdout);
    fflush(stdout);
    g->n_written = text->length;
}

static rb_status take_token(generation *g, int32_t id, rb_error *err)
{
    size_t length = 0;
    const char *bytes = g->in->words ? tokenizer_token_bytes(g->in->words, id, &length) : NULL;
    g->out->ids[g->out->n++] = id;
    const rb_status st = bytes ? text_stream_add(&g->out->text, bytes, length, err) : RB_OK;
    show_text(g);
    return st;
}

static rb_status open_generation(generation *g, bool is_on_gpu, rb_error *err)
{
    const generate_options *opt = g->opt;
    const int32_t vocab_size = checkpoint_config(g->in->model)->vocab_size;
    const generator_request request = {.model = g->in->model,
                                       .plan = g->in->plan,
                                       .is_on_gpu = is_on_gpu,
                                       .precision = (layer_cuda_precision)opt->precision,
                                       .max_tokens = g->in->prompt.n + opt->max_tokens,
                                       .chunk = opt->chunk};
    const sampler_options sampling = {
        .temperature = opt->temperature, .top_k = opt->top_k, .top_p = opt->top_p, .seed = (uint64_t)opt->seed};
    rb_status st;
    RB_TRY(st, generator_open(&g->model, &request, err), done);
    RB_TRY(st, sampler_create(&g->draw, &sampling, vocab_size, err), done);
    RB_TRY(st, rb_alloc(&g->logits, (size_t)vocab_size, sizeof *g->logits, "logits", err), done);
    RB_TRY(st, rb_alloc(&g->out->ids, (size_t)opt->max_tokens, sizeof *g->out->ids, "new tokens", err), done);
    st = text_stream_add(&g->out->text, "", 0, err);
done:
    return st;
}

/* Draws and runs tokens until the text ends. */
static rb_status decode(generation *g, rb_error *err)
{
    generate_result *out = g->out;
    rb_status st = RB_OK;
    for (;;) {
        int32_t id;
        RB_TRY(st, sampler_next(&g->draw, g->logits, &id, err), done);
        if (eos_tokens_have(&g->in->ends, id)) {
            out->end = id;
            break;
        }
        RB_TRY(st, take_token(g, id, err), done);
        if (out->n == g->opt->max_tokens) break;
        RB_TRY(st, generator_add(g->model, &id, 1, g->logits, err), done);
    }
    st = text_stream_finish(&out->text, err);
    show_text(g);
done:
    return st;
}

static int64_t peak_bytes(bool is_on_gpu)
{
    struct rusage usage = {0};
    if (is_on_gpu) return (int64_t)rb_cuda_peak_bytes();
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)usage.ru_maxrss * 1024;
}

rb_status generate_text(generate_result *out, const generate_inputs *in, const generate_options *opt, bool is_on_gpu,
                        bool streams, rb_error *err)
{
    generation g = {.in = in, .opt = opt, .out = out, .streams = streams};
    rb_status st;
    *out = (generate_result){.end = -1};
    if (is_on_gpu) rb_cuda_reset_peak();
    RB_TRY(st, open_generation(&g, is_on_gpu, err), done);
    const double started_s = rb_now_s();
    RB_TRY(st, generator_add(g.model, in->prompt.ids, in->prompt.n, g.logits, err), done);
    const double first_s = rb_now_s();
    RB_TRY(st, decode(&g, err), done);
    out->prefill_s = first_s - started_s;
    out->decode_s = rb_now_s() - first_s;
    out->cache_bytes = sequence_cache_bytes(generator_cache(g.model), generator_n_tokens(g.model));
    out->cache_fp16_bytes = sequence_cache_fp16_bytes(generator_cache(g.model), generator_n_tokens(g.model));
    out->peak_bytes = peak_bytes(is_on_gpu);
done:
    generator_close(g.model);
    sampler_free(&g.draw);
    free(g.logits);
    return st;
}
