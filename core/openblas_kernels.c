/* See core/openblas_kernels.h. */
#include "core/openblas_kernels.h"

#include <cblas.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What these kernels use: GCC's answer counts only what the operating system saves too. */
static const char *kernels_of_cpu(void)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl"))
        return "SkylakeX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
    return NULL;
}

void rb_openblas_take_kernels(char **argv)
{
    static const char name[] = "OPENBLAS_CORETYPE";
    if (getenv(name) || strcmp(openblas_get_corename(), "Prescott") != 0) return;
    const char *kernels = kernels_of_cpu();
    if (!kernels || setenv(name, kernels, 1) != 0) return;
    execv("/proc/self/exe", argv); /* where that fails, we go on as we are */
}
