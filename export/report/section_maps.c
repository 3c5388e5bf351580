/* Energy and bits of every KV head, as heat maps side by side: report.h. */
#include <math.h>
#include <stdio.h>

#include "export/heat_map.h"
#include "export/report/map_picture.h"
#include "export/report/report.h"
#include "plan/plan_family.h"
#include "profile/profile_statistics.h"

/* Colours of energies: twelve steps from the largest of the model down. report.css has as many. */
enum { ENERGY_LEVELS = 12, BITS_LEVELS = PLAN_MAX_WIDTH + 1 };
static const double ENERGY_DECADES = 4.0;

/* What a map is made from. heads: of keys, or of values where values have heads of their own. */
typedef struct map_source {
    const report *r;
    const model_facts *model; /* whose heads they are */
    const plan_head *heads;
    int kv_head, n_columns;
    double most_energy; /* of the model */
} map_source;

static const plan_head *head_of(const map_source *s, int layer)
{
    return &s->heads[layer * s->model->n_kv_heads + s->kv_head];
}

/* ---- bits ------------------------------------------------------------------------------------ */

static int most_cells(const plan_head *heads, const model_facts *model)
{
    uint8_t bits[RB_MAX_HEAD_DIM];
    int most = 0;
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        const int n = plan_family_cells(bits, &heads[h], model_n_blocks(model));
        if (n > most) most = n;
    }
    return most;
}

static void bits_of_rows(uint8_t *levels, const map_source *s)
{
    uint8_t bits[RB_MAX_HEAD_DIM];
    for (int layer = 0; layer < s->model->n_layers; layer++) {
        const plan_head *head = head_of(s, layer);
        const int n = plan_family_cells(bits, head, model_n_blocks(s->model));
        for (int i = 0; i < s->n_columns; i++) /* a head of fewer cells than others has wider ones */
            levels[layer * s->n_columns + i] = (uint8_t)heat_map_width(head, bits[i * n / s->n_columns]);
    }
}

static void say_bits(char out[MAP_ROW_TITLE_SIZE], const void *user, int layer)
{
    const map_source *s = user;
    const plan_head *head = head_of(s, layer);
    uint8_t bits[RB_MAX_HEAD_DIM];
    char description[64];
    const int n = plan_family_cells(bits, head, model_n_blocks(s->model));
    plan_family_of(head)->describe(description, sizeof description, head);
    int at = snprintf(out, MAP_ROW_TITLE_SIZE, "layer %d, KV head %d: %.3f true bits a dim in %s; bits", layer,
                      s->kv_head, plan_head_true_bits(head, s->model->head_dim), description);
    for (int i = 0; i < n && at < MAP_ROW_TITLE_SIZE - 8; i++)
        at += snprintf(out + at, (size_t)(MAP_ROW_TITLE_SIZE - at), " %d", bits[i]);
}

static bool is_of_coordinates(const plan_head *heads, const model_facts *model)
{
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++)
        if (plan_family_of(&heads[h])->coordinate_widths) return true;
    return false;
}

static void write_bits(page *p, const map_source *s, const char *what)
{
    uint8_t *levels = s->r->cells;
    char title[80];
    bits_of_rows(levels, s);
    snprintf(title, sizeof title, "Bits of %s of KV head %d", what, s->kv_head);
    map_picture_write(p, &(map_picture){s->model->n_layers, s->n_columns, BITS_LEVELS, levels, "b", title,
                                        is_of_coordinates(s->heads, s->model) ? "coordinate" : "block", say_bits, s});
}

/* ---- energy ---------------------------------------------------------------------------------- */

static void energy_of(double *out, const map_source *s, int layer)
{
    const token_statistics *known = &s->r->profile->all;
    const int n = model_n_blocks(s->model);
    const int64_t first = ((int64_t)layer * s->model->n_kv_heads + s->kv_head) * n;
    head_energy_mean(&(head_energy){n, known->q_energy + first, known->k_energy + first, s->model, layer}, out);
}

static double most_energy(map_source s)
{
    double energy[RB_MAX_BLOCKS], most = 0.0;
    for (int layer = 0; layer < s.model->n_layers; layer++)
        for (s.kv_head = 0; s.kv_head < s.model->n_kv_heads; s.kv_head++) {
            energy_of(energy, &s, layer);
            for (int i = 0; i < model_n_blocks(s.model); i++) most = fmax(most, energy[i]);
        }
    return most;
}

static int level_of(double energy, double most)
{
    if (!(energy > 0.0) || most <= 0.0) return 0;
    const double place = 1.0 + log10(energy / most) / ENERGY_DECADES;
    return (int)fmin(fmax(floor(place * ENERGY_LEVELS), 0.0), ENERGY_LEVELS - 1);
}

static void say_energy(char out[MAP_ROW_TITLE_SIZE], const void *user, int layer)
{
    const map_source *s = user;
    double energy[RB_MAX_BLOCKS], least = INFINITY, most = 0.0;
    energy_of(energy, s, layer);
    for (int i = 0; i < model_n_blocks(s->model); i++) {
        least = fmin(least, energy[i]);
        most = fmax(most, energy[i]);
    }
    snprintf(out, MAP_ROW_TITLE_SIZE, "layer %d, KV head %d: energy %.3g to %.3g", layer, s->kv_head, least, most);
}

