/* core/child.h: a parent and its child end together. The parent of each test is a process of its own, whose child is a
 * shell that tells what came. */
#include "tests/test_support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>

#include "core/child.h"

static void wait_a_little(void) { nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL); }

static const char *new_file(const char *name)
{
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    return path;
}

/* Waits up to 10 s for a file to hold a text. */
static bool comes_to_hold(const char *path, const char *text)
{
    for (int i = 0; i < 1000; i++) {
        char found[64] = "";
        FILE *file = fopen(path, "r");
        if (file && fgets(found, sizeof found, file)) found[strcspn(found, "\n")] = '\0';
        if (file) fclose(file);
        if (strcmp(found, text) == 0) return true;
        wait_a_little();
    }
    return false;
}

static void a_child_writes_to_the_file_and_its_end_is_told(void **state)
{
    (void)state;
    rb_error err = {0};
    int how = 0;
    const char *out = new_file("out");
    assert_ok(rb_child_run(&how, (const char *[]){"/bin/sh", "-c", "echo hello; exit 3", NULL}, out, &err));
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 3);
    assert_true(comes_to_hold(out, "hello"));
    assert_ok(rb_child_run(&how, (const char *[]){"/bin/sh", "-c", "kill -9 $$", NULL}, out, &err));
    assert_true(WIFSIGNALED(how));
    assert_int_equal(WTERMSIG(how), SIGKILL);
}

static void a_program_that_is_not_there_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    int how = 0;
    const char *out = new_file("none");
    assert_fails(rb_child_run(&how, (const char *[]){"/nonexistent/program", NULL}, out, &err), RB_EIO,
                 "/nonexistent/program: cannot be started: No such file");
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

static void a_child_is_waited_for_where_ends_of_children_are_ignored(void **state)
{
    (void)state;
    rb_error err = {0};
    int how = 0;
    const char *out = new_file("ignored");
    signal(SIGCHLD, SIG_IGN);
    const rb_status st = rb_child_run(&how, (const char *[]){"/bin/sh", "-c", "exit 4", NULL}, out, &err);
    signal(SIGCHLD, SIG_DFL);
    assert_ok(st);
    assert_int_equal(WEXITSTATUS(how), 4);
}

/* A parent whose child tells in `out` that it is there, and in `told` which signal came. */
static pid_t start_parent(const char *out, const char *told)
{
    char script[4096];
    snprintf(script, sizeof script,
             "for s in INT TERM HUP QUIT; do trap \"echo $s >'%s'; exit 5\" $s; done; echo ready; "
             "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.5; done",
             told);
    const pid_t parent = fork();
    if (parent == 0) {
        int how = 0;
        rb_child_run(&how, (const char *[]){"/bin/sh", "-c", script, NULL}, out, NULL);
        _exit(WIFEXITED(how) ? WEXITSTATUS(how) : 1);
    }
    assert_true(comes_to_hold(out, "ready"));
    return parent;
}

static void a_signal_to_the_parent_is_passed_on_and_ends_it_after_the_child(void **state)
{
    (void)state;
    static const struct {
        int number;
        const char *name;
    } endings[] = {{SIGINT, "INT"}, {SIGTERM, "TERM"}, {SIGHUP, "HUP"}, {SIGQUIT, "QUIT"}};
    for (size_t i = 0; i < RB_COUNT(endings); i++) {
        const char *out = new_file("signalled"), *told = new_file("told");
        int how = 0;
        const pid_t parent = start_parent(out, told);
        assert_int_equal(kill(parent, endings[i].number), 0);
        assert_int_equal(waitpid(parent, &how, 0), parent);
        assert_true(WIFSIGNALED(how));
        assert_int_equal(WTERMSIG(how), endings[i].number);
        FILE *file = fopen(told, "r"); /* it is there at once: the parent has waited */
        char found[16] = "";
        assert_non_null(fgets(found, sizeof found, file));
        fclose(file);
        assert_memory_equal(found, endings[i].name, strlen(endings[i].name));
    }
}

static void a_child_is_told_to_end_when_its_parent_is_killed(void **state)
{
    (void)state;
    const char *out = new_file("orphan"), *told = new_file("orphan-told");
    const pid_t parent = start_parent(out, told);
    assert_int_equal(kill(parent, SIGKILL), 0);
    assert_int_equal(waitpid(parent, NULL, 0), parent);
    assert_true(comes_to_hold(told, "TERM"));
}

static void a_signal_that_the_parent_ignores_ends_neither(void **state)
{
    (void)state;
    rb_error err = {0};
    int how = 0;
    const char *out = new_file("nohup");
    signal(SIGHUP, SIG_IGN);
    const rb_status st =
        rb_child_run(&how, (const char *[]){"/bin/sh", "-c", "kill -HUP $PPID $$; echo on; exit 6", NULL}, out, &err);
    signal(SIGHUP, SIG_DFL);
    assert_ok(st);
    assert_int_equal(WEXITSTATUS(how), 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_writes_to_the_file_and_its_end_is_told),
        cmocka_unit_test(a_program_that_is_not_there_is_named),
        cmocka_unit_test(a_child_is_waited_for_where_ends_of_children_are_ignored),
        cmocka_unit_test(a_signal_to_the_parent_is_passed_on_and_ends_it_after_the_child),
        cmocka_unit_test(a_child_is_told_to_end_when_its_parent_is_killed),
        cmocka_unit_test(a_signal_that_the_parent_ignores_ends_neither),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
