/* The journal of a capture that is being written: which layers it has, and where their frames lie, so that a run that
 * was killed is continued (calibrate/capture_parts.h).
 *
 * A record is a header (kind, layer, size), its content and a checksum of both. Records are only appended, each by one
 * write, so a killed writer leaves whole records and at most one torn one at the end; what follows a record that is not
 * whole is not read. Numbers are as the machine has them: the file does not travel.
 *
 *   layer    after its frames: where they are, their checksums, what the capture has of it beside them
 *   mark     after the residual stream: a run can continue after the layers so far */
#ifndef RB_CALIBRATE_CAPTURE_JOURNAL_H
#define RB_CALIBRATE_CAPTURE_JOURNAL_H

#include "calibrate/capture_file.h"
#include "calibrate/capture_watch.h"
typedef struct journal_layer {
    double residual_energy;
    watched_layer watched;
    rb_h5_frame *frames; /* [n_frames], owned */
} journal_layer;

typedef struct journal_mark {
    int n_layers;           /* finished */
    int slot;               /* which of the two files has the residual stream after them; -1: none is needed */
    rb_checksum *checksums; /* [n_tiles] of that file, owned; not looked at without a slot */
} journal_mark;

/* Two places for the residual stream take turns, so only the last two marks can be continued from. */
enum { JOURNAL_MARKS = 2 };
typedef struct capture_journal {
    int n_layers, n_frames, n_tiles;   /* of the run; of a layer; of the residual stream */
    int n_known;                       /* layers that are known */
    journal_layer *layers;             /* [n_layers] */
    journal_mark marks[JOURNAL_MARKS]; /* the newest first; n_layers 0: no such mark */
} capture_journal;

rb_status journal_create(capture_journal *journal, int n_layers, int64_t n_frames, int64_t n_tiles, rb_error *err);
void journal_free(capture_journal *journal);

/* What is whole of the file; nothing where it is missing. */
rb_status journal_read(capture_journal *journal, const char *path, rb_error *err);
/* A record of journal->layers[layer]; of a mark. `path` is for messages. */
rb_status journal_append_layer(int fd, const capture_journal *journal, int layer, const char *path, rb_error *err);
rb_status journal_append_mark(int fd, const capture_journal *journal, const journal_mark *mark, const char *path,
                              rb_error *err);

#endif
