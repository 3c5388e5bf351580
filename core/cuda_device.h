/* The CUDA side: lib/ropebits_cuda.so, a shared object that is opened when a GPU is asked for. So one build serves
 * hosts with and without a GPU. The object holds the kernels of every room. A room's .cu file exports one table of
 * functions, declared in the room's *_cuda.h and found by rb_cuda_table. The table declared here, rb_cuda_runtime, is
 * what all rooms share: memory, streams, events.
 *
 * All calls belong to one device, chosen by rb_cuda_open. A stream is a void *; NULL is the default stream. Functions
 * fail with RB_EDEVICE, and name what CUDA said. */
#ifndef RB_CORE_CUDA_DEVICE_H
#define RB_CORE_CUDA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RB_CUDA_ABI = 7 }; /* one number for all tables: library and programs must come from one build */

typedef struct rb_cuda_info {
    char name[128];
    int index, major, minor; /* compute capability */
    int n_multiprocessors;
    int driver_version, runtime_version; /* 13000: 13.0 */
    size_t memory_bytes, shared_bytes;   /* memory of the device; the largest shared memory of a block */
} rb_cuda_info;

typedef struct rb_cuda_runtime_api {
    int abi;
    rb_status (*count)(int *n, rb_error *err); /* GPUs of this host, 1 at least: RB_EDEVICE where there is none */
    rb_status (*open)(int index, rb_cuda_info *info, rb_error *err);
    rb_status (*use_device)(int index, rb_error *err); /* sets the device of the calling thread's calls */
    rb_status (*free_bytes)(size_t *free_bytes, rb_error *err);
    rb_status (*alloc)(void **out, size_t size_bytes, rb_error *err);
    void (*release)(void *memory);
    /* Host memory that copies run from and to at full speed. */
    rb_status (*alloc_pinned)(void **out, size_t size_bytes, rb_error *err);
    void (*release_pinned)(void *memory);
    rb_status (*stream_create)(void **stream, rb_error *err);
    void (*stream_destroy)(void *stream);
    rb_status (*stream_wait)(void *stream, rb_error *err); /* the host waits for all of it */
    rb_status (*event_create)(void **event, rb_error *err);
    void (*event_destroy)(void *event);
    rb_status (*event_record)(void *event, void *stream, rb_error *err);
    rb_status (*event_wait)(void *event, rb_error *err);                      /* the host waits */
    rb_status (*stream_wait_event)(void *stream, void *event, rb_error *err); /* the stream waits */
    rb_status (*event_elapsed_ms)(float *ms, void *from, void *to, rb_error *err);
    /* Any direction; asynchronous from and to pinned memory. */
    rb_status (*copy)(void *to, const void *from, size_t size_bytes, void *stream, rb_error *err);
    rb_status (*copy_rows)(void *to, size_t to_stride_bytes, const void *from, size_t from_stride_bytes,
                           size_t row_bytes, size_t n_rows, void *stream, rb_error *err);
    rb_status (*fill)(void *to, int byte, size_t size_bytes, void *stream, rb_error *err);
    /* Between begin and end what this thread puts on the stream is recorded, and not done; play puts all of it there at
     * once, with the same arguments. end is called also after a failure in between; *recording is NULL when it fails.
     */
    rb_status (*record_begin)(void *stream, rb_error *err);
    rb_status (*record_end)(void **recording, void *stream, rb_error *err);
    rb_status (*recording_play)(void *recording, void *stream, rb_error *err);
    void (*recording_destroy)(void *recording);
} rb_cuda_runtime_api;

/* Opens the library and the device, once; asking again for the same index is free. RB_EDEVICE says in one sentence what
 * is missing: the library, a driver, a GPU, that index. */
rb_status rb_cuda_open(int index, rb_error *err);
/* How many GPUs there are, 1 at least; fails as rb_cuda_open where there is none. */
rb_status rb_cuda_count(int *n, rb_error *err);
bool rb_cuda_is_open(void);
const rb_cuda_info *rb_cuda_device(void); /* after rb_cuda_open */
const rb_cuda_runtime_api *rb_cuda(void); /* after rb_cuda_open */
/* The table of a room, by the name of its symbol; RB_EDEVICE when the library lacks it. */
rb_status rb_cuda_table(const void **table, const char *symbol, rb_error *err);
/* Path of the library whether or not it is there: $ROPEBITS_CUDA_LIBRARY, or ../lib of the running executable, or the
 * folder of the library that this is part of; freed by free(). */
rb_status rb_cuda_library_path(char **path, rb_error *err);

/* Device memory, counted: every allocation goes through here, so that a run can say what it took and keep within a
 * limit. */
rb_status rb_cuda_alloc(void *out, size_t n, size_t elem_size, const char *what, rb_error *err);
void rb_cuda_free(void *memory, size_t n, size_t elem_size);
/* An array on the device that knows its size. All zero means none; a failed alloc leaves it so. */
typedef struct rb_cuda_array {
    void *at;
    size_t size_bytes;
} rb_cuda_array;
rb_status rb_cuda_array_alloc(rb_cuda_array *array, size_t size_bytes, const char *what, rb_error *err);
void rb_cuda_array_free(rb_cuda_array *array);
size_t rb_cuda_peak_bytes(void); /* the largest amount held since the last reset */
void rb_cuda_reset_peak(void);

#ifdef __cplusplus
}
#endif

#endif
