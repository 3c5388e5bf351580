/* See export/heat_map.h. */
#include "export/heat_map.h"

#include <assert.h>

int heat_map_width(const plan_head *head, int bits)
{
    return plan_head_bits_are_of_block(head) ? (bits + 1) / 2 : bits;
}

const heat_colour *heat_map_colour(const plan_head *head, int bits)
{
    static const heat_colour by_width[PLAN_MAX_WIDTH + 1] = {
        {223, false}, {195, false}, {153, false}, {117, false}, {75, false},
        {33, true},   {27, true},   {20, true},   {17, true},
    };
    const int width = heat_map_width(head, bits);
    assert(width >= 0 && width <= PLAN_MAX_WIDTH);
    return &by_width[width];
}
