/* core/message.h: which messages are said at which verbosity, and progress on a terminal (a pseudo-terminal here) and
 * elsewhere. */
#include "tests/test_support.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdbool.h>

#include "core/message.h"

static int real_stderr;

static void send_stderr_to(int fd)
{
    fflush(stderr);
    real_stderr = dup(STDERR_FILENO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
}

static void restore_stderr(void)
{
    fflush(stderr);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    rb_messages_init("test", RB_NORMAL);
}

/* What say() writes on stderr when it is a file. */
static const char *said(void (*say)(void), int verbosity)
{
    static char text[8192];
    const int fd = open(scratch_path("stderr"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    rb_messages_init("profile", verbosity);
    send_stderr_to(fd);
    say();
    restore_stderr();
    const ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    close(fd);
    return text;
}

static void say_all(void)
{
    rb_message_error("layer %d is lost", 3);
    rb_message_warn("old");
    rb_message_info("new");
    rb_message_verbose("more");
}

static void verbosity_decides_what_is_said(void **state)
{
    (void)state;
    assert_string_equal(said(say_all, RB_QUIET), "profile: error: layer 3 is lost\n");
    assert_string_equal(said(say_all, RB_NORMAL),
                        "profile: error: layer 3 is lost\nprofile: warning: old\nprofile: info: new\n");
    assert_string_equal(
        said(say_all, RB_VERBOSE),
        "profile: error: layer 3 is lost\nprofile: warning: old\nprofile: info: new\nprofile: info: more\n");
}

static void make_progress(void)
{
    rb_progress progress;
    rb_progress_start(&progress, "calibrate", 3);
    rb_progress_step(&progress, "layer 0");
    rb_progress_step(&progress, NULL);
    progress.printed_s -= 1.5; /* as if the next step had taken that long */
    progress.started_s -= 100;
    progress.n_steps = 103;
    progress.done = 50;
    rb_progress_step(&progress, "layer 50");
    rb_progress_finish(&progress);
}

static void without_a_terminal_slow_steps_get_a_line(void **state)
{
    (void)state;
    assert_string_equal(said(make_progress, RB_QUIET), "");
    assert_string_equal(said(make_progress, RB_NORMAL),
                        "calibrate: 51/103 layer 50, 1 min 40 s, 1 min 42 s left\n"); /* 100 s / 51 * 52 */
    const char *verbose = said(make_progress, RB_VERBOSE);
    assert_memory_equal(verbose, "calibrate: 1/3 layer 0, 0 s, 0 s left\ncalibrate: 2/3, 0 s, 0 s left\ncalibrate: 51/",
                        80);
}

enum { N_STEPS = 4000 };

static void step_from_many_threads(void)
{
    rb_progress progress;
    rb_progress_start(&progress, "calibrate", N_STEPS);
#pragma omp parallel for num_threads(4)
    for (int i = 0; i < N_STEPS; i++) rb_progress_step(&progress, "a line that must not be torn");
    assert_int_equal(progress.done, N_STEPS);
    rb_progress_finish(&progress);
}

static void steps_of_many_threads_are_all_counted(void **state)
{
    (void)state;
    said(step_from_many_threads, RB_QUIET);
    const char *text = said(step_from_many_threads, RB_VERBOSE);
    assert_memory_equal(text, "calibrate: 1/4000 a line that must not be torn, 0 s, ", 53);
    assert_non_null(strstr(text, "\ncalibrate: 2/4000 a line that must not be torn, 0 s, "));
}

/* What was written to the terminal, up to `last`; a pseudo terminal hands it over in parts. */
static void read_terminal(char *text, size_t size, int terminal, const char *last)
{
    struct pollfd readable = {.fd = terminal, .events = POLLIN};
    size_t n = 0;
    text[0] = '\0';
    while (!strstr(text, last) && n + 1 < size && poll(&readable, 1, 5000) == 1) {
        const ssize_t got = read(terminal, text + n, size - 1 - n);
        if (got <= 0) return;
        n += (size_t)got;
        text[n] = '\0';
    }
}

static void a_terminal_gets_a_bar_that_makes_room_for_messages(void **state)
{
    (void)state;
    char text[4096];
    int terminal, screen;
    const struct winsize size = {.ws_row = 24, .ws_col = 60};
    if (openpty(&terminal, &screen, NULL, NULL, &size) != 0) skip();
    setenv("TERM", "xterm", 1);
    rb_messages_init("profile", RB_NORMAL);
    send_stderr_to(screen);
    rb_progress progress;
    rb_progress_start(&progress, "calibrate", 10);
    progress.printed_s += 60; /* the last drawing was less than a tenth of a second ago, on the slowest machine too */
    rb_progress_step(&progress, "not drawn");
    progress.printed_s -= 61;
    rb_progress_step(&progress, "layer 1, which has a name too long for the line");
    rb_message_warn("odd");
    progress.printed_s -= 1;
    rb_progress_step(&progress, NULL);
    rb_progress_finish(&progress);
    rb_message_info("end");
    restore_stderr();
    read_terminal(text, sizeof text, terminal, "end\r\n");
    close(screen);
    close(terminal);
    assert_string_equal(text,
                        "\rcalibrate [######........................] 2/10, 0 s, 0 s l\033[K" /* 59 of 60 columns */
                        "\r\033[Kprofile: warning: odd\r\n"
                        "\rcalibrate [#########.....................] 3/10, 0 s, 0 s l\033[K"
                        "\r\033[Kprofile: info: end\r\n");
}

static void the_clock_goes_forward(void **state)
{
    (void)state;
    const double before_s = rb_now_s();
    usleep(2000);
    assert_true(rb_now_s() - before_s >= 0.002);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verbosity_decides_what_is_said),
        cmocka_unit_test(without_a_terminal_slow_steps_get_a_line),
        cmocka_unit_test(steps_of_many_threads_are_all_counted),
        cmocka_unit_test(a_terminal_gets_a_bar_that_makes_room_for_messages),
        cmocka_unit_test(the_clock_goes_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
