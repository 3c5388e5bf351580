/* The colours of heat maps of bits, in the terminal and in the report. */
#ifndef RB_EXPORT_HEAT_MAP_H
#define RB_EXPORT_HEAT_MAP_H

#include <stdbool.h>

#include "kernels/reference/plan_head.h"

/* A cell: light to dark blue with the bits, sand where nothing is stored. Text on it stays readable. */
typedef struct heat_colour {
    const char *html;
    int terminal; /* of the 256-colour palette */
    bool is_dark;
} heat_colour;

/* The colour of a block of a head with so many bits. Bits of both dims together count half, rounded up. */
const heat_colour *heat_map_colour(const plan_head *head, int bits);

#endif
