/* What a launch has to keep within on the current GPU. */
#ifndef RB_CORE_CUDA_LIMITS_CUH
#define RB_CORE_CUDA_LIMITS_CUH

#include "core/cuda_check.cuh"

struct device_limits {
    int n_multiprocessors, shared_bytes;
};

static inline rb_status find_limits(device_limits *limits, rb_error *err)
{
    int device = 0;
    rb_status st;
    RB_TRY(st, rb_cuda_status(cudaGetDevice(&device), "asking for the GPU", err), done);
    RB_TRY(st,
           rb_cuda_status(cudaDeviceGetAttribute(&limits->n_multiprocessors, cudaDevAttrMultiProcessorCount, device),
                          "asking the GPU", err),
           done);
    st = rb_cuda_status(cudaDeviceGetAttribute(&limits->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                        "asking the GPU", err);
done:
    return st;
}

#endif
