/* Faults on demand: a library to preload (LD_PRELOAD) that makes one call of a program fail.
 *
 *   RB_FAULT=KIND:N     the N-th call of the kind fails, from 1
 *     memory            an allocation: malloc, calloc, realloc, posix_memalign; as if there were no memory
 *     memory-on         that one and all after it
 *     write             a write to a file, and all after it: the disk is full (ENOSPC)
 *     open              making or opening a file for writing (ENOSPC)
 *     sync              fsync (EIO)
 *     rename            rename (EIO)
 *     close             closing a file that was written to (EIO, as on a network)
 *     read              reading a file (EIO)
 *     short             no fault: every read gives one byte to half of what was asked for, which is allowed
 *   RB_FAULT_MARK=FILE  made when the fault has come about
 *   RB_FAULT_COUNTS=FILE  at the end of the process: a line `KIND CALLS` a kind
 *
 * Only files count, not pipes, terminals and what lies in /proc, and not descriptors 0 to 2. Allocations count that our
 * own code makes, and the libraries that it hands memory errors on from (cJSON, zstd, libzip, PCRE2); of libc's own
 * those of strdup and vasprintf.
 * Those of OpenMP, OpenBLAS, HDF5 and the loader do not: what these do without memory is not ours to change. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum fault_kind {
    FAULT_MEMORY,
    FAULT_WRITE,
    FAULT_OPEN,
    FAULT_SYNC,
    FAULT_RENAME,
    FAULT_CLOSE,
    FAULT_READ,
    FAULT_N
} fault_kind;
static const char *const kind_names[FAULT_N] = {"memory", "write", "open", "sync", "rename", "close", "read"};

static atomic_long calls[FAULT_N];
static int wanted = -1;      /* the kind that fails */
static long wanted_call;     /* its call */
static bool lasts, is_short; /* all later ones too; reads are short */
static const char *mark, *counts;

/* ---- whose allocations count ----------------------------------------------------------------- */

enum { MAX_RANGES = 64 };
static struct {
    uintptr_t begin, end;
} ours[MAX_RANGES];
static int n_ours;

static int note_object(struct dl_phdr_info *info, size_t size, void *user)
{
    static const char *const libraries[] = {"libcjson", "libzstd", "libzip", "libpcre2", "libropebits_"};
    bool is_ours = info->dlpi_name[0] == '\0'; /* the program */
    (void)size;
    (void)user;
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++)
        is_ours |= strstr(info->dlpi_name, libraries[i]) != NULL;
    for (int i = 0; is_ours && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || n_ours == MAX_RANGES) continue;
        ours[n_ours].begin = info->dlpi_addr + part->p_vaddr;
        ours[n_ours++].end = info->dlpi_addr + part->p_vaddr + part->p_memsz;
    }
    return 0;
}

static bool is_ours(const void *caller)
{
    for (int i = 0; i < n_ours; i++)
        if ((uintptr_t)caller >= ours[i].begin && (uintptr_t)caller < ours[i].end) return true;
    return false;
}

/* ---- begin and end --------------------------------------------------------------------------- */

__attribute__((constructor)) static void begin(void)
{
    const char *fault = getenv("RB_FAULT");
    mark = getenv("RB_FAULT_MARK");
    counts = getenv("RB_FAULT_COUNTS");
    dl_iterate_phdr(note_object, NULL);
    if (!fault) return;
    const size_t length = strcspn(fault, ":");
    for (int kind = 0; kind < FAULT_N; kind++) {
        const size_t own = strlen(kind_names[kind]);
        if (strncmp(fault, kind_names[kind], own) != 0) continue;
        lasts = kind == FAULT_WRITE || strncmp(fault + own, "-on", 3) == 0;
        if (length == own || lasts) wanted = kind;
    }
    is_short = strncmp(fault, "short", 5) == 0;
    if (fault[length] == ':') wanted_call = strtol(fault + length + 1, NULL, 10);
}

static void write_text(const char *path, const char *text, int flags)
{
    static int (*real_open)(const char *, int, ...);
    static ssize_t (*real_write)(int, const void *, size_t);
    static int (*real_close)(int);
    if (!real_open) real_open = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    if (!real_write) real_write = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (!real_close) real_close = (int (*)(int))dlsym(RTLD_NEXT, "close");
    const int fd = real_open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666);
    if (fd < 0) return;
    if (real_write(fd, text, strlen(text)) < 0) abort();
    real_close(fd);
}

__attribute__((destructor)) static void end(void)
{
    char text[400];
    int at = 0;
    if (!counts) return;
    for (int kind = 0; kind < FAULT_N; kind++)
        at += snprintf(text + at, sizeof text - (size_t)at, "%s %ld\n", kind_names[kind], (long)calls[kind]);
    write_text(counts, text, O_TRUNC);
}

/* Counts a call; true: it must fail. */
static bool fails(fault_kind kind)
{
    const long call = atomic_fetch_add(&calls[kind], 1) + 1;
    if (wanted != (int)kind || (lasts ? call < wanted_call : call != wanted_call)) return false;
    if (mark && call == wanted_call) write_text(mark, "", 0);
    return true;
}

static bool is_file(int fd)
{
    struct stat info;
    const int before = errno;
    const bool is = fd > STDERR_FILENO && fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    errno = before;
    return is;
}

static bool is_written(int fd) { return is_file(fd) && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY; }

static bool is_in_proc(const char *path) { return strncmp(path, "/proc/", 6) == 0 || strncmp(path, "/sys/", 5) == 0; }

#define REAL(type, name, ...)         \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* ---- memory ---------------------------------------------------------------------------------- */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

/* Before main, a constructor of ours sets the variable by which OpenBLAS chooses its kernels. Where that has no memory,
 * OpenBLAS chooses for itself and last bits may be others, so counting begins with main. */
