/* See calibrate/capture_parts.h. */
#include "calibrate/capture_parts.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "calibrate/capture_journal.h"
#include "calibrate/parts_folder.h"
#include "core/atomic_file.h"
#include "core/json.h"
#include "core/message.h"
#include "core/threads.h"

enum {
    TILE_BYTES = 1 << 20, /* of the residual stream: what a thread writes and checksums at a time */
    SPARING = 10
};

struct capture_parts {
    capture_parts_options options;
    parts_folder folder;
    int64_t stream_bytes, max_frame_bytes;
    capture_journal journal; /* what is finished, with the places in the capture that is written */
    int n_finished;
    int slot;                  /* of the residual stream that is valid; -1: none is */
    int stream[PARTS_N_SLOTS]; /* descriptors */
    int found;                 /* descriptor of what the run before left of the capture; -1: nothing */
    char *found_path;
    int generation; /* that is written */
    bool is_published;
    bool is_valid; /* it has all that the generation before had */
    char *capture_path, *journal_path;
    int capture, log;       /* descriptors of both: the capture is read, the journal appended to */
    double saved_s, cost_s; /* when the residual stream was saved, and how long that took */
};

/* ---- reading and writing --------------------------------------------------------------------- */

static rb_status read_at(int fd, const char *path, void *bytes, int64_t size_bytes, int64_t offset, rb_error *err)
{
    for (int64_t done = 0; done < size_bytes;) {
        const ssize_t n = pread(fd, (char *)bytes + done, (size_t)(size_bytes - done), offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return rb_fail(err, RB_EIO, "%s: read failed: %s", path, n < 0 ? strerror(errno) : "it is cut off");
        done += n;
    }
    return RB_OK;
}

static rb_status write_at(int fd, const char *path, const char *bytes, int64_t size_bytes, int64_t offset,
                          rb_error *err)
{
    for (int64_t done = 0; done < size_bytes;) {
        const ssize_t n = pwrite(fd, bytes + done, (size_t)(size_bytes - done), offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return rb_fail(err, RB_EIO, "%s: write failed: %s", path, strerror(errno));
        done += n;
    }
    return RB_OK;
}

/* The checksum of a piece of a file. */
static rb_status checksum_at(rb_checksum *checksum, int fd, const char *path, int64_t size_bytes, int64_t offset,
                             rb_error *err)
{
    char *bytes = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&bytes, (size_t)size_bytes, 1, "a piece of a capture", err), done);
    RB_TRY(st, read_at(fd, path, bytes, size_bytes, offset, err), done);
    st = rb_checksum_bytes(checksum, bytes, (size_t)size_bytes, err);
done:
    free(bytes);
    return st;
}

/* ---- the residual stream --------------------------------------------------------------------- */

int64_t capture_parts_stream_bytes(const capture_header *header, int hidden_size)
{
    int64_t n_tokens = 0;
    for (int set = 0; set < CAPTURE_N_SETS; set++) n_tokens += header->text[set].n_tokens;
    return PARTS_N_SLOTS * n_tokens * hidden_size * (int64_t)sizeof(float);
}

static int64_t tile_bytes(const capture_parts *parts, int64_t tile)
{
    const int64_t left = parts->stream_bytes - tile * TILE_BYTES;
    return left < TILE_BYTES ? left : TILE_BYTES;
}

static rb_status open_stream(capture_parts *parts, int slot, rb_error *err)
{
    char *path = NULL;
    rb_status st = RB_OK;
    if (parts->stream[slot] >= 0) return RB_OK;
    RB_TRY(st, parts_stream_path(&path, &parts->folder, slot, err), done);
    parts->stream[slot] = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (parts->stream[slot] < 0) st = rb_fail(err, RB_EIO, "%s: %s", path, strerror(errno));
done:
    free(path);
    return st;
}

