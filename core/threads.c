/* Threads: see core/threads.h. */
#include "core/threads.h"

#include <cblas.h>
#include <omp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/crew.h"
#include "core/message.h"

enum { MAX_THREADS = 1024 }; /* a typing error must not start a million threads */

void rb_threads_init(int64_t n_threads)
{
    if (n_threads <= 0) n_threads = omp_get_num_procs(); /* the cores of this process's affinity mask */
    const int n = (int)(n_threads > MAX_THREADS ? MAX_THREADS : n_threads);
    omp_set_num_threads(n);
    rb_crew_set_limit(n);
    openblas_set_num_threads(1);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* OpenBLAS's buffer of a thread (its BUFFER_SIZE on 64-bit hosts), with what it adds; and room for what a thread has
 * else: its stack, its heap, small things. */
enum { OPENBLAS_BYTES = (128 << 20) + (64 << 10), OTHER_BYTES = 16 << 20 };

/* Not in cblas.h, but every OpenBLAS has them: take a buffer, and give it back to be used again. Another BLAS lacks
 * them, and needs no such care. */
extern void *blas_memory_alloc(int) __attribute__((weak));
extern void blas_memory_free(void *) __attribute__((weak));

static bool has_limit(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

static bool is_memory_limited(void) { return has_limit(RLIMIT_AS) || has_limit(RLIMIT_DATA); }

/* How many threads' memory the system would give now, at most n. */
static int count_fitting(int n)
{
    void *pieces[MAX_THREADS];
    int n_fitting = 0;
    for (; n_fitting < n; n_fitting++) {
        pieces[n_fitting] = mmap(NULL, OPENBLAS_BYTES + OTHER_BYTES, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pieces[n_fitting] == MAP_FAILED) break;
    }
    for (int i = 0; i < n_fitting; i++) munmap(pieces[i], OPENBLAS_BYTES + OTHER_BYTES);
    return n_fitting;
}

/* OpenBLAS keeps a buffer that was given back: as many as were taken at once are there from now on. */
static void take_openblas_buffers(int n)
{
    void *buffers[MAX_THREADS];
    if (!blas_memory_alloc || !blas_memory_free) return;
    for (int i = 0; i < n; i++) buffers[i] = blas_memory_alloc(0);
    for (int i = 0; i < n; i++) blas_memory_free(buffers[i]);
}

/* A thread that stays until the gate opens. */
static void *wait_for_gate(void *gate)
{
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

/* How many threads there can be at once besides this one, at most n. OpenMP ends the process where it gets fewer than
 * it wants, so they are tried before. */
static int count_startable(int n)
{
    pthread_t threads[MAX_THREADS];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int n_started = 0;
    pthread_mutex_lock(&gate);
    while (n_started < n && pthread_create(&threads[n_started], NULL, wait_for_gate, &gate) == 0) n_started++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
    return n_started;
}

/* The main thread's stack grows by page faults, which a limit makes fatal: it grows now. */
static void grow_stack(void)
{
    enum { STACK_BYTES = 1 << 20, PAGE = 4096 };
    volatile char stack[STACK_BYTES];
    for (int i = 0; i < STACK_BYTES; i += PAGE) stack[i] = 0;
    (void)stack[0];
}

rb_status rb_threads_prepare(rb_error *err)
{
    const int wanted = rb_threads_count();
    if (!is_memory_limited()) return RB_OK;
    grow_stack();
    int n = count_fitting(wanted);
    if (n == 0)
        return rb_fail(err, RB_ENOMEM,
                       "the limit on memory (ulimit -v or -d) leaves no room for the %d MiB that matrix products need "
                       "for each thread",
                       (OPENBLAS_BYTES + OTHER_BYTES) >> 20);
    take_openblas_buffers(n);
    n = 1 + count_startable(n - 1);
    omp_set_num_threads(n);
    rb_crew_set_limit(n);
#pragma omp parallel
    {
    } /* the threads start here, and stay */
    if (n < wanted)
        rb_message_warn("the limit on memory (ulimit -v or -d) leaves room for %d of %d threads", n, wanted);
    return RB_OK;
}

/* ---- counts ---------------------------------------------------------------------------------- */

int rb_threads_count(void) { return omp_get_max_threads(); }

int rb_thread_index(void) { return omp_get_thread_num(); }
