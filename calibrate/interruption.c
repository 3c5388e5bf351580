/* See calibrate/interruption.h. */
#include "calibrate/interruption.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/message.h"
#include "core/status.h"

static const int endings[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
/* What removes temporary files (core/temporary_file.h), or ends the process. */
static struct sigaction before[RB_COUNT(endings)];
static char sentence[1024]; /* a handler can only write what stands still */

static void tell_and_end(int number)
{
    const ssize_t n = write(STDERR_FILENO, sentence, strlen(sentence));
    (void)n;
    for (size_t i = 0; i < RB_COUNT(endings); i++)
        if (endings[i] == number) sigaction(number, &before[i], NULL);
    raise(number); /* it is blocked here, and comes when this returns */
}

void interruption_tell(const char *output)
{
    char name[512];
    if (rb_verbosity() < RB_VERBOSE) return;
    rb_escape_text(name, sizeof name, output);
    snprintf(sentence, sizeof sentence,
             "calibrate: info: interrupted: %s.parts keeps the finished layers; the same command continues after "
             "them\n",
             name);
    for (size_t i = 0; i < RB_COUNT(endings); i++) {
        const struct sigaction ours = {.sa_handler = tell_and_end};
        if (sigaction(endings[i], NULL, &before[i]) == 0 && before[i].sa_handler != SIG_IGN)
            sigaction(endings[i], &ours, NULL);
    }
}
