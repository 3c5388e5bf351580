/* Messages and progress on stderr: see core/message.h. */
#include "core/message.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BAR_WIDTH = 30 };
static const double REDRAW_S = 0.1, PLAIN_LINE_S = 1.0;

static struct {
    const char *program;
    int verbosity;
    bool bar_is_open;       /* a bar without its newline is on the terminal's last line */
    pthread_mutex_t lock;
} state = {.program = "ropebits", .lock = PTHREAD_MUTEX_INITIALIZER};

void rb_messages_init(const char *program, int verbosity)
{
    state.program = program;
    state.verbosity = verbosity;
}

int rb_verbosity(void) { return state.verbosity; }

double rb_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_message(const char *level, const char *fmt, va_list ap)
{
    pthread_mutex_lock(&state.lock);
    if (state.bar_is_open) fputs("\r\033[K", stderr);
    state.bar_is_open = false;
    fprintf(stderr, "%s: %s", state.program, level);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    pthread_mutex_unlock(&state.lock);
}

#define PRINT_MESSAGE(level)                \
    do {                                    \
        va_list ap;                         \
        va_start(ap, fmt);                  \
        print_message(level, fmt, ap);      \
        va_end(ap);                         \
    } while (0)

void rb_message_error(const char *fmt, ...) { PRINT_MESSAGE("error: "); }

void rb_message_warn(const char *fmt, ...)
{
    if (state.verbosity > RB_QUIET) PRINT_MESSAGE("warning: ");
}

void rb_message_info(const char *fmt, ...)
{
    if (state.verbosity > RB_QUIET) PRINT_MESSAGE("");
}

void rb_message_verbose(const char *fmt, ...)
{
    if (state.verbosity >= RB_VERBOSE) PRINT_MESSAGE("");
}

/* ---- progress ------------------------------------------------------------------------------------------------------------------- */

void rb_progress_start(rb_progress *progress, const char *label, int64_t n_steps)
{
    const double now = rb_now_s();
    *progress = (rb_progress){.label = label, .n_steps = n_steps, .started_s = now, .printed_s = now, .is_terminal = isatty(STDERR_FILENO) != 0};
}

static void draw_bar(rb_progress *progress, double now)
{
    const double share = progress->n_steps > 0 ? (double)progress->done / (double)progress->n_steps : 1.0;
    const int filled = (int)(share * BAR_WIDTH);
    const double left_s = progress->done > 0 ? (now - progress->started_s) * (1.0 - share) / share : 0.0;
    char bar[BAR_WIDTH + 1];
    memset(bar, '#', (size_t)filled);
    memset(bar + filled, '.', (size_t)(BAR_WIDTH - filled));
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r\033[K%s [%s] %lld/%lld, %.0f s left", progress->label, bar, (long long)progress->done, (long long)progress->n_steps, left_s);
    fflush(stderr);
    progress->is_drawn = state.bar_is_open = true;
}

static void print_step(const rb_progress *progress, const char *detail, double now)
{
    fprintf(stderr, "%s: %lld of %lld%s%s, %.1f s\n", progress->label, (long long)progress->done, (long long)progress->n_steps, detail ? ": " : "",
            detail ? detail : "", now - progress->started_s);
}

void rb_progress_step(rb_progress *progress, const char *detail)
{
    pthread_mutex_lock(&state.lock);
    const double now = rb_now_s(), since_s = now - progress->printed_s;
    progress->done++;
    if (state.verbosity > RB_QUIET) {
        const bool is_due = progress->is_terminal ? since_s >= REDRAW_S : since_s >= PLAIN_LINE_S || state.verbosity >= RB_VERBOSE;
        if (is_due) {
            if (progress->is_terminal)
                draw_bar(progress, now);
            else
                print_step(progress, detail, now);
            progress->printed_s = now;
        }
    }
    pthread_mutex_unlock(&state.lock);
}

void rb_progress_finish(rb_progress *progress)
{
    pthread_mutex_lock(&state.lock);
    if (progress->is_drawn && state.bar_is_open) fputs("\r\033[K", stderr);
    state.bar_is_open = false;
    pthread_mutex_unlock(&state.lock);
}
