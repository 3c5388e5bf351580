/* Which of several failures is told: rb_first_failure of core/threads.h. Apart from threads.c, whose OpenMP and
 * OpenBLAS are no part of the libraries for other programs. */
#include <pthread.h>

#include "core/threads.h"

void rb_note_failure(rb_first_failure *failure, int64_t index, rb_status st, const rb_error *error)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    if (st == RB_OK) return;
    pthread_mutex_lock(&lock);
    if (failure->st == RB_OK || index < failure->index)
        *failure = (rb_first_failure){.index = index, .st = st, .error = *error};
    pthread_mutex_unlock(&lock);
}

rb_status rb_tell_failure(const rb_first_failure *failure, rb_error *err)
{
    return failure->st == RB_OK ? RB_OK : rb_fail(err, failure->st, "%s", failure->error.msg);
}
