/* core/atomic_file.h: a file under its final name is complete, whatever happens on the way. */
#include "tests/test_support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "core/atomic_file.h"
#include "core/file_lock.h"
#include "core/temporary_file.h"

static bool exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

static void assert_file_holds(const char *path, const char *text)
{
    rb_error err = {0};
    char *found = NULL;
    size_t size;
    assert_ok(rb_read_file(&found, &size, path, 1 << 20, &err));
    assert_int_equal(size, strlen(text));
    assert_string_equal(found, text);
    free(found);
}

static void a_written_file_reads_back_and_leaves_no_tmp(void **state)
{
    (void)state;
    rb_error err = {0};
    const char *path = scratch_path("plan.json");
    assert_ok(rb_atomic_write(path, "first", 5, &err));
    assert_file_holds(path, "first");
    assert_ok(rb_atomic_write(path, "second, longer", 14, &err));
    assert_file_holds(path, "second, longer");
    assert_ok(rb_atomic_write(path, NULL, 0, &err));
    assert_file_holds(path, "");
    assert_int_equal(count_temporary_files(path), 0);
}

/* Two runs with one output: each has a file of its own, and what is published last stands. */
static void two_writers_of_one_file_do_not_share_a_temporary_one(void **state)
{
    (void)state;
    static const char *const texts[] = {"the first run's", "and the second's, longer"};
    rb_error err = {0};
    const char *path = scratch_path("shared");
    char *tmp[2];
    for (int i = 0; i < 2; i++) {
        assert_ok(rb_atomic_begin(&tmp[i], path, &err));
        assert_int_equal(rb_temporary_name_length(tmp[i]), strlen(path));
        FILE *file = fopen(tmp[i], "w");
        assert_non_null(file);
        fputs(texts[i], file);
        fclose(file);
    }
    assert_string_not_equal(tmp[0], tmp[1]);
    assert_int_equal(count_temporary_files(path), 2);
    for (int i = 0; i < 2; i++) {
        assert_ok(rb_atomic_publish(tmp[i], path, &err));
        assert_file_holds(path, texts[i]);
        free(tmp[i]);
    }
    assert_int_equal(count_temporary_files(path), 0);
}

static void a_result_has_the_mode_that_the_umask_lets(void **state)
{
    (void)state;
    rb_error err = {0};
    struct stat info;
    const char *path = scratch_path("mode");
    const mode_t before = umask(027);
    const rb_status st = rb_atomic_write(path, "x", 1, &err);
    umask(before);
    assert_ok(st);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
}

