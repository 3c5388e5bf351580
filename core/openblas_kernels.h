/* The kernels that OpenBLAS should take.
 *
 * An OpenBLAS that is older than the CPU does not know it by its number, and some versions then take the kernels that
 * every x86-64 has (Prescott, SSE3): 0.3.21 of Debian 12 does so on Xeons of 2023, where a matrix product takes four
 * times as long as it could. Which kernels it takes is settled when it is loaded; only OPENBLAS_CORETYPE tells it. */
#ifndef RB_CORE_OPENBLAS_KERNELS_H
#define RB_CORE_OPENBLAS_KERNELS_H

/* In main, before any work, of a program that multiplies matrices. Where OpenBLAS took Prescott's kernels, the CPU has
 * AVX-512 or AVX2, and nobody set OPENBLAS_CORETYPE, the program starts again with it set. */
void rb_openblas_take_kernels(char **argv);

#endif
