/* The survey from the side that asks for it: see core/hdf5/hdf5_contents.h. What comes through the pipe was made from a
 * file that may be damaged on purpose, by a process that may have gone astray on it. So it is checked like a file. */
#include "core/hdf5/hdf5_contents.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child may use. A survey takes milliseconds and little memory; only the list of chunks grows with the file.
 */
enum { MIN_CPU_S = 4, MIN_MEMORY_BYTES = 256 << 20, MIN_RECORD_BYTES = 64 << 20 };
enum { FILE_BYTES_PER_CPU_S = 128 << 20, FILE_BYTES_PER_BYTE = 16 };

/* ---- the child ------------------------------------------------------------------------------- */

static void lower_limit(int resource, uint64_t value)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit) != 0) return;
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur <= value) return;
    limit.rlim_cur = value;
    setrlimit(resource, &limit);
}

/* Bytes of address space in use; 0: unknown, or a sanitizer's, whose mappings leave no room for a limit. */
static uint64_t used_memory(void)
{
#ifdef __SANITIZE_ADDRESS__
    return 0;
#endif
    char text[64];
    const int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    if (n <= 0) return 0;
    text[n] = '\0';
    return strtoull(text, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void limit_memory(uint64_t file_bytes)
{
    const uint64_t used = used_memory();
    if (used > 0) lower_limit(RLIMIT_AS, used + MIN_MEMORY_BYTES + file_bytes / FILE_BYTES_PER_BYTE);
}

/* Whatever libhdf5 does on a damaged file, it does it here, silently, without a core file, and not for ever. */
_Noreturn static void run_child(const h5_survey_request *request)
{
    static const int fatal[] = {SIGSEGV, SIGBUS,  SIGFPE, SIGILL, SIGABRT, SIGTRAP,
                                SIGXCPU, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
    const int silence = open("/dev/null", O_RDWR);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < RB_COUNT(fatal); i++) signal(fatal[i], SIG_DFL);
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO && silence >= 0; fd++) dup2(silence, fd);
    lower_limit(RLIMIT_CORE, 0);
    lower_limit(RLIMIT_CPU, MIN_CPU_S + request->size_bytes / FILE_BYTES_PER_CPU_S);
    limit_memory(request->size_bytes);
    h5_survey(request);
}

/* ---- the pipe -------------------------------------------------------------------------------- */

typedef struct record_bytes {
    unsigned char *at;
    size_t n, capacity;
} record_bytes;

/* Makes room for more; false without memory, or past the limit. */
static bool grow(record_bytes *bytes, size_t limit)
{
    enum { FIRST_CAPACITY = 1 << 16 };
    const size_t capacity = bytes->capacity ? bytes->capacity * 2 : FIRST_CAPACITY;
    unsigned char *larger = capacity / 2 > limit ? NULL : realloc(bytes->at, capacity);
    if (!larger) return false;
    bytes->at = larger;
    bytes->capacity = capacity;
    return true;
}

/* All that the child writes. */
static rb_status receive(record_bytes *bytes, int in, const char *path, size_t limit, rb_error *err)
{
    for (;;) {
        if (bytes->n == bytes->capacity && !grow(bytes, limit))
            return rb_fail(err, RB_EFORMAT, "%s: damaged HDF5 file (its list of contents is larger than %zu bytes)",
                           path, limit);
        const ssize_t n = read(in, bytes->at + bytes->n, bytes->capacity - bytes->n);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return rb_fail(err, RB_EIO, "%s: cannot read its list of contents: %s", path, strerror(errno));
        if (n == 0) return RB_OK;
        bytes->n += (size_t)n;
    }
}

/* The child's end; -1 where the system does not tell, because whoever started us ignores SIGCHLD. */
static int wait_for(pid_t child)
{
    int how = 0;
    while (waitpid(child, &how, 0) < 0)
        if (errno != EINTR) return -1;
    return how;
}

/* Runs the child, gives what it wrote, and how it ended as waitpid tells it. */
static rb_status survey_in_child(record_bytes *bytes, int *how, h5_survey_request *request, rb_error *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return rb_fail(err, RB_EIO, "%s: cannot make a pipe to read it through: %s", request->path, strerror(errno));
    request->out = ends[1];
    const pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        run_child(request);
    }
    const int reason = errno;
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return rb_fail(err, RB_EIO, "%s: cannot start a process to read it in: %s", request->path, strerror(reason));
    }
    const size_t limit = MIN_RECORD_BYTES + (size_t)(request->size_bytes / FILE_BYTES_PER_BYTE);
    const rb_status st = receive(bytes, ends[0], request->path, limit, err);
    close(ends[0]); /* a child that still writes ends here */
    if (st != RB_OK) kill(child, SIGKILL);
    *how = wait_for(child);
    return st;
}

