/* See calibrate/capture_journal.h. */
#include "calibrate/capture_journal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/atomic_file.h"

typedef enum record_kind { RECORD_LAYER = 0x5259414c, RECORD_MARK = 0x4b52414d } record_kind; /* "LAYR", "MARK" */

typedef struct record_header {
    uint32_t kind;
    int32_t layer; /* a mark: of the layers that are finished, the last */
    int64_t size_bytes;
} record_header;

/* What a record has before its arrays. */
typedef struct layer_content {
    double residual_energy;
    watched_layer watched;
} layer_content;
typedef struct mark_content {
    int64_t slot;
} mark_content;

rb_status journal_create(capture_journal *journal, int n_layers, int64_t n_frames, int64_t n_tiles, rb_error *err)
{
    rb_status st;
    *journal = (capture_journal){.n_layers = n_layers, .n_frames = (int)n_frames, .n_tiles = (int)n_tiles};
    RB_TRY(st, rb_alloc(&journal->layers, (size_t)n_layers, sizeof *journal->layers, "finished layers", err), done);
    for (int i = 0; i < n_layers; i++) {
        journal_layer *layer = &journal->layers[i];
        RB_TRY(st, rb_alloc(&layer->frames, (size_t)n_frames, sizeof *layer->frames, "finished layers", err), done);
    }
    for (int i = 0; i < JOURNAL_MARKS; i++)
        RB_TRY(st,
               rb_alloc(&journal->marks[i].checksums, (size_t)n_tiles, sizeof *journal->marks[i].checksums,
                        "finished layers", err),
               done);
done:
    if (st != RB_OK) journal_free(journal);
    return st;
}

