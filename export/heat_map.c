/* See export/heat_map.h. */
#include "export/heat_map.h"

#include <assert.h>

const heat_colour *heat_map_colour(const plan_head *head, int bits)
{
    static const heat_colour by_width[PLAN_MAX_WIDTH + 1] = {
        {"#f2dfbb", 223, false}, {"#eff3ff", 195, false}, {"#d2e3f3", 153, false},
        {"#aacfe5", 117, false}, {"#75b3d8", 75, false},  {"#4691c6", 33, true},
        {"#236fb1", 27, true},   {"#0b4d94", 20, true},   {"#08306b", 17, true},
    };
    const int width = plan_head_bits_are_of_block(head) ? (bits + 1) / 2 : bits;
    assert(width >= 0 && width <= PLAN_MAX_WIDTH);
    return &by_width[width];
}
