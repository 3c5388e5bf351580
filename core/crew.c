/* See core/crew.h. */
#include "core/crew.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct crew_member {
    rb_crew *crew;
    int index;
    pthread_t thread;
} crew_member;

struct rb_crew {
    /* n_called: members that work in this run; n_busy: those of them that have not returned. */
    int size, n_called, n_busy;
    int64_t n_runs;
    bool is_closing;
    void (*work)(void *user, int member);
    void *user;
    pthread_mutex_t lock;
    pthread_cond_t has_work, is_done;
    crew_member *members; /* [size]; 0 is the calling thread */
};

static void *member_run(void *argument)
{
    const crew_member *me = argument;
    rb_crew *crew = me->crew;
    int64_t n_seen = 0;
    pthread_mutex_lock(&crew->lock);
    for (;;) {
        while (crew->n_runs == n_seen && !crew->is_closing) pthread_cond_wait(&crew->has_work, &crew->lock);
        if (crew->is_closing) break;
        n_seen = crew->n_runs;
        if (me->index >= crew->n_called) continue;
        pthread_mutex_unlock(&crew->lock);
        crew->work(crew->user, me->index);
        pthread_mutex_lock(&crew->lock);
        if (--crew->n_busy == 0) pthread_cond_signal(&crew->is_done);
    }
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

rb_status rb_crew_create(rb_crew **out, int n_threads, rb_error *err)
{
    rb_crew *crew = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&crew, 1, sizeof *crew, "threads", err), done);
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->has_work, NULL);
    pthread_cond_init(&crew->is_done, NULL);
    crew->size = 1;
    RB_TRY(st, rb_alloc(&crew->members, (size_t)n_threads, sizeof *crew->members, "threads", err), done);
    for (int i = 1; i < n_threads; i++, crew->size++) {
        crew->members[i] = (crew_member){.crew = crew, .index = i};
        if (pthread_create(&crew->members[i].thread, NULL, member_run, &crew->members[i]) != 0) break;
    }
    *out = crew;
    crew = NULL;
done:
    rb_crew_free(crew);
    return st;
}

void rb_crew_free(rb_crew *crew)
{
    if (!crew) return;
    pthread_mutex_lock(&crew->lock);
    crew->is_closing = true;
    pthread_cond_broadcast(&crew->has_work);
    pthread_mutex_unlock(&crew->lock);
    for (int i = 1; i < crew->size; i++) pthread_join(crew->members[i].thread, NULL);
    pthread_cond_destroy(&crew->is_done);
    pthread_cond_destroy(&crew->has_work);
    pthread_mutex_destroy(&crew->lock);
    free(crew->members);
    free(crew);
}

int rb_crew_size(const rb_crew *crew) { return crew->size; }

void rb_crew_run(rb_crew *crew, int n_members, void (*work)(void *user, int member), void *user)
{
    if (n_members > crew->size) n_members = crew->size;
    if (n_members > 1) {
        pthread_mutex_lock(&crew->lock);
        crew->work = work;
        crew->user = user;
        crew->n_called = n_members;
        crew->n_busy = n_members - 1;
        crew->n_runs++;
        pthread_cond_broadcast(&crew->has_work);
        pthread_mutex_unlock(&crew->lock);
    }
    work(user, 0);
    if (n_members > 1) {
        pthread_mutex_lock(&crew->lock);
        while (crew->n_busy > 0) pthread_cond_wait(&crew->is_done, &crew->lock);
        pthread_mutex_unlock(&crew->lock);
    }
}

/* ---- without a crew of one's own ------------------------------------------------------------- */

enum { AS_MANY_AS_CORES = 0 };
static atomic_int limit = AS_MANY_AS_CORES;

int rb_crew_limit(void)
{
    cpu_set_t cores;
    const int n = atomic_load(&limit);
    if (n != AS_MANY_AS_CORES) return n;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

void rb_crew_set_limit(int n_threads) { atomic_store(&limit, n_threads); }

typedef struct shared_work {
    void (*task)(void *user, int64_t i);
    void *user;
    int64_t n;
    atomic_llong next;
} shared_work;

static void take_tasks(void *user, int member)
{
    shared_work *work = user;
    (void)member;
    for (int64_t i; (i = atomic_fetch_add(&work->next, 1)) < work->n;) work->task(work->user, i);
}

void rb_crew_for_each(int64_t n, void (*task)(void *user, int64_t i), void *user)
{
    shared_work work = {.task = task, .user = user, .n = n};
    const int n_threads = n < rb_crew_limit() ? (int)n : rb_crew_limit();
    rb_crew *crew = NULL;
    if (n_threads > 1 && rb_crew_create(&crew, n_threads, NULL) == RB_OK)
        rb_crew_run(crew, n_threads, take_tasks, &work);
    else take_tasks(&work, 0);
    rb_crew_free(crew);
}
