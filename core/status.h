/* Status codes and the one error idiom of ropebits.
 *
 * Every function that can fail returns an rb_status. The place that first sees a failure writes one
 * sentence into the caller's rb_error (the thing, the value found, the value expected); everyone else
 * forwards the status. Cleanup happens once, at the bottom, under a label. Only a program's main turns
 * a status into an exit code (core/program.c). */
#ifndef RB_CORE_STATUS_H
#define RB_CORE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum rb_status {
    RB_OK = 0,
    RB_EUSAGE,       /* wrong command line; exit code 2 */
    RB_EINVAL,       /* a value out of its range, or inconsistent with another */
    RB_EIO,          /* the operating system said no: open, read, write, rename */
    RB_EFORMAT,      /* a file that is not what it claims to be, or damaged */
    RB_EMISMATCH,    /* two files that do not belong together */
    RB_EUNSUPPORTED, /* well-formed, but not something this build handles */
    RB_ENONFINITE,   /* NaN or infinity where a number was due */
    RB_ENOMEM,
    RB_EDEVICE, /* GPU or driver */
    RB_ECHECK   /* a check ran and the answer is no; exit code 3, already reported */
} rb_status;

/* Copies a text as one line that a terminal can show: control characters, what is not UTF-8, and marks that turn or
 * break a line become \n, \t or \xNN. Cut to the size, at a character's end. */
void rb_escape_text(char *out, size_t size, const char *text);
/* Whether rb_escape_text would leave it as it is. */
bool rb_is_plain_text(const char *text);
/* The same text for one printf: printf("%s", rb_shown(name).text). Whatever comes from a file, or names one, is printed
 * so. */
typedef struct rb_shown_text {
    char text[1024];
} rb_shown_text;
rb_shown_text rb_shown(const char *text);

/* Bytes of the UTF-8 character that a text begins with, and its code point; 0: it begins with none. */
int rb_take_character(const char *text, uint32_t *point);
/* Whether rb_escape_text leaves a character as it is. */
bool rb_is_shown(uint32_t point);

/* One sentence on one line, without program name, level or final newline. Zero-initialise: rb_error err = {0}; */
typedef struct rb_error {
    char msg[1024];
} rb_error;

/* Writes the sentence, escaped, since it may show what a file says, and returns `st`, so that a failing function ends
 * with `return rb_fail(...)`. Keeps an earlier message: the first failure is the one worth telling. err may be NULL. */
rb_status rb_fail(rb_error *err, rb_status st, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "CONTEXT: " in front of the message, for a caller that knows which file or layer was at work. Returns st. */
rb_status rb_fail_in(rb_error *err, rb_status st, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* 0, 1 (could not), 2 (usage) or 3 (a check said no). */
int rb_exit_code(rb_status st);

/* Forward a failure to the cleanup label. */
#define RB_TRY(st, call, label)        \
    do {                               \
        (st) = (call);                 \
        if ((st) != RB_OK) goto label; \
    } while (0)

#define RB_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Zeroed, 64-byte aligned array of n elements, freed by free(). *out is any object pointer, passed as &pointer.
 * The product is checked for overflow; n = 0 gives a valid pointer. Fails with RB_ENOMEM, naming `what`. */
rb_status rb_alloc(void *out, size_t n, size_t elem_size, const char *what, rb_error *err);

/* printf into a fresh string, freed by free(). Fails with RB_ENOMEM. */
rb_status rb_format(char **out, rb_error *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif

#endif
