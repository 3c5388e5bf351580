/* The C interface of packed KV caches: see ropebits_kv.h. It is kv_cache.h with statuses and messages of its own;
 * nothing of it ends the program. */
#include "cache/library/ropebits_kv.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/kv_cache.h"
#include "cache/kv_layout.h"
#include "core/cuda_device.h"
#include "plan/plan_rbp.h"

enum { NO_GPU = -1, MAX_GPUS = 1000 };

struct ropebits_kv {
    ropebits_plan *plan;
    kv_cache *cache;
    int gpu; /* its index, or NO_GPU */
};

/* core/cuda_device.h has one state for the process. */
static pthread_mutex_t device_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- statuses -------------------------------------------------------------------------------- */

static int status_of(rb_status st)
{
    switch (st) {
    case RB_OK: return ROPEBITS_KV_OK;
    case RB_EIO: return ROPEBITS_KV_EIO;
    case RB_ENOMEM: return ROPEBITS_KV_ENOMEM;
    case RB_EUNSUPPORTED: return ROPEBITS_KV_EUNSUPPORTED;
    case RB_ENONFINITE: return ROPEBITS_KV_ENONFINITE;
    case RB_EDEVICE: return ROPEBITS_KV_EDEVICE;
    default: return ROPEBITS_KV_EINVAL;
    }
}

/* What a call ends with. */
static int tell(rb_status st, const rb_error *err, char *error, size_t error_size)
{
    if (error && error_size > 0) snprintf(error, error_size, "%s", st == RB_OK ? "" : err->msg);
    return status_of(st);
}

/* Numbers that no int holds become the largest, which no plan has either. */
static int layer_of(uint32_t layer) { return layer < INT_MAX ? (int)layer : INT_MAX; }

int ropebits_kv_abi_version(void) { return ROPEBITS_KV_ABI_VERSION; }

/* ---- life ------------------------------------------------------------------------------------ */

/* "cpu", "cuda", "cuda:N". */
static rb_status parse_device(int *gpu, const char *device, rb_error *err)
{
    char *end = NULL;
    *gpu = NO_GPU;
    if (device && strcmp(device, "cpu") == 0) return RB_OK;
    if (device && strncmp(device, "cuda", 4) == 0) {
        const bool has_index = device[4] == ':' && device[5] >= '0' && device[5] <= '9';
        const long index = has_index ? strtol(device + 5, &end, 10) : 0;
        *gpu = (int)(index < MAX_GPUS ? index : MAX_GPUS);
        if (device[4] == '\0' || (has_index && *end == '\0' && index < MAX_GPUS)) return RB_OK;
    }
    return rb_fail(err, RB_EINVAL, "device is %s, expected cpu, cuda or cuda:N", device ? device : "NULL");
}

static rb_status open_plan(ropebits_plan **plan, const char *path, rb_error *err)
{
    char message[512];
    if (!path) return rb_fail(err, RB_EINVAL, "plan_path is NULL");
    FILE *file = fopen(path, "rb");
    if (!file) return rb_fail(err, RB_EIO, "%s: %s", path, strerror(errno));
    fclose(file);
    if (ropebits_plan_open(plan, path, message, sizeof message) == 0) return RB_OK;
    return rb_fail(err, RB_EFORMAT, "%s", message);
}

static rb_status create_cache(ropebits_kv *kv, const char *path, rb_error *err)
{
    bit_plan *plan = NULL;
    rb_status st;
    RB_TRY(st, plan_rbp_convert(&plan, kv->plan, path, err), done);
    if (kv->gpu != NO_GPU) {
        RB_TRY(st, rb_cuda_open(kv->gpu, err), done);
        RB_TRY(st, rb_cuda()->use_device(kv->gpu, err), done);
    }
    st = kv_cache_create(&kv->cache, &plan->model, plan, kv->gpu != NO_GPU, err);
    if (st != RB_OK) rb_fail_in(err, st, "%s", path);
done:
    bit_plan_free(plan);
    return st;
}

int ropebits_kv_open(ropebits_kv **kv, const char *plan_path, const char *device, char *error, size_t error_size)
{
    rb_error err = {0};
    ropebits_kv *made = NULL;
    rb_status st;
    *kv = NULL;
    RB_TRY(st, rb_alloc(&made, 1, sizeof *made, "cache", &err), done);
    RB_TRY(st, parse_device(&made->gpu, device, &err), done);
    RB_TRY(st, open_plan(&made->plan, plan_path, &err), done);
    pthread_mutex_lock(&device_lock);
    st = create_cache(made, plan_path, &err);
    pthread_mutex_unlock(&device_lock);
    if (st != RB_OK) goto done;
    *kv = made;
    made = NULL;
done:
    ropebits_kv_close(made);
    return tell(st, &err, error, error_size);
}

