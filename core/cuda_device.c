/* Finding and opening the CUDA side: see core/cuda_device.h. */
#include "core/cuda_device.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/sibling.h"

static const char FILE_NAME[] = "ropebits_cuda.so";

static struct {
    void *library;
    const rb_cuda_runtime_api *runtime;
    rb_cuda_info info;
    bool is_open;
    size_t used_bytes, peak_bytes;
} cuda;

/* The first of the places that has it; the first at all where none does. */
static rb_status find_in(char **path, const char *folder, const char *const *places, size_t n_places, rb_error *err)
{
    rb_status st = RB_OK;
    *path = NULL;
    for (size_t i = 0; st == RB_OK && i < n_places; i++) {
        char *candidate = NULL;
        st = rb_format(&candidate, err, "%s/%s/%s", folder, places[i], FILE_NAME);
        if (st == RB_OK && (i == 0 || access(candidate, R_OK) == 0)) {
            free(*path);
            *path = candidate;
            if (access(candidate, R_OK) == 0) break;
        } else {
            free(candidate);
        }
    }
    return st;
}

/* Places are relative to the programs of a build or a bundle (bin, lib), to those of an installation (bin,
 * lib/ropebits), or to the tests of a build (two folders up); to a library of an installation (lib, lib/ropebits) or of
 * a build. */
rb_status rb_cuda_library_path(char **path, rb_error *err)
{
    static const char *const of_programs[] = {"../lib", "../lib/ropebits", "../../lib"}, *const of_libraries[] = {
                                                                                             "ropebits", "."};
    const char *given = getenv("ROPEBITS_CUDA_LIBRARY");
    char *folder = NULL;
    rb_status st;
    if (given && *given) return rb_format(path, err, "%s", given);
    RB_TRY(st, rb_library_folder(&folder, err), done);
    if (folder) {
        st = find_in(path, folder, of_libraries, RB_COUNT(of_libraries), err);
    } else {
        RB_TRY(st, rb_program_folder(&folder, err), done);
        st = find_in(path, folder, of_programs, RB_COUNT(of_programs), err);
    }
done:
    free(folder);
    return st;
}

static rb_status load_library(rb_error *err)
{
    char *path = NULL;
    rb_status st;
    RB_TRY(st, rb_cuda_library_path(&path, err), done);
    if (access(path, R_OK) != 0) {
        st = rb_fail(err, RB_EDEVICE, "no CUDA side: %s is not there (built where nvcc is, or with CUDA=1)", path);
        goto done;
    }
    cuda.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!cuda.library) {
        st = rb_fail(err, RB_EDEVICE, "%s cannot be loaded: %s", path, dlerror());
        goto done;
    }
    cuda.runtime = dlsym(cuda.library, "rb_cuda_runtime");
    if (!cuda.runtime || cuda.runtime->abi != RB_CUDA_ABI) {
        st = rb_fail(err, RB_EDEVICE, "%s has interface %d, expected %d: it is from another build", path,
                     cuda.runtime ? cuda.runtime->abi : 0, RB_CUDA_ABI);
        dlclose(cuda.library);
        cuda.library = NULL;
    }
done:
    free(path);
    return st;
}

rb_status rb_cuda_open(int index, rb_error *err)
{
    rb_status st = RB_OK;
    if (cuda.is_open && cuda.info.index == index) return RB_OK;
    if (!cuda.library) st = load_library(err);
    if (st == RB_OK) st = cuda.runtime->open(index, &cuda.info, err);
    cuda.is_open = st == RB_OK;
    return st;
}

rb_status rb_cuda_count(int *n, rb_error *err)
{
    const rb_status st = cuda.library ? RB_OK : load_library(err);
    return st == RB_OK ? cuda.runtime->count(n, err) : st;
}

bool rb_cuda_is_open(void) { return cuda.is_open; }
const rb_cuda_info *rb_cuda_device(void) { return &cuda.info; }
const rb_cuda_runtime_api *rb_cuda(void) { return cuda.runtime; }

rb_status rb_cuda_table(const void **table, const char *symbol, rb_error *err)
{
    *table = cuda.library ? dlsym(cuda.library, symbol) : NULL;
    return *table ? RB_OK : rb_fail(err, RB_EDEVICE, "the CUDA side has no %s: it is from another build", symbol);
}

/* ---- memory ---------------------------------------------------------------------------------- */

rb_status rb_cuda_alloc(void *out, size_t n, size_t elem_size, const char *what, rb_error *err)
{
    const double mib = 0x1p20;
    void *memory = NULL;
    size_t size_bytes;
    if (__builtin_mul_overflow(n, elem_size, &size_bytes))
        return rb_fail(err, RB_ENOMEM, "%s: %zu elements of %zu bytes overflow", what, n, elem_size);
    const rb_status st = cuda.runtime->alloc(&memory, size_bytes > 0 ? size_bytes : 1, err);
    if (st != RB_OK) return rb_fail_in(err, st, "%s, %.1f MiB", what, (double)size_bytes / mib);
    memcpy(out, &memory, sizeof memory);
    cuda.used_bytes += size_bytes;
    if (cuda.used_bytes > cuda.peak_bytes) cuda.peak_bytes = cuda.used_bytes;
    return RB_OK;
}

void rb_cuda_free(void *memory, size_t n, size_t elem_size)
{
    if (!memory) return;
    cuda.runtime->release(memory);
    cuda.used_bytes -= n * elem_size;
}

rb_status rb_cuda_array_alloc(rb_cuda_array *array, size_t size_bytes, const char *what, rb_error *err)
{
    const rb_status st = rb_cuda_alloc(&array->at, size_bytes, 1, what, err);
    array->size_bytes = st == RB_OK ? size_bytes : 0;
    return st;
}

void rb_cuda_array_free(rb_cuda_array *array)
{
    rb_cuda_free(array->at, array->size_bytes, 1);
    *array = (rb_cuda_array){0};
}

size_t rb_cuda_peak_bytes(void) { return cuda.peak_bytes; }
void rb_cuda_reset_peak(void) { cuda.peak_bytes = cuda.used_bytes; }
