/* See trellis.h. Vectors lie side by side in the innermost dimension, so that every step of the search is the same for
 * all lanes. */
#include "kernels/reference/trellis.h"

#include <math.h>
#include <string.h>

#include "core/threads.h"

enum { LANES = TRELLIS_LANES, STATES = TRELLIS_STATES };

typedef double lane_costs[STATES][LANES];
/* Which of the states that lead to the group of a state's lower bits is the best; indices are doubles while they are
 * selected: one width for all that is. */
typedef uint8_t lane_choices[STATES][LANES];

typedef struct search_memory {
    lane_costs cost, least;
    lane_choices from[]; /* [n], that of the first coordinate is unused */
} search_memory;

size_t trellis_search_size(int n) { return sizeof(search_memory) + (size_t)n * sizeof(lane_choices); }

/* least [group] = the least cost of the states whose upper bits are `group`, and which it is. */
RB_CPU_CLONES static void merge(lane_costs least, lane_choices from, lane_costs cost, int width)
{
    const int n_groups = STATES >> width, n_each = 1 << width;
    for (int group = 0; group < n_groups; group++) {
        double best[LANES], at[LANES];
        memcpy(best, cost[group * n_each], sizeof best);
        memset(at, 0, sizeof at);
        for (int j = 1; j < n_each; j++) {
            const double *restrict other = cost[group * n_each + j], index = j;
            for (int v = 0; v < LANES; v++) {
                at[v] = other[v] < best[v] ? index : at[v];
                best[v] = other[v] < best[v] ? other[v] : best[v];
            }
        }
        memcpy(least[group], best, sizeof best);
        for (int v = 0; v < LANES; v++) from[group][v] = (uint8_t)at[v];
    }
}

/* cost [state] = least [lower bits of state] + weight (y - table[state])^2. */
RB_CPU_CLONES static void add_errors(lane_costs cost, lane_costs least, const double *restrict y, double weight,
                                     const float *restrict table, int width)
{
    const int group_mask = (STATES >> width) - 1;
    for (int state = 0; state < STATES; state++) {
        const double *restrict before = least[state & group_mask], number = (double)table[state];
        double *restrict out = cost[state];
        for (int v = 0; v < LANES; v++) {
            const double error = y[v] - number;
            out[v] = before[v] + weight * (error * error);
        }
    }
}

static int lowest_of_least(lane_costs cost, int v)
{
    int state = 0;
    for (int s = 1; s < STATES; s++)
        if (cost[s][v] < cost[state][v]) state = s;
    return state;
}

void trellis_search(uint8_t *states, const double *y, const double *weights, const uint8_t *widths, int n,
                    const trellis_table *tables, void *work)
{
    search_memory *memory = work;
    memset(memory->least, 0, sizeof memory->least);
    for (int t = 0; t < n; t++) {
        if (t > 0) merge(memory->least, memory->from[t], memory->cost, widths[t]);
        add_errors(memory->cost, memory->least, y + (size_t)t * LANES, weights[t], tables[widths[t]], widths[t]);
    }
    for (int v = 0; v < LANES; v++) {
        int state = lowest_of_least(memory->cost, v);
        for (int t = n - 1; t >= 0; t--) {
            const int group = state & ((STATES >> widths[t]) - 1);
            states[(size_t)t * LANES + v] = (uint8_t)state;
            if (t > 0) state = group << widths[t] | memory->from[t][group][v];
        }
    }
}
