/* See core/handover.h. */
#include "core/handover.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

typedef enum place_state { PLACE_FREE, PLACE_BEING_MADE, PLACE_READY, PLACE_IN_USE, PLACE_RELEASED } place_state;

struct rb_handover {
    int n_places;
    int64_t n_items;
    int64_t n_claimed, n_taken;
    int64_t n_released; /* items 0 to n_released - 1 have been released; later ones may be PLACE_RELEASED already */
    int n_in_use;
    place_state *places; /* [n_places] */
    bool is_stopped;
    int64_t failed; /* the lowest item that failed; RB_HANDOVER_NO_END: none */
    rb_status status;
    rb_error error;
    pthread_mutex_t lock;
    pthread_cond_t has_room, has_item, has_moved; /* waited for in claim, in take, in wait */
};

rb_status rb_handover_create(rb_handover **out, int n_places, int64_t n_items, rb_error *err)
{
    rb_handover *h = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&h, 1, sizeof *h, "hand-over", err), done);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->has_room, NULL);
    pthread_cond_init(&h->has_item, NULL);
    pthread_cond_init(&h->has_moved, NULL);
    h->n_places = n_places;
    h->n_items = n_items;
    h->failed = RB_HANDOVER_NO_END;
    RB_TRY(st, rb_alloc(&h->places, (size_t)n_places, sizeof *h->places, "hand-over", err), done);
    *out = h;
    h = NULL;
done:
    rb_handover_free(h);
    return st;
}

void rb_handover_free(rb_handover *h)
{
    if (!h) return;
    pthread_cond_destroy(&h->has_moved);
    pthread_cond_destroy(&h->has_item);
    pthread_cond_destroy(&h->has_room);
    pthread_mutex_destroy(&h->lock);
    free(h->places);
    free(h);
}

/* ---- with the lock held ---------------------------------------------------------------------- */

static place_state *place_of(const rb_handover *h, int64_t item) { return &h->places[item % h->n_places]; }

static bool wants_no_more(const rb_handover *h)
{
    return h->is_stopped || h->status != RB_OK || h->n_claimed == h->n_items;
}

static bool has_no_more(const rb_handover *h)
{
    return h->is_stopped || h->n_taken >= h->failed || h->n_taken == h->n_items;
}

static bool has_next(const rb_handover *h)
{
    return !has_no_more(h) && h->n_taken < h->n_claimed && *place_of(h, h->n_taken) == PLACE_READY;
}

static int64_t take_next(rb_handover *h)
{
    *place_of(h, h->n_taken) = PLACE_IN_USE;
    h->n_in_use++;
    return h->n_taken++;
}

static void wake_all(rb_handover *h)
{
    pthread_cond_broadcast(&h->has_room);
    pthread_cond_broadcast(&h->has_item);
    pthread_cond_broadcast(&h->has_moved);
}

static rb_status tell_failure(const rb_handover *h, rb_error *err)
{
    if (h->status == RB_OK || !h->error.msg[0]) return h->status;
    return rb_fail(err, h->status, "%s", h->error.msg);
}

/* ---- makers ---------------------------------------------------------------------------------- */

int64_t rb_handover_claim(rb_handover *h)
{
    int64_t item = -1;
    pthread_mutex_lock(&h->lock);
    while (!wants_no_more(h) && h->n_claimed - h->n_released == h->n_places) pthread_cond_wait(&h->has_room, &h->lock);
    if (!wants_no_more(h)) {
        item = h->n_claimed++;
        *place_of(h, item) = PLACE_BEING_MADE;
        if (h->n_claimed == h->n_items) pthread_cond_broadcast(&h->has_room); /* nobody need wait for room any more */
    }
    pthread_mutex_unlock(&h->lock);
    return item;
}

void rb_handover_give(rb_handover *h, int64_t item)
{
    pthread_mutex_lock(&h->lock);
    assert(*place_of(h, item) == PLACE_BEING_MADE);
    *place_of(h, item) = PLACE_READY;
    if (item == h->n_taken) pthread_cond_signal(&h->has_item);
    pthread_mutex_unlock(&h->lock);
}

/* ---- users ----------------------------------------------------------------------------------- */

int64_t rb_handover_take(rb_handover *h)
{
    pthread_mutex_lock(&h->lock);
    while (!has_no_more(h) && !has_next(h)) pthread_cond_wait(&h->has_item, &h->lock);
    const int64_t item = has_next(h) ? take_next(h) : -1;
    if (has_next(h)) pthread_cond_signal(&h->has_item);       /* given while its turn had not come: nobody was told */
    if (has_no_more(h)) pthread_cond_broadcast(&h->has_item); /* nobody need wait for an item any more */
    pthread_mutex_unlock(&h->lock);
    return item;
}

int64_t rb_handover_try_take(rb_handover *h)
{
    pthread_mutex_lock(&h->lock);
    const int64_t item = h->n_in_use == 0 && has_next(h) ? take_next(h) : -1;
    pthread_mutex_unlock(&h->lock);
    return item;
}

void rb_handover_release(rb_handover *h, int64_t item)
{
    pthread_mutex_lock(&h->lock);
    assert(*place_of(h, item) == PLACE_IN_USE);
    *place_of(h, item) = PLACE_RELEASED;
    h->n_in_use--;
    while (h->n_released < h->n_taken && *place_of(h, h->n_released) == PLACE_RELEASED) {
        *place_of(h, h->n_released++) = PLACE_FREE;
        pthread_cond_signal(&h->has_room);
    }
    pthread_cond_broadcast(&h->has_moved);
    pthread_mutex_unlock(&h->lock);
}

/* ---- both ------------------------------------------------------------------------------------ */

void rb_handover_fail(rb_handover *h, int64_t item, rb_status st, const rb_error *error)
{
    pthread_mutex_lock(&h->lock);
    if (item < h->failed) {
        h->failed = item;
        h->status = st;
        h->error = *error;
        wake_all(h);
    }
    pthread_mutex_unlock(&h->lock);
}

void rb_handover_stop(rb_handover *h)
{
    pthread_mutex_lock(&h->lock);
    h->is_stopped = true;
    wake_all(h);
    pthread_mutex_unlock(&h->lock);
}

rb_status rb_handover_wait(rb_handover *h, int64_t n, rb_error *err)
{
    pthread_mutex_lock(&h->lock);
    assert(!h->is_stopped);
    while (h->n_released < n && h->failed >= n) pthread_cond_wait(&h->has_moved, &h->lock);
    const rb_status st = h->n_released >= n ? RB_OK : tell_failure(h, err);
    pthread_mutex_unlock(&h->lock);
    return st;
}

rb_status rb_handover_status(rb_handover *h, rb_error *err)
{
    pthread_mutex_lock(&h->lock);
    const rb_status st = tell_failure(h, err);
    pthread_mutex_unlock(&h->lock);
    return st;
}
