/* A capture that can be continued: what a run has done lies in a folder beside its output, CAPTURE.h5.parts/, until the
 * capture is published.
 *
 *   lock               locked by the process that writes
 *   run.json           the identity of the run: everything that its bytes follow from
 *   NAME.000001.tmp    the capture itself as HDF5 writes it, which becomes the output by a rename
 *   layers.000001      its journal: where the frames of each layer are (calibrate/capture_journal.h)
 *   stream.0 stream.1  the residual stream after the last finished layer, and after the one before, in turns
 *
 * HDF5 cannot open a file whose writer was killed, but the frames are in it. A run that continues makes the next
 * generation of capture and journal (000002), copies the frames of the finished layers into it in the order in which
 * they were written, so that the bytes are those of a run that nothing stopped, and then removes the generation before.
 * The lowest generation is the valid one: it goes only when the next has all that it had. A run that was killed between
 * publishing and tidying up finds the frames in the output.
 *
 * Nothing here is synced to the disk. A process that dies, by whatever signal, leaves what it has written to the
 * operating system. Only a machine that goes down loses it, and of that no more than the last half minute or so: Linux
 * writes pages out by then. Checksums find what was lost, and the run goes back to the last layer that is whole, or
 * begins anew. Syncing the residual stream after each layer would cost more than the rest of this together. */
#ifndef RB_CALIBRATE_CAPTURE_PARTS_H
#define RB_CALIBRATE_CAPTURE_PARTS_H

#include "calibrate/capture_file.h"
#include "calibrate/capture_watch.h"

typedef struct capture_parts capture_parts;

typedef struct capture_parts_options {
    const char *output;
    const char *identity;         /* a JSON object of strings and objects; run.json */
    const capture_header *header; /* must outlive the parts */
    int hidden_size;              /* of the residual stream */
    /* The residual stream is not saved before ten times the time that saving took has gone by, so that a run whose
     * layers take as long as that is not slowed down much. Layers since then are computed again. */
    bool saves_sparingly;
} capture_parts_options;

/* Takes the folder, and finds out what is done. Parts of another run, and damaged ones, are removed with a message that
 * says what differs. On a file system without locks *out is NULL, with a warning. Fails with RB_EIO where the output
 * cannot be written there, or another run holds the folder. */
rb_status capture_parts_open(capture_parts **out, const capture_parts_options *options, rb_error *err);
int capture_parts_n_finished(const capture_parts *parts); /* layers; the pass begins at this one */

/* In place of capture_create: the writer, with the layers that are finished, and what the watch knows of them. */
rb_status capture_parts_create(capture_parts *parts, capture_writer **out, capture_watch *watch,
                               const int32_t *const tokens[CAPTURE_N_SETS], const char *options_json, rb_error *err);
/* What forward_hooks (model/forward.h) calls fill_stream: the residual stream after the finished layers. */
rb_status capture_parts_fill_stream(const capture_parts *parts, int64_t first, int64_t n, float *rows, rb_error *err);
/* The layer is written; stream [n_tokens][hidden_size], NULL after the last layer. Layers come in order. */
rb_status capture_parts_save(capture_parts *parts, capture_writer *writer, const capture_watch *watch, int layer,
                             const float *stream, rb_error *err);

/* capture_publish: after it the parts have had their use, whatever comes. */
rb_status capture_parts_publish(capture_parts *parts, capture_writer *writer, rb_error *err);

/* Frees, and ends the lock. st: how the run ended. RB_OK, or a published capture: the folder goes. Where the
 * machine said no (RB_EIO, RB_ENOMEM, RB_EDEVICE) and layers are finished it stays. Other failures come again, also
 * those that a limit of the process makes (ulimit -f, -v), so it goes. Files of others stay in any case, with a
 * warning. NULL is fine. */
void capture_parts_close(capture_parts *parts, rb_status st);

/* Disk that the residual stream takes at most while a run writes. */
int64_t capture_parts_stream_bytes(const capture_header *header, int hidden_size);

#endif
