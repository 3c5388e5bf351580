/* See attend_units.h. */
#include "cache/cuda/attend_units.h"

#include <stdlib.h>
#include <string.h>

#include "core/half.h"

enum { WINDOW_BITS = 32 };

static uint32_t low_bits(int n) { return (1u << n) - 1u; }

/* ---- pairs ----------------------------------------------------------------------------------- */

static void set_wide(attend_unit *unit, int i, const attend_pair *pair)
{
    const bool is_point = pair->first_bits == 0;
    const int second = is_point ? pair->bits : pair->bits - pair->first_bits;
    unit->at[i] = (int16_t)pair->at;
    unit->first_bits[i] = (uint8_t)pair->first_bits;
    unit->mask[i] = low_bits(is_point ? pair->bits : pair->first_bits) | low_bits(second) << 16;
    unit->table[i] = (uint32_t)pair->table | (uint32_t)pair->second_table << 16;
}

void attend_unit_of_pairs(attend_unit *unit, const attend_pair *pairs, int n, bool is_wide)
{
    int bits = 0, first = 0;
    memset(unit, 0, sizeof *unit);
    if (n == 0) return;
    for (int i = 0; i < n; i++) bits += pairs[i].bits;
    const bool is_split = n > 2 && bits > WINDOW_BITS - ATTEND_PAIR_SHIFT;
    for (int i = 0; i < 4; i++) {
        const attend_pair *pair = &pairs[i < n ? i : n - 1];
        if (is_wide) {
            if (i < n) set_wide(unit, i, pair);
            continue;
        }
        if (i == 0 || (i == 2 && is_split)) first = pair->at;
        unit->at[i] = (int16_t)(pair->at - ATTEND_PAIR_SHIFT);
        unit->shift[i] = (uint8_t)(pair->at - first);
        if (i >= n) continue;
        unit->mask[i] = low_bits(pair->bits) << ATTEND_PAIR_SHIFT;
        unit->table[i] = (uint32_t)pair->table;
    }
    if (!is_wide) unit->shift[0] = is_split;
}

void attend_units_agree(attend_unit *units, int n)
{
    bool is_split = false;
    for (int i = 0; i < n; i++) is_split |= units[i].shift[0] != 0;
    for (int i = 0; is_split && i < n; i++) {
        if (units[i].shift[0] != 0) continue;
        units[i].shift[0] = 1;
        units[i].shift[3] = (uint8_t)(units[i].shift[3] - units[i].shift[2]);
        units[i].shift[2] = 0;
    }
}

/* ---- trellis --------------------------------------------------------------------------------- */

int32_t attend_plane_widths(const plan_trellis *plan, int *n_planes)
{
    int32_t widths = 0;
    int n = 0;
    for (int width = 1; width <= TRELLIS_MAX_WIDTH; width++) {
        bool is_used = false;
        for (int i = 0; i < plan->n_dims; i++) is_used |= plan->widths[i] == width;
        if (!is_used) continue;
        widths = (int32_t)((uint32_t)widths | (uint32_t)width << 4 * n);
        n++;
    }
    *n_planes = (n + 1) / 2;
    return widths;
}

static uint32_t place_of_width(int width, int32_t plane_widths)
{
    int n = 0;
    while (((uint32_t)plane_widths >> 4 * n & 15u) != (uint32_t)width) n++;
    return (uint32_t)(n / 2 * ATTEND_PLANE_BYTES + n % 2 * 2);
}

/* The window of coordinate i is the 8 bits that end with its own. */
void attend_unit_of_quad(attend_unit *unit, const plan_trellis *plan, const int *starts, int quad, int32_t plane_widths)
{
    int window[4], last = 0;
    memset(unit, 0, sizeof *unit);
    for (int i = 0; i < 4; i++) {
        const int coordinate = 4 * quad + i;
        const bool is_coded = coordinate < plan->n_dims && plan->widths[coordinate] > 0;
        window[i] = is_coded ? starts[coordinate] + plan->widths[coordinate] - TRELLIS_STATE_BITS : last;
        last = window[i];
        if (!is_coded) continue;
        unit->mask[i] = low_bits(TRELLIS_STATE_BITS) << ATTEND_TRELLIS_SHIFT;
        unit->table[i] = place_of_width(plan->widths[coordinate], plane_widths);
    }
    const int most = WINDOW_BITS - ATTEND_TRELLIS_SHIFT - TRELLIS_STATE_BITS;
    const bool is_split = window[3] - window[0] > most;
    for (int i = 0; i < 4; i++) {
        unit->at[i] = (int16_t)(window[i] - ATTEND_TRELLIS_SHIFT);
        unit->shift[i] = (uint8_t)(window[i] - window[is_split && i >= 2 ? 2 : 0]);
    }
    unit->shift[0] = is_split;
}

