/* core/handover.h: order, room, and what a failure or a stop ends, first step by step in one thread, then with threads.
 */
#include "tests/test_support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "core/handover.h"

enum { N_PLACES = 3, N_ITEMS = 500, MAX_THREADS = 4, MANY_PLACES = 16 };

static rb_error err;

static rb_handover *create(int n_places, int64_t n_items)
{
    rb_handover *h = NULL;
    assert_ok(rb_handover_create(&h, n_places, n_items, &err));
    return h;
}

static void claim_and_give(rb_handover *h, int64_t item)
{
    assert_int_equal(rb_handover_claim(h), item);
    rb_handover_give(h, item);
}

static rb_error sentence(const char *text)
{
    rb_error error = {0};
    rb_fail(&error, RB_EIO, "%s", text);
    return error;
}

/* ---- one thread ------------------------------------------------------------------------------ */

static void items_are_taken_in_order_whatever_the_order_they_were_given_in(void **state)
{
    (void)state;
    rb_handover *h = create(N_PLACES, RB_HANDOVER_NO_END);
    for (int64_t i = 0; i < N_PLACES; i++) assert_int_equal(rb_handover_claim(h), i);
    rb_handover_give(h, 2);
    rb_handover_give(h, 1);
    assert_int_equal(rb_handover_try_take(h), -1); /* 0 is not ready */
    rb_handover_give(h, 0);
    for (int64_t i = 0; i < N_PLACES; i++) assert_int_equal(rb_handover_take(h), i);
    rb_handover_free(h);
}

static void a_place_is_free_when_its_item_and_all_before_it_are_released(void **state)
{
    (void)state;
    rb_handover *h = create(2, 3);
    claim_and_give(h, 0);
    claim_and_give(h, 1);
    assert_int_equal(rb_handover_take(h), 0);
    assert_int_equal(rb_handover_take(h), 1);
    rb_handover_release(h, 1);
    rb_handover_release(h, 0);
    assert_ok(rb_handover_wait(h, 2, &err));
    claim_and_give(h, 2);
    assert_int_equal(rb_handover_claim(h), -1); /* there are no more than three */
    assert_int_equal(rb_handover_take(h), 2);
    assert_int_equal(rb_handover_take(h), -1);
    rb_handover_free(h);
}

static void only_one_thread_at_a_time_gets_an_item_by_trying(void **state)
{
    (void)state;
    rb_handover *h = create(N_PLACES, RB_HANDOVER_NO_END);
    assert_int_equal(rb_handover_try_take(h), -1);
    claim_and_give(h, 0);
    claim_and_give(h, 1);
    assert_int_equal(rb_handover_try_take(h), 0);
    assert_int_equal(rb_handover_try_take(h), -1);
    rb_handover_release(h, 0);
    assert_int_equal(rb_handover_try_take(h), 1);
    rb_handover_free(h);
}

static void items_before_a_failure_can_be_taken_and_none_from_it_on(void **state)
{
    (void)state;
    const rb_error error = sentence("item 1 is broken");
    rb_handover *h = create(N_PLACES, RB_HANDOVER_NO_END);
    for (int64_t i = 0; i < N_PLACES; i++) assert_int_equal(rb_handover_claim(h), i);
    rb_handover_give(h, 0);
    rb_handover_give(h, 2);
    assert_ok(rb_handover_status(h, &err));
    rb_handover_fail(h, 1, RB_EIO, &error);
    assert_int_equal(rb_handover_take(h), 0);
    assert_int_equal(rb_handover_take(h), -1);
    assert_int_equal(rb_handover_try_take(h), -1);
    assert_int_equal(rb_handover_claim(h), -1);
    rb_handover_release(h, 0);
    assert_ok(rb_handover_wait(h, 1, &err));
    assert_fails(rb_handover_wait(h, 2, &err), RB_EIO, "item 1 is broken");
    rb_handover_free(h);
}

