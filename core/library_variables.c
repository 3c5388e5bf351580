/* See core/library_variables.h.
 *
 * The functions of .preinit_array run before those of any library. The C library's own list of variables is not made
 * then: setenv would be forgotten. But the strings that the process was given stand in their array, from which the C
 * library takes them. So those that no library reads make room for ours, and are back when main begins. */
#include "core/library_variables.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/status.h"

/* A variable of ours, and the place that it has before main. */
typedef struct own_variable {
    char *text;
    const char *const *decided_by; /* where one of these is set, it stays as it is; ends in NULL */
    char **place, *was;
} own_variable;

static char one_thread[] = "OPENBLAS_NUM_THREADS=1", sleeping[] = "OMP_WAIT_POLICY=passive";
static const char *const nobody[] = {NULL}, *const user_of_openmp[] = {"OMP_WAIT_POLICY=", "GOMP_SPINCOUNT=", NULL};
static own_variable own[] = {{.text = one_thread, .decided_by = nobody},
                             {.text = sleeping, .decided_by = user_of_openmp}};

static bool has_limit(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

void rb_library_variables_settle(char **argv)
{
    static const char name[] = "OPENBLAS_NUM_THREADS";
    const bool is_limited = has_limit(RLIMIT_AS) || has_limit(RLIMIT_DATA);
    if (own[0].place || getenv(name) || !is_limited || setenv(name, "1", 1) != 0) return;
    execv("/proc/self/exe", argv); /* where that fails, we go on as we are */
}

/* A sanitizer is not ready for code that runs this early. */
#ifndef __SANITIZE_ADDRESS__

/* Without the C library, which is not ready either. */
static bool begins_with(const char *text, const char *beginning)
{
    while (*beginning)
        if (*text++ != *beginning++) return false;
    return true;
}

static bool begins_with_one_of(const char *text, const char *const *beginnings)
{
    for (; *beginnings; beginnings++)
        if (begins_with(text, *beginnings)) return true;
    return false;
}

static char **find_variable(char **variables, const char *const *beginnings)
{
    for (; *variables; variables++)
        if (begins_with_one_of(*variables, beginnings)) return variables;
    return NULL;
}

/* Where OPENBLAS_NUM_THREADS has a place, there; else the shell's own variables first; else any that has no name
 * libraries look for while they are loaded. */
static char **choose_place(char **variables, const own_variable *variable)
{
    static const char *const threads[] = {"OPENBLAS_NUM_THREADS=", NULL},
                             *const shells[] = {"_=", "SHLVL=", "OLDPWD=", "PWD=", NULL},
                             *const read[] = {"LD_",   "OMP_",    "GOMP_", "OPENBLAS_", "GOTO_",
                                              "HDF5_", "MALLOC_", "GLIBC", "OPENSSL_",  "LANG",
                                              "LC_",   "GNUTLS_", "CURL_", "KRB5_",     NULL};
    char **at = variable->text == one_thread ? find_variable(variables, threads) : NULL;
    if (!at) at = find_variable(variables, shells);
    for (; !at && *variables; variables++)
        if (!begins_with_one_of(*variables, read)) at = variables;
    return at;
}

static void put_variables(int argc, char **argv, char **variables)
{
    (void)argc;
    (void)argv;
    for (own_variable *v = own; v < own + RB_COUNT(own); v++) {
        if (find_variable(variables, v->decided_by)) continue;
        v->place = choose_place(variables, v);
        if (!v->place) continue;
        v->was = *v->place;
        *v->place = v->text;
    }
}

/* The program's own constructors run after those of its libraries. */
__attribute__((constructor)) static void take_variables_back(void)
{
    for (own_variable *v = own; v < own + RB_COUNT(own); v++)
        if (v->place) *v->place = v->was;
}

__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(int, char **,
                                                                                       char **) = put_variables;

#endif