/* ---- books ----------------------------------------------------------------------------------- */

/* Places for n halves more, from a multiple of `to` on. */
static rb_status grow(attend_book *book, int n, int to, int *at, rb_error *err)
{
    const int first = (book->n_halves + to - 1) / to * to, size = (first + n + 1) / 2 * 2;
    uint16_t *halves = NULL;
    const rb_status st = rb_alloc(&halves, (size_t)size, sizeof *halves, "attention tables", err);
    if (st != RB_OK) return st;
    if (book->n_halves > 0) memcpy(halves, book->halves, (size_t)book->n_halves * sizeof *halves);
    free(book->halves);
    *book = (attend_book){halves, size};
    *at = first;
    return RB_OK;
}

/* Points of b bits: words from word 2^b on. A wide book has x from half 2^b on, and y further on by as many halves as
 * all points have, then levels: those of b bits from half 2^b on. */
enum { POINT_HALVES = 2 * BLOCK_CODEBOOK_MAX_POINTS, LEVELS_AT = 2 * POINT_HALVES };

static int most_point_bits(const plan_head *head, int n_blocks)
{
    int most = 1;
    for (int i = 0; i < n_blocks; i++) {
        const int bits = head->block_codebook.bits[i];
        if (!block_codebook_has_levels(bits) && bits > most) most = bits;
    }
    return most;
}

static rb_status add_levels(attend_book *book, codec_tables *tables, rb_error *err)
{
    rb_status st = RB_OK;
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_LEVEL_BITS; bits++) {
        const block_levels *levels;
        RB_TRY(st, codec_tables_block_levels(tables, bits, &levels, err), done);
        for (int i = 0; i < levels->size; i++)
            book->halves[LEVELS_AT + levels->size + i] = rb_f32_to_f16(levels->level[i]);
    }
done:
    return st;
}

rb_status attend_book_of_blocks(attend_book *book, const plan_head *head, int n_blocks, bool is_wide,
                                codec_tables *tables, rb_error *err)
{
    const int most = most_point_bits(head, n_blocks);
    int at;
    rb_status st;
    const int n = is_wide ? LEVELS_AT + 2 * BLOCK_CODEBOOK_MAX_LEVELS : 4 << most;
    RB_TRY(st, grow(book, n, 1, &at, err), done);
    for (int bits = 1; bits <= most; bits++) {
        const block_codebook *points;
        RB_TRY(st, codec_tables_block_codebook(tables, bits, &points, err), done);
        for (int i = 0; i < points->size; i++) {
            const int x = is_wide ? points->size + i : 2 * (points->size + i);
            book->halves[x] = rb_f32_to_f16(points->x[i]);
            book->halves[x + (is_wide ? POINT_HALVES : 1)] = rb_f32_to_f16(points->y[i]);
        }
    }
    if (is_wide) st = add_levels(book, tables, err);
done:
    return st;
}

attend_pair attend_pair_of_block(const plan_head *head, int block, int at, bool is_wide)
{
    const int bits = head->block_codebook.bits[block];
    attend_pair pair = {.at = at, .bits = bits};
    if (bits == 0) return pair;
    if (!is_wide) {
        pair.table = 4 << bits;
    } else if (block_codebook_has_levels(bits)) {
        const float *map = head->block_codebook.maps + (size_t)block * BLOCK_CODEBOOK_MAP_SIZE;
        pair.first_bits = block_codebook_first_bits(map, bits);
        pair.table = 2 * (LEVELS_AT + (1 << pair.first_bits));
        pair.second_table = 2 * (LEVELS_AT + (1 << (bits - pair.first_bits)));
    } else {
        pair.table = 2 << bits;
        pair.second_table = 2 * POINT_HALVES + (2 << bits);
    }
    return pair;
}

rb_status attend_book_add(attend_book *book, const codebook *from, bool is_wide, int *table, rb_error *err)
{
    const int n = from->size, size = is_wide ? n : 2 * n * n;
    int at;
    rb_status st = RB_OK;
    /* The first word is nothing: that of pairs without bits. */
    if (book->n_halves == 0) RB_TRY(st, grow(book, 2, 1, &at, err), done);
    RB_TRY(st, grow(book, size, size, &at, err), done);
    for (int i = 0; i < (is_wide ? n : n * n); i++) {
        const uint16_t first = rb_f32_to_f16(from->centroid_f32[i % n]);
        if (is_wide) {
            book->halves[at + i] = first;
        } else {
            book->halves[at + 2 * i] = first;
            book->halves[at + 2 * i + 1] = rb_f32_to_f16(from->centroid_f32[i / n]);
        }
    }
    *table = 2 * at;
done:
    return st;
}
