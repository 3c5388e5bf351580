/* A plan's coding in words: see plan/plan_coding.h. */
#include "plan/plan_coding.h"

#include <stdio.h>

typedef struct coding_counts {
    int n_block_codebook, n_log8, n_search, n_scaled, n_centered; /* heads */
    int n_dropped;                                                /* blocks without bits */
} coding_counts;

static coding_counts count_codings(const bit_plan *plan)
{
    const int n_blocks = model_n_blocks(&plan->model);
    uint8_t bits[RB_MAX_BLOCKS];
    coding_counts counts = {0};
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++) {
        const plan_head *head = &plan->heads[h];
        counts.n_block_codebook += head->family == FAMILY_BLOCK_CODEBOOK;
        counts.n_log8 += plan_head_groups(head)->norm == NORM_LOG8;
        counts.n_search += plan_head_groups(head)->encoder == ENCODER_SEARCH;
        counts.n_scaled += plan_head_groups(head)->scales != NULL;
        counts.n_centered += head->center != NULL;
        plan_head_bits(head, bits, n_blocks);
        for (int i = 0; i < n_blocks; i++) counts.n_dropped += bits[i] == 0;
    }
    return counts;
}

/* One line more when there are any of them: "what COUNT of TOTAL things". */
static void add_line(plan_coding_line *lines, int *n, const char *label, const char *what, int count, int total,
                     const char *things)
{
    if (count == 0) return;
    lines[*n].label = label;
    snprintf(lines[*n].text, sizeof lines[*n].text, "%s%d of %d %s", what, count, total, things);
    (*n)++;
}

int plan_coding_describe(plan_coding_line lines[PLAN_CODING_MAX_LINES], const bit_plan *plan)
{
    const int n_heads = plan->model.n_layers * plan->model.n_kv_heads;
    const coding_counts counts = count_codings(plan);
    int n = 0;
    add_line(lines, &n, "family", "block-codebook in ", counts.n_block_codebook, n_heads,
             "heads: quantize before RoPE, one code for both dims of a block, no norm");
    add_line(lines, &n, "norms", "log8, one byte each, in ", counts.n_log8, n_heads, "heads");
    add_line(lines, &n, "encoder", "search in ", counts.n_search, n_heads, "heads");
    add_line(lines, &n, "equalizing", "scales in ", counts.n_scaled, n_heads,
             "heads: fold them into q_proj and k_proj, or apply them");
    add_line(lines, &n, "centring", "a center in ", counts.n_centered, n_heads,
             "heads: quantize before RoPE, or add q . R_t center to the logits");
    add_line(lines, &n, "dropped", "", counts.n_dropped, n_heads * model_n_blocks(&plan->model),
             "blocks: nothing is stored of them");
    return n;
}
