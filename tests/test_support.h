/* What every cmocka test needs: the headers cmocka wants first, paths of material that may be absent, a scratch folder,
 * error assertions. Tests run from the repository root. */
#ifndef RB_TESTS_TEST_SUPPORT_H
#define RB_TESTS_TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/status.h"

/* Path of a file under ../shared (or $RB_SHARED), or NULL where it is absent: the test then calls skip(). */
static inline const char *shared_path(const char *name)
{
    static char path[8][1024];
    static int next;
    const char *root = getenv("RB_SHARED");
    char *out = path[next++ % 8];
    snprintf(out, sizeof path[0], "%s/%s", root ? root : "../shared", name);
    return access(out, R_OK) == 0 ? out : NULL;
}

#define SHARED_OR_SKIP(variable, name)        \
    const char *variable = shared_path(name); \
    if (!variable) skip()

/* A fresh path inside this process's scratch folder (under $TMPDIR or /tmp; the folder is removed at exit). */
static char test_scratch_folder[256];
static void test_scratch_remove(void)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", test_scratch_folder);
    if (system(command) != 0) fprintf(stderr, "could not remove %s\n", test_scratch_folder);
}
static inline const char *scratch_path(const char *name)
{
    static char path[8][1024];
    static int next;
    if (test_scratch_folder[0] == '\0') {
        const char *tmp = getenv("TMPDIR");
        snprintf(test_scratch_folder, sizeof test_scratch_folder, "%s/ropebits-test-XXXXXX", tmp ? tmp : "/tmp");
        if (!mkdtemp(test_scratch_folder)) abort();
        atexit(test_scratch_remove);
    }
    char *out = path[next++ % 8];
    snprintf(out, sizeof path[0], "%s/%s", test_scratch_folder, name);
    return out;
}

/* Temporary files of an output: "NAME.XXXXXX.tmp". */
static inline int count_temporary_files(const char *path)
{
    char pattern[1100];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s.*.tmp", path);
    const int n = glob(pattern, 0, NULL, &found) == 0 ? (int)found.gl_pathc : 0;
    globfree(&found);
    return n;
}

/* RB_OK, or the message. */
#define assert_ok(call)                                                                              \
    do {                                                                                             \
        rb_status assert_ok_st = (call);                                                             \
        if (assert_ok_st != RB_OK) fail_msg("%s: status %d: %s", #call, (int)assert_ok_st, err.msg); \
    } while (0)

/* The status, and a message that contains `text`; clears err for the next one. */
#define assert_fails(call, status, text)                                                                          \
    do {                                                                                                          \
        memset(&err, 0, sizeof err);                                                                              \
        rb_status assert_fails_st = (call);                                                                       \
        if (assert_fails_st != (status))                                                                          \
            fail_msg("%s: status %d, expected %d: %s", #call, (int)assert_fails_st, (int)(status), err.msg);      \
        if (!strstr(err.msg, text)) fail_msg("%s: message \"%s\" does not contain \"%s\"", #call, err.msg, text); \
        memset(&err, 0, sizeof err);                                                                              \
    } while (0)

#endif