/* A child that is told to end while it writes. */
static void a_run_that_is_told_to_end_removes_its_temporary_files(void **state)
{
    (void)state;
    static const int endings[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    const struct rlimit no_core = {0};
    const char *path = scratch_path("ended");
    assert_int_equal(setrlimit(RLIMIT_CORE, &no_core), 0);
    for (size_t i = 0; i < RB_COUNT(endings); i++) {
        int how = 0;
        const pid_t child = fork();
        if (child == 0) {
            char *tmp[3] = {NULL};
            for (int j = 0; j < 3; j++)
                if (rb_atomic_begin(&tmp[j], path, NULL) != RB_OK) _exit(1);
            rb_atomic_discard(tmp[1]);
            raise(endings[i]);
            _exit(2);
        }
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        assert_int_equal(WTERMSIG(how), endings[i]);
        assert_int_equal(count_temporary_files(path), 0);
    }
}

/* Begins a file in a child, and tells when it is there. The child lives until it is killed. */
static pid_t start_writer(const char *path)
{
    int ends[2];
    char told = 0;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        char *tmp = NULL;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (rb_atomic_begin(&tmp, path, NULL) != RB_OK || write(ends[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &told, 1), 1);
    close(ends[0]);
    return child;
}

static bool has_locks(const char *path)
{
    const int fd = open(path, O_RDWR | O_CREAT, 0666);
    const bool answer = fd >= 0 && rb_is_on_local_disk(fd) && rb_file_lock(fd) == RB_LOCK_TAKEN;
    if (fd >= 0) close(fd);
    return answer;
}

static void the_file_of_a_killed_writer_goes_and_that_of_a_living_one_stays(void **state)
{
    (void)state;
    rb_error err = {0};
    char *path = strdup(scratch_path("killed")), *other = strdup(scratch_path("killed-elsewhere"));
    static const char *const kept[] = {"killed.short.tmp", "killed.toolong.tmp", "killed.abcde-.tmp",
                                       "killed.abcdef.tmp.h5"};
    if (!has_locks(scratch_path("has-locks"))) skip();
    const pid_t dead = start_writer(path), living = start_writer(path), elsewhere = start_writer(other);
    assert_int_equal(kill(dead, SIGKILL), 0);
    assert_int_equal(kill(elsewhere, SIGKILL), 0);
    assert_int_equal(waitpid(dead, NULL, 0), dead);
    assert_int_equal(waitpid(elsewhere, NULL, 0), elsewhere);
    for (size_t i = 0; i < RB_COUNT(kept); i++) assert_ok(rb_atomic_write(scratch_path(kept[i]), "x", 1, &err));
    assert_int_equal(symlink(path, scratch_path("killed.linked.tmp")), 0);

    assert_ok(rb_atomic_write(path, "mine", 4, &err));
    assert_int_equal(count_temporary_files(other), 1); /* of another name */
    for (size_t i = 0; i < RB_COUNT(kept); i++) assert_true(exists(scratch_path(kept[i])));
    assert_true(exists(scratch_path("killed.linked.tmp")));
    for (size_t i = 0; i < RB_COUNT(kept); i++) assert_int_equal(unlink(scratch_path(kept[i])), 0);
    assert_int_equal(unlink(scratch_path("killed.linked.tmp")), 0);
    assert_int_equal(count_temporary_files(path), 1); /* the living one's */

    assert_int_equal(kill(living, SIGKILL), 0);
    assert_int_equal(waitpid(living, NULL, 0), living);
    assert_ok(rb_atomic_write(path, "mine", 4, &err));
    assert_int_equal(count_temporary_files(path), 0);
    assert_ok(rb_atomic_write(other, "mine", 4, &err));
    assert_int_equal(count_temporary_files(other), 0);
    free(path);
    free(other);
}

/* Each looks for files of dead writers while the others make theirs and lock them. */
static void many_writers_of_one_file_do_not_remove_what_others_write(void **state)
{
    (void)state;
    enum { N_WRITERS = 4, N_WRITES = 100 };
    const char *path = scratch_path("crowded");
    pid_t writers[N_WRITERS];
    for (int i = 0; i < N_WRITERS; i++) {
        writers[i] = fork();
        if (writers[i] != 0) continue;
        rb_error err = {0};
        for (int j = 0; j < N_WRITES; j++)
            if (rb_atomic_write(path, "whole", 5, &err) != RB_OK) {
                fprintf(stderr, "%s\n", err.msg);
                _exit(1);
            }
        _exit(0);
    }
    for (int i = 0; i < N_WRITERS; i++) {
        int how = 0;
        assert_int_equal(waitpid(writers[i], &how, 0), writers[i]);
        assert_int_equal(how, 0);
    }
    assert_file_holds(path, "whole");
    assert_int_equal(count_temporary_files(path), 0);
}

/* So that what cannot be removed when the run is ended is not written either. */
static void more_files_at_once_than_can_be_noted_are_refused(void **state)
{
    (void)state;
    enum { MORE = 65 };
    rb_error err = {0};
    char *tmp[MORE] = {NULL};
    const char *path = scratch_path("many");
    for (int i = 0; i < MORE - 1; i++) assert_ok(rb_atomic_begin(&tmp[i], path, &err));
    assert_fails(rb_atomic_begin(&tmp[MORE - 1], path, &err), RB_EIO, "many: more than 64 files are written at once");
    assert_null(tmp[MORE - 1]);
    for (int i = 0; i < MORE; i++) {
        rb_atomic_discard(tmp[i]);
        free(tmp[i]);
    }
    assert_int_equal(count_temporary_files(path), 0);
    assert_ok(rb_atomic_write(path, "x", 1, &err));
}

/* RLIMIT_FSIZE makes write() fail half way, as a full disk does. */
static void a_full_disk_leaves_the_old_file_and_no_tmp(void **state)
{
    (void)state;
    enum { LIMIT = 10000, SIZE = 50000 };
    rb_error err = {0};
    struct rlimit old, low;
    const char *path = scratch_path("full"), *new_path = scratch_path("full-new");
    char *bytes = calloc(1, SIZE);
    assert_non_null(bytes);
    assert_ok(rb_atomic_write(path, "old", 3, &err));

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = (struct rlimit){.rlim_cur = LIMIT, .rlim_max = old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    const rb_status st = rb_atomic_write(path, bytes, SIZE, &err);
    const rb_status new_st = rb_atomic_write(new_path, bytes, SIZE, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_DFL);
    free(bytes);

    assert_int_equal(st, RB_EIO);
    assert_non_null(strstr(err.msg, "full: write failed: File too large"));
    assert_file_holds(path, "old");
    assert_int_equal(count_temporary_files(path), 0);
    assert_int_equal(new_st, RB_EIO);
    assert_false(exists(new_path));
    assert_int_equal(count_temporary_files(new_path), 0);
}

static void only_regular_files_are_replaced(void **state)
{
    (void)state;
    rb_error err = {0};
    const char *link = scratch_path("link"), *folder = scratch_path("folder"), *fifo = scratch_path("fifo");
    /* A pipe stands for the devices: a test that fails as root must not be what replaces /dev/null. */
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(symlink(fifo, link), 0);
    assert_int_equal(mkdir(folder, 0777), 0);
    assert_fails(rb_atomic_write(fifo, "x", 1, &err), RB_EIO,
                 "fifo: is a device, pipe or socket, expected a regular file");
    assert_fails(rb_atomic_write(link, "x", 1, &err), RB_EIO, "link: is a symbolic link");
    assert_fails(rb_atomic_write(folder, "x", 1, &err), RB_EIO, "folder: is a folder");
    assert_fails(rb_atomic_write(scratch_path("absent/"), "x", 1, &err), RB_EIO, "absent/: names a folder");
    assert_fails(rb_atomic_write("", "x", 1, &err), RB_EIO, "an empty file name");
    assert_true(exists(link));
}

static void a_missing_folder_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    const char *file = scratch_path("not-a-folder");
    char *tmp = NULL, inside[1100];
    assert_fails(rb_atomic_begin(&tmp, "/nonexistent/x/plan.rbp", &err), RB_EIO, "folder /nonexistent/x: No such file");
    assert_null(tmp);
    assert_ok(rb_atomic_write(file, "", 0, &err));
    snprintf(inside, sizeof inside, "%s/plan.rbp", file);
    assert_fails(rb_atomic_begin(&tmp, inside, &err), RB_EIO, "is not a folder");
    assert_null(tmp);
}

static void publishing_what_was_never_written_fails(void **state)
{
    (void)state;
    rb_error err = {0};
    char *tmp = NULL;
    const char *path = scratch_path("never");
    assert_ok(rb_atomic_begin(&tmp, path, &err));
    assert_int_equal(unlink(tmp), 0);
    assert_fails(rb_atomic_publish(tmp, path, &err), RB_EIO, "never: cannot sync it: No such file");
    assert_false(exists(path));
    rb_atomic_discard(tmp);
    rb_atomic_discard(NULL);
    free(tmp);
}

static void a_rename_that_fails_removes_the_tmp(void **state)
{
    (void)state;
    rb_error err = {0};
    char *tmp = NULL;
    const char *path = scratch_path("taken");
    assert_ok(rb_atomic_begin(&tmp, path, &err));
    FILE *file = fopen(tmp, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(mkdir(path, 0777), 0); /* meanwhile, somebody else */
    assert_fails(rb_atomic_publish(tmp, path, &err), RB_EIO, "taken: cannot rename");
    assert_false(exists(tmp));
    free(tmp);
}

static void a_relative_name_is_written_in_the_current_folder(void **state)
{
    (void)state;
    rb_error err = {0};
    char *folder = getcwd(NULL, 0);
    assert_non_null(folder);
    const char *path = scratch_path("relative"); /* also makes the scratch folder */
    assert_int_equal(chdir(test_scratch_folder), 0);
    const rb_status st = rb_atomic_write("relative", "here", 4, &err);
    assert_int_equal(chdir(folder), 0);
    free(folder);
    assert_ok(st);
    assert_file_holds(path, "here");
}

static void reading_stops_at_the_limit(void **state)
{
    (void)state;
    rb_error err = {0};
    char *text = NULL;
    size_t size;
    const char *path = scratch_path("ten");
    assert_ok(rb_atomic_write(path, "0123456789", 10, &err));
    assert_ok(rb_read_file(&text, &size, path, 10, &err));
    assert_int_equal(size, 10);
    free(text);
    assert_fails(rb_read_file(&text, &size, path, 9, &err), RB_EFORMAT, "ten: larger than the 9 bytes");
    assert_null(text);
    assert_fails(rb_read_file(&text, &size, "/dev/zero", 1 << 20, &err), RB_EFORMAT, "/dev/zero: larger than");
    assert_fails(rb_read_file(&text, &size, "/nonexistent", 9, &err), RB_EIO, "/nonexistent: No such file");
    assert_fails(rb_read_file(&text, &size, "/", 9, &err), RB_EIO, "/: read failed: Is a directory");
}

/* Around the sizes at which the buffer grows, one byte of which is kept for the NUL. */
static void files_of_every_awkward_size_read_back_whole(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 65534, 65535, 65536, 65537, 131070, 131071, 131072, 300001};
    rb_error err = {0};
    const char *path = scratch_path("sized");
    for (size_t i = 0; i < RB_COUNT(sizes); i++) {
        char *written = malloc(sizes[i] + 1), *found = NULL;
        size_t found_size;
        assert_non_null(written);
        for (size_t j = 0; j < sizes[i]; j++) written[j] = (char)(j * 7 + i);
        assert_ok(rb_atomic_write(path, written, sizes[i], &err));
        assert_ok(rb_read_file(&found, &found_size, path, 1 << 20, &err));
        assert_int_equal(found_size, sizes[i]);
        assert_memory_equal(found, written, sizes[i]);
        assert_int_equal(found[found_size], 0);
        free(written);
        free(found);
    }
}

static void folders_are_made_with_their_parents(void **state)
{
    (void)state;
    rb_error err = {0};
    const char *path = scratch_path("a/b//c/");
    struct stat info;
    assert_ok(rb_make_folder(path, &err));
    assert_int_equal(stat(path, &info), 0);
    assert_true(S_ISDIR(info.st_mode));
    assert_ok(rb_make_folder(path, &err));
    assert_ok(rb_make_folder("/", &err));
    assert_ok(rb_make_folder(".", &err));
    assert_ok(rb_atomic_write(scratch_path("a/file"), "", 0, &err));
    assert_fails(rb_make_folder(scratch_path("a/file"), &err), RB_EIO, "a/file: is not a folder");
    assert_fails(rb_make_folder(scratch_path("a/file/c"), &err), RB_EIO, "a/file: is not a folder");
    assert_fails(rb_make_folder("/proc/nothing", &err), RB_EIO, "/proc/nothing: cannot make the folder");
    assert_fails(rb_make_folder("", &err), RB_EIO, "cannot make the folder");
}

static void paths_are_joined_with_one_slash(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}, {".", "b/c", "./b/c"}};
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        char *path = NULL;
        assert_ok(rb_join_path(&path, cases[i][0], cases[i][1], &err));
        assert_string_equal(path, cases[i][2]);
        free(path);
    }
}

