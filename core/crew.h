/* A crew: threads that sleep until there is work. It serves work that goes on beside other threads.
 *
 * OpenMP is made for a program that only computes: its threads spin for milliseconds at the end of a region, each
 * thread that opens regions has its own team, and --threads holds only in the thread that set it. None of this suits a
 * thread that writes a file while others feed a GPU. */
#ifndef RB_CORE_CREW_H
#define RB_CORE_CREW_H

#include <stdint.h>

#include "core/status.h"

typedef struct rb_crew rb_crew;

/* n_threads includes the caller. The crew is smaller where the system gives no more threads. */
rb_status rb_crew_create(rb_crew **out, int n_threads, rb_error *err);
void rb_crew_free(rb_crew *crew); /* NULL is fine */
int rb_crew_size(const rb_crew *crew);

/* Calls work(user, i) for i from 0 to n_members - 1 (at most all members), each in its own thread, 0 in the calling
 * one. Returns when all calls have returned. One run at a time. */
void rb_crew_run(rb_crew *crew, int n_members, void (*work)(void *user, int member), void *user);

/* Threads for work that shares itself out: the cores that this process may use, or what rb_crew_set_limit said last
 * (--threads). */
int rb_crew_limit(void);
void rb_crew_set_limit(int n_threads);
/* Calls task(user, i) for i from 0 to n - 1, each once, on so many threads or fewer; returns when all have returned.
 * For work of seconds in code that other programs link, which OpenMP is no part of. */
void rb_crew_for_each(int64_t n, void (*task)(void *user, int64_t i), void *user);

#endif
