/* core/atomic_file.h after a power cut: the bytes are on the disk before the name is, and the name is on it before
 * success is told. fsync and rename of this program stand in for libc's and note the order of calls. */
#include "tests/test_support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/syscall.h>

#include "core/atomic_file.h"

typedef struct disk_call {
    bool is_rename;
    ino_t inode; /* what was synced */
} disk_call;

static disk_call calls[16];
static int n_calls;
static int fail_call = -1; /* the call that fails */

static int note_call(disk_call call)
{
    if (n_calls < 16) calls[n_calls] = call;
    return n_calls++ == fail_call ? -1 : 0;
}

int fsync(int fd)
{
    struct stat info = {0};
    fstat(fd, &info);
    if (note_call((disk_call){.inode = info.st_ino}) != 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    if (note_call((disk_call){.is_rename = true}) != 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

static ino_t inode_of(const char *path)
{
    struct stat info = {0};
    assert_int_equal(stat(path, &info), 0);
    return info.st_ino;
}

static void the_file_is_synced_then_renamed_then_its_folder_is_synced(void **state)
{
    (void)state;
    rb_error err = {0};
    const char *path = scratch_path("plan.json");
    n_calls = 0;
    assert_ok(rb_atomic_write(path, "text", 4, &err));
    assert_int_equal(n_calls, 3);
    assert_false(calls[0].is_rename);
    assert_int_equal(calls[0].inode, inode_of(path));
    assert_true(calls[1].is_rename);
    assert_false(calls[2].is_rename);
    assert_int_equal(calls[2].inode, inode_of(test_scratch_folder));
}

static void a_disk_error_at_any_of_the_three_is_told_and_leaves_no_temporary_file(void **state)
{
    (void)state;
    static const char *const messages[] = {"fsync failed", "cannot rename", "fsync failed"};
    const char *path = scratch_path("failed");
    for (int i = 0; i < 3; i++) {
        rb_error err = {0};
        n_calls = 0;
        fail_call = i;
        const rb_status st = rb_atomic_write(path, "text", 4, &err);
        fail_call = -1;
        assert_int_equal(st, RB_EIO);
        assert_non_null(strstr(err.msg, messages[i]));
        assert_non_null(strstr(err.msg, "failed: "));
        assert_int_equal(count_temporary_files(path), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_is_synced_then_renamed_then_its_folder_is_synced),
        cmocka_unit_test(a_disk_error_at_any_of_the_three_is_told_and_leaves_no_temporary_file),
    };
    return cmocka_run_group_tests_name("atomic_sync", tests, NULL, NULL);
}