static rb_status fail_unfinished(const char *path, int how, rb_error *err)
{
    if (how >= 0 && WIFSIGNALED(how) && WTERMSIG(how) == SIGXCPU)
        return rb_fail(err, RB_EFORMAT, "%s: damaged HDF5 file (libhdf5 came to no end while it read it)", path);
    if (how >= 0 && WIFSIGNALED(how))
        return rb_fail(err, RB_EFORMAT, "%s: damaged HDF5 file (libhdf5 ended by signal %d while it read it: %s)", path,
                       WTERMSIG(how), strsignal(WTERMSIG(how)));
    return rb_fail(err, RB_EFORMAT, "%s: damaged HDF5 file (libhdf5 ended while it read it)", path);
}

/* ---- records --------------------------------------------------------------------------------- */

static rb_status fail_record(const rb_h5_contents *file, rb_error *err)
{
    return rb_fail(err, RB_EFORMAT, "%s: damaged HDF5 file (libhdf5 went astray while it read it)", file->path);
}

/* The next string of a record; NULL: it does not end within it. */
static const char *take_string(const unsigned char **at, size_t *n)
{
    const char *text = (const char *)*at;
    const unsigned char *end = memchr(*at, '\0', *n);
    if (!end) return NULL;
    *n -= (size_t)(end + 1 - *at);
    *at = end + 1;
    return text;
}

/* An array that has room for one more element. */
static bool has_room(void *array, int64_t n, int64_t *capacity, size_t element_bytes)
{
    void *old, *larger;
    if (n < *capacity) return true;
    memcpy(&old, array, sizeof old);
    const int64_t wanted = *capacity ? *capacity * 2 : 64;
    larger = realloc(old, (size_t)wanted * element_bytes);
    if (!larger) return false;
    memcpy(array, &larger, sizeof larger);
    *capacity = wanted;
    return true;
}

static rb_status fail_memory(const rb_h5_contents *file, rb_error *err)
{
    return rb_fail(err, RB_ENOMEM, "%s: out of memory for its list of contents", file->path);
}

static rb_status add_object(rb_h5_contents *file, const unsigned char *at, size_t n, rb_error *err)
{
    h5_object object = {.first_attribute = file->n_attributes};
    if (n < sizeof object.facts) return fail_record(file, err);
    memcpy(&object.facts, at, sizeof object.facts);
    object.facts.cause[H5_CAUSE_BYTES - 1] = '\0';
    at += sizeof object.facts;
    n -= sizeof object.facts;
    object.path = take_string(&at, &n);
    if (!object.path) return fail_record(file, err);
    if (!has_room(&file->objects, file->n_objects, &file->object_capacity, sizeof object))
        return fail_memory(file, err);
    file->objects[file->n_objects++] = object;
    return RB_OK;
}

static rb_status add_attribute(rb_h5_contents *file, const unsigned char *at, size_t n, rb_error *err)
{
    h5_attribute attribute;
    if (n < sizeof attribute.facts || file->n_objects == 0) return fail_record(file, err);
    memcpy(&attribute.facts, at, sizeof attribute.facts);
    at += sizeof attribute.facts;
    n -= sizeof attribute.facts;
    attribute.name = take_string(&at, &n);
    attribute.text = attribute.name ? take_string(&at, &n) : NULL;
    if (!attribute.text) return fail_record(file, err);
    if (!has_room(&file->attributes, file->n_attributes, &file->attribute_capacity, sizeof attribute))
        return fail_memory(file, err);
    file->attributes[file->n_attributes++] = attribute;
    file->objects[file->n_objects - 1].n_attributes++;
    return RB_OK;
}

