/* Rotations and codebooks shared by all heads: see kernels/reference/codec_tables.h. A plan names few distinct ones (a
 * seed a width, a size a group), so a list is searched under a lock; entries never move once built. */
#include <pthread.h>
#include <stdlib.h>

#include "kernels/reference/codec_tables.h"

typedef struct rotation_entry {
    rotation_spec spec;
    double *matrix;
    struct rotation_entry *next;
} rotation_entry;

typedef struct codebook_entry {
    codebook book;
    struct codebook_entry *next;
} codebook_entry;

struct codec_tables {
    pthread_mutex_t lock;
    block_codebook *block_codebooks[BLOCK_CODEBOOK_MAX_POINT_BITS + 1];
    block_levels *levels[BLOCK_CODEBOOK_MAX_LEVEL_BITS + 1];
    rotation_entry *rotations;
    codebook_entry *codebooks;
};

rb_status codec_tables_create(codec_tables **out, rb_error *err)
{
    rb_status st = rb_alloc(out, 1, sizeof **out, "codec tables", err);
    if (st == RB_OK) pthread_mutex_init(&(*out)->lock, NULL);
    return st;
}

void codec_tables_free(codec_tables *tables)
{
    if (!tables) return;
    for (rotation_entry *entry = tables->rotations, *next; entry; entry = next) {
        next = entry->next;
        free(entry->matrix);
        free(entry);
    }
    for (codebook_entry *entry = tables->codebooks, *next; entry; entry = next) {
        next = entry->next;
        free(entry);
    }
    for (int bits = 0; bits <= BLOCK_CODEBOOK_MAX_POINT_BITS; bits++) free(tables->block_codebooks[bits]);
    for (int bits = 0; bits <= BLOCK_CODEBOOK_MAX_LEVEL_BITS; bits++) free(tables->levels[bits]);
    pthread_mutex_destroy(&tables->lock);
    free(tables);
}

static rb_status build_rotation(rotation_entry **out, const rotation_spec *spec, rb_error *err)
{
    const size_t m = (size_t)spec->dims, n = m * m;
    rotation_entry *entry = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&entry, 1, sizeof *entry, "rotation", err), done);
    entry->spec = *spec;
    RB_TRY(st, rb_alloc(&entry->matrix, 2 * n, sizeof *entry->matrix, "rotation", err), done);
    RB_TRY(st, rotation_build(entry->matrix, spec, err), done);
    for (size_t i = 0; i < n; i++) {
        entry->matrix[i] = (double)(float)entry->matrix[i];
        entry->matrix[n + i % m * m + i / m] = entry->matrix[i];
    }
    *out = entry;
    entry = NULL;
done:
    if (entry) free(entry->matrix);
    free(entry);
    return st;
}

rb_status codec_tables_rotation(codec_tables *tables, const rotation_spec *spec, const double **matrix, rb_error *err)
{
    rotation_entry *entry;
    rb_status st = RB_OK;
    pthread_mutex_lock(&tables->lock);
    for (entry = tables->rotations; entry; entry = entry->next)
        if (entry->spec.kind == spec->kind && entry->spec.seed == spec->seed && entry->spec.dims == spec->dims) break;
    if (!entry && (st = build_rotation(&entry, spec, err)) == RB_OK) {
        entry->next = tables->rotations;
        tables->rotations = entry;
    }
    pthread_mutex_unlock(&tables->lock);
    if (st == RB_OK) *matrix = entry->matrix;
    return st;
}

rb_status codec_tables_codebook(codec_tables *tables, codebook_kind kind, int width, int dims, const codebook **out,
                                rb_error *err)
{
    codebook_entry *entry;
    rb_status st = RB_OK;
    pthread_mutex_lock(&tables->lock);
    for (entry = tables->codebooks; entry; entry = entry->next)
        if (entry->book.kind == kind && entry->book.width == width && entry->book.dims == dims) break;
    if (!entry && (st = rb_alloc(&entry, 1, sizeof *entry, "codebook", err)) == RB_OK) {
        st = codebook_build(&entry->book, kind, width, dims, err);
        if (st == RB_OK) {
            entry->next = tables->codebooks;
            tables->codebooks = entry;
        } else {
            free(entry);
        }
    }
    pthread_mutex_unlock(&tables->lock);
    if (st == RB_OK) *out = &entry->book;
    return st;
}

rb_status codec_tables_block_codebook(codec_tables *tables, int bits, const block_codebook **out, rb_error *err)
{
    block_codebook *book = NULL;
    rb_status st = RB_OK;
    if (bits < 0 || bits > BLOCK_CODEBOOK_MAX_POINT_BITS)
        return rb_fail(err, RB_EINVAL, "a block's points have %d bits, expected 0 to %d", bits,
                       BLOCK_CODEBOOK_MAX_POINT_BITS);
    pthread_mutex_lock(&tables->lock);
    if (!tables->block_codebooks[bits]) {
        RB_TRY(st, rb_alloc(&book, 1, sizeof *book, "codebook", err), done);
        RB_TRY(st, block_codebook_build(book, bits, err), done);
        tables->block_codebooks[bits] = book;
        book = NULL;
    }
    *out = tables->block_codebooks[bits];
done:
    free(book);
    pthread_mutex_unlock(&tables->lock);
    return st;
}

rb_status codec_tables_block_levels(codec_tables *tables, int bits, const block_levels **out, rb_error *err)
{
    block_levels *levels = NULL;
    rb_status st = RB_OK;
    if (bits < 1 || bits > BLOCK_CODEBOOK_MAX_LEVEL_BITS)
        return rb_fail(err, RB_EINVAL, "levels have %d bits, expected 1 to %d", bits, BLOCK_CODEBOOK_MAX_LEVEL_BITS);
    pthread_mutex_lock(&tables->lock);
    if (!tables->levels[bits]) {
        RB_TRY(st, rb_alloc(&levels, 1, sizeof *levels, "levels", err), done);
        RB_TRY(st, block_levels_build(levels, bits, err), done);
        tables->levels[bits] = levels;
        levels = NULL;
    }
    *out = tables->levels[bits];
done:
    free(levels);
    pthread_mutex_unlock(&tables->lock);
    return st;
}