static void of_several_failures_the_lowest_item_is_told(void **state)
{
    (void)state;
    const rb_error first = sentence("item 2 came first"), lower = sentence("item 1 came second"), silent = {0};
    rb_handover *h = create(N_PLACES, RB_HANDOVER_NO_END);
    rb_handover_fail(h, 2, RB_EIO, &first);
    rb_handover_fail(h, 1, RB_EFORMAT, &lower);
    rb_handover_fail(h, 2, RB_EIO, &first);
    assert_fails(rb_handover_status(h, &err), RB_EFORMAT, "item 1 came second");
    rb_handover_fail(h, 0, RB_ENONFINITE, &silent); /* a status may come without a sentence */
    assert_int_equal(rb_handover_status(h, &err), RB_ENONFINITE);
    rb_handover_free(h);
}

/* ---- threads --------------------------------------------------------------------------------- */

/* What makers and users share, beside the hand-over: the places, which hold the item's number. */
typedef struct line {
    rb_handover *handover;
    int n_places;
    int64_t places[MANY_PLACES];             /* plain: a race on them is a fault of the hand-over */
    int64_t broken_in_making, broken_in_use; /* items; -1: none */
    atomic_int n_used, n_wrong, most_ahead, n_in_line;
} line;

static void *make_items(void *argument)
{
    line *l = argument;
    int64_t item;
    while ((item = rb_handover_claim(l->handover)) >= 0) {
        const int ahead = atomic_fetch_add(&l->n_in_line, 1) + 1;
        if (ahead > atomic_load(&l->most_ahead)) atomic_store(&l->most_ahead, ahead);
        if (item == l->broken_in_making) {
            const rb_error error = sentence("cannot make it");
            rb_handover_fail(l->handover, item, RB_EIO, &error);
            return NULL;
        }
        if (item % 7 == 0) usleep(100);
        l->places[item % l->n_places] = item;
        rb_handover_give(l->handover, item);
    }
    return NULL;
}

static void *use_items(void *argument)
{
    line *l = argument;
    int64_t item;
    while ((item = rb_handover_take(l->handover)) >= 0) {
        if (l->places[item % l->n_places] != item) atomic_fetch_add(&l->n_wrong, 1);
        if (item == l->broken_in_use) {
            const rb_error error = sentence("cannot use it");
            rb_handover_fail(l->handover, item, RB_EDEVICE, &error);
            return NULL;
        }
        if (item % 11 == 0) usleep(100);
        l->places[item % l->n_places] = -1;
        atomic_fetch_add(&l->n_used, 1);
        atomic_fetch_sub(&l->n_in_line, 1);
        rb_handover_release(l->handover, item);
    }
    return NULL;
}

/* Makers that are users too: whoever has given an item uses all that are due. */
static void *make_and_use_items(void *argument)
{
    line *l = argument;
    int64_t item, due;
    while ((item = rb_handover_claim(l->handover)) >= 0) {
        l->places[item % l->n_places] = item;
        rb_handover_give(l->handover, item);
        while ((due = rb_handover_try_take(l->handover)) >= 0) {
            if (l->places[due % l->n_places] != due || due != atomic_load(&l->n_used)) atomic_fetch_add(&l->n_wrong, 1);
            atomic_fetch_add(&l->n_used, 1);
            rb_handover_release(l->handover, due);
        }
    }
    return NULL;
}

static void start(pthread_t *threads, int n, void *(*work)(void *), line *l)
{
    for (int i = 0; i < n; i++) assert_int_equal(pthread_create(&threads[i], NULL, work, l), 0);
}

