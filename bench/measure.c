/* measure NAME REPEATS COMMAND...: runs the command REPEATS times (stdout and stderr to /dev/null), prints one JSON
 * line with the median wall time, the CPU time of that run and the largest peak memory. A command that fails ends the
 * measurement with its exit code. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct run_cost {
    double wall_s, cpu_s;
    long peak_kib;
} run_cost;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double seconds(struct timeval t) { return (double)t.tv_sec + 1e-6 * (double)t.tv_usec; }

static int by_wall(const void *a, const void *b)
{
    const double x = ((const run_cost *)a)->wall_s, y = ((const run_cost *)b)->wall_s;
    return (x > y) - (x < y);
}

/* Exit code of the command. */
static int run_once(run_cost *cost, char **command)
{
    struct rusage usage;
    int status;
    const double started = now_s();
    const pid_t child = fork();
    if (child == 0) {
        const int null = open("/dev/null", O_WRONLY);
        if (null >= 0) {
            dup2(null, STDOUT_FILENO);
            if (!getenv("MEASURE_STDERR")) dup2(null, STDERR_FILENO);
        }
        execvp(command[0], command);
        _exit(127);
    }
    if (child < 0 || wait4(child, &status, 0, &usage) < 0) return 126;
    *cost = (run_cost){now_s() - started, seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_maxrss};
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}

int main(int argc, char **argv)
{
    enum { MAX_REPEATS = 101 };
    run_cost cost[MAX_REPEATS];
    const int repeats = argc > 3 ? atoi(argv[2]) : 0;
    long peak_kib = 0;
    if (repeats < 1 || repeats > MAX_REPEATS) {
        fprintf(stderr, "usage: measure NAME REPEATS COMMAND...\n");
        return 2;
    }
    for (int i = 0; i < repeats; i++) {
        const int code = run_once(&cost[i], argv + 3);
        if (code != 0) {
            fprintf(stderr, "measure: %s: exit code %d\n", argv[3], code);
            return code;
        }
        if (cost[i].peak_kib > peak_kib) peak_kib = cost[i].peak_kib;
    }
    qsort(cost, (size_t)repeats, sizeof cost[0], by_wall);
    const run_cost median = cost[repeats / 2];
    printf("{\"name\": \"%s\", \"repeats\": %d, \"wall_s\": %.4f, \"fastest_s\": %.4f, \"cpu_s\": %.4f, \"peak_mib\": "
           "%.1f}\n",
           argv[1], repeats, median.wall_s, cost[0].wall_s, median.cpu_s, (double)peak_kib / 1024.0);
    return 0;
}
