/* A hand-over: items go in order from threads that make them to threads that use them, through a few places that both
 * sides share.
 *
 * Items are numbered from 0, and item i lies in place i % n_places. The places themselves (buffers, events) belong to
 * the caller. The hand-over only says whose turn it is:
 *
 *            claim                give           take            release
 *     free ---------> being made ------> ready --------> in use ---------> free
 *     nobody's        the maker's        nobody's        the user's        nobody's
 *
 * Numbers are claimed in order and taken in order. With several makers items may be given in any order, and with
 * several users they may be released in any order. A place is free once its item and all items before it have been
 * released, so makers are never more than n_places items ahead.
 *
 * Failure: either side names the item that failed. From then on no claim succeeds, the items before it can still be
 * taken, and the waits that cannot succeed any more return. Where several items fail, the lowest one is told.
 * Stop: nothing is claimed or taken any more; what is in use may still be released.
 *
 * Everything that was written before a give or a release is seen after the matching take or claim. */
#ifndef RB_CORE_HANDOVER_H
#define RB_CORE_HANDOVER_H

#include <stdint.h>

#include "core/status.h"

typedef struct rb_handover rb_handover;

/* n_items: how many items there will be; RB_HANDOVER_NO_END where only a stop ends it. */
#define RB_HANDOVER_NO_END INT64_MAX
rb_status rb_handover_create(rb_handover **out, int n_places, int64_t n_items, rb_error *err);
/* No thread may be inside any more. NULL is fine. */
void rb_handover_free(rb_handover *handover);

/* Makers. claim waits for a free place and returns the next number; -1: no more are wanted (all n_items were claimed,
 * or there was a failure or a stop). */
int64_t rb_handover_claim(rb_handover *handover);
void rb_handover_give(rb_handover *handover, int64_t item);

/* Users. take waits for the next item; -1: no more will come. try_take does not wait: -1 also where the next item is
 * not ready, or where any item is in use, so that users of try_take work one at a time. */
int64_t rb_handover_take(rb_handover *handover);
int64_t rb_handover_try_take(rb_handover *handover);
void rb_handover_release(rb_handover *handover, int64_t item);

/* `item` could not be made or used. The error is copied. */
void rb_handover_fail(rb_handover *handover, int64_t item, rb_status st, const rb_error *error);
void rb_handover_stop(rb_handover *handover);

/* Waits until items 0 to n - 1 have been released. Fails as the first of them that failed did. Not after a stop. */
rb_status rb_handover_wait(rb_handover *handover, int64_t n, rb_error *err);
/* The failure that was told, or RB_OK. */
rb_status rb_handover_status(rb_handover *handover, rb_error *err);

#endif