static void join(const pthread_t *threads, int n)
{
    for (int i = 0; i < n; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static void run_line(line *l, int n_makers, int n_users)
{
    pthread_t makers[MAX_THREADS], users[MAX_THREADS];
    start(makers, n_makers, make_items, l);
    start(users, n_users, use_items, l);
    join(makers, n_makers);
    join(users, n_users);
    assert_int_equal(atomic_load(&l->n_wrong), 0);
}

static void every_item_arrives_once_in_its_place(void **state)
{
    (void)state;
    static const struct {
        int n_places, n_makers, n_users;
    } shapes[] = {{1, 1, 1}, {2, 1, 1}, {2, 1, 3}, {2, 3, 1}, {5, 3, 4}, {MANY_PLACES, 4, 4}};
    for (size_t i = 0; i < RB_COUNT(shapes); i++) {
        line l = {.handover = create(shapes[i].n_places, N_ITEMS),
                  .n_places = shapes[i].n_places,
                  .broken_in_making = -1,
                  .broken_in_use = -1};
        run_line(&l, shapes[i].n_makers, shapes[i].n_users);
        assert_int_equal(atomic_load(&l.n_used), N_ITEMS);
        assert_true(atomic_load(&l.most_ahead) <= shapes[i].n_places);
        assert_ok(rb_handover_wait(l.handover, N_ITEMS, &err));
        rb_handover_free(l.handover);
    }
}

static void makers_that_use_what_is_due_use_everything_in_order(void **state)
{
    (void)state;
    pthread_t threads[MAX_THREADS];
    line l = {.handover = create(MANY_PLACES, N_ITEMS), .n_places = MANY_PLACES};
    start(threads, MAX_THREADS, make_and_use_items, &l);
    join(threads, MAX_THREADS);
    assert_int_equal(atomic_load(&l.n_wrong), 0);
    assert_int_equal(atomic_load(&l.n_used), N_ITEMS);
    rb_handover_free(l.handover);
}

static void a_maker_that_fails_ends_both_sides_after_the_items_before(void **state)
{
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        line l = {.handover = create(8, N_ITEMS), .n_places = 8, .broken_in_making = 43, .broken_in_use = -1};
        run_line(&l, n, n);
        assert_int_equal(atomic_load(&l.n_used), 43);
        assert_fails(rb_handover_wait(l.handover, N_ITEMS, &err), RB_EIO, "cannot make it");
        rb_handover_free(l.handover);
    }
}

static void a_user_that_fails_ends_both_sides(void **state)
{
    (void)state;
    for (int n_users = 1; n_users <= MAX_THREADS; n_users++) {
        line l = {
            .handover = create(N_PLACES, N_ITEMS), .n_places = N_PLACES, .broken_in_making = -1, .broken_in_use = 40};
        run_line(&l, 2, n_users);
        assert_true(atomic_load(&l.n_used) >= 40 && atomic_load(&l.n_used) < 40 + N_PLACES);
        assert_fails(rb_handover_wait(l.handover, N_ITEMS, &err), RB_EDEVICE, "cannot use it");
        rb_handover_free(l.handover);
    }
}

static void a_stop_wakes_those_who_wait_for_room_and_for_items(void **state)
{
    (void)state;
    pthread_t makers[MAX_THREADS], users[MAX_THREADS];
    line full = {.handover = create(2, RB_HANDOVER_NO_END), .n_places = 2, .broken_in_making = -1},
         empty = {.handover = create(2, RB_HANDOVER_NO_END), .n_places = 2, .broken_in_use = -1};
    start(makers, MAX_THREADS, make_items, &full);
    start(users, MAX_THREADS, use_items, &empty);
    usleep(2000);
    rb_handover_stop(full.handover);
    rb_handover_stop(empty.handover);
    join(makers, MAX_THREADS);
    join(users, MAX_THREADS);
    assert_int_equal(rb_handover_take(full.handover), -1); /* what was ready stays where it is */
    assert_int_equal(rb_handover_claim(empty.handover), -1);
    rb_handover_free(full.handover);
    rb_handover_free(empty.handover);
    rb_handover_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_are_taken_in_order_whatever_the_order_they_were_given_in),
        cmocka_unit_test(a_place_is_free_when_its_item_and_all_before_it_are_released),
        cmocka_unit_test(only_one_thread_at_a_time_gets_an_item_by_trying),
        cmocka_unit_test(items_before_a_failure_can_be_taken_and_none_from_it_on),
        cmocka_unit_test(of_several_failures_the_lowest_item_is_told),
        cmocka_unit_test(every_item_arrives_once_in_its_place),
        cmocka_unit_test(makers_that_use_what_is_due_use_everything_in_order),
        cmocka_unit_test(a_maker_that_fails_ends_both_sides_after_the_items_before),
        cmocka_unit_test(a_user_that_fails_ends_both_sides),
        cmocka_unit_test(a_stop_wakes_those_who_wait_for_room_and_for_items),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