static rb_status write_stream(const capture_parts *parts, int slot, const float *stream, rb_checksum *checksums,
                              rb_error *err)
{
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic)
    for (int tile = 0; tile < parts->journal.n_tiles; tile++) {
        const int64_t offset = (int64_t)tile * TILE_BYTES, size = tile_bytes(parts, tile);
        const char *bytes = (const char *)stream + offset;
        rb_error mine = {0};
        rb_status st = write_at(parts->stream[slot], parts->folder.path, bytes, size, offset, &mine);
        if (st == RB_OK) st = rb_checksum_bytes(&checksums[tile], bytes, (size_t)size, &mine);
        rb_note_failure(&failure, tile, st, &mine);
    }
    return rb_tell_failure(&failure, err);
}

/* Whether a mark's residual stream is as it was written. */
static bool stream_is_whole(capture_parts *parts, const journal_mark *mark)
{
    int n_bad = 0;
    if (mark->slot < 0 || mark->slot >= PARTS_N_SLOTS || open_stream(parts, mark->slot, NULL) != RB_OK) return false;
#pragma omp parallel for schedule(dynamic) reduction(+ : n_bad)
    for (int tile = 0; tile < parts->journal.n_tiles; tile++) {
        rb_checksum checksum;
        const rb_status st = checksum_at(&checksum, parts->stream[mark->slot], "", tile_bytes(parts, tile),
                                         (int64_t)tile * TILE_BYTES, NULL);
        n_bad += st != RB_OK || memcmp(&checksum, &mark->checksums[tile], sizeof checksum) != 0;
    }
    return n_bad == 0;
}

rb_status capture_parts_fill_stream(const capture_parts *parts, int64_t first, int64_t n, float *rows, rb_error *err)
{
    const int64_t row_bytes = parts->options.hidden_size * (int64_t)sizeof *rows;
    assert(parts->slot >= 0);
    return read_at(parts->stream[parts->slot], parts->folder.path, rows, n * row_bytes, first * row_bytes, err);
}

/* ---- frames ---------------------------------------------------------------------------------- */

static bool layer_is_whole(const capture_parts *parts, const journal_layer *layer)
{
    int n_bad = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : n_bad)
    for (int i = 0; i < parts->journal.n_frames; i++) {
        const rb_h5_frame *frame = &layer->frames[i];
        const bool fits = frame->offset >= 0 && frame->size_bytes > 0 && frame->size_bytes <= parts->max_frame_bytes;
        rb_checksum checksum;
        n_bad += !fits || checksum_at(&checksum, parts->found, "", frame->size_bytes, frame->offset, NULL) != RB_OK
                 || memcmp(&checksum, &frame->checksum, sizeof checksum) != 0;
    }
    return n_bad == 0;
}

/* The first layers, up to n, whose frames are as they were written. */
static int count_whole_layers(const capture_parts *parts, int n)
{
    int n_whole = 0;
    while (n_whole < n && layer_is_whole(parts, &parts->journal.layers[n_whole])) n_whole++;
    return n_whole;
}

/* ---- what the run before left ---------------------------------------------------------------- */