void journal_free(capture_journal *journal)
{
    for (int i = 0; journal->layers && i < journal->n_layers; i++) free(journal->layers[i].frames);
    free(journal->layers);
    for (int i = 0; i < JOURNAL_MARKS; i++) free(journal->marks[i].checksums);
    *journal = (capture_journal){0};
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static size_t frames_bytes(const capture_journal *j) { return (size_t)j->n_frames * sizeof(rb_h5_frame); }
static size_t checksums_bytes(int n) { return (size_t)n * sizeof(rb_checksum); }

static size_t content_bytes(const capture_journal *j, uint32_t kind)
{
    return kind == RECORD_LAYER ? sizeof(layer_content) + frames_bytes(j)
                                : sizeof(mark_content) + checksums_bytes(j->n_tiles);
}

static size_t record_bytes(const capture_journal *j, uint32_t kind)
{
    return sizeof(record_header) + content_bytes(j, kind) + sizeof(rb_checksum);
}

/* ---- writing --------------------------------------------------------------------------------- */

static char *put(char *at, const void *bytes, size_t size_bytes)
{
    memcpy(at, bytes, size_bytes);
    return at + size_bytes;
}

/* parts: what the content consists of, n of them. */
typedef struct record_part {
    const void *bytes;
    size_t size_bytes;
} record_part;

static rb_status append(int fd, const capture_journal *j, record_kind kind, int layer, const record_part *parts, int n,
                        const char *path, rb_error *err)
{
    const size_t size = record_bytes(j, kind);
    const record_header header = {.kind = kind, .layer = layer, .size_bytes = (int64_t)content_bytes(j, kind)};
    rb_checksum checksum;
    char *record = NULL, *end;
    rb_status st;
    RB_TRY(st, rb_alloc(&record, size, 1, "a record of the journal", err), done);
    end = put(record, &header, sizeof header);
    for (int i = 0; i < n; i++) end = put(end, parts[i].bytes, parts[i].size_bytes);
    RB_TRY(st, rb_checksum_bytes(&checksum, record, (size_t)(end - record), err), done);
    put(end, &checksum, sizeof checksum);
    st = rb_write_all(fd, record, size, path, err);
done:
    free(record);
    return st;
}

rb_status journal_append_layer(int fd, const capture_journal *journal, int layer, const char *path, rb_error *err)
{
    const journal_layer *at = &journal->layers[layer];
    const layer_content content = {.residual_energy = at->residual_energy, .watched = at->watched};
    const record_part parts[] = {{&content, sizeof content}, {at->frames, frames_bytes(journal)}};
    return append(fd, journal, RECORD_LAYER, layer, parts, (int)RB_COUNT(parts), path, err);
}

rb_status journal_append_mark(int fd, const capture_journal *journal, const journal_mark *mark, const char *path,
                              rb_error *err)
{
    const mark_content content = {.slot = mark->slot};
    const record_part parts[] = {{&content, sizeof content}, {mark->checksums, checksums_bytes(journal->n_tiles)}};
    return append(fd, journal, RECORD_MARK, mark->n_layers - 1, parts, (int)RB_COUNT(parts), path, err);
}

/* ---- reading --------------------------------------------------------------------------------- */

static const char *get(void *out, const char *at, size_t size_bytes)
{
    memcpy(out, at, size_bytes);
    return at + size_bytes;
}

static void take_layer(capture_journal *j, const char *at)
{
    journal_layer *layer = &j->layers[j->n_known++];
    layer_content content;
    at = get(&content, at, sizeof content);
    layer->residual_energy = content.residual_energy;
    layer->watched = content.watched;
    get(layer->frames, at, frames_bytes(j));
}

static void take_mark(capture_journal *j, const char *at)
{
    const journal_mark oldest = j->marks[JOURNAL_MARKS - 1];
    mark_content content;
    for (int i = JOURNAL_MARKS - 1; i > 0; i--) j->marks[i] = j->marks[i - 1];
    at = get(&content, at, sizeof content);
    j->marks[0] = (journal_mark){.n_layers = j->n_known, .slot = (int)content.slot, .checksums = oldest.checksums};
    get(j->marks[0].checksums, at, checksums_bytes(j->n_tiles));
}

/* The kind of a whole record that may follow what is known; 0: there is none. */
static uint32_t next_kind(const capture_journal *j, const char *at, size_t left)
{
    record_header header;
    rb_checksum found, checksum;
    if (left < sizeof header) return 0;
    get(&header, at, sizeof header);
    const bool is_layer = header.kind == RECORD_LAYER && header.layer == j->n_known && j->n_known < j->n_layers,
               is_mark = header.kind == RECORD_MARK && header.layer == j->n_known - 1 && j->n_known > 0;
    if (!is_layer && !is_mark) return 0;
    const size_t size = record_bytes(j, header.kind), covered = size - sizeof checksum;
    if (left < size || header.size_bytes != (int64_t)content_bytes(j, header.kind)) return 0;
    get(&checksum, at + covered, sizeof checksum);
    if (rb_checksum_bytes(&found, at, covered, NULL) != RB_OK || memcmp(&found, &checksum, sizeof checksum) != 0)
        return 0;
    return header.kind;
}

rb_status journal_read(capture_journal *journal, const char *path, rb_error *err)
{
    const size_t most =
        (size_t)journal->n_layers * (record_bytes(journal, RECORD_LAYER) + record_bytes(journal, RECORD_MARK));
    struct stat info;
    char *text = NULL;
    size_t size = 0, at = 0;
    uint32_t kind;
    journal->n_known = 0;
    for (int i = 0; i < JOURNAL_MARKS; i++) journal->marks[i].n_layers = 0;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) || (size_t)info.st_size > most) return RB_OK;
    const rb_status st = rb_read_file(&text, &size, path, most, err);
    if (st != RB_OK) return st;
    while ((kind = next_kind(journal, text + at, size - at)) != 0) {
        if (kind == RECORD_LAYER) take_layer(journal, text + at + sizeof(record_header));
        else take_mark(journal, text + at + sizeof(record_header));
        at += record_bytes(journal, kind);
    }
    free(text);
    return RB_OK;
}
