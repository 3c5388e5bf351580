/* Every CUDA call's return code becomes a status and one sentence. */
#ifndef RB_CORE_CUDA_CHECK_CUH
#define RB_CORE_CUDA_CHECK_CUH

#include <cuda_runtime.h>

extern "C" {
#include "core/status.h"
}

static inline rb_status rb_cuda_status(cudaError_t code, const char *what, rb_error *err)
{
    if (code == cudaSuccess) return RB_OK;
    cudaGetLastError(); /* what can be cleared must not be told again by the next call */
    return rb_fail(err, code == cudaErrorMemoryAllocation ? RB_ENOMEM : RB_EDEVICE, "CUDA: %s: %s", what,
                   cudaGetErrorString(code));
}

/* After a launch: wrong configuration, missing machine code. */
static inline rb_status rb_cuda_launched(const char *kernel, rb_error *err)
{
    return rb_cuda_status(cudaGetLastError(), kernel, err);
}

#endif