static void write_energy(page *p, const map_source *s)
{
    const int n = model_n_blocks(s->model);
    double energy[RB_MAX_BLOCKS];
    uint8_t *levels = s->r->cells;
    char title[80];
    for (int layer = 0; layer < s->model->n_layers; layer++) {
        energy_of(energy, s, layer);
        for (int i = 0; i < n; i++) levels[layer * n + i] = (uint8_t)level_of(energy[i], s->most_energy);
    }
    snprintf(title, sizeof title, "Energy of KV head %d", s->kv_head);
    map_picture_write(p,
                      &(map_picture){s->model->n_layers, n, ENERGY_LEVELS, levels, "e", title, "block", say_energy, s});
}

/* ---- legends --------------------------------------------------------------------------------- */

static void write_bits_legend(const page *p)
{
    page_html(p, "<p class=\"scale\"><span>bits a dim</span>");
    for (int bits = 0; bits < BITS_LEVELS; bits++) page_html(p, "<span><i class=\"b%d\"></i>%d</span>", bits, bits);
    page_html(p, "<span>(0: nothing is stored)</span></p>\n");
}

static void write_energy_legend(const page *p, double most)
{
    char number[PAGE_NUMBER_SIZE];
    page_html(p, "<p class=\"scale\"><span>energy, logarithmic</span><span>%s or less ",
              page_number(number, most * pow(10.0, -ENERGY_DECADES * (ENERGY_LEVELS - 1) / ENERGY_LEVELS)));
    for (int level = 0; level < ENERGY_LEVELS; level++) page_html(p, "<i class=\"e%d\"></i>", level);
    page_html(p, " %s</span></p>\n", page_number(number, most));
}

/* ---- the section ----------------------------------------------------------------------------- */

static void write_head(page *p, const map_source *s, const char *what, bool has_energy)
{
    page_html(p, "<figure class=\"head\">\n<figcaption>KV head %d</figcaption>\n<div class=\"pair\">", s->kv_head);
    if (has_energy) {
        page_html(p, "<div><p class=\"axis\">energy</p>");
        write_energy(p, s);
        page_html(p, "</div>\n");
    }
    page_html(p, "<div><p class=\"axis\">bits</p>");
    write_bits(p, s, what);
    page_html(p, "</div></div>\n</figure>\n");
}

static void write_heads(page *p, const report *r, const model_facts *model, const plan_head *heads, const char *what,
                        bool has_energy)
{
    map_source s = {.r = r, .model = model, .heads = heads, .n_columns = most_cells(heads, model)};
    if (has_energy) {
        s.most_energy = most_energy(s);
        write_energy_legend(p, s.most_energy);
    }
    write_bits_legend(p);
    page_html(p, "<div class=\"heads%s\">\n", has_energy ? " pairs" : "");
    for (; s.kv_head < model->n_kv_heads; s.kv_head++) write_head(p, &s, what, has_energy);
    page_html(p, "</div>\n");
}

static void write_notes(const page *p, const report *r)
{
    page_html(p, "<p>A row is a layer, a column a RoPE block, fastest rotation left. Energy is the mean square of the "
                 "block's queries and keys: bits go where it is.");
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        if (plan_families[f]->bits_note_html && bit_plan_has_family(r->plan, (codec_family)f))
            page_html(p, " %s", plan_families[f]->bits_note_html);
    page_html(p, "</p>\n");
    if (!r->profile)
        page_html(p, "<p class=\"note\">Energy is left out: no profile was given (<code>ropebits export --profile "
                     "P.h5</code>).</p>\n");
}

/* Where values have widths that differ: a column a head. */
static void say_value_widths(char out[MAP_ROW_TITLE_SIZE], const void *user, int layer)
{
    const report *r = user;
    const int n = r->plan->model.n_kv_heads;
    int at = snprintf(out, MAP_ROW_TITLE_SIZE, "layer %d: bits of the values", layer);
    for (int h = 0; h < n && at < MAP_ROW_TITLE_SIZE - 8; h++)
        at += snprintf(out + at, (size_t)(MAP_ROW_TITLE_SIZE - at), " %g",
                       bit_plan_value_code_bits(r->plan, layer * n + h));
}

static void write_value_widths(page *p, const report *r)
{
    const model_facts *model = &r->plan->model;
    page_html(p, "<h3>Bits of the values</h3>\n<p>A row is a layer, a column a KV head.</p>\n<div class=\"heads\">\n"
                 "<figure class=\"head\">\n");
    map_picture_write(p, &(map_picture){model->n_layers, model->n_kv_heads, BITS_LEVELS, r->plan->value_widths, "b",
                                        "Bits of the values", "KV head", say_value_widths, r});
    page_html(p, "</figure>\n</div>\n");
}

void section_maps(page *p, const report *r)
{
    const value_range values = bit_plan_value_range(r->plan);
    const model_facts value_facts = model_value_facts(&r->plan->model);
    page_section_begin(p, "maps", "Where the bits go");
    write_notes(p, r);
    write_heads(p, r, &r->plan->model, r->plan->heads, "keys", r->profile != NULL);
    if (r->plan->value_heads) {
        page_html(p, "<h3>Bits of the values</h3>\n<p>A column is a coordinate, in the order of the codes.</p>\n");
        write_heads(p, r, &value_facts, r->plan->value_heads, "values", false);
    } else if (values.least != values.most) write_value_widths(p, r);
    page_section_end(p);
}
