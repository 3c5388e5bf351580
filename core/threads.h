/* Threads. OpenMP splits the work. Every call of OpenBLAS uses one thread, on tiles whose size does not depend on the
 * number of threads, so that every output has the same bytes for any --threads. */
#ifndef RB_CORE_THREADS_H
#define RB_CORE_THREADS_H

#include <stdint.h>

#include "core/status.h"

void rb_threads_init(int64_t n_threads); /* 0: all cores this process may use */

/* Takes what the threads need before anything else can: the 128 MiB that OpenBLAS takes for each,
 * their stacks. Where a limit leaves
 * room for fewer threads, there are fewer, which changes no output, and a warning says so. Fails with RB_ENOMEM where
 * there is no room for one. Programs that multiply matrices call it once, after rb_threads_init. */
rb_status rb_threads_prepare(rb_error *err);

int rb_threads_count(void);
int rb_thread_index(void); /* index of the calling thread within its parallel region, for per-thread scratch */

/* When several iterations of a parallel loop fail, the lowest index is told, so that the message does not depend on
 * threads.
 *
 *   rb_first_failure failure = {0};
 *   #pragma omp parallel for
 *   for (int i = 0; i < n; i++) {
 *       rb_error mine = {0};
 *       rb_note_failure(&failure, i, work(i, &mine), &mine);
 *   }
 *   return rb_tell_failure(&failure, err); */
typedef struct rb_first_failure {
    int64_t index;
    rb_status st; /* RB_OK: none yet */
    rb_error error;
} rb_first_failure;

/* Any thread; RB_OK is no failure. */
void rb_note_failure(rb_first_failure *failure, int64_t index, rb_status st, const rb_error *error);
rb_status rb_tell_failure(const rb_first_failure *failure, rb_error *err);

/* Functions with hot loops get one clone per CPU level. Sanitizer builds take the plain one, because ifuncs run before
 * the sanitizer is ready. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) \
    && !defined(RB_NO_CLONES)
#define RB_CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RB_CPU_CLONES
#endif

#endif