static rb_status add_chunks(rb_h5_contents *file, const unsigned char *at, size_t n, rb_error *err)
{
    if (file->n_objects == 0 || n % sizeof(h5_chunk) != 0) return fail_record(file, err);
    h5_object *object = &file->objects[file->n_objects - 1];
    object->chunks = at;
    object->n_chunks = n / sizeof(h5_chunk);
    return RB_OK;
}

static rb_status fail_whole(const rb_h5_contents *file, const unsigned char *at, size_t n, rb_error *err)
{
    h5_failure failure;
    if (n != sizeof failure) return fail_record(file, err);
    memcpy(&failure, at, sizeof failure);
    failure.cause[H5_CAUSE_BYTES - 1] = '\0';
    switch (failure.reason) {
    case H5_NOT_HDF5: return rb_fail(err, RB_EFORMAT, "%s: not an HDF5 file", file->path);
    case H5_TRUNCATED:
        return rb_fail(err, RB_EFORMAT, "%s: truncated: the file ends at byte %llu, before its own end", file->path,
                       (unsigned long long)file->size_bytes);
    case H5_REPLACED: return rb_fail(err, RB_EIO, "%s: changed while it was opened", file->path);
    case H5_HAS_USER_BLOCK:
        return rb_fail(err, RB_EUNSUPPORTED, "%s: HDF5 begins after a user block, expected at byte 0", file->path);
    default: return rb_fail(err, RB_EFORMAT, "%s: damaged HDF5 file (%s)", file->path, failure.cause);
    }
}

static rb_status add_record(rb_h5_contents *file, const h5_record *record, const unsigned char *at, rb_error *err)
{
    switch (record->kind) {
    case H5_RECORD_OBJECT: return add_object(file, at, record->n_bytes, err);
    case H5_RECORD_ATTRIBUTE: return add_attribute(file, at, record->n_bytes, err);
    case H5_RECORD_CHUNKS: return add_chunks(file, at, record->n_bytes, err);
    case H5_RECORD_FAILURE: return fail_whole(file, at, record->n_bytes, err);
    default: return fail_record(file, err);
    }
}

/* how: the child's end, told where the records stop before theirs. */
static rb_status add_records(rb_h5_contents *file, const record_bytes *bytes, int how, rb_error *err)
{
    h5_record record;
    for (size_t at = 0; bytes->n - at >= sizeof record; at += record.n_bytes) {
        memcpy(&record, bytes->at + at, sizeof record);
        at += sizeof record;
        if (record.kind == H5_RECORD_END) return RB_OK;
        if (record.n_bytes > bytes->n - at) break;
        const rb_status st = add_record(file, &record, bytes->at + at, err);
        if (st != RB_OK) return st;
    }
    return fail_unfinished(file->path, how, err);
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(((const h5_object *)a)->path, ((const h5_object *)b)->path);
}

rb_status h5_contents_read(rb_h5_contents **out, const char *path, int fd, rb_error *err)
{
    rb_h5_contents *file = NULL;
    record_bytes bytes = {0};
    struct stat info;
    int how = 0;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&file, 1, sizeof *file, "HDF5 contents", err), done);
    file->fd = -1;
    RB_TRY(st, rb_format(&file->path, err, "%s", path), done);
    if (fstat(fd, &info) != 0) {
        st = rb_fail(err, RB_EIO, "%s: cannot open: %s", path, strerror(errno));
        goto done;
    }
    file->size_bytes = (uint64_t)info.st_size;
    h5_survey_request request = {path, (uint64_t)info.st_dev, (uint64_t)info.st_ino, file->size_bytes, -1};
    RB_TRY(st, survey_in_child(&bytes, &how, &request, err), done);
    RB_TRY(st, add_records(file, &bytes, how, err), done);
    if (file->n_objects == 0) {
        st = fail_record(file, err);
        goto done;
    }
    qsort(file->objects, (size_t)file->n_objects, sizeof *file->objects, compare_paths);
    file->records = bytes.at;
    file->fd = fd;
    bytes.at = NULL;
    fd = -1;
    *out = file;
    file = NULL;
