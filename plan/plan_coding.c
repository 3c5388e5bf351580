/* A plan's coding in words: see plan/plan_coding.h. */
#include "plan/plan_coding.h"

#include <assert.h>
#include <stdio.h>

#include "plan/plan_family.h"

typedef struct coding_lines {
    plan_coding_line *at;
    int n;
} coding_lines;

/* One line more when there are any of them: "what COUNT of TOTAL things". */
static void add_line(coding_lines *lines, const char *label, const char *what, int count, int total, const char *things)
{
    plan_coding_line *line = &lines->at[lines->n];
    if (count == 0) return;
    assert(lines->n < PLAN_CODING_MAX_LINES);
    line->label = label;
    snprintf(line->text, sizeof line->text, "%s%d of %d %s", what, count, total, things);
    lines->n++;
}

static void add_families(coding_lines *lines, const bit_plan *plan)
{
    char what[64], things[120];
    for (int f = 0; f < FAMILY_N_KINDS; f++) {
        int n = 0;
        if (!plan_families[f]->summary) continue;
        for (int h = 0; h < bit_plan_n_heads(plan); h++) n += (int)plan->heads[h].family == f;
        snprintf(what, sizeof what, "%s in ", codec_family_names[f]);
        snprintf(things, sizeof things, "heads: %s", plan_families[f]->summary);
        add_line(lines, "family", what, n, bit_plan_n_heads(plan), things);
    }
}

static void add_words(coding_lines *lines, const bit_plan *plan, codec_family family)
{
    for (const plan_word *word = plan_families[family]->words; word && word->label; word++) {
        int n = 0;
        for (int h = 0; h < bit_plan_n_heads(plan); h++)
            n += plan->heads[h].family == family && word->is_in(&plan->heads[h]);
        add_line(lines, word->label, word->what, n, bit_plan_n_heads(plan), word->means);
    }
}

static int count_dropped(const plan_head *head, int n_blocks)
{
    uint8_t bits[RB_MAX_BLOCKS];
    int n = 0;
    if (plan_family_of(head)->coordinate_widths) return 0;
    plan_head_bits(head, bits, n_blocks);
    for (int i = 0; i < n_blocks; i++) n += bits[i] == 0;
    return n;
}

int plan_coding_describe(plan_coding_line out[PLAN_CODING_MAX_LINES], const bit_plan *plan)
{
    const int n_heads = bit_plan_n_heads(plan), n_blocks = model_n_blocks(&plan->model);
    coding_lines lines = {.at = out};
    int n_centered = 0, n_dropped = 0;
    for (int h = 0; h < n_heads; h++) {
        n_centered += plan->heads[h].center != NULL;
        n_dropped += count_dropped(&plan->heads[h], n_blocks);
    }
    add_families(&lines, plan);
    for (int f = 0; f < FAMILY_N_KINDS; f++) add_words(&lines, plan, (codec_family)f);
    add_line(&lines, "centring", "a center in ", n_centered, n_heads,
             "heads: quantize before RoPE, or add q . R_t center to the logits");
    add_line(&lines, "dropped", "", n_dropped, n_heads * n_blocks, "blocks: nothing is stored of them");
    return lines.n;
}
