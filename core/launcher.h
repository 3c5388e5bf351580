/* What the launcher of a parallel job says in the environment: which of how many tasks this process is. Known are Slurm
 * (job arrays, srun) and Open MPI (mpirun).
 *
 *   SLURM_ARRAY_TASK_ID of SLURM_ARRAY_TASK_COUNT   counted from SLURM_ARRAY_TASK_MIN in SLURM_ARRAY_TASK_STEP
 *   OMPI_COMM_WORLD_RANK of OMPI_COMM_WORLD_SIZE    counts before srun's: mpirun may start its daemons by srun
 *   SLURM_PROCID of SLURM_STEP_NUM_TASKS, or of SLURM_NTASKS
 *
 * Tasks of srun or mpirun within a job array multiply with it. A batch script, and the shell of salloc, have
 * SLURM_PROCID and SLURM_NTASKS too, but are none of srun's tasks: there SLURM_JOB_ID is set and SLURM_STEP_NUM_TASKS
 * is not. */
#ifndef RB_CORE_LAUNCHER_H
#define RB_CORE_LAUNCHER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

typedef struct launcher_task {
    int64_t index, count; /* index from 0; count 0: no launcher */
    const char *variable; /* where index is from, such as "SLURM_ARRAY_TASK_ID" */
    const char *within;   /* NULL, or the variable of the tasks within a job array */
} launcher_task;

/* Fails with RB_EINVAL on a variable that is no whole number or does not suit its count, and names it. */
rb_status rb_launcher_task(launcher_task *task, rb_error *err);

/* The number of this task on its host: OMPI_COMM_WORLD_LOCAL_RANK, else SLURM_LOCALID; *variable is its name. False
 * where there is none, or no whole number. */
bool rb_launcher_local_rank(int64_t *rank, const char **variable);

#endif
