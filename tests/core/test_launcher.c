/* Which task of a parallel job a process is, by the variables that Slurm and Open MPI set. */
#include "tests/test_support.h"

#include "core/launcher.h"

static const char *const variables[] = {
    "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP",
    "SLURM_PROCID",        "SLURM_NTASKS",           "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID",
    "SLURM_LOCALID",       "OMPI_COMM_WORLD_RANK",   "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"};

/* "NAME=value NAME=value ...", and nothing else of the above. */
static void set_environment(const char *text)
{
    char copy[512], *rest = copy;
    for (size_t i = 0; i < RB_COUNT(variables); i++) unsetenv(variables[i]);
    snprintf(copy, sizeof copy, "%s", text);
    for (char *word; (word = strsep(&rest, " "));) {
        char *value = strchr(word, '=');
        if (!value) continue;
        *value = '\0';
        setenv(word, value + 1, 1);
    }
}

static void assert_task(const char *environment, int64_t index, int64_t count)
{
    launcher_task task;
    rb_error err = {0};
    set_environment(environment);
    assert_ok(rb_launcher_task(&task, &err));
    assert_int_equal(task.index, index);
    assert_int_equal(task.count, count);
}

static void a_job_array_counts_from_its_first_id_in_its_steps(void **state)
{
    (void)state;
    assert_task("SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_COUNT=4", 2, 4);
    assert_task("SLURM_ARRAY_TASK_ID=4 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=1", 3, 4);
    assert_task("SLURM_ARRAY_TASK_ID=20 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=10 SLURM_ARRAY_TASK_STEP=5", 2,
                3);
    assert_task("SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=1 SLURM_ARRAY_TASK_MIN=7", 0, 1);
}

static void tasks_of_srun_and_of_mpirun_are_known(void **state)
{
    (void)state;
    assert_task("", 0, 0);
    assert_task("SLURM_PROCID=1 SLURM_NTASKS=4", 1, 4);
    assert_task("SLURM_PROCID=1 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=2 SLURM_JOB_ID=9", 1, 2);
    assert_task("OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4", 3, 4);
    /* mpirun in a job of Slurm: a daemon on each of two hosts is srun's task, the process is mpirun's. */
    assert_task("SLURM_JOB_ID=9 SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 OMPI_COMM_WORLD_RANK=5 "
                "OMPI_COMM_WORLD_SIZE=8",
                5, 8);
}

static void a_batch_script_and_the_shell_of_salloc_are_no_task(void **state)
{
    (void)state;
    assert_task("SLURM_JOB_ID=9 SLURM_NTASKS=4", 0, 0);
    assert_task("SLURM_JOB_ID=9 SLURM_PROCID=0 SLURM_NTASKS=4", 0, 0);
    assert_task("SLURM_NTASKS=4", 0, 0);
    assert_task("OMPI_COMM_WORLD_SIZE=4", 0, 0);
}

static void tasks_within_a_job_array_multiply(void **state)
{
    (void)state;
    assert_task("SLURM_JOB_ID=9 SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_COUNT=3 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=4",
                9, 12);
    assert_task("SLURM_JOB_ID=9 SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_COUNT=3 SLURM_PROCID=0 SLURM_NTASKS=4", 2, 3);
    assert_task("SLURM_ARRAY_TASK_ID=5 SLURM_ARRAY_TASK_MIN=5 SLURM_ARRAY_TASK_COUNT=1 SLURM_PROCID=1 SLURM_NTASKS=4",
                1, 4);
}

static void assert_refused(const char *environment, const char *words)
{
    launcher_task task;
    rb_error err = {0};
    set_environment(environment);
    assert_int_equal(rb_launcher_task(&task, &err), RB_EINVAL);
    if (!strstr(err.msg, words)) fail_msg("'%s' lacks '%s'", err.msg, words);
}

static void variables_that_do_not_fit_are_named(void **state)
{
    (void)state;
    assert_refused("SLURM_PROCID=x SLURM_NTASKS=4", "SLURM_PROCID is 'x', expected a whole number");
    assert_refused("SLURM_PROCID=4 SLURM_NTASKS=4", "SLURM_PROCID is 4 and SLURM_NTASKS 4");
    assert_refused("OMPI_COMM_WORLD_RANK=-1 OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_RANK is '-1'");
    assert_refused("SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=1",
                   "SLURM_ARRAY_TASK_ID is 7, expected one of 3 that count from 1");
    assert_refused("SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_STEP=2", "in steps of 2");
    assert_refused("SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=1", "SLURM_ARRAY_TASK_ID is 0");
    assert_refused("SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_STEP=0", "in steps of 0");
}

static void the_rank_on_the_host_is_mpiruns_before_slurms(void **state)
{
    (void)state;
    const char *variable = NULL;
    int64_t rank = -1;
    set_environment("");
    assert_false(rb_launcher_local_rank(&rank, &variable));
    set_environment("SLURM_LOCALID=3");
    assert_true(rb_launcher_local_rank(&rank, &variable));
    assert_int_equal(rank, 3);
    assert_string_equal(variable, "SLURM_LOCALID");
    set_environment("SLURM_LOCALID=0 OMPI_COMM_WORLD_LOCAL_RANK=2");
    assert_true(rb_launcher_local_rank(&rank, &variable));
    assert_int_equal(rank, 2);
    assert_string_equal(variable, "OMPI_COMM_WORLD_LOCAL_RANK");
    set_environment("SLURM_LOCALID=all");
    assert_false(rb_launcher_local_rank(&rank, &variable));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_array_counts_from_its_first_id_in_its_steps),
        cmocka_unit_test(tasks_of_srun_and_of_mpirun_are_known),
        cmocka_unit_test(a_batch_script_and_the_shell_of_salloc_are_no_task),
        cmocka_unit_test(tasks_within_a_job_array_multiply),
        cmocka_unit_test(variables_that_do_not_fit_are_named),
        cmocka_unit_test(the_rank_on_the_host_is_mpiruns_before_slurms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
