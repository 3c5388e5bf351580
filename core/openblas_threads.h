/* OpenBLAS without threads of its own.
 *
 * When it is loaded, before main, OpenBLAS starts a thread for every core, and each takes 128 MiB of address space. We
 * have no use for them: OpenMP splits the work, and every call of OpenBLAS uses one thread. Where a limit (ulimit -v,
 * -d) leaves no room for them, OpenBLAS ends the process with words of its own, or asks for the memory again for ever,
 * also when the process ends. Only the environment can tell it to start none: OPENBLAS_NUM_THREADS=1. */
#ifndef RB_CORE_OPENBLAS_THREADS_H
#define RB_CORE_OPENBLAS_THREADS_H

/* First in every main. The environment is put right before OpenBLAS is loaded, and back after that, in every program
 * that calls this. Only in an empty environment there is no room for that; then a process with a limit on its memory
 * starts again with the variable set. */
void rb_openblas_without_threads(char **argv);

#endif
