/* What OpenBLAS and OpenMP are to do when they are loaded, before main, where only the environment can tell them.
 *
 * OPENBLAS_NUM_THREADS=1. OpenBLAS starts a thread for every core, and each takes 128 MiB of address space. We have no
 * use for them: OpenMP splits the work, and every call of OpenBLAS uses one thread. Where a limit (ulimit -v, -d)
 * leaves no room for them, OpenBLAS ends the process with words of its own, or asks for the memory again for ever, also
 * when the process ends.
 *
 * OMP_WAIT_POLICY=passive. A thread of OpenMP that waits for the others spins for milliseconds. Where another program
 * wants the core, it spins for as long as its turn lasts, while the thread that it waits for has none. A step of a
 * small model has a hundred such waits. A thread that sleeps instead is woken within microseconds. */
#ifndef RB_CORE_LIBRARY_VARIABLES_H
#define RB_CORE_LIBRARY_VARIABLES_H

/* First in every main. The environment is put right before the libraries are loaded, and back after that, in every
 * program that calls this. OpenMP keeps what the user told it by OMP_WAIT_POLICY or GOMP_SPINCOUNT. Only in an empty
 * environment there is no room for that; then a process with a limit on its memory starts again, with
 * OPENBLAS_NUM_THREADS set. */
void rb_library_variables_settle(char **argv);

#endif
