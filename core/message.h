/* Messages and progress, all on stderr: "profile: warning: sentence" (error, warning, info). stdout carries results
 * only. */
#ifndef RB_CORE_MESSAGE_H
#define RB_CORE_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

enum { RB_QUIET = -1, RB_NORMAL = 0, RB_VERBOSE = 1 };

/* Set once by rb_program_main; `program` must outlive every message. */
void rb_messages_init(const char *program, int verbosity);
int rb_verbosity(void);

void rb_message_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));   /* always */
void rb_message_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));    /* unless -q */
void rb_message_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));    /* unless -q */
void rb_message_verbose(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* with -v */
/* The same as error, for a signal handler: text is plain, and may be cut at 1200 bytes. */
void rb_message_error_in_handler(const char *text);

/* Progress of work in n_steps: a bar on a terminal (redrawn at most ten times a second), else one line a step with -v
 * or when steps are seconds apart. Silent with -q. Any thread may call step; output is serialised. */
typedef struct rb_progress {
    const char *label; /* "calibrate", must outlive the progress */
    int64_t n_steps, done;
    double started_s, printed_s;
    bool is_terminal, is_drawn;
} rb_progress;

void rb_progress_start(rb_progress *progress, const char *label, int64_t n_steps);
/* One more step is done; detail ("layer 3") may be NULL. */
void rb_progress_step(rb_progress *progress, const char *detail);
void rb_progress_finish(rb_progress *progress);

double rb_now_s(void); /* monotonic clock */

#endif
