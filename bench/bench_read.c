/* bench_read: several threads read a file in pieces of 8 MiB, each into its own memory, as weights are read
 * (model/cuda/weight_stream.c), and do nothing with it. Streaming calibration is compared with this. Prints one JSON
 * line with the best of REPEATS runs and their median.
 *
 *   bench_read FILE [N_THREADS 8 [REPEATS 3 [cold]]]
 *
 * cold: what the system keeps of the file in memory is dropped before each run. With 0 repeats it is only dropped. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/message.h"

enum { PIECE_BYTES = 8 << 20, MAX_THREADS = 64, MAX_REPEATS = 100 };

typedef struct reading {
    int fd;
    bool is_cold;
    int64_t size_bytes;
    atomic_llong next, failed;
} reading;

static void *read_pieces(void *argument)
{
    reading *r = argument;
    char *to = malloc(PIECE_BYTES);
    if (!to) {
        atomic_fetch_add(&r->failed, 1);
        return NULL;
    }
    for (;;) {
        int64_t at = atomic_fetch_add(&r->next, PIECE_BYTES);
        const int64_t end = at + PIECE_BYTES < r->size_bytes ? at + PIECE_BYTES : r->size_bytes, first = at;
        if (at >= r->size_bytes) break;
        while (at < end) {
            const ssize_t n = pread(r->fd, to + (at - first), (size_t)(end - at), at);
            if (n <= 0) {
                atomic_fetch_add(&r->failed, 1);
                break;
            }
            at += n;
        }
        if (at < end) break;
    }
    free(to);
    return NULL;
}

static bool drop_from_memory(const reading *r)
{
    return fsync(r->fd) == 0 && posix_fadvise(r->fd, 0, 0, POSIX_FADV_DONTNEED) == 0;
}

/* Seconds, or a negative number. */
static double run_once(reading *r, int n_threads)
{
    pthread_t threads[MAX_THREADS];
    int n = 0;
    if (r->is_cold && !drop_from_memory(r)) return -1.0;
    atomic_store(&r->next, 0);
    const double started_s = rb_now_s();
    while (n < n_threads && pthread_create(&threads[n], NULL, read_pieces, r) == 0) n++;
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    return n == n_threads && atomic_load(&r->failed) == 0 ? rb_now_s() - started_s : -1.0;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    const int n_threads = argc > 2 ? atoi(argv[2]) : 8, repeats = argc > 3 ? atoi(argv[3]) : 3;
    reading r = {.fd = argc > 1 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1,
                 .is_cold = argc > 4 && strcmp(argv[4], "cold") == 0};
    double seconds[MAX_REPEATS];
    struct stat info;
    if (r.fd < 0 || fstat(r.fd, &info) != 0 || n_threads < 1 || n_threads > MAX_THREADS || repeats < 0
        || repeats > MAX_REPEATS) {
        fprintf(stderr, "usage: bench_read FILE [N_THREADS [REPEATS [cold]]]\n");
        return 2;
    }
    r.size_bytes = info.st_size;
    for (int i = 0; i < repeats; i++) {
        seconds[i] = run_once(&r, n_threads);
        if (seconds[i] < 0.0) {
            fprintf(stderr, "bench_read: %s: cannot be read\n", argv[1]);
            return 1;
        }
    }
    if (repeats == 0) return drop_from_memory(&r) ? 0 : 1;
    qsort(seconds, (size_t)repeats, sizeof *seconds, by_value);
    printf("{\"what\": \"%s\", \"size_bytes\": %lld, \"threads\": %d, \"median_gb_per_s\": %.2f, \"best_gb_per_s\": "
           "%.2f}\n",
           r.is_cold ? "plain read, cold" : "plain read", (long long)r.size_bytes, n_threads,
           (double)r.size_bytes * 1e-9 / seconds[repeats / 2], (double)r.size_bytes * 1e-9 / seconds[0]);
    close(r.fd);
    return 0;
}
