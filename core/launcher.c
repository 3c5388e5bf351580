/* See core/launcher.h. */
#include "core/launcher.h"

#include <stdlib.h>
#include <string.h>

static const char *get(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static bool parse_whole(int64_t *out, const char *text)
{
    enum { MAX_DIGITS = 10 };
    const size_t n = strlen(text);
    if (n == 0 || n > MAX_DIGITS || strspn(text, "0123456789") != n) return false;
    *out = strtoll(text, NULL, 10);
    return true;
}

/* The variable's value; `missing` where it is not set. */
static rb_status read_whole(int64_t *out, const char *name, int64_t missing, rb_error *err)
{
    const char *text = get(name);
    *out = missing;
    if (!text || parse_whole(out, text)) return RB_OK;
    return rb_fail(err, RB_EINVAL, "%s is '%s', expected a whole number", name, text);
}

static rb_status check_index(int64_t index, int64_t count, const char *index_name, const char *count_name,
                             rb_error *err)
{
    if (count >= 1 && index < count) return RB_OK;
    return rb_fail(err, RB_EINVAL, "%s is %lld and %s %lld, expected a number from 0 below the other", index_name,
                   (long long)index, count_name, (long long)count);
}

/* ---- a job array ----------------------------------------------------------------------------- */

/* Ids such as 1,3,7 do not say which of three a task is. */
static rb_status array_index(int64_t *index, int64_t count, rb_error *err)
{
    int64_t id, first, step;
    rb_status st;
    RB_TRY(st, read_whole(&id, "SLURM_ARRAY_TASK_ID", 0, err), done);
    RB_TRY(st, read_whole(&first, "SLURM_ARRAY_TASK_MIN", 0, err), done);
    RB_TRY(st, read_whole(&step, "SLURM_ARRAY_TASK_STEP", 1, err), done);
    *index = step > 0 && id >= first ? (id - first) / step : -1;
    if (*index < 0 || *index >= count || (id - first) % step != 0)
        st = rb_fail(err, RB_EINVAL,
                     "SLURM_ARRAY_TASK_ID is %lld, expected one of %lld that count from %lld (SLURM_ARRAY_TASK_MIN) in "
                     "steps of %lld, as those of sbatch --array=0-%lld",
                     (long long)id, (long long)count, (long long)first, (long long)step, (long long)count - 1);
done:
    return st;
}

static rb_status read_array(launcher_task *task, rb_error *err)
{
    rb_status st;
    *task = (launcher_task){0};
    if (!get("SLURM_ARRAY_TASK_ID") || !get("SLURM_ARRAY_TASK_COUNT")) return RB_OK;
    RB_TRY(st, read_whole(&task->count, "SLURM_ARRAY_TASK_COUNT", 0, err), done);
    RB_TRY(st, array_index(&task->index, task->count, err), done);
    task->variable = "SLURM_ARRAY_TASK_ID";
done:
    return st;
}

/* ---- the tasks of srun or mpirun ------------------------------------------------------------- */

static rb_status read_pair(launcher_task *task, const char *index_name, const char *count_name, rb_error *err)
{
    rb_status st;
    RB_TRY(st, read_whole(&task->index, index_name, 0, err), done);
    RB_TRY(st, read_whole(&task->count, count_name, 0, err), done);
    RB_TRY(st, check_index(task->index, task->count, index_name, count_name, err), done);
    task->variable = index_name;
done:
    return st;
}

static rb_status read_tasks(launcher_task *task, rb_error *err)
{
    const bool is_step = get("SLURM_STEP_NUM_TASKS") != NULL;
    *task = (launcher_task){0};
    if (get("OMPI_COMM_WORLD_RANK") && get("OMPI_COMM_WORLD_SIZE"))
        return read_pair(task, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", err);
    if (!get("SLURM_PROCID") || (!is_step && get("SLURM_JOB_ID"))) return RB_OK;
    if (is_step) return read_pair(task, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", err);
    return get("SLURM_NTASKS") ? read_pair(task, "SLURM_PROCID", "SLURM_NTASKS", err) : RB_OK;
}

/* ---- both ------------------------------------------------------------------------------------ */

rb_status rb_launcher_task(launcher_task *task, rb_error *err)
{
    launcher_task array, tasks;
    rb_status st;
    *task = (launcher_task){0};
    RB_TRY(st, read_array(&array, err), done);
    RB_TRY(st, read_tasks(&tasks, err), done);
    if (array.count <= 1 || tasks.count <= 1) {
        *task = tasks.count > 1 || array.count == 0 ? tasks : array;
        return RB_OK;
    }
    /* Each count has ten digits at most, so that the product fits. */
    task->count = array.count * tasks.count;
    task->index = array.index * tasks.count + tasks.index;
    task->variable = array.variable;
    task->within = tasks.variable;
done:
    return st;
}

bool rb_launcher_local_rank(int64_t *rank, const char **variable)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"};
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        const char *text = get(names[i]);
        if (!text || !parse_whole(rank, text)) continue;
        *variable = names[i];
        return true;
    }
    return false;
}
