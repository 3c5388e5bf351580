/* Memory, streams and events for the C side: see core/cuda_device.h. */
#include <stdio.h>

#include "core/cuda_check.cuh"
#include "core/cuda_device.h"

static cudaStream_t as_stream(void *stream) { return static_cast<cudaStream_t>(stream); }
static cudaEvent_t as_event(void *event) { return static_cast<cudaEvent_t>(event); }

static rb_status api_count(int *n, rb_error *err)
{
    int driver = 0;
    const cudaError_t code = cudaGetDeviceCount(n);
    cudaGetLastError();
    if (code == cudaErrorInsufficientDriver) {
        cudaDriverGetVersion(&driver);
        if (driver == 0) return rb_fail(err, RB_EDEVICE, "no NVIDIA driver on this host");
        return rb_fail(err, RB_EDEVICE, "the NVIDIA driver supports CUDA %d.%d, expected at least %d.%d", driver / 1000,
                       driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    if (code == cudaErrorNoDevice || (code == cudaSuccess && *n == 0))
        return rb_fail(err, RB_EDEVICE, "no NVIDIA GPU on this host");
    return rb_cuda_status(code, "looking for GPUs", err);
}

static rb_status find_device(int index, rb_error *err)
{
    int n = 0;
    const rb_status st = api_count(&n, err);
    if (st != RB_OK || index < n) return st;
    return rb_fail(err, RB_EDEVICE, "GPU %d of this host, which has %d", index, n);
}

static rb_status api_open(int index, rb_cuda_info *info, rb_error *err)
{
    cudaDeviceProp properties;
    rb_status st;
    RB_TRY(st, find_device(index, err), done);
    RB_TRY(st, rb_cuda_status(cudaSetDevice(index), "choosing the GPU", err), done);
    RB_TRY(st, rb_cuda_status(cudaGetDeviceProperties(&properties, index), "asking the GPU what it is", err), done);
    snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, properties.name);
    info->index = index;
    info->major = properties.major;
    info->minor = properties.minor;
    info->n_multiprocessors = properties.multiProcessorCount;
    info->memory_bytes = properties.totalGlobalMem;
    info->shared_bytes = properties.sharedMemPerBlockOptin;
    cudaDriverGetVersion(&info->driver_version);
    cudaRuntimeGetVersion(&info->runtime_version);
    if (info->major * 10 + info->minor < 75)
        st = rb_fail(err, RB_EDEVICE, "GPU %d, %s, has compute capability %d.%d, expected at least 7.5", index,
                     info->name, info->major, info->minor);
done:
    return st;
}

static rb_status api_use_device(int index, rb_error *err)
{
    return rb_cuda_status(cudaSetDevice(index), "choosing the GPU", err);
}
static rb_status api_free_bytes(size_t *free_bytes, rb_error *err)
{
    size_t total = 0;
    return rb_cuda_status(cudaMemGetInfo(free_bytes, &total), "asking for free memory", err);
}

static rb_status api_alloc(void **out, size_t size_bytes, rb_error *err)
{
    return rb_cuda_status(cudaMalloc(out, size_bytes), "GPU memory", err);
}
static void api_release(void *memory) { cudaFree(memory); }

static rb_status api_alloc_pinned(void **out, size_t size_bytes, rb_error *err)
{
    return rb_cuda_status(cudaHostAlloc(out, size_bytes, cudaHostAllocDefault), "pinned memory", err);
}
static void api_release_pinned(void *memory) { cudaFreeHost(memory); }

static rb_status api_stream_create(void **stream, rb_error *err)
{
    cudaStream_t made = nullptr;
    const rb_status st = rb_cuda_status(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "a stream", err);
    *stream = made;
    return st;
}
static void api_stream_destroy(void *stream)
{
    if (stream) cudaStreamDestroy(as_stream(stream));
}
static rb_status api_stream_wait(void *stream, rb_error *err)
{
    return rb_cuda_status(cudaStreamSynchronize(as_stream(stream)), "running kernels", err);
}

static rb_status api_event_create(void **event, rb_error *err)
{
    cudaEvent_t made = nullptr;
    const rb_status st = rb_cuda_status(cudaEventCreate(&made), "an event", err);
    *event = made;
    return st;
}
static void api_event_destroy(void *event)
{
    if (event) cudaEventDestroy(as_event(event));
}
static rb_status api_event_record(void *event, void *stream, rb_error *err)
{
    return rb_cuda_status(cudaEventRecord(as_event(event), as_stream(stream)), "an event", err);
}
static rb_status api_event_wait(void *event, rb_error *err)
{
    return rb_cuda_status(cudaEventSynchronize(as_event(event)), "running kernels", err);
}
static rb_status api_stream_wait_event(void *stream, void *event, rb_error *err)
{
    return rb_cuda_status(cudaStreamWaitEvent(as_stream(stream), as_event(event), 0), "an event", err);
}
static rb_status api_event_elapsed_ms(float *ms, void *from, void *to, rb_error *err)
{
    return rb_cuda_status(cudaEventElapsedTime(ms, as_event(from), as_event(to)), "an event", err);
}

static rb_status api_copy(void *to, const void *from, size_t size_bytes, void *stream, rb_error *err)
{
    return rb_cuda_status(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDefault, as_stream(stream)), "copying", err);
}
static rb_status api_copy_rows(void *to, size_t to_stride_bytes, const void *from, size_t from_stride_bytes,
                               size_t row_bytes, size_t n_rows, void *stream, rb_error *err)
{
    return rb_cuda_status(cudaMemcpy2DAsync(to, to_stride_bytes, from, from_stride_bytes, row_bytes, n_rows,
                                            cudaMemcpyDefault, as_stream(stream)),
                          "copying", err);
}
static rb_status api_fill(void *to, int byte, size_t size_bytes, void *stream, rb_error *err)
{
    return rb_cuda_status(cudaMemsetAsync(to, byte, size_bytes, as_stream(stream)), "filling memory", err);
}

static rb_status api_record_begin(void *stream, rb_error *err)
{
    return rb_cuda_status(cudaStreamBeginCapture(as_stream(stream), cudaStreamCaptureModeThreadLocal), "recording",
                          err);
}
static rb_status api_record_end(void **recording, void *stream, rb_error *err)
{
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t made = nullptr;
    rb_status st;
    RB_TRY(st, rb_cuda_status(cudaStreamEndCapture(as_stream(stream), &graph), "recording", err), done);
    st = rb_cuda_status(cudaGraphInstantiate(&made, graph, 0), "recording", err);
done:
    if (graph) cudaGraphDestroy(graph);
    *recording = made;
    return st;
}
static rb_status api_recording_play(void *recording, void *stream, rb_error *err)
{
    return rb_cuda_status(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording), as_stream(stream)),
                          "playing a recording", err);
}
static void api_recording_destroy(void *recording)
{
    if (recording) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recording));
}

extern "C" {
extern const rb_cuda_runtime_api rb_cuda_runtime;
const rb_cuda_runtime_api rb_cuda_runtime = {
    RB_CUDA_ABI,
    api_count,
    api_open,
    api_use_device,
    api_free_bytes,
    api_alloc,
    api_release,
    api_alloc_pinned,
    api_release_pinned,
    api_stream_create,
    api_stream_destroy,
    api_stream_wait,
    api_event_create,
    api_event_destroy,
    api_event_record,
    api_event_wait,
    api_stream_wait_event,
    api_event_elapsed_ms,
    api_copy,
    api_copy_rows,
    api_fill,
    api_record_begin,
    api_record_end,
    api_recording_play,
    api_recording_destroy,
};
}
