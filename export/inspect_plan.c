/* A plan in the terminal, its bits as a heat map, or as plan.json: export/inspect.h. */
#include <stdio.h>
#include <stdlib.h>

#include "export/heat_map.h"
#include "export/inspect.h"
#include "plan/plan_coding.h"
#include "plan/plan_family.h"
#include "plan/plan_json.h"
#include "plan/plan_read.h"

enum { WHITE = 231, BLACK = 16 }; /* of the 256-colour palette */

static void print_facts(const bit_plan *plan)
{
    const plan_cost cost = bit_plan_cost(plan);
    plan_coding_line lines[PLAN_CODING_MAX_LINES];
    char values[80], cache[300];
    const int n_lines = plan_coding_describe(lines, plan);
    inspect_print_model(&plan->model);
    inspect_print_text("calibration", &plan->calibration);
    printf("method       %s at %g bits\n", plan->method, plan->avg_bits);
    printf("keys         %.3f true bits a dim (%.3f nominal)\n", cost.key_true_bits, cost.key_nominal_bits);
    for (int i = 0; i < n_lines; i++) printf("%-12s %s\n", lines[i].label, lines[i].text);
    bit_plan_describe_values(values, sizeof values, plan);
    printf("values       %s\n", values);
    bit_plan_describe_cache(cache, sizeof cache, plan, plan->calibration.context);
    printf("cache        %s\n", cache);
}

/* A character a block or coordinate: 10 bits are A. */
static void print_cells(const plan_head *head, int n_blocks, bool in_colour)
{
    uint8_t bits[RB_MAX_HEAD_DIM];
    const int n = plan_family_cells(bits, head, n_blocks);
    for (int i = 0; i < n; i++) {
        const heat_colour *colour = heat_map_colour(head, bits[i]);
        if (in_colour) printf("\033[48;5;%d;38;5;%dm", colour->terminal, colour->is_dark ? WHITE : BLACK);
        printf("%X", (unsigned)bits[i]);
    }
    printf("%s%*s", in_colour ? "\033[0m" : "", (8 - n % 8) % 8, "");
}

/* dims: of a vector of the head. */
static void print_head(const plan_head *head, int layer, int kv_head, int dims, bool in_colour)
{
    char description[64];
    plan_family_of(head)->describe(description, sizeof description, head);
    printf("%5d.%-4d ", layer, kv_head);
    print_cells(head, dims / 2, in_colour);
    printf("  %.3f in %s", plan_head_true_bits(head, dims), description);
}

static void print_key_head(const bit_plan *plan, int layer, int kv_head, bool in_colour)
{
    const value_range values = bit_plan_value_range(plan);
    print_head(bit_plan_head(plan, layer, kv_head), layer, kv_head, plan->model.head_dim, in_colour);
    if (values.least != values.most && !plan->value_heads)
        printf(", values at %g bits", bit_plan_value_code_bits(plan, layer * plan->model.n_kv_heads + kv_head));
    printf("\n");
}

/* The numbers of every eighth of n cells. */
static void print_scale(int n)
{
    printf("\n%-10s ", "layer.head");
    for (int i = 0; i < n; i += 8) printf("%-8d", i);
    printf("  true bits\n");
}

/* As many as the widest row has. */
static int most_cells(const bit_plan *plan)
{
    uint8_t bits[RB_MAX_HEAD_DIM];
    int most = 0;
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const int n = plan_family_cells(bits, &plan->heads[h], model_n_blocks(&plan->model));
        if (n > most) most = n;
    }
    return most;
}

static void print_value_map(const bit_plan *plan, int64_t only_layer, bool in_colour)
{
    const int n_heads = plan->model.n_kv_heads;
    if (!plan->value_heads) return;
    printf("\nbits of every coordinate of the values, in order; a row is a KV head\n");
    print_scale(plan->model.value_dim);
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        if (only_layer < 0 || h / n_heads == only_layer) {
            print_head(&plan->value_heads[h], h / n_heads, h % n_heads, plan->model.value_dim, in_colour);
            printf("\n");
        }
}

static void print_heat_map(const bit_plan *plan, int64_t only_layer, bool in_colour)
{
    printf("\nbits of every RoPE block, fastest rotation left; a row is a KV head\n");
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        if (plan_families[f]->bits_note && bit_plan_has_family(plan, (codec_family)f))
            printf("%s\n", plan_families[f]->bits_note);
    print_scale(most_cells(plan));
    for (int layer = 0; layer < plan->model.n_layers; layer++)
        for (int kv_head = 0; kv_head < plan->model.n_kv_heads; kv_head++)
            if (only_layer < 0 || layer == only_layer) print_key_head(plan, layer, kv_head, in_colour);
    print_value_map(plan, only_layer, in_colour);
}

static rb_status print_json(const bit_plan *plan, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, plan_to_json(&json, plan, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

rb_status inspect_plan(const inspect_request *request, rb_error *err)
{
    bit_plan *plan = NULL;
    rb_status st;
    RB_TRY(st, plan_read(&plan, request->path, err), done);
    RB_TRY(st, inspect_check_layer(request, &plan->model, err), done);
    if (request->as_json) {
        st = print_json(plan, err);
        goto done;
    }
    print_facts(plan);
    print_heat_map(plan, request->layer, request->in_colour);
done:
    bit_plan_free(plan);
    return st;
}
