/* A heat map as a picture: a row a layer, a column a block, a coordinate or a head. Cells of one colour that lie side
 * by side are one stroke, so a map of a large model stays small. Colours are classes of report.css, PREFIX and the
 * level: they change with the scheme. */
#ifndef RB_EXPORT_REPORT_MAP_PICTURE_H
#define RB_EXPORT_REPORT_MAP_PICTURE_H

#include <stdint.h>

#include "export/report/page.h"

enum { MAP_NOTHING = 255, MAP_ROW_TITLE_SIZE = 4096 };

typedef struct map_picture {
    int n_rows, n_columns, n_levels;
    const uint8_t *levels;           /* [n_rows][n_columns], below n_levels or MAP_NOTHING */
    const char *prefix;              /* "b": classes b0, b1, .. */
    const char *title, *column_name; /* "Bits of KV head 0", "block" */
    /* What is shown where a mouse rests on a row. */
    void (*row_title)(char out[MAP_ROW_TITLE_SIZE], const void *user, int row);
    const void *user;
} map_picture;

void map_picture_write(page *p, const map_picture *map);

#endif
