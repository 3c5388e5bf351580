/* Launching the kernels of values: how many warps a block has, and its shared memory. */
#include "cache/cuda/attend_values.cuh"

static values_kernel choose_kernel(const attend_side &values)
{
    switch (values.reader) {
    case ATTEND_F16: return half_values(values.n_dims);
    case ATTEND_PAIRS: return pair_values(values.n_dims, false);
    case ATTEND_WIDE_PAIRS: return pair_values(values.n_dims, true);
    case ATTEND_TRELLIS: return trellis_values(values.n_dims);
    }
    return nullptr;
}

/* A warp's sums. */
static size_t sums_bytes(const attend_side &values)
{
    const bool is_packed = values.reader != ATTEND_F16;
    const size_t numbers = values.n_dims <= 64 && is_packed ? 64 : values.n_dims <= 128 ? 128 : 256;
    return numbers * ATTEND_QUERIES * sizeof(float);
}

/* What the warps' pages are in, and in the end their sums. */
static size_t room_bytes(const attend_args &args, int warps)
{
    const size_t sums = sums_bytes(args.call.values), pages = static_cast<size_t>(args.staged_bytes) * 2 * warps;
    return pages > 0 ? larger_size(pages, sums) : sums * warps;
}

/* Bytes of shared memory with so many warps. */
static size_t count_bytes(const attend_args &args, int warps)
{
    const attend_side &values = args.call.values;
    const bool is_packed = values.reader != ATTEND_F16;
    size_t bytes = room_bytes(args, warps) + ATTEND_QUERIES * sizeof(float);
    if (is_packed) bytes += static_cast<size_t>(values.max_units) * sizeof(attend_unit);
    if (values.reader == ATTEND_TRELLIS)
        return bytes + static_cast<size_t>(values.max_planes) * ATTEND_PLANE_BYTES + ATTEND_GAINS * sizeof(float);
    return bytes + (is_packed ? (static_cast<size_t>(values.max_book_words) * 4 + 15) / 16 * 16 : 0);
}

int attend_values_resident(const attend_side &values) { return values.reader == ATTEND_TRELLIS ? 1 : 2; }

rb_status attend_values(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err)
{
    const attend_side &values = args.call.values;
    attend_args call = args;
    call.place_splits = args.n_splits;
    call.staged_bytes = values.reader != ATTEND_F16 ? lay_out(values).size_bytes : 0;
    int warps = values.reader == ATTEND_TRELLIS && values.n_dims <= 128 ? MANY_WARPS : VALUES_WARPS;
    while (warps > 1 && count_bytes(call, warps) > static_cast<size_t>(args.shared_bytes)) warps--;
    const size_t bytes = count_bytes(call, warps);
    call.sum_slots = static_cast<int>(room_bytes(call, warps) / sums_bytes(values));
    const values_kernel kernel = choose_kernel(values);
    const rb_status st = rb_cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of the values kernel", err);
    if (st != RB_OK) return st;
    kernel<<<dim3(args.n_splits, args.call.n_kv_heads * args.n_query_groups, n_sequences), warps * 32, bytes, stream>>>(
        call);
    return rb_cuda_launched("values kernel", err);
}