/* The capture of a generation, or where it is not there any more, the output that it has become. */
static rb_status open_found(capture_parts *parts, int generation, rb_error *err)
{
    rb_status st;
    RB_TRY(st, parts_capture_path(&parts->found_path, &parts->folder, generation, err), done);
    parts->found = open(parts->found_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (parts->found >= 0) goto done;
    free(parts->found_path);
    RB_TRY(st, rb_format(&parts->found_path, err, "%s", parts->options.output), done);
    parts->found = open(parts->found_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
done:
    return st;
}

/* Sets n_finished and slot by the newest mark that holds. */
static void choose_mark(capture_parts *parts)
{
    const capture_journal *journal = &parts->journal;
    const int n_whole = parts->found >= 0 ? count_whole_layers(parts, journal->marks[0].n_layers) : 0;
    for (int i = 0; i < JOURNAL_MARKS && parts->n_finished == 0; i++) {
        const journal_mark *mark = &journal->marks[i];
        const bool is_last = mark->n_layers == journal->n_layers;
        if (mark->n_layers == 0 || mark->n_layers > n_whole || (!is_last && !stream_is_whole(parts, mark))) continue;
        parts->n_finished = mark->n_layers;
        parts->slot = is_last ? -1 : mark->slot;
    }
}

static void tell_found(const capture_parts *parts)
{
    const capture_journal *journal = &parts->journal;
    const char *folder = parts->folder.path;
    const int n_told = journal->marks[0].n_layers;
    if (n_told > parts->n_finished)
        rb_message_warn("%s: what it has of layer %d is damaged or missing", folder, parts->n_finished);
    if (parts->n_finished > 0)
        rb_message_info("%s: continues after layer %d of %d", folder, parts->n_finished, journal->n_layers);
    else if (n_told > 0) rb_message_info("%s: begins anew", folder);
}

/* The first member in which two identities differ; NULL: none. */
static const char *differing_member(const cJSON *ours, const cJSON *theirs)
{
    for (const cJSON *member = ours->child; member; member = member->next)
        if (!cJSON_Compare(member, rb_json_find(theirs, member->string), true)) return member->string;
    return NULL;
}

/* Whether run.json is that of this run. A message where it is another's. */
static rb_status compare_identity(const capture_parts *parts, const char *path, bool *is_ours, rb_error *err)
{
    cJSON *ours = NULL, *theirs = NULL;
    rb_status st;
    *is_ours = false;
    RB_TRY(st, rb_json_parse(&ours, parts->options.identity, strlen(parts->options.identity), "identity", err), done);
    if (access(path, F_OK) != 0) goto done;
    if (rb_json_read(&theirs, path, 0, NULL) != RB_OK || !cJSON_IsObject(theirs)) {
        rb_message_info("%s: is damaged: begins anew", path);
        goto done;
    }
    const char *member = differing_member(ours, theirs);
    *is_ours = member == NULL;
    if (member) rb_message_info("%s: belongs to a run with other %s: begins anew", parts->folder.path, member);
done:
    cJSON_Delete(ours);
    cJSON_Delete(theirs);
    return st;
}

static rb_status look_at_parts(capture_parts *parts, rb_error *err)
{
    char *path = NULL;
    const int generation = parts_folder_generation(&parts->folder);
    rb_status st = RB_OK;
    if (generation == 0 || generation == PARTS_MAX_GENERATION) goto done;
    RB_TRY(st, parts_journal_path(&path, &parts->folder, generation, err), done);
    RB_TRY(st, journal_read(&parts->journal, path, err), done);
    RB_TRY(st, open_found(parts, generation, err), done);
    choose_mark(parts);
    tell_found(parts);
    if (parts->n_finished > 0) parts->generation = generation + 1;
done:
    free(path);
    return st;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* A warning, since compression saves some of it, and other files may go meanwhile. */
static void check_space(const capture_parts *parts)
{
    const double needed =
        (double)capture_payload_bytes(parts->options.header) + (double)(PARTS_N_SLOTS * parts->stream_bytes);
    struct statvfs disk;
    if (statvfs(parts->folder.path, &disk) != 0) return;
    const double available = (double)disk.f_bavail * (double)disk.f_frsize;
    if (available < needed)
        rb_message_warn("%s: %.0f MiB are free there, and up to %.0f MiB are needed: %.0f MiB for the capture before "
                        "compression, %.0f MiB to continue from (not with --no-resume)",
                        parts->folder.path, available / 0x1p20, needed / 0x1p20,
                        (double)capture_payload_bytes(parts->options.header) / 0x1p20,
                        (double)(PARTS_N_SLOTS * parts->stream_bytes) / 0x1p20);
}

static rb_status begin_folder(capture_parts *parts, rb_error *err)
{
    char *path = NULL;
    bool is_ours = false;
    rb_status st;
    RB_TRY(st, parts_identity_path(&path, &parts->folder, err), done);
    RB_TRY(st, compare_identity(parts, path, &is_ours, err), done);
    if (is_ours) RB_TRY(st, look_at_parts(parts, err), done);
    if (parts->n_finished > 0) {
        parts_folder_keep_generation(&parts->folder, parts->generation - 1);
    } else {
        parts_folder_clear(&parts->folder);
        RB_TRY(st, rb_atomic_write(path, parts->options.identity, strlen(parts->options.identity), err), done);
    }
    check_space(parts);
done:
    free(path);
    return st;
}

static void free_parts(capture_parts *parts)
{
    const int open[] = {parts->stream[0], parts->stream[1], parts->found, parts->log};
    for (size_t i = 0; i < RB_COUNT(open); i++)
        if (open[i] >= 0) close(open[i]);
    parts_folder_close(&parts->folder);
    journal_free(&parts->journal);
    free(parts->found_path);
    free(parts->capture_path);
    free(parts->journal_path);
    free(parts);
}

rb_status capture_parts_open(capture_parts **out, const capture_parts_options *options, rb_error *err)
{
    capture_parts *parts = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&parts, 1, sizeof *parts, "parts of a capture", err), done);
    *parts = (capture_parts){.options = *options,
                             .folder.lock = -1,
                             .stream_bytes =
                                 capture_parts_stream_bytes(options->header, options->hidden_size) / PARTS_N_SLOTS,
                             .max_frame_bytes = capture_max_frame_bytes(options->header),
                             .slot = -1,
                             .stream = {-1, -1},
                             .found = -1,
                             .generation = 1,
                             .log = -1};
    const int64_t n_tiles = (parts->stream_bytes + TILE_BYTES - 1) / TILE_BYTES;
    RB_TRY(st, parts_folder_open(&parts->folder, options->output, err), done);
    if (parts->folder.lock < 0) {
        rb_message_warn("%s: this file system has no locks: a run that is stopped cannot be continued",
                        parts->folder.path);
        goto done;
    }
    RB_TRY(st,
           journal_create(&parts->journal, options->header->model.n_layers, capture_layer_n_frames(options->header),
                          n_tiles, err),
           done);
    RB_TRY(st, begin_folder(parts, err), done);
    *out = parts;
    parts = NULL;
done:
    if (parts && parts->folder.lock >= 0 && parts_folder_generation(&parts->folder) == 0) {
        parts_folder_clear(&parts->folder);
        parts_folder_remove(&parts->folder);
    }
    if (parts) free_parts(parts);
    return st;
}

int capture_parts_n_finished(const capture_parts *parts) { return parts->n_finished; }

/* ---- the writer ------------------------------------------------------------------------------ */

/* Notes a layer that was just written: its frames, and what belongs to it. */
static rb_status note_layer(capture_parts *parts, const capture_writer *writer, int layer, rb_error *err)
{
    rb_h5_frame *frames = parts->journal.layers[layer].frames;
    memcpy(frames, capture_layer_frames(writer), (size_t)parts->journal.n_frames * sizeof *frames);
    return journal_append_layer(parts->log, &parts->journal, layer, parts->journal_path, err);
}

static rb_status open_journal(capture_parts *parts, rb_error *err)
{
    parts->log = open(parts->journal_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
    return parts->log < 0 ? rb_fail(err, RB_EIO, "%s: %s", parts->journal_path, strerror(errno)) : RB_OK;
}

/* Copies the finished layers into this generation, which is valid from then on. */
static rb_status take_layers(capture_parts *parts, capture_writer *writer, capture_watch *watch, rb_error *err)
{
    rb_status st = RB_OK;
    for (int layer = 0; layer < parts->n_finished; layer++) {
        const journal_layer *at = &parts->journal.layers[layer];
        RB_TRY(st, capture_take_layer(writer, layer, parts->found, parts->found_path, at->frames, err), done);
        if (parts->options.header->output.is_known) capture_set_residual_energy(writer, layer, at->residual_energy);
        watch->layers[layer] = at->watched;
        RB_TRY(st, note_layer(parts, writer, layer, err), done);
    }
    for (int i = 0; i < JOURNAL_MARKS; i++) {
        const journal_mark *mark = &parts->journal.marks[i];
        if (mark->n_layers == 0 || mark->n_layers != parts->n_finished) continue;
        RB_TRY(st, journal_append_mark(parts->log, &parts->journal, mark, parts->journal_path, err), done);
    }
    parts->is_valid = true;
    parts_folder_keep_generation(&parts->folder, parts->generation);
done:
    return st;
}

rb_status capture_parts_create(capture_parts *parts, capture_writer **out, capture_watch *watch,
                               const int32_t *const tokens[CAPTURE_N_SETS], const char *options_json, rb_error *err)
{
    capture_writer *writer = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, parts_capture_path(&parts->capture_path, &parts->folder, parts->generation, err), done);
    RB_TRY(st, parts_journal_path(&parts->journal_path, &parts->folder, parts->generation, err), done);
    RB_TRY(st,
           capture_create_at(&writer, parts->options.output, parts->capture_path, parts->options.header, tokens,
                             options_json, err),
           done);
    RB_TRY(st, open_journal(parts, err), done);
    RB_TRY(st, take_layers(parts, writer, watch, err), done);
    parts->saved_s = rb_now_s();
    *out = writer;
    writer = NULL;
done:
    capture_writer_free(writer);
    return st;
}

/* ---- saving ---------------------------------------------------------------------------------- */

static rb_status save_stream(capture_parts *parts, int n_layers, const float *stream, rb_error *err)
{
    const double started_s = rb_now_s();
    journal_mark mark = {.n_layers = n_layers, .slot = -1, .checksums = parts->journal.marks[0].checksums};
    rb_status st = RB_OK;
    if (stream) {
        mark.slot = parts->slot == 0 ? 1 : 0;
        RB_TRY(st, open_stream(parts, mark.slot, err), done);
        RB_TRY(st, write_stream(parts, mark.slot, stream, mark.checksums, err), done);
    }
    RB_TRY(st, journal_append_mark(parts->log, &parts->journal, &mark, parts->journal_path, err), done);
    parts->slot = mark.slot;
    parts->n_finished = n_layers;
    parts->saved_s = rb_now_s();
    parts->cost_s = parts->saved_s - started_s;
done:
    return st;
}

rb_status capture_parts_save(capture_parts *parts, capture_writer *writer, const capture_watch *watch, int layer,
                             const float *stream, rb_error *err)
{
    journal_layer *at = &parts->journal.layers[layer];
    const bool is_due =
        !stream || !parts->options.saves_sparingly || rb_now_s() - parts->saved_s >= SPARING * parts->cost_s;
    rb_status st;
    at->residual_energy = capture_residual_energy(writer, layer);
    at->watched = watch->layers[layer];
    RB_TRY(st, note_layer(parts, writer, layer, err), done);
    if (is_due) st = save_stream(parts, layer + 1, stream, err);
done:
    return st;
}

/* ---- closing --------------------------------------------------------------------------------- */

static bool has_limit(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

/* Whether the machine said no, which may pass. A process that has a limit of its own meets it again. */
static bool may_pass(rb_status st)
{
    return (st == RB_EIO && !has_limit(RLIMIT_FSIZE)) || (st == RB_ENOMEM && !has_limit(RLIMIT_AS)) || st == RB_EDEVICE;
}

rb_status capture_parts_publish(capture_parts *parts, capture_writer *writer, rb_error *err)
{
    const rb_status st = capture_publish(writer, err);
    parts->is_published = st == RB_OK;
    return st;
}

void capture_parts_close(capture_parts *parts, rb_status st)
{
    if (!parts) return;
    const bool is_kept = parts->n_finished > 0 && !parts->is_published && may_pass(st);
    if (is_kept) {
        if (!parts->is_valid) parts_folder_keep_generation(&parts->folder, parts->generation - 1);
        rb_message_verbose("%s: keeps %d of %d layers; the same command continues after them", parts->folder.path,
                           parts->n_finished, parts->journal.n_layers);
    } else {
        parts_folder_clear(&parts->folder);
        parts_folder_remove(&parts->folder);
    }
    free_parts(parts);
}