void ropebits_kv_close(ropebits_kv *kv)
{
    if (!kv) return;
    pthread_mutex_lock(&device_lock);
    kv_cache_free(kv->cache);
    pthread_mutex_unlock(&device_lock);
    ropebits_plan_close(kv->plan);
    free(kv);
}

const ropebits_plan *ropebits_kv_plan(const ropebits_kv *kv) { return kv->plan; }

/* ---- sizes ----------------------------------------------------------------------------------- */

static bool has_layer(const ropebits_kv *kv, uint32_t layer)
{
    return layer_of(layer) < kv_cache_model(kv->cache)->n_layers;
}

size_t ropebits_kv_token_bytes(const ropebits_kv *kv, uint32_t layer, uint32_t kv_head)
{
    if (!has_layer(kv, layer) || kv_head >= (uint32_t)kv_cache_model(kv->cache)->n_kv_heads) return 0;
    return kv_layout_token_bytes(kv_cache_layout(kv->cache, (int)layer), (int)kv_head);
}

size_t ropebits_kv_page_bytes(const ropebits_kv *kv, uint32_t layer)
{
    return has_layer(kv, layer) ? (size_t)kv_cache_layout(kv->cache, (int)layer)->page_bytes : 0;
}

size_t ropebits_kv_exact_bytes(const ropebits_kv *kv) { return kv_cache_exact_bytes(kv->cache); }

size_t ropebits_kv_workspace_bytes(const ropebits_kv *kv, uint32_t layer, int64_t n_sequences, int32_t max_length)
{
    if (!has_layer(kv, layer) || n_sequences <= 0 || max_length <= 0) return 0;
    return kv_cache_workspace_bytes(kv->cache, (int)layer, n_sequences, max_length);
}

size_t ropebits_kv_coding_bytes(const ropebits_kv *kv, uint32_t layer, int64_t n)
{
    return has_layer(kv, layer) && n > 0 ? kv_cache_coding_bytes(kv->cache, (int)layer, n) : 0;
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* Other kernels of the caller's may have set another device. */
static rb_status begin_call(const ropebits_kv *kv, rb_error *err)
{
    return kv->gpu == NO_GPU ? RB_OK : rb_cuda()->use_device(kv->gpu, err);
}

static rb_status check_struct(const void *given, const char *what, rb_error *err)
{
    return given ? RB_OK : rb_fail(err, RB_EINVAL, "%s is NULL", what);
}

int ropebits_kv_encode(ropebits_kv *kv, uint32_t layer, int64_t n, const ropebits_kv_vectors *keys,
                       const ropebits_kv_vectors *values, const int32_t *positions, const int64_t *slots, void *pages,
                       void *workspace, void *stream, char *error, size_t error_size)
{
    rb_error err = {0};
    rb_status st = begin_call(kv, &err);
    if (st == RB_OK)
        st = kv_cache_encode(kv->cache, layer_of(layer), n, keys, values, positions, slots, pages, workspace, stream,
                             &err);
    return tell(st, &err, error, error_size);
}

int ropebits_kv_decode(ropebits_kv *kv, uint32_t layer, int64_t n, const int64_t *slots, const void *pages,
                       const int32_t *positions, const ropebits_kv_vectors *keys, const ropebits_kv_vectors *values,
                       void *workspace, void *stream, char *error, size_t error_size)
{
    rb_error err = {0};
    rb_status st = begin_call(kv, &err);
    if (st == RB_OK)
        st = kv_cache_decode(kv->cache, layer_of(layer), n, slots, pages, positions, keys, values, workspace, stream,
                             &err);
    return tell(st, &err, error, error_size);
}

int ropebits_kv_append(ropebits_kv *kv, uint32_t layer, const ropebits_kv_tokens *tokens,
                       const ropebits_kv_pages *cache, void *workspace, void *stream, char *error, size_t error_size)
{
    rb_error err = {0};
    rb_status st;
    RB_TRY(st, check_struct(tokens, "tokens", &err), done);
    RB_TRY(st, check_struct(cache, "cache", &err), done);
    RB_TRY(st, begin_call(kv, &err), done);
    st = kv_cache_append(kv->cache, layer_of(layer), tokens, cache, workspace, stream, &err);
done:
    return tell(st, &err, error, error_size);
}

int ropebits_kv_attend(ropebits_kv *kv, uint32_t layer, const ropebits_kv_queries *queries,
                       const ropebits_kv_pages *cache, void *stream, char *error, size_t error_size)
{
    rb_error err = {0};
    rb_status st;
    RB_TRY(st, check_struct(queries, "queries", &err), done);
    RB_TRY(st, check_struct(cache, "cache", &err), done);
    RB_TRY(st, begin_call(kv, &err), done);
    st = kv_cache_attend(kv->cache, layer_of(layer), queries, cache, stream, &err);
done:
    return tell(st, &err, error, error_size);
}