static bool has_begun;
static int (*program_main)(int, char **, char **);

static int begin_main(int argc, char **argv, char **environment)
{
    has_begun = true;
    return program_main(argc, argv, environment);
}

int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*loader_fini)(void), void *stack)
{
    int (*real)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void), void (*)(void), void *) =
        (int (*)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void), void (*)(void),
                 void *))dlsym(RTLD_NEXT, "__libc_start_main");
    program_main = main;
    return real(begin_main, argc, argv, init, fini, loader_fini, stack);
}

static bool has_memory(const void *caller)
{
    if (!has_begun || !is_ours(caller) || !fails(FAULT_MEMORY)) return true;
    errno = ENOMEM;
    return false;
}

void *malloc(size_t size) { return has_memory(__builtin_return_address(0)) ? __libc_malloc(size) : NULL; }

void *calloc(size_t n, size_t size) { return has_memory(__builtin_return_address(0)) ? __libc_calloc(n, size) : NULL; }

void *realloc(void *old, size_t size)
{
    return has_memory(__builtin_return_address(0)) ? __libc_realloc(old, size) : NULL;
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *memory = has_memory(__builtin_return_address(0)) ? __libc_memalign(alignment, size) : NULL;
    if (!memory) return ENOMEM;
    *out = memory;
    return 0;
}

char *strdup(const char *text)
{
    const size_t size = strlen(text) + 1;
    char *copy = has_memory(__builtin_return_address(0)) ? __libc_malloc(size) : NULL;
    return copy ? memcpy(copy, text, size) : NULL;
}

int vasprintf(char **out, const char *form, va_list ap)
{
    static int (*real)(char **, const char *, va_list);
    if (!real) real = (int (*)(char **, const char *, va_list))dlsym(RTLD_NEXT, "vasprintf");
    return has_memory(__builtin_return_address(0)) ? real(out, form, ap) : -1;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool disk_takes(int fd)
{
    if (!is_file(fd) || !fails(FAULT_WRITE)) return true;
    errno = ENOSPC;
    return false;
}

ssize_t write(int fd, const void *bytes, size_t n)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    return disk_takes(fd) ? real(fd, bytes, n) : -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return disk_takes(fd) ? real(fd, bytes, n, at) : -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) { return pwrite(fd, bytes, n, at); }

int ftruncate(int fd, off_t size)
{
    REAL(int, "ftruncate", int, off_t);
    return disk_takes(fd) ? real(fd, size) : -1;
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

size_t fwrite(const void *bytes, size_t size, size_t n, FILE *out)
{
    REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    return disk_takes(fileno(out)) ? real(bytes, size, n, out) : 0;
}

static bool can_make(const char *path, bool writes)
{
    if (!writes || is_in_proc(path) || strncmp(path, "/dev/", 5) == 0 || !fails(FAULT_OPEN)) return true;
    errno = ENOSPC;
    return false;
}

int open(const char *path, int flags, ...)
{
    REAL(int, "open", const char *, int, ...);
    va_list ap;
    va_start(ap, flags);
    const unsigned mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, unsigned) : 0;
    va_end(ap);
    return can_make(path, (flags & O_ACCMODE) != O_RDONLY) ? real(path, flags, mode) : -1;
}

int open64(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    const unsigned mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, unsigned) : 0;
    va_end(ap);
    return open(path, flags, mode);
}

FILE *fopen(const char *path, const char *how)
{
    REAL(FILE *, "fopen", const char *, const char *);
    return can_make(path, how[0] != 'r') ? real(path, how) : NULL;
}

FILE *fopen64(const char *path, const char *how) { return fopen(path, how); }

int fsync(int fd)
{
    REAL(int, "fsync", int);
    if (!fails(FAULT_SYNC)) return real(fd);
    errno = EIO;
    return -1;
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    if (!fails(FAULT_RENAME)) return real(from, to);
    errno = EIO;
    return -1;
}

int close(int fd)
{
    REAL(int, "close", int);
    const bool failed = is_written(fd) && fails(FAULT_CLOSE);
    const int result = real(fd);
    if (!failed) return result;
    errno = EIO;
    return -1;
}

int fclose(FILE *file)
{
    REAL(int, "fclose", FILE *);
    const bool failed = is_written(fileno(file)) && fails(FAULT_CLOSE);
    const int result = real(file);
    if (!failed) return result;
    errno = EIO;
    return EOF;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool disk_gives(int fd)
{
    if (!is_file(fd) || !fails(FAULT_READ)) return true;
    errno = EIO;
    return false;
}

static size_t some_of(int fd, size_t n) { return is_short && n > 1 && is_file(fd) ? n / 2 : n; }

ssize_t read(int fd, void *bytes, size_t n)
{
    REAL(ssize_t, "read", int, void *, size_t);
    return disk_gives(fd) ? real(fd, bytes, some_of(fd, n)) : -1;
}

ssize_t pread(int fd, void *bytes, size_t n, off_t at)
{
    REAL(ssize_t, "pread", int, void *, size_t, off_t);
    return disk_gives(fd) ? real(fd, bytes, some_of(fd, n), at) : -1;
}

ssize_t pread64(int fd, void *bytes, size_t n, off64_t at) { return pread(fd, bytes, n, at); }

/* A short count together with ferror(), as a disk that fails in the middle gives it. */
size_t fread(void *bytes, size_t size, size_t n, FILE *in)
{
    REAL(size_t, "fread", void *, size_t, size_t, FILE *);
    if (disk_gives(fileno(in))) return real(bytes, size, n, in);
    in->_flags |= 0x20; /* glibc's mark of an error */
    errno = EIO;
    return 0;
}