done:
    free(bytes.at);
    if (fd >= 0) close(fd);
    h5_contents_free(file);
    return st;
}

void h5_contents_free(rb_h5_contents *contents)
{
    if (!contents) return;
    if (contents->fd >= 0) close(contents->fd);
    free(contents->path);
    free(contents->records);
    free(contents->objects);
    free(contents->attributes);
    free(contents);
}

/* ---- finding --------------------------------------------------------------------------------- */

rb_status h5_fail(rb_error *err, rb_status st, const rb_h5_contents *file, const char *path, const char *fmt, ...)
{
    char sentence[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, ap);
    va_end(ap);
    return rb_fail(err, st, "%s: %.120s: %s", file->path, strcmp(path, ".") == 0 ? "/" : path, sentence);
}

/* The object of the first `length` characters of a path. */
static const h5_object *find_prefix(const rb_h5_contents *file, const char *path, size_t length)
{
    int64_t low = 0, high = file->n_objects;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const h5_object *object = &file->objects[middle];
        int order = strncmp(object->path, path, length);
        if (order == 0 && object->path[length] != '\0') order = 1;
        if (order == 0) return object;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

rb_status h5_find_object(const h5_object **out, const rb_h5_contents *file, const char *path, rb_error *err)
{
    const char *name = path + strspn(path, "/");
    size_t length = 0;
    if (strcmp(name, ".") == 0) name = "";
    do {
        length += strspn(name + length, "/");
        length += strcspn(name + length, "/");
        const h5_object *object = find_prefix(file, name, length);
        char prefix[256];
        snprintf(prefix, sizeof prefix, "%.*s", (int)(name - path) + (int)length, path);
        if (!object) return h5_fail(err, RB_EFORMAT, file, prefix, "missing");
        if (object->facts.kind == H5_SOFT_LINK)
            return h5_fail(err, RB_EFORMAT, file, prefix, "a soft or external link, expected the object itself");
        if (object->facts.kind == H5_DAMAGED)
            return h5_fail(err, RB_EFORMAT, file, prefix, "not a dataset, or a damaged one (%s)", object->facts.cause);
        *out = object;
    } while (name[length] != '\0');
    return RB_OK;
}

bool rb_h5_exists(const rb_h5_contents *file, const char *path)
{
    const char *name = path + strspn(path, "/");
    const h5_object *object = find_prefix(file, name, strlen(name));
    if (object && object->facts.kind == H5_DAMAGED) return true;
    return h5_find_object(&object, file, path, NULL) == RB_OK;
}

const h5_attribute *h5_find_attribute(const rb_h5_contents *file, const h5_object *object, const char *name)
{
    for (int64_t i = 0; i < object->n_attributes; i++) {
        const h5_attribute *attribute = &file->attributes[object->first_attribute + i];
        if (strcmp(attribute->name, name) == 0) return attribute;
    }
    return NULL;
}

bool h5_is_inside(const rb_h5_contents *file, uint64_t address, uint64_t n_bytes)
{
    return address <= file->size_bytes && n_bytes <= file->size_bytes - address;
}

rb_status h5_read_bytes(const rb_h5_contents *file, const char *path, uint64_t address, void *bytes, size_t n,
                        rb_error *err)
{
    char *at = bytes;
    assert(h5_is_inside(file, address, n));
    while (n > 0) {
        const ssize_t got = pread(file->fd, at, n, (off_t)address);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return h5_fail(err, RB_EIO, file, path, "cannot read: %s", strerror(errno));
        if (got == 0) return h5_fail(err, RB_EIO, file, path, "the file became shorter while it was read");
        at += got;
        address += (uint64_t)got;
        n -= (size_t)got;
    }
    return RB_OK;
}
