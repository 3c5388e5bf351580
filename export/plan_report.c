/* Writer of report.html: see export/plan_report.h. Tables are HTML, pictures are inline SVG; no script, no network. */
#include "export/plan_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/program.h"
#include "export/heat_map.h"
#include "plan/plan_coding.h"
#include "plan/plan_family.h"

static void write_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '&': fputs("&amp;", out); break;
        default: fputc(*text, out);
        }
    }
}

static void write_head(FILE *out, const bit_plan *plan)
{
    fprintf(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>ropebits: ");
    write_escaped(out, plan->method);
    fprintf(out,
            " at %g bits</title>\n<style>\n"
            "body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: "
            "#1b1f24; }\n"
            "h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }\n"
            "table { border-collapse: collapse; } th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px "
            "solid #d8dee4; }\n"
            "th:first-child, td:first-child, .facts td { text-align: left; } .won { color: #116329; } .lost { color: "
            "#a40e26; }\n"
            "svg text { font: 10px system-ui, sans-serif; } code { font-size: .85em; }\n"
            "</style>\n</head>\n<body>\n",
            plan->avg_bits);
}

static void write_facts(FILE *out, const bit_plan *plan)
{
    const model_facts *model = &plan->model;
    const plan_cost cost = bit_plan_cost(plan);
    plan_coding_line lines[PLAN_CODING_MAX_LINES];
    char values[80], cache[300];
    const int n_lines = plan_coding_describe(lines, plan);
    fprintf(out, "<h1>Bit plan: ");
    write_escaped(out, plan->method);
    fprintf(out, " at %g bits</h1>\n<table class=\"facts\">\n", plan->avg_bits);
    fprintf(out, "<tr><td>model</td><td>");
    write_escaped(out, model->model_type);
    fprintf(out, ", %d layers, %d query and %d KV heads of %d dims</td></tr>\n", model->n_layers, model->n_q_heads,
            model->n_kv_heads, model->head_dim);
    fprintf(out, "<tr><td>RoPE</td><td>%s, %s pairing, %d of %d blocks turn</td></tr>\n",
            rope_kind_name(model->rope.kind), rope_pairing_name(model->rope.pairing), model->rotary_dim / 2,
            model_n_blocks(model));
    fprintf(out, "<tr><td>keys</td><td>%.3f true bits a dim (%.3f nominal)</td></tr>\n", cost.key_true_bits,
            cost.key_nominal_bits);
    for (int i = 0; i < n_lines; i++) fprintf(out, "<tr><td>%s</td><td>%s</td></tr>\n", lines[i].label, lines[i].text);
    bit_plan_describe_values(values, sizeof values, plan);
    fprintf(out, "<tr><td>values</td><td>%s</td></tr>\n", values);
    bit_plan_describe_cache(cache, sizeof cache, plan, plan->calibration.context);
    fprintf(out, "<tr><td>cache</td><td>%s</td></tr>\n", cache);
    fprintf(out, "<tr><td>config.json</td><td><code>%s</code></td></tr>\n</table>\n", model->config_sha256);
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* A number in the colour of its verdict against uniform at the same budget. */
static void write_error_cell(FILE *out, const profile_summary *summary, const summary_method *method, int layer)
{
    const summary_method *uniform = profile_summary_find(summary, "uniform", method->avg_bits);
    const double error = method->logit_mae_by_layer[layer];
    const char *class = !uniform || uniform == method                ? ""
                        : error < uniform->logit_mae_by_layer[layer] ? " class=\"won\""
                                                                     : " class=\"lost\"";
    fprintf(out, "<td%s>%.4f</td>", class, error);
}

static void write_method_row(FILE *out, const profile_summary *summary, const char *label, const char *format,
                             double (*value)(const summary_method *))
{
    fprintf(out, "<tr><td>%s</td>", label);
    for (int m = 0; m < summary->n_methods; m++) {
        const double number = value(&summary->methods[m]);
        fprintf(out, "<td>");
        if (!isnan(number)) fprintf(out, format, number);
        fprintf(out, "</td>");
    }
    fprintf(out, "</tr>\n");
}

static double mean_error(const summary_method *method) { return method->logit_mae; }
static double true_bits(const summary_method *method) { return method->true_bits; }
static double causal_error(const summary_method *method) { return method->causal_mae; }
static double divergence(const summary_method *method) { return method->attention_kl; }
static double relative_error(const summary_method *method) { return 100.0 * method->relative_error; }
static double reduction(const summary_method *method)
{
    return strcmp(method->method, "uniform") == 0 ? NAN : 100.0 * method->reduction_vs_uniform;
}

static void write_errors(FILE *out, const profile_summary *summary)
{
    fprintf(out,
            "<h2>Logit error on the test text</h2>\n<p>Mean |q&middot;k &minus; q&middot;k&#770;| over query heads, "
            "tokens and 50 offsets, without 1/&radic;d; less is better. "
            "Green: below uniform at the same nominal budget. %lld calibration and %lld test "
            "tokens.</p>\n<table>\n<tr><th>layer</th>",
            (long long)summary->calibration.n_tokens, (long long)summary->test.n_tokens);
    for (int m = 0; m < summary->n_methods; m++) {
        fprintf(out, "<th>");
        write_escaped(out, summary->methods[m].method);
        fprintf(out, "<br>@ %g</th>", summary->methods[m].avg_bits);
    }
    fprintf(out, "</tr>\n");
    for (int layer = 0; layer < summary->model.n_layers; layer++) {
        fprintf(out, "<tr><td>%d</td>", layer);
        for (int m = 0; m < summary->n_methods; m++) write_error_cell(out, summary, &summary->methods[m], layer);
        fprintf(out, "</tr>\n");
    }
    write_method_row(out, summary, "mean", "<b>%.4f</b>", mean_error);
    write_method_row(out, summary, "less than uniform", "%.1f&nbsp;%%", reduction);
    write_method_row(out, summary, "true bits a dim", "%.3f", true_bits);
    write_method_row(out, summary, "over causal pairs", "%.4f", causal_error);
    write_method_row(out, summary, "attention KL, nats", "%.4f", divergence);
    write_method_row(out, summary, "key error, relative", "%.1f&nbsp;%%", relative_error);
    fprintf(out, "</table>\n");
}

/* ---- bits ------------------------------------------------------------------------------------ */

enum { CELL = 14, LABEL = 90, TOP = 18 }; /* pixels */

/* A heat map: heads [n_layers][n_kv_heads] whose rows have up to n_cells cells, of blocks or coordinates. */
typedef struct heat_map {
    const plan_head *heads;
    int n_rows, n_kv_heads, n_blocks, n_cells, cell_width;
} heat_map;

static void write_heat_row(FILE *out, const heat_map *map, int row)
{
    const plan_head *head = &map->heads[row];
    const int n_heads = map->n_kv_heads, cell_width = map->cell_width, y = TOP + row * CELL;
    const char *mark = plan_family_of(head)->mark;
    uint8_t bits[RB_MAX_HEAD_DIM];
    const int n_cells = plan_family_cells(bits, head, map->n_blocks);
    fprintf(out, "<text x=\"0\" y=\"%d\">layer %d head %d%s</text>\n", y + CELL - 3, row / n_heads, row % n_heads,
            mark ? mark : "");
    for (int block = 0; block < n_cells; block++) {
        const heat_colour *colour = heat_map_colour(head, bits[block]);
        const int x = LABEL + block * cell_width;
        fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>", x, y, cell_width, CELL,
                colour->html);
        if (cell_width == CELL)
            fprintf(out, "<text x=\"%d\" y=\"%d\" fill=\"%s\">%d</text>", x + (bits[block] < 10 ? 4 : 1), y + CELL - 3,
                    colour->is_dark ? "#fff" : "#1b1f24", bits[block]);
    }
    fprintf(out, "\n");
}

static heat_map heat_map_of(const plan_head *heads, const model_facts *model)
{
    heat_map map = {.heads = heads,
                    .n_rows = model->n_layers * model->n_kv_heads,
                    .n_kv_heads = model->n_kv_heads,
                    .n_blocks = model_n_blocks(model)};
    uint8_t bits[RB_MAX_HEAD_DIM];
    for (int row = 0; row < map.n_rows; row++) {
        const int n = plan_family_cells(bits, &heads[row], map.n_blocks);
        if (n > map.n_cells) map.n_cells = n;
    }
    map.cell_width = map.n_cells <= 64 ? CELL : map.n_cells < 64 * CELL ? 64 * CELL / map.n_cells : 1;
    return map;
}

static void write_svg(FILE *out, const heat_map *map, const char *label)
{
    fprintf(out, "<svg width=\"%d\" height=\"%d\" role=\"img\" aria-label=\"%s\">\n",
            LABEL + map->n_cells * map->cell_width + 1, TOP + map->n_rows * CELL + 1, label);
    for (int cell = 0; cell < map->n_cells; cell += 8)
        fprintf(out, "<text x=\"%d\" y=\"%d\">%d</text>\n", LABEL + cell * map->cell_width, TOP - 5, cell);
    for (int row = 0; row < map->n_rows; row++) write_heat_row(out, map, row);
    fprintf(out, "</svg>\n");
}

static void write_heat_map(FILE *out, const bit_plan *plan)
{
    const heat_map map = heat_map_of(plan->heads, &plan->model);
    fprintf(out, "<h2>Bits of every RoPE block</h2>\n<p>A row is a KV head of a layer, a column a block, fastest "
                 "rotation left.");
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        if (plan_families[f]->bits_note_html && bit_plan_has_family(plan, (codec_family)f))
            fprintf(out, " %s", plan_families[f]->bits_note_html);
    fprintf(out, "</p>\n");
    write_svg(out, &map, "bits per block");
}

/* Where values have heads of their own. */
static void write_value_map(FILE *out, const bit_plan *plan)
{
    const model_facts values = model_value_facts(&plan->model);
    const heat_map map = heat_map_of(plan->value_heads, &values);
    fprintf(out,
            "<h2>Bits of the values</h2>\n<p>A row is a KV head of a layer, a column a coordinate, in the order of "
            "the codes.</p>\n");
    write_svg(out, &map, "bits per coordinate of the values");
}

/* Where heads have values of different widths. */
static void write_value_widths(FILE *out, const bit_plan *plan)
{
    const value_range range = bit_plan_value_range(plan);
    if (range.least == range.most) return;
    fprintf(out, "<h2>Bits of the values</h2>\n<table>\n<tr><th>layer</th>");
    for (int h = 0; h < plan->model.n_kv_heads; h++) fprintf(out, "<th>head %d</th>", h);
    fprintf(out, "</tr>\n");
    for (int layer = 0; layer < plan->model.n_layers; layer++) {
        fprintf(out, "<tr><td>%d</td>", layer);
        for (int h = 0; h < plan->model.n_kv_heads; h++)
            fprintf(out, "<td>%g</td>", bit_plan_value_code_bits(plan, layer * plan->model.n_kv_heads + h));
        fprintf(out, "</tr>\n");
    }
    fprintf(out, "</table>\n");
}

rb_status plan_report_write(const bit_plan *plan, const profile_summary *summary, const char *path, rb_error *err)
{
    char *text = NULL;
    size_t size = 0;
    rb_status st = summary ? model_facts_same(&plan->model, "the plan", &summary->model, "the summary", err) : RB_OK;
    if (st != RB_OK) return st;
    FILE *out = open_memstream(&text, &size);
    if (!out) return rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    write_head(out, plan);
    write_facts(out, plan);
    if (summary) write_errors(out, summary);
    write_heat_map(out, plan);
    if (plan->value_heads) write_value_map(out, plan);
    else write_value_widths(out, plan);
    fprintf(out, "<p>Made by ropebits %s.</p>\n</body>\n</html>\n", rb_tool_version());
    if (fclose(out) != 0) st = rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    if (st == RB_OK) st = rb_atomic_write(path, text, size, err);
    free(text);
    return st;
}
