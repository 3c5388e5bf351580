/* Messages and progress on stderr: see core/message.h. One lock serialises both. One flag says whether a bar stands on
 * the current line, so that a message never follows half a bar on its line. */
#include "core/message.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/status.h"

enum { DEFAULT_COLUMNS = 80, BAR_CELLS = 30 };
static const double REDRAW_S = 0.1, LINE_S = 1.0;

static struct {
    const char *program;
    int verbosity;
    bool bar_on_line;
    pthread_mutex_t lock;
} state = {.program = "ropebits", .verbosity = RB_NORMAL, .lock = PTHREAD_MUTEX_INITIALIZER};

void rb_messages_init(const char *program, int verbosity)
{
    state.program = program;
    state.verbosity = verbosity;
}

int rb_verbosity(void) { return state.verbosity; }

double rb_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- messages -------------------------------------------------------------------------------- */

/* Under the lock. */
static void clear_bar(void)
{
    if (state.bar_on_line) fputs("\r\033[K", stderr);
    state.bar_on_line = false;
}

/* A message may show what a file says: it is escaped, as errors are. */
static void print_message(const char *level, const char *fmt, va_list ap)
{
    enum { MESSAGE_SIZE = 4096 };
    char text[MESSAGE_SIZE], line[MESSAGE_SIZE];
    vsnprintf(text, sizeof text, fmt, ap);
    rb_escape_text(line, sizeof line, text);
    pthread_mutex_lock(&state.lock);
    clear_bar();
    fprintf(stderr, "%s: %s: %s\n", state.program, level, line);
    pthread_mutex_unlock(&state.lock);
}

void rb_message_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    print_message("error", fmt, ap);
    va_end(ap);
}

void rb_message_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (state.verbosity > RB_QUIET) print_message("warning", fmt, ap);
    va_end(ap);
}

void rb_message_info(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (state.verbosity > RB_QUIET) print_message("info", fmt, ap);
    va_end(ap);
}

void rb_message_verbose(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (state.verbosity >= RB_VERBOSE) print_message("info", fmt, ap);
    va_end(ap);
}

void rb_message_error_in_handler(const char *text)
{
    char line[1400];
    size_t used = 0;
    const char *const pieces[] = {state.bar_on_line ? "\r\033[K" : "", state.program, ": error: ", text};
    for (size_t i = 0; i < RB_COUNT(pieces); i++)
        for (const char *c = pieces[i]; *c && used < sizeof line - 1; c++) line[used++] = *c;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0) return; /* nobody is left to be told */
}

/* ---- progress -------------------------------------------------------------------------------- */

static int terminal_columns(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : DEFAULT_COLUMNS;
}

/* "4 s", "3 min 20 s", "2 h 05 min" */
static void format_duration(char *text, size_t size, double seconds)
{
    const long long s = (long long)(seconds + 0.5);
    if (s < 60) snprintf(text, size, "%lld s", s);
    else if (s < 3600) snprintf(text, size, "%lld min %02lld s", s / 60, s % 60);
    else snprintf(text, size, "%lld h %02lld min", s / 3600, s / 60 % 60);
}

/* "12 s, 30 s left", if the rest goes on at the speed so far. */
static void format_times(char *text, size_t size, const rb_progress *progress, double now_s)
{
    const double elapsed_s = now_s - progress->started_s;
    char elapsed[40], left[40];
    format_duration(elapsed, sizeof elapsed, elapsed_s);
    if (progress->done == 0 || progress->done >= progress->n_steps) {
        snprintf(text, size, "%s", elapsed);
        return;
    }
    format_duration(left, sizeof left,
                    elapsed_s / (double)progress->done * (double)(progress->n_steps - progress->done));
    snprintf(text, size, "%s, %s left", elapsed, left);
}

static void draw_bar(rb_progress *progress, const char *detail, double now_s)
{
    char line[512], bar[BAR_CELLS + 1], times[96];
    for (int i = 0; i < BAR_CELLS; i++) bar[i] = i * progress->n_steps < BAR_CELLS * progress->done ? '#' : '.';
    bar[BAR_CELLS] = '\0';
    format_times(times, sizeof times, progress, now_s);
    snprintf(line, sizeof line, "%s [%s] %lld/%lld, %s%s%s", progress->label, bar, (long long)progress->done,
             (long long)progress->n_steps, times, detail ? ", " : "", detail ? detail : "");
    /* Cut to the terminal: a line that wraps could not be redrawn in place. */
    fprintf(stderr, "\r%.*s\033[K", terminal_columns() - 1, line);
    fflush(stderr);
    state.bar_on_line = progress->is_drawn = true;
}

static void print_step(const rb_progress *progress, const char *detail, double now_s)
{
    char times[96];
    format_times(times, sizeof times, progress, now_s);
    fprintf(stderr, "%s: %lld/%lld%s%s, %s\n", progress->label, (long long)progress->done, (long long)progress->n_steps,
            detail ? " " : "", detail ? detail : "", times);
}

void rb_progress_start(rb_progress *progress, const char *label, int64_t n_steps)
{
    const char *terminal = getenv("TERM");
    const double now_s = rb_now_s();
    *progress = (rb_progress){
        .label = label,
        .n_steps = n_steps,
        .started_s = now_s,
        .printed_s = now_s,
        .is_terminal = isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0,
    };
}

void rb_progress_step(rb_progress *progress, const char *detail)
{
    pthread_mutex_lock(&state.lock);
    const double now_s = rb_now_s(), since_s = now_s - progress->printed_s;
    const bool is_due = since_s >= (progress->is_terminal ? REDRAW_S : LINE_S)
                        || (!progress->is_terminal && state.verbosity >= RB_VERBOSE);
    progress->done++;
    if (state.verbosity > RB_QUIET && is_due) {
        if (progress->is_terminal) draw_bar(progress, detail, now_s);
        else print_step(progress, detail, now_s);
        progress->printed_s = now_s;
    }
    pthread_mutex_unlock(&state.lock);
}

void rb_progress_finish(rb_progress *progress)
{
    pthread_mutex_lock(&state.lock);
    if (progress->is_drawn) clear_bar();
    progress->is_drawn = false;
    pthread_mutex_unlock(&state.lock);
}
