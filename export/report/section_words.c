/* Texts and coverage, how the plan is used, and its facts: report.h. */
#include <math.h>
#include <stdio.h>

#include "core/program.h"
#include "export/report/report.h"
#include "plan/plan_coding.h"

static void write_fact(const page *p, const char *label, const char *text)
{
    page_row_begin(p, NULL, label);
    page_html(p, "<td>");
    page_text(p, text);
    page_html(p, "</td>");
    page_row_end(p);
}

static void facts_begin(const page *p, const char *caption)
{
    page_html(p,
              "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"%s\">\n<table class=\"facts\">\n"
              "<caption>%s</caption>\n<tbody>\n",
              caption, caption);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static void write_text(const page *p, const char *label, const text_facts *text)
{
    char line[200], count[PAGE_NUMBER_SIZE], context[PAGE_NUMBER_SIZE];
    if (text->n_tokens == 0) return;
    snprintf(line, sizeof line, "%s tokens in sequences of %s%s%.12s", page_count(count, (double)text->n_tokens),
             page_count(context, (double)text->context), text->tokens_sha256[0] ? ", ids " : "", text->tokens_sha256);
    write_fact(p, label, line);
}

static void write_coverage(const page *p, const head_coverage *c)
{
    char line[300];
    if (isnan(c->key_distance)) return;
    snprintf(
        line, sizeof line,
        "rare test keys lie %.2f times as far out as those of calibration (1.4 is the limit), %.1f %% of test keys "
        "are beyond calibration's 99 %%; query energy of a block differs by %.1f times at most; the plan of the "
        "calibration text costs %.2f times the error of the test text's own",
        c->key_distance, 100.0 * c->key_outside, c->query_shift, c->plan_transfer);
    write_fact(p, "coverage", line);
}

static void write_sinks(const page *p, const report *r)
{
    char line[300], exact[80];
    const sink_evidence *sinks = r->profile ? &r->profile->sinks : NULL;
    bit_plan_describe_exact(exact, sizeof exact, r->plan);
    if (sinks && sinks->n_heads > 0)
        snprintf(line, sizeof line,
                 "the first token gets %.1f %% of all attention; so many first tokens are worth their bytes: %d; exact "
                 "in this "
                 "plan: %s",
                 100.0 * sink_mean(sinks, sinks->attention, 0), sink_choose(sinks), exact);
    else snprintf(line, sizeof line, "exact in this plan: %s; no evidence was given (--profile)", exact);
    write_fact(p, "attention sinks", line);
}

void section_texts(page *p, const report *r)
{
    page_section_begin(p, "texts", "Texts, coverage and sinks");
    facts_begin(p, "What the numbers stand on");
    write_text(p, "calibration", &r->plan->calibration);
    if (r->summary) write_text(p, "test of the errors", &r->summary->test);
    if (r->evaluation) write_text(p, "evaluation", &r->evaluation->text);
    if (r->summary) write_coverage(p, &r->summary->coverage);
    write_sinks(p, r);
    page_table_end(p);
    page_section_end(p);
}

/* ---- use ------------------------------------------------------------------------------------- */

/* What is done with the plan, and the lines that do it. $ is the name of the plan without its ending. */
static const struct use {
    const char *what, *lines;
} uses[] = {
    {"In the forms that programs read", "ropebits export $.json --format rbp,header,safetensors -o .\n"
                                        "ropebits inspect $.rbp"},
    {"Text out of the model with a packed cache",
     "ropebits generate --model MODEL --plan $.rbp --prompt \"Once upon\""},
    {"What it does to the model",
     "ropebits evaluate --model MODEL --plan $.json --text TEXT \\\n    --needles 24 -o evaluation.json"},
    {"In Hugging Face transformers", "from ropebits_cache import RopebitsCache      # integrations/transformers\n"
                                     "cache = RopebitsCache(\"$.rbp\", model)\n"
                                     "model.generate(**inputs, past_key_values=cache)"},
    {"In C or C++, with libropebits_kv (pkg-config ropebits_kv)",
     "ropebits_kv *kv;\n"
     "ropebits_kv_open(&kv, \"$.rbp\", \"cuda:0\", error, sizeof error);   /* or \"cpu\" */"},
    {"In other runtimes, as near as they come", "ropebits export $.json --format vllm,llama.cpp -o ."},
};

static void write_lines(const page *p, const char *lines, const char *stem)
{
    char one[2] = "";
    for (; *lines; lines++) {
        one[0] = *lines;
        page_text(p, *lines == '$' ? stem : one);
    }
}

void section_use(page *p, const report *r)
{
    page_section_begin(p, "use", "How to use it");
    page_html(p, "<dl class=\"uses\">\n");
    for (size_t i = 0; i < RB_COUNT(uses); i++) {
        page_html(p, "<dt>%s</dt>\n<dd><pre tabindex=\"0\"><code>", uses[i].what);
        write_lines(p, uses[i].lines, r->stem);
        page_html(p, "</code></pre></dd>\n");
    }
    page_html(p, "</dl>\n");
    page_section_end(p);
}

/* ---- facts ----------------------------------------------------------------------------------- */

void section_facts(page *p, const report *r)
{
    const model_facts *model = &r->plan->model;
    plan_coding_line lines[PLAN_CODING_MAX_LINES];
    char text[400];
    const int n_lines = plan_coding_describe(lines, r->plan);
    page_section_begin(p, "facts", "The plan's facts");
    facts_begin(p, "What the plan is for, and how it codes");
    snprintf(text, sizeof text, "%s, %d layers, %d query and %d KV heads of %d dims", model->model_type,
             model->n_layers, model->n_q_heads, model->n_kv_heads, model->head_dim);
    write_fact(p, "model", text);
    snprintf(text, sizeof text, "%s, %s pairing, %d of %d blocks turn", rope_kind_name(model->rope.kind),
             rope_pairing_name(model->rope.pairing), model->rotary_dim / 2, model_n_blocks(model));
    write_fact(p, "RoPE", text);
    snprintf(text, sizeof text, "%s at %g bits", r->plan->method, r->plan->avg_bits);
    write_fact(p, "method", text);
    snprintf(text, sizeof text, "%.3f true bits a dim (%.3f nominal)", r->cost.key_true_bits, r->cost.key_nominal_bits);
    write_fact(p, "keys", text);
    for (int i = 0; i < n_lines; i++) write_fact(p, lines[i].label, lines[i].text);
    bit_plan_describe_values(text, sizeof text, r->plan);
    write_fact(p, "values", text);
    bit_plan_describe_cache(text, sizeof text, r->plan, r->plan->calibration.context);
    write_fact(p, "cache", text);
    write_fact(p, "config.json", model->config_sha256);
    page_table_end(p);
    page_html(p,
              "<p class=\"note\">Made by ropebits %s. Words: <em>true bits</em> are all that is stored, codes, norms "
              "and padding; a <em>RoPE block</em> is the pair of dims that one frequency turns.</p>\n",
              rb_tool_version());
    page_section_end(p);
}
