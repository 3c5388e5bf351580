/* Threads: see core/threads.h. */
#include "core/threads.h"

#include <cblas.h>
#include <omp.h>

enum { MAX_THREADS = 1024 }; /* a typing error must not start a million threads */

void rb_threads_init(int64_t n_threads)
{
    if (n_threads <= 0) n_threads = omp_get_num_procs(); /* the cores of this process's affinity mask */
    omp_set_num_threads((int)(n_threads > MAX_THREADS ? MAX_THREADS : n_threads));
    openblas_set_num_threads(1);
}

int rb_threads_count(void) { return omp_get_max_threads(); }

int rb_thread_index(void) { return omp_get_thread_num(); }

void rb_note_failure(rb_first_failure *failure, int64_t index, rb_status st, const rb_error *error)
{
    if (st == RB_OK) return;
#pragma omp critical(rb_first_failure)
    if (failure->st == RB_OK || index < failure->index)
        *failure = (rb_first_failure){.index = index, .st = st, .error = *error};
}

rb_status rb_tell_failure(const rb_first_failure *failure, rb_error *err)
{
    return failure->st == RB_OK ? RB_OK : rb_fail(err, failure->st, "%s", failure->error.msg);
}
