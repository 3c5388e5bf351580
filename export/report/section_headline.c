/* The plan in a sentence and a row of numbers: report.h. */
#include <math.h>
#include <stdio.h>

#include "export/report/report.h"

/* "25 % less", "12 % more", "the same": of an error against another. */
static const char *versus(char out[64], double error, double other)
{
    const double change = other > 0.0 ? error / other - 1.0 : 0.0;
    if (fabs(change) < 0.005) snprintf(out, 64, "the same");
    else snprintf(out, 64, "%.0f\xc2\xa0%% %s", 100.0 * fabs(change), change < 0.0 ? "less" : "more");
    return out;
}

/* Where uniform is not known or the plan itself, block-gtq. */
static const rival_method *first_rival(const report *r)
{
    const rival_method *uniform = report_rival(r, RIVAL_UNIFORM);
    return uniform ? uniform : report_rival(r, RIVAL_BLOCK_GTQ);
}

static void write_sentence(const page *p, const report *r)
{
    const rival_method *rival = first_rival(r);
    char change[64];
    page_html(p, "<h1><b>%.1f bits</b> a key dim, <b>%.1f times</b> less cache than fp16", r->cost.key_true_bits,
              r->cost.compression);
    if (rival) {
        const char *words = versus(change, r->errors.logit_mae, rival->logit_mae);
        page_html(p, ", <b>%s</b> logit error %s %s at the same bytes", words, words[0] == 't' ? "as" : "than",
                  allocation_method_name(rival->method));
    }
    page_html(p, ".</h1>\n");
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* A number with what it is above and a note below, as plain text. */
static void write_tile(const page *p, const char *label, const char *number, const char *note)
{
    page_html(p, "<div><dt>");
    page_text(p, label);
    page_html(p, "</dt><dd><b>");
    page_text(p, number);
    page_html(p, "</b><span>");
    page_text(p, note);
    page_html(p, "</span></dd></div>\n");
}

static void write_size(const page *p, const report *r)
{
    char bytes[PAGE_NUMBER_SIZE], fp16[PAGE_NUMBER_SIZE], number[64], note[160], exact[80];
    snprintf(note, sizeof note, "fp16 takes %s", page_count(fp16, r->cost.fp16_bytes_per_token));
    write_tile(p, "Bytes a token", page_count(bytes, r->cost.bytes_per_token), note);
    bit_plan_describe_exact(exact, sizeof exact, r->plan);
    snprintf(number, sizeof number, "%.2f\xc3\x97", r->cost.compression);
    snprintf(note, sizeof note, "%s stay%s fp16", exact, r->plan->n_sink + r->plan->n_recent == 1 ? "s" : "");
    write_tile(p, "Smaller than fp16", number, bit_plan_keeps_exact(r->plan) ? note : "keys and values of all layers");
    snprintf(number, sizeof number, "%.3f", r->cost.key_true_bits);
    snprintf(note, sizeof note, "true bits a dim; %.3f nominal", r->cost.key_nominal_bits);
    write_tile(p, "Keys", number, note);
    snprintf(number, sizeof number, "%.3f", r->cost.value_true_bits);
    write_tile(p, "Values", number, bit_plan_quantizes_values(r->plan) ? "true bits a dim" : "bits a dim: fp16");
}

static void write_error(const page *p, const report *r)
{
    const rival_method *rival = first_rival(r);
    char number[64], note[160], plan[PAGE_NUMBER_SIZE], other[PAGE_NUMBER_SIZE];
    if (r->errors.source == ERRORS_UNKNOWN) return;
    page_number(plan, r->errors.logit_mae);
    if (!rival) {
        write_tile(p, "Logit error", plan,
                   r->errors.source == ERRORS_MEASURED ? "mean, measured on test text" : "mean, expected");
        return;
    }
    const double change = r->errors.logit_mae / rival->logit_mae - 1.0;
    snprintf(number, sizeof number, "%s%.0f\xc2\xa0%%", change < 0.0 ? "\xe2\x88\x92" : "+", 100.0 * fabs(change));
    snprintf(note, sizeof note, "%s; %s %s at the same bytes", plan, allocation_method_name(rival->method),
             page_number(other, rival->logit_mae));
    write_tile(p, r->errors.source == ERRORS_MEASURED ? "Logit error, measured" : "Logit error, expected", number,
               note);
}

static void write_evaluated(const page *p, const report *r)
{
    char number[64], note[160], count[PAGE_NUMBER_SIZE];
    const evaluation_run *run = r->run, *exact = r->unquantized;
    if (!run) return;
    if (!isnan(run->kl_mean)) {
        snprintf(note, sizeof note, "nats a token, n = %s", page_count(count, (double)r->evaluation->text.n_tokens));
        write_tile(p, "KL of the next token", page_number(number, run->kl_mean), note);
    }
    if (!isnan(run->perplexity) && exact) {
        snprintf(number, sizeof number, "%.2f", run->perplexity);
        snprintf(note, sizeof note, "unquantized %.2f", exact->perplexity);
        write_tile(p, "Perplexity", number, note);
    }
    if (run->n_needles > 0 && exact) {
        snprintf(number, sizeof number, "%lld of %lld", (long long)run->n_needles_right, (long long)run->n_needles);
        snprintf(note, sizeof note, "unquantized %lld of %lld", (long long)exact->n_needles_right,
                 (long long)exact->n_needles);
        write_tile(p, "Needles found", number, note);
    }
}

static void write_warnings(const page *p, const report *r)
{
    if (r->n_warnings == 0) return;
    page_html(p, "<aside aria-label=\"Warnings\">\n<ul>\n");
    for (int i = 0; i < r->n_warnings; i++) {
        page_html(p, "<li>");
        page_text(p, r->warnings[i]);
        page_html(p, "</li>\n");
    }
    page_html(p, "</ul>\n</aside>\n");
}

void section_headline(page *p, const report *r)
{
    const model_facts *model = &r->plan->model;
    page_html(p, "<header>\n<p class=\"over\">");
    page_textf(p, "%s", r->stem);
    page_html(p, " &middot; ");
    page_textf(p, "%s at %.4g bits", r->plan->method, r->plan->avg_bits);
    page_html(p, " &middot; ");
    page_textf(p, "%s, %d layers, %d query and %d KV heads of %d dims", model->model_type, model->n_layers,
               model->n_q_heads, model->n_kv_heads, model->head_dim);
    page_html(p, "</p>\n");
    write_sentence(p, r);
    page_html(p, "<dl class=\"tiles\">\n");
    write_size(p, r);
    write_error(p, r);
    write_evaluated(p, r);
    page_html(p, "</dl>\n");
    write_warnings(p, r);
    page_html(p, "</header>\n");
}
