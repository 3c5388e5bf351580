/* core/crew.h: who is called, and that a run is over when it returns. */
#include "tests/test_support.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "core/crew.h"

enum { N_THREADS = 5, N_RUNS = 200 };

static rb_error err;
static atomic_int n_calls[N_THREADS];

static void count_call(void *user, int member)
{
    if (*(const bool *)user && member > 0) usleep(1000); /* the caller is done first */
    atomic_fetch_add(&n_calls[member], 1);
}

static void assert_calls(rb_crew *crew, int n_members, bool is_slow, int n_runs)
{
    for (int i = 0; i < N_THREADS; i++) atomic_store(&n_calls[i], 0);
    for (int run = 0; run < n_runs; run++) {
        rb_crew_run(crew, n_members, count_call, &is_slow);
        for (int i = 0; i < N_THREADS; i++)
            assert_int_equal(atomic_load(&n_calls[i]), i < n_members && i < rb_crew_size(crew) ? run + 1 : 0);
    }
}

static void a_run_calls_each_member_once(void **state)
{
    (void)state;
    rb_crew *crew = NULL;
    assert_ok(rb_crew_create(&crew, N_THREADS, &err));
    assert_int_equal(rb_crew_size(crew), N_THREADS);
    assert_calls(crew, N_THREADS, false, N_RUNS);
    assert_calls(crew, N_THREADS, true, 5);
    assert_calls(crew, 2, false, N_RUNS);    /* some are left asleep, */
    assert_calls(crew, N_THREADS, false, 5); /* and wake for the next run */
    assert_calls(crew, N_THREADS + 3, true, 5);
    rb_crew_free(crew);
}

static void a_crew_of_one_is_the_caller(void **state)
{
    (void)state;
    rb_crew *crew = NULL;
    assert_ok(rb_crew_create(&crew, 1, &err));
    assert_calls(crew, 1, false, 2);
    rb_crew_free(crew);
    rb_crew_free(NULL);
}

static void a_crew_that_never_worked_can_leave(void **state)
{
    (void)state;
    rb_crew *crew = NULL;
    assert_ok(rb_crew_create(&crew, N_THREADS, &err));
    rb_crew_free(crew);
}

typedef struct counted {
    atomic_int calls[100];
    atomic_int n_inside, most_inside;
} counted;

static void count_task(void *user, int64_t i)
{
    counted *c = user;
    const int n = atomic_fetch_add(&c->n_inside, 1) + 1;
    for (int most = atomic_load(&c->most_inside);
         n > most && !atomic_compare_exchange_weak(&c->most_inside, &most, n);) {}
    usleep(200);
    atomic_fetch_add(&c->calls[i], 1);
    atomic_fetch_sub(&c->n_inside, 1);
}

static void every_task_runs_once_within_the_limit(void **state)
{
    (void)state;
    assert_true(rb_crew_limit() >= 1);
    for (int limit = 1; limit <= N_THREADS; limit++) {
        counted c = {0};
        rb_crew_set_limit(limit);
        assert_int_equal(rb_crew_limit(), limit);
        rb_crew_for_each(RB_COUNT(c.calls), count_task, &c);
        for (size_t i = 0; i < RB_COUNT(c.calls); i++) assert_int_equal(atomic_load(&c.calls[i]), 1);
        assert_true(atomic_load(&c.most_inside) <= limit);
        rb_crew_for_each(0, count_task, &c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once_within_the_limit),
        cmocka_unit_test(a_run_calls_each_member_once),
        cmocka_unit_test(a_crew_of_one_is_the_caller),
        cmocka_unit_test(a_crew_that_never_worked_can_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
