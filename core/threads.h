/* Threads. OpenMP splits the work; OpenBLAS is held at one thread per call, on tiles whose size does not depend on the number of
 * threads, so that every output has the same bytes for any --threads. */
#ifndef RB_CORE_THREADS_H
#define RB_CORE_THREADS_H

#include <stdint.h>

void rb_threads_init(int64_t n_threads);    /* 0: all cores this process may use */
int rb_threads_count(void);
int rb_thread_index(void);                  /* of the calling thread within its parallel region: its share of per-thread scratch */

/* Functions with hot loops get one clone per CPU level; sanitizer builds take the plain one (ifuncs run before the sanitizer is up). */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(RB_NO_CLONES)
#define RB_CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RB_CPU_CLONES
#endif

#endif
