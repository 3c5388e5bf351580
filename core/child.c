/* See core/child.h. The signals are blocked and taken one by one while the child runs: nothing happens in a handler. */
#include "core/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const int endings[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

static bool is_ignored(int number)
{
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

/* ---- the child ------------------------------------------------------------------------------- */

typedef struct child_start {
    const char *const *argv;
    const char *stdout_path;
    pid_t parent;
    int failed; /* a pipe's end: what kept the program from starting, as an errno */
} child_start;

/* The handlers are the parent's until exec: they would remove its files. */
static void prepare_signals(void)
{
    sigset_t none;
    for (size_t i = 0; i < RB_COUNT(endings); i++)
        if (!is_ignored(endings[i])) signal(endings[i], SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

_Noreturn static void run_child(const child_start *start)
{
    prctl(PR_SET_PDEATHSIG, is_ignored(SIGTERM) ? SIGKILL : SIGTERM);
    prepare_signals();
    if (getppid() != start->parent) _exit(1); /* it ended before the kernel was told */
    const int out = open(start->stdout_path, O_WRONLY | O_TRUNC);
    if (out >= 0 && dup2(out, STDOUT_FILENO) >= 0) {
        if (out != STDOUT_FILENO) close(out);
        execv(start->argv[0], (char *const *)start->argv);
    }
    const int reason = errno;
    if (write(start->failed, &reason, sizeof reason) < 0) _exit(1);
    _exit(1);
}

/* ---- the parent ------------------------------------------------------------------------------ */

/* Starts the child; 0, or an errno. */
static int start_child(pid_t *child, const char *const *argv, const char *stdout_path)
{
    int ends[2], reason = 0;
    if (pipe2(ends, O_CLOEXEC) != 0) return errno;
    const child_start start = {argv, stdout_path, getpid(), ends[1]};
    *child = fork();
    if (*child == 0) run_child(&start);
    if (*child < 0) reason = errno;
    close(ends[1]);
    /* exec closes the child's end: then there is nothing to read. */
    if (*child > 0 && read(ends[0], &reason, sizeof reason) != sizeof reason) reason = 0;
    close(ends[0]);
    if (*child > 0 && reason != 0) waitpid(*child, NULL, 0);
    return reason;
}

/* Waits, and passes on what comes. ending: the last of it; 0: nothing came. */
static rb_status wait_for(pid_t child, const sigset_t *awaited, int *how, int *ending, rb_error *err)
{
    for (;;) {
        const pid_t ended = waitpid(child, how, WNOHANG);
        if (ended == child) return RB_OK;
        if (ended < 0 && errno != EINTR) return rb_fail(err, RB_EIO, "waiting for a program: %s", strerror(errno));
        const int number = sigwaitinfo(awaited, NULL);
        if (number <= 0 || number == SIGCHLD) continue;
        *ending = number;
        kill(child, number);
    }
}

rb_status rb_child_run(int *how, const char *const *argv, const char *stdout_path, rb_error *err)
{
    struct sigaction old_action, plain = {.sa_handler = SIG_DFL};
    sigset_t awaited, old_mask;
    pid_t child = -1;
    int ending = 0;
    rb_status st;

    sigemptyset(&awaited);
    sigaddset(&awaited, SIGCHLD);
    for (size_t i = 0; i < RB_COUNT(endings); i++)
        if (!is_ignored(endings[i])) sigaddset(&awaited, endings[i]);
    sigaction(SIGCHLD, &plain, &old_action); /* where it is ignored, the system tells nothing of a child's end */
    pthread_sigmask(SIG_BLOCK, &awaited, &old_mask);
    const int reason = start_child(&child, argv, stdout_path);
    st = reason == 0 ? wait_for(child, &awaited, how, &ending, err)
                     : rb_fail(err, RB_EIO, "%s: cannot be started: %s", argv[0], strerror(reason));
    pthread_sigmask(SIG_SETMASK, &old_mask, NULL);
    sigaction(SIGCHLD, &old_action, NULL);
    if (ending != 0) raise(ending); /* this process ends here */
    return st;
}
