/* run/folder_lock.h: one run at a time in a folder, and none after it is gone. */
#include "tests/test_support.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "run/folder_lock.h"

/* A process that holds the folder until it is killed. */
static pid_t start_holder(const char *folder)
{
    int ends[2];
    char told = 0;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        int fd = -1;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (folder_lock_take(&fd, folder, NULL) != RB_OK || fd < 0 || write(ends[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &told, 1), 1);
    close(ends[0]);
    return child;
}

static void a_held_folder_is_refused_with_its_holder_and_free_after_a_kill(void **state)
{
    (void)state;
    rb_error err = {0};
    int fd = -1;
    char holder[64];
    const char *folder = scratch_path("deep/folder");
    const pid_t other = start_holder(folder);
    snprintf(holder, sizeof holder, "(process %ld on ", (long)other);
    assert_int_equal(folder_lock_take(&fd, folder, &err), RB_EIO);
    assert_int_equal(fd, -1);
    assert_non_null(strstr(err.msg, "deep/folder: another run works in this folder"));
    assert_non_null(strstr(err.msg, holder));
    err = (rb_error){0};

    assert_int_equal(kill(other, SIGKILL), 0);
    assert_int_equal(waitpid(other, NULL, 0), other);
    assert_ok(folder_lock_take(&fd, folder, &err));
    assert_true(fd >= 0);
    close(fd);
    assert_ok(folder_lock_take(&fd, folder, &err));
    close(fd);
}

static void another_folder_is_free(void **state)
{
    (void)state;
    rb_error err = {0};
    int first = -1, second = -1;
    assert_ok(folder_lock_take(&first, scratch_path("one"), &err));
    assert_ok(folder_lock_take(&second, scratch_path("two"), &err));
    close(first);
    close(second);
}

static void a_file_in_place_of_the_folder_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    int fd = -1;
    const char *path = scratch_path("file");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_fails(folder_lock_take(&fd, path, &err), RB_EIO, "file: is not a folder");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_held_folder_is_refused_with_its_holder_and_free_after_a_kill),
        cmocka_unit_test(another_folder_is_free),
        cmocka_unit_test(a_file_in_place_of_the_folder_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
