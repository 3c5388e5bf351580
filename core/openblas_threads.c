/* See core/openblas_threads.h.
 *
 * The functions of .preinit_array run before those of any library. The C library's own list of variables is not made
 * then: setenv would be forgotten. But the strings that the process was given stand in their array, from which the C
 * library takes them. So one that no library reads makes room for ours, and is back when main begins. */
#include "core/openblas_threads.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/status.h"

static char **place; /* of our variable, before main */

static bool has_limit(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

void rb_openblas_without_threads(char **argv)
{
    static const char name[] = "OPENBLAS_NUM_THREADS";
    const bool is_limited = has_limit(RLIMIT_AS) || has_limit(RLIMIT_DATA);
    if (place || getenv(name) || !is_limited || setenv(name, "1", 1) != 0) return;
    execv("/proc/self/exe", argv); /* where that fails, we go on as we are */
}

/* A sanitizer is not ready for code that runs this early. */
#ifndef __SANITIZE_ADDRESS__

static char one_thread[] = "OPENBLAS_NUM_THREADS=1", *was;

/* Without the C library, which is not ready either. */
static bool begins_with(const char *text, const char *beginning)
{
    while (*beginning)
        if (*text++ != *beginning++) return false;
    return true;
}

static bool begins_with_one_of(const char *text, const char *const *beginnings, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (begins_with(text, beginnings[i])) return true;
    return false;
}

/* The shell's own variables first; else any that has no name libraries look for while they are loaded. */
static char **choose_place(char **variables)
{
    static const char *const ours[] = {"OPENBLAS_NUM_THREADS="}, *const shells[] = {"_=", "SHLVL=", "OLDPWD=", "PWD="},
                             *const read[] = {"LD_",   "OMP_",     "GOMP_", "OPENBLAS_", "GOTO_",   "HDF5_", "MALLOC_",
                                              "GLIBC", "OPENSSL_", "LANG",  "LC_",       "GNUTLS_", "CURL_", "KRB5_"};
    for (char **at = variables; *at; at++)
        if (begins_with_one_of(*at, ours, RB_COUNT(ours))) return at;
    for (char **at = variables; *at; at++)
        if (begins_with_one_of(*at, shells, RB_COUNT(shells))) return at;
    for (char **at = variables; *at; at++)
        if (!begins_with_one_of(*at, read, RB_COUNT(read))) return at;
    return NULL;
}

static void put_variable(int argc, char **argv, char **variables)
{
    (void)argc;
    (void)argv;
    place = choose_place(variables);
    if (!place) return;
    was = *place;
    *place = one_thread;
}

/* The program's own constructors run after those of its libraries. */
__attribute__((constructor)) static void take_variable_back(void)
{
    if (place) *place = was;
}

__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(int, char **,
                                                                                       char **) = put_variable;

#endif
