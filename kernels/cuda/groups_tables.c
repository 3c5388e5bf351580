/* See kernels/cuda/groups_tables.h. */
#include "kernels/cuda/groups_tables.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "core/half.h"
#include "kernels/cuda/groups_fragments.h"
#include "kernels/reference/encoder_stretches.h"

size_t groups_tables_book_room(int width) { return 5 * ((size_t)1 << width) / 2 + 1; }

size_t groups_tables_halves_room(int width) { return (size_t)1 << (width <= GROUPS_PAIR_WIDTH ? 2 * width : width); }

/* ---- centroids ------------------------------------------------------------------------------- */

static void add_halves(groups_image *image, const codebook *book)
{
    uint16_t half[CODEBOOK_MAX_SIZE];
    uint32_t *out = image->halves + image->n_halves;
    for (int i = 0; i < book->size; i++) half[i] = rb_f32_to_f16(book->centroid_f32[i] * (float)GROUPS_CENTROID_SCALE);
    if (book->width > GROUPS_PAIR_WIDTH)
        for (int i = 0; i < book->size; i++) out[i] = half[i];
    else
        for (int i = 0; i < book->size * book->size; i++)
            out[i] = groups_pack_halves(half[i % book->size], half[i / book->size]);
    image->n_halves += groups_tables_halves_room(book->width);
}

static float edge_of(double boundary) { return -(float)boundary * GROUPS_STEEP; }

static void add_boundaries_and_centroids(groups_image *image, const codebook *book)
{
    const int half = book->size / 2;
    float *out = image->books + image->n_books;
    for (int j = 0; j < half; j++) out[j] = j < half - 1 ? edge_of(book->boundary[half + j]) : -INFINITY;
    memcpy(out + half, book->centroid_f32, (size_t)book->size * sizeof *out);
    image->n_books += (size_t)(half + book->size);
}

/* ---- cells ----------------------------------------------------------------------------------- */

static double cell_width(int log2_cells)
{
    return 1.0 / ((double)GROUPS_CELL_RANGE * (ldexp(1.0, log2_cells - 1) - 1.0));
}

static bool cells_hold_one_boundary(const codebook *book, int log2_cells)
{
    for (int i = 0; i + 1 < book->size - 1; i++)
        if (book->boundary[i + 1] - book->boundary[i] <= 1.01 * cell_width(log2_cells)) return false;
    return true;
}

/* The number of boundaries below the cell's lower edge, and the boundary in it, if any. */
static groups_image_cell make_cell(const codebook *book, int cell, int log2_cells)
{
    const double width = cell_width(log2_cells), lower = (cell - ldexp(1.0, log2_cells - 1) - 0.5) * width;
    int code = 0;
    while (code < book->size - 1 && book->boundary[code] < lower) code++;
    const bool has_boundary = code < book->size - 1 && book->boundary[code] < lower + width;
    return (groups_image_cell){has_boundary ? edge_of(book->boundary[code]) : -INFINITY, (float)code};
}

/* How many cells the codebook needs, as a logarithm; 0: it gets none. */
static int find_log2_cells(const groups_image *image, const codebook *book)
{
    int log2_cells = book->width + 1;
    while (log2_cells <= GROUPS_MAX_LOG2_CELLS && !cells_hold_one_boundary(book, log2_cells)) log2_cells++;
    /* A unit vector's coordinates end at 1, stretched ones do not: then no boundary may lie after the cells. */
    const bool is_left_out = !image->is_published && book->boundary[book->size - 2] >= 1.0;
    return book->width < GROUPS_CELL_WIDTH || log2_cells > GROUPS_MAX_LOG2_CELLS || is_left_out ? 0 : log2_cells;
}

static void add_cells(groups_image *image, groups_image_group *at, const codebook *book)
{
    at->log2_cells = find_log2_cells(image, book);
    at->cells = (int)image->n_cells;
    for (int i = 0; at->log2_cells > 0 && i < 1 << at->log2_cells; i++)
        image->cells[image->n_cells++] = make_cell(book, i, at->log2_cells);
}

/* ---- levels for a search --------------------------------------------------------------------- */

/* Boundaries from `low` on that a coordinate can cross when it is stretched by this, rounding included. */
static int count_crossed(const codebook *book, int low, double stretch)
{
    int high = low;
    while (high < book->size - 1 && book->boundary[high] <= book->boundary[low] * (stretch + 1e-6)) high++;
    return high - low;
}

static int most_crossed(const codebook *book)
{
    static const double stretches[] = {ENCODER_STRETCHES_DOWN, 1.0, ENCODER_STRETCHES_UP};
    int most = 0;
    for (size_t s = 0; s + 1 < sizeof stretches / sizeof *stretches; s++)
        for (int low = book->size / 2; low < book->size - 1; low++) {
            const int n = count_crossed(book, low, stretches[s + 1] / stretches[s]);
            if (n > most) most = n;
        }
    return most;
}

/* Levels of coordinates above 0. */
static void add_walk(groups_image *image, groups_image_group *at, const codebook *book)
{
    const int half = book->size / 2;
    image->n_books += image->n_books % 2; /* pairs are read at once */
    at->walk = (int)image->n_books;
    for (int j = 0; j < half; j++) {
        image->books[image->n_books++] = j < half - 1 ? (float)book->boundary[half + j] : INFINITY;
        image->books[image->n_books++] = book->centroid_f32[half + j];
    }
    at->n_crossed = most_crossed(book);
}

/* ---- all ------------------------------------------------------------------------------------- */

void groups_tables_add(groups_image *image, groups_image_group *at, const codebook *book)
{
    at->book = (int)image->n_books;
    at->halves = (int)image->n_halves;
    add_cells(image, at, book);
    add_boundaries_and_centroids(image, book);
    if (!image->is_published) add_walk(image, at, book);
    add_halves(image, book);
}