static void temporary_names_tell_the_final_one_beside_their_folder(void **state)
{
    static const struct {
        const char *path, *final;
    } cases[] = {{"c.h5.k3Zw9a.tmp", "c.h5"},
                 {"d/c.h5.parts/c.h5.000001.tmp", "d/c.h5"},
                 {"c.h5.parts/c.h5.000001.tmp", "c.h5"},
                 {"c.h5.parts/b.h5.000001.tmp", "c.h5.parts/b.h5"},
                 {"ac.h5.parts/c.h5.000001.tmp", "ac.h5.parts/c.h5"},
                 {"d/c.h5.parts/c.h5", "d/c.h5.parts/c.h5"}};
    (void)state;
    for (size_t i = 0; i < RB_COUNT(cases); i++)
        assert_int_equal(rb_temporary_name_length(cases[i].path), strlen(cases[i].final));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(temporary_names_tell_the_final_one_beside_their_folder),
        cmocka_unit_test(a_written_file_reads_back_and_leaves_no_tmp),
        cmocka_unit_test(two_writers_of_one_file_do_not_share_a_temporary_one),
        cmocka_unit_test(a_result_has_the_mode_that_the_umask_lets),
        cmocka_unit_test(a_run_that_is_told_to_end_removes_its_temporary_files),
        cmocka_unit_test(the_file_of_a_killed_writer_goes_and_that_of_a_living_one_stays),
        cmocka_unit_test(many_writers_of_one_file_do_not_remove_what_others_write),
        cmocka_unit_test(more_files_at_once_than_can_be_noted_are_refused),
        cmocka_unit_test(a_full_disk_leaves_the_old_file_and_no_tmp),
        cmocka_unit_test(only_regular_files_are_replaced),
        cmocka_unit_test(a_missing_folder_is_named),
        cmocka_unit_test(publishing_what_was_never_written_fails),
        cmocka_unit_test(a_rename_that_fails_removes_the_tmp),
        cmocka_unit_test(a_relative_name_is_written_in_the_current_folder),
        cmocka_unit_test(reading_stops_at_the_limit),
        cmocka_unit_test(files_of_every_awkward_size_read_back_whole),
        cmocka_unit_test(folders_are_made_with_their_parents),
        cmocka_unit_test(paths_are_joined_with_one_slash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
