/* core/mapped_file.h: a file that is cut while it is mapped ends the process with a sentence. Each process that ends is
 * a child of the test. */
#include "tests/test_support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "core/atomic_file.h"
#include "core/mapped_file.h"
#include "core/message.h"

enum { N_BYTES = 100000, CUT_BYTES = 10000 };

/* A file of ones. */
static const char *new_file(const char *name)
{
    rb_error err = {0};
    static char bytes[N_BYTES];
    const char *path = scratch_path(name);
    memset(bytes, 1, sizeof bytes);
    assert_ok(rb_atomic_write(path, bytes, sizeof bytes, &err));
    return path;
}

static long sum(const unsigned char *bytes, size_t n)
{
    long total = 0;
    for (size_t i = 0; i < n; i++) total += bytes[i];
    return total;
}

static void a_whole_file_is_mapped_and_an_empty_one_has_no_address(void **state)
{
    (void)state;
    rb_error err = {0};
    rb_mapped_file *file = NULL, *empty = NULL;
    const char *none = scratch_path("empty");
    assert_ok(rb_map_file(&file, new_file("whole"), &err));
    assert_int_equal(rb_mapped_size(file), N_BYTES);
    assert_int_equal(sum(rb_mapped_address(file), N_BYTES), N_BYTES);
    assert_ok(rb_mapped_file_check(file, &err));
    assert_ok(rb_atomic_write(none, NULL, 0, &err));
    assert_ok(rb_map_file(&empty, none, &err));
    assert_int_equal(rb_mapped_size(empty), 0);
    assert_null(rb_mapped_address(empty));
    rb_unmap_file(empty);
    rb_unmap_file(file);
    rb_unmap_file(NULL);
}

static void what_is_no_regular_file_is_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    rb_mapped_file *file = NULL;
    const char *fifo = scratch_path("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_fails(rb_map_file(&file, fifo, &err), RB_EIO, "not a regular file");
    assert_fails(rb_map_file(&file, "/", &err), RB_EIO, "not a regular file");
    assert_fails(rb_map_file(&file, "/nonexistent", &err), RB_EIO, "cannot open: No such file");
    assert_null(file);
}

/* Cut within a page, the file reads as zeros up to the page's end. */
static void a_shorter_file_is_noticed_without_a_signal(void **state)
{
    (void)state;
    rb_error err = {0};
    rb_mapped_file *file = NULL;
    const char *path = new_file("shorter");
    assert_ok(rb_map_file(&file, path, &err));
    assert_int_equal(truncate(path, N_BYTES - 1), 0);
    assert_int_equal(rb_mapped_address(file)[N_BYTES - 1], 0);
    assert_fails(rb_mapped_file_check(file, &err), RB_EIO,
                 "shorter: ends at byte 99999, expected 100000: the file was cut while it was read");
    rb_unmap_file(file);
}

/* Runs read_all in a child on a mapping of a file that is cut under it. Its stderr goes to *told. */
static int end_of_reader(const char *path, void (*read_all)(const rb_mapped_file *file), char *told, size_t size)
{
    const struct rlimit no_core = {0};
    int ends[2], how = 0;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        rb_mapped_file *file = NULL;
        char *tmp = NULL;
        dup2(ends[1], STDERR_FILENO);
        close(ends[1]);
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGBUS, SIG_DFL); /* cmocka has a handler */
        rb_messages_init("reader", RB_NORMAL);
        if (rb_atomic_begin(&tmp, path, NULL) != RB_OK || rb_map_file(&file, path, NULL) != RB_OK
            || truncate(path, CUT_BYTES) != 0)
            _exit(7);
        read_all(file);
        _exit(8);
    }
    close(ends[1]);
    const ssize_t n = read(ends[0], told, size - 1);
    told[n > 0 ? n : 0] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &how, 0), child);
    return how;
}

static void sum_all(const rb_mapped_file *file)
{
    volatile long total = sum(rb_mapped_address(file), rb_mapped_size(file));
    (void)total;
}

static void sum_by_threads(const rb_mapped_file *file)
{
#pragma omp parallel num_threads(4)
    sum_all(file);
}

static void a_cut_file_ends_its_reader_with_a_sentence_and_no_temporary_file(void **state)
{
    (void)state;
    void (*const readers[])(const rb_mapped_file *) = {sum_all, sum_by_threads};
    for (size_t i = 0; i < RB_COUNT(readers); i++) {
        char told[2048], wanted[1400];
        const char *path = new_file("cut\nhere");
        const int how = end_of_reader(path, readers[i], told, sizeof told);
        assert_true(WIFEXITED(how));
        assert_int_equal(WEXITSTATUS(how), 1);
        snprintf(wanted, sizeof wanted,
                 "reader: error: %s/cut\\nhere: ends at byte 10000, expected 100000: the file was cut while it was "
                 "read\n",
                 test_scratch_folder);
        assert_string_equal(told, wanted);
        assert_int_equal(count_temporary_files(path), 0);
    }
}

/* A mapping that is not ours. */
static void touch_another(const rb_mapped_file *file)
{
    (void)file;
    const int fd = open(scratch_path("another"), O_RDWR | O_CREAT, 0666);
    const volatile unsigned char *bytes = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) _exit(9);
    (void)bytes[0];
}

static void a_page_of_another_mapping_is_a_signal_as_ever(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* its report is the end */
#endif
    char told[2048];
    const int how = end_of_reader(new_file("cut-too"), touch_another, told, sizeof told);
    assert_true(WIFSIGNALED(how));
    assert_int_equal(WTERMSIG(how), SIGBUS);
    assert_string_equal(told, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_file_is_mapped_and_an_empty_one_has_no_address),
        cmocka_unit_test(what_is_no_regular_file_is_refused),
        cmocka_unit_test(a_shorter_file_is_noticed_without_a_signal),
        cmocka_unit_test(a_cut_file_ends_its_reader_with_a_sentence_and_no_temporary_file),
        cmocka_unit_test(a_page_of_another_mapping_is_a_signal_as_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
