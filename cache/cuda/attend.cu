/* The calls of attention over packed pages: where the kernels' arrays lie, and how the work is split. */
#include "cache/cuda/attend_device.cuh"
#include "cache/cuda/cache_kernels.cuh"
#include "core/cuda_limits.cuh"

/* ---- the workspace ------------------------------------------------------------------------------- */

/* Arrays one after another, each from a multiple of 128 bytes on. base NULL: only counting. */
struct carver {
    uint8_t *base;
    int64_t used;
};

template <typename T> static void carve(T **out, carver *from, int64_t n)
{
    *out = from->base ? reinterpret_cast<T *>(from->base + from->used) : nullptr;
    from->used += (n * static_cast<int64_t>(sizeof(T)) + 127) / 128 * 128;
}

static int numbers_of(int value_dim) { return (value_dim + 63) / 64 * 64; }

/* rows: of (sequence, KV head, query group). */
static int64_t carve_workspace(attend_args *args, int64_t rows, int value_dim, void *workspace)
{
    carver from = {static_cast<uint8_t *>(workspace), 0};
    const int64_t pages = rows * args->max_pages, splits = rows * (args->n_splits + 1);
    carve(&args->weights, &from, pages * ATTEND_PAGE * ATTEND_QUERIES);
    carve(&args->page_max, &from, pages * ATTEND_QUERIES);
    carve(&args->page_sum, &from, pages * ATTEND_QUERIES);
    carve(&args->sums, &from, rows * args->n_splits * numbers_of(value_dim) * ATTEND_QUERIES);
    carve(&args->split_max, &from, splits * ATTEND_QUERIES);
    carve(&args->split_sum, &from, splits * ATTEND_QUERIES);
    carve(&args->exact_sums, &from, rows * value_dim * ATTEND_QUERIES);
    return from.used;
}

enum { MOST_RESIDENT = 2 };

static rb_status ask_device(attend_args *args, rb_error *err)
{
    device_limits limits = {};
    const rb_status st = find_limits(&limits, err);
    args->n_multiprocessors = limits.n_multiprocessors;
    args->shared_bytes = limits.shared_bytes;
    return st;
}

static void size_args(attend_args *args, int n_kv_heads, int n_q_heads, int32_t max_length)
{
    args->queries_each = n_q_heads / n_kv_heads;
    args->n_query_groups = (args->queries_each + ATTEND_QUERIES - 1) / ATTEND_QUERIES;
    args->max_pages = max_length < 1 ? 1 : (max_length + ATTEND_PAGE - 1) / ATTEND_PAGE;
}

static int64_t attend_bytes(int n_kv_heads, int n_q_heads, int value_dim, int64_t n_sequences, int32_t max_length)
{
    attend_args args = {};
    rb_error ignored = {};
    args.call.n_kv_heads = n_kv_heads;
    size_args(&args, n_kv_heads, n_q_heads, max_length);
    if (ask_device(&args, &ignored) != RB_OK) return 0;
    args.n_splits = count_splits(args, static_cast<int>(n_sequences), MOST_RESIDENT);
    return carve_workspace(&args, n_sequences * n_kv_heads * args.n_query_groups, value_dim, nullptr);
}

/* ---- the call ------------------------------------------------------------------------------------ */

static rb_status attend(const attend_call *call, void *stream, rb_error *err)
{
    attend_args args = {};
    const int n_sequences = static_cast<int>(call->queries.n_sequences);
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    rb_status st;
    if (n_sequences == 0) return RB_OK;
    if (call->queries.n_sequences > 65535)
        return rb_fail(err, RB_EUNSUPPORTED, "%lld sequences in a call, expected at most 65535",
                       static_cast<long long>(call->queries.n_sequences));
    args.call = *call;
    args.has_exact = call->n_sink + call->n_recent > 0;
    size_args(&args, call->n_kv_heads, call->n_q_heads, call->queries.max_length);
    RB_TRY(st, ask_device(&args, err), done);
    args.n_splits = count_splits(args, n_sequences, attend_values_resident(call->values));
    args.n_numbers = numbers_of(call->value_dim);
    carve_workspace(&args, static_cast<int64_t>(n_sequences) * call->n_kv_heads * args.n_query_groups, call->value_dim,
                    call->workspace);
    st = call->keys.is_product ? attend_scores_product(args, n_sequences, on, err)
                               : attend_scores(args, n_sequences, on, err);
    if (st == RB_OK && args.has_exact) st = attend_exact(args, n_sequences, on, err);
    if (st == RB_OK) st = attend_values(args, n_sequences, on, err);
    if (st == RB_OK) st = attend_merge(args, n_sequences, on, err);
done:
    return st;
}

extern "C" {
extern const cache_cuda_api rb_cache_cuda;
const cache_cuda_api rb_cache_cuda = {attend_bytes,       attend,           cache_fill_positions,
                                      cache_turn,         cache_copy_codes, cache_copy_halves,
                                      cache_route_tokens, cache_gather,     cache_keep_exact};
}
