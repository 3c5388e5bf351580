/* See core/mapped_file.h. */
#include "core/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/message.h"
#include "core/temporary_file.h"

struct rb_mapped_file {
    struct rb_mapped_file *next;
    atomic_uintptr_t address; /* 0: nothing is mapped, and the place can be used again */
    size_t size_bytes;
    int fd;
    char shown[512]; /* the path, escaped for a message */
};

/* A handler can only look at what stays: places are added and used again, never freed. */
static _Atomic(rb_mapped_file *) places;
static pthread_mutex_t places_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- the signal: everything here may be called by a handler ---------------------------------- */

static struct sigaction previous_action;
static size_t page_bytes; /* the last page is mapped whole */

static const rb_mapped_file *file_at(uintptr_t address)
{
    for (const rb_mapped_file *file = places; file; file = file->next) {
        const uintptr_t begin = file->address;
        const size_t n_bytes = (file->size_bytes + page_bytes - 1) / page_bytes * page_bytes;
        if (begin != 0 && address >= begin && address - begin < n_bytes) return file;
    }
    return NULL;
}

typedef struct sentence {
    char text[1024];
    size_t length;
} sentence;

static void add_text(sentence *to, const char *text)
{
    while (*text && to->length < sizeof to->text - 1) to->text[to->length++] = *text++;
    to->text[to->length] = '\0';
}

static void add_number(sentence *to, uint64_t value)
{
    char digits[24];
    char *at = digits + sizeof digits - 1;
    *at = '\0';
    do *--at = (char)('0' + value % 10);
    while (value /= 10);
    add_text(to, at);
}

static bool is_shorter(const rb_mapped_file *file, uint64_t *size_bytes)
{
    struct stat info;
    if (fstat(file->fd, &info) != 0) return false;
    *size_bytes = (uint64_t)info.st_size;
    return *size_bytes < file->size_bytes;
}

static void describe(sentence *to, const rb_mapped_file *file, uintptr_t address)
{
    uint64_t size_bytes = 0;
    add_text(to, file->shown);
    if (is_shorter(file, &size_bytes)) {
        add_text(to, ": ends at byte ");
        add_number(to, size_bytes);
        add_text(to, ", expected ");
        add_number(to, file->size_bytes);
        add_text(to, ": the file was cut while it was read");
    } else {
        add_text(to, ": cannot read byte ");
        add_number(to, address - file->address);
        add_text(to, ": the file was replaced while it was read, or its disk fails");
    }
}

static void end_by_lost_page(int number, siginfo_t *info, void *context)
{
    static atomic_flag is_told = ATOMIC_FLAG_INIT;
    const int reason = errno;
    const rb_mapped_file *file = info->si_code > 0 ? file_at((uintptr_t)info->si_addr) : NULL;
    (void)context;
    if (!file) { /* not ours: it comes again, to whom it would have come */
        sigaction(number, &previous_action, NULL);
        errno = reason;
        if (info->si_code <= 0) raise(number);
        return;
    }
    while (atomic_flag_test_and_set(&is_told)) pause(); /* another thread tells it, and ends this one */
    sentence told = {.length = 0};
    describe(&told, file, (uintptr_t)info->si_addr);
    rb_message_error_in_handler(told.text);
    rb_temporary_remove_all();
    _exit(1);
}

/* Again, where somebody has put another one in its place. */
static void install_handler(void)
{
    struct sigaction now, ours = {.sa_sigaction = end_by_lost_page, .sa_flags = SA_SIGINFO};
    if (sigaction(SIGBUS, NULL, &now) == 0 && now.sa_sigaction == end_by_lost_page) return;
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    previous_action = now;
    sigaction(SIGBUS, &ours, NULL);
}

/* ---- places ---------------------------------------------------------------------------------- */

/* A place that nothing is mapped in, in the list; NULL: out of memory. Under the lock. */
static rb_mapped_file *take_place(void)
{
    rb_mapped_file *file = places;
    while (file && (file->address != 0 || file->fd >= 0)) file = file->next;
    if (file) return file;
    file = calloc(1, sizeof *file);
    if (!file) return NULL;
    file->next = places;
    places = file;
    return file;
}

static rb_status note(rb_mapped_file **out, const char *path, int fd, void *address, size_t size_bytes, rb_error *err)
{
    pthread_mutex_lock(&places_lock);
    install_handler();
    rb_mapped_file *file = take_place();
    if (file) {
        file->fd = fd;
        file->size_bytes = size_bytes;
        rb_escape_text(file->shown, sizeof file->shown, path);
        file->address = (uintptr_t)address;
    }
    pthread_mutex_unlock(&places_lock);
    *out = file;
    return file ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for a mapping");
}

/* ---- public ---------------------------------------------------------------------------------- */

static rb_status map_descriptor(rb_mapped_file **out, const char *path, int fd, rb_error *err)
{
    struct stat info;
    void *address = NULL;
    if (fstat(fd, &info) != 0) return rb_fail(err, RB_EIO, "cannot stat: %s", strerror(errno));
    if (!S_ISREG(info.st_mode)) return rb_fail(err, RB_EIO, "not a regular file");
    if (info.st_size > 0) address = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED)
        return rb_fail(err, RB_EIO, "cannot map %lld bytes: %s", (long long)info.st_size, strerror(errno));
    const rb_status st = note(out, path, fd, address, (size_t)info.st_size, err);
    if (st != RB_OK && address) munmap(address, (size_t)info.st_size);
    return st;
}

rb_status rb_map_file(rb_mapped_file **out, const char *path, rb_error *err)
{
    *out = NULL;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe that nobody writes to must not hold us */
    if (fd < 0) return rb_fail(err, RB_EIO, "cannot open: %s", strerror(errno));
    const rb_status st = map_descriptor(out, path, fd, err);
    if (st != RB_OK) close(fd);
    return st;
}

void rb_unmap_file(rb_mapped_file *file)
{
    if (!file) return;
    pthread_mutex_lock(&places_lock);
    unsigned char *address = rb_mapped_address(file);
    file->address = 0;
    if (address) munmap(address, file->size_bytes);
    close(file->fd);
    file->fd = -1;
    pthread_mutex_unlock(&places_lock);
}

unsigned char *rb_mapped_address(const rb_mapped_file *file)
{
    const uintptr_t address = file->address;
    void *pointer;
    memcpy(&pointer, &address, sizeof pointer);
    return pointer;
}

size_t rb_mapped_size(const rb_mapped_file *file) { return file->size_bytes; }

rb_status rb_mapped_file_check(const rb_mapped_file *file, rb_error *err)
{
    uint64_t size_bytes = 0;
    if (!is_shorter(file, &size_bytes)) return RB_OK;
    return rb_fail(err, RB_EIO, "%s: ends at byte %llu, expected %zu: the file was cut while it was read", file->shown,
                   (unsigned long long)size_bytes, file->size_bytes);
}
