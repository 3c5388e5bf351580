/* See map_picture.h. */
#include "export/report/map_picture.h"

#include <math.h>

enum { HEIGHT = 320, LEAST_ROW = 3, MOST_ROW = 18 }; /* pixels */

static int end_of_run(const uint8_t *row, int column, int n_columns)
{
    const int level = row[column];
    while (column < n_columns && row[column] == level) column++;
    return column;
}

static void write_level(const page *p, const map_picture *map, int level)
{
    int n = 0;
    for (int row = 0; row < map->n_rows; row++) {
        const uint8_t *levels = &map->levels[(int64_t)row * map->n_columns];
        for (int column = 0, end; column < map->n_columns; column = end) {
            end = end_of_run(levels, column, map->n_columns);
            if (levels[column] != level) continue;
            if (n++ == 0) page_html(p, "<path class=\"%s%d\" d=\"", map->prefix, level);
            page_html(p, "M%d %dh%d", column, row, end - column);
        }
    }
    if (n > 0) page_html(p, "\"/>\n");
}

static void write_row_titles(const page *p, const map_picture *map)
{
    char title[MAP_ROW_TITLE_SIZE];
    for (int row = 0; row < map->n_rows; row++) {
        map->row_title(title, map->user, row);
        page_html(p, "<rect y=\"%d\" width=\"%d\" height=\"1\"><title>", row, map->n_columns);
        page_text(p, title);
        page_html(p, "</title></rect>\n");
    }
}

void map_picture_write(page *p, const map_picture *map)
{
    const double row_height = fmin(fmax((double)HEIGHT / map->n_rows, LEAST_ROW), MOST_ROW);
    char attributes[160];
    snprintf(attributes, sizeof attributes,
             "class=\"map\" height=\"%.0f\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\"",
             row_height * map->n_rows, map->n_columns, map->n_rows);
    page_html(p, "<div class=\"mapped\"><div class=\"rows\"><span>0</span><span>%d</span></div>", map->n_rows - 1);
    page_picture_begin(p, attributes, map->title, "A row a layer, the first one on top.");
    page_html(p, "<g transform=\"translate(0 .5)\">\n");
    for (int level = 0; level < map->n_levels; level++) write_level(p, map, level);
    page_html(p, "</g>\n<g class=\"rest\">\n");
    write_row_titles(p, map);
    page_html(p, "</g>\n");
    page_picture_end(p);
    page_html(p, "<div class=\"columns\"><span>0</span><span>%s</span><span>%d</span></div></div>\n", map->column_name,
              map->n_columns - 1);
}
