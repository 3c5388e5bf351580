/* A crew: threads that sleep until there is work, for work beside other threads.
 *
 * OpenMP's threads spin for milliseconds at the end of a region, each thread that opens regions has a team of its own,
 * and --threads holds only where it was set: fine for a program that computes, not for a thread that writes a file
 * while others feed a GPU. */
#ifndef RB_CORE_CREW_H
#define RB_CORE_CREW_H

#include "core/status.h"

typedef struct rb_crew rb_crew;

/* n_threads, the caller among them; fewer where the system gives no more. */
rb_status rb_crew_create(rb_crew **out, int n_threads, rb_error *err);
void rb_crew_free(rb_crew *crew); /* NULL is fine */
int rb_crew_size(const rb_crew *crew);

/* work(user, i) for i below n_members (at most all), each in a thread of its own, 0 in the calling one; returns when
 * all have returned. One run at a time. */
void rb_crew_run(rb_crew *crew, int n_members, void (*work)(void *user, int member), void *user);

#endif
