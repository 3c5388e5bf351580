/* The colours of heat maps of bits: those of the terminal. The report's are in export/report/report.css. */
#ifndef RB_EXPORT_HEAT_MAP_H
#define RB_EXPORT_HEAT_MAP_H

#include <stdbool.h>

#include "kernels/reference/plan_head.h"

/* A cell: light to dark blue with the bits, sand where nothing is stored. Text on it stays readable. */
typedef struct heat_colour {
    int terminal; /* of the 256-colour palette */
    bool is_dark;
} heat_colour;

/* The width that a block of a head with so many bits is shown as. Bits of both dims together count half, rounded up. */
int heat_map_width(const plan_head *head, int bits);
const heat_colour *heat_map_colour(const plan_head *head, int bits);

#endif
