/* Encode, decode and attend for one bit plan, in CUDA: plain kernels that are right first, to start a runtime's own
 * from. Needs plan_tables.h, plan_constants.h and plan_tables.c beside it, and nothing else. How tokens are stored:
 * plan_tables.h.
 *
 *   plan_device device;
 *   plan_upload(&device);                                      // the tables, on the device that is current
 *   plan_encode(device, layer, keys, values, n, cache, stream);    // n tokens into n records
 *   plan_decode(device, layer, cache, n, keys, values, stream);
 *   plan_attend(device, layer, queries, n_tokens, cache, exact_keys, exact_values, out, log_sum_exp, workspace,
 * stream); plan_release(&device);
 *
 * Vectors are [token][KV head][dim] of float, __half or __nv_bfloat16; keys as they enter RoPE. Pointers are the
 * device's. Functions are asynchronous on the stream. Encoding is in double, so that its codes are those of the
 * definition; decoding and attention are in float. */
#ifndef PLAN_KERNELS_CUH
#define PLAN_KERNELS_CUH

#include "plan_attend.cuh"
#include "plan_encode.cuh"

struct plan_device {
    plan_tables tables;        /* with pointers of the device */
    const double *projections; /* for encoding a trellis */
};

/* Gives back what plan_upload took; a device of zeroes is fine. */
static inline void plan_release(plan_device *device)
{
    const void *const tables[] = {device->tables.layers,  device->tables.heads,  device->tables.groups,
                                  device->tables.doubles, device->tables.floats, device->tables.halves,
                                  device->tables.shorts,  device->tables.bytes,  device->projections};
    for (const void *table : tables) cudaFree(const_cast<void *>(table));
    *device = plan_device{};
}

/* Copies all tables to the device that is current. After a failure there is nothing to release. */
static inline cudaError_t plan_upload(plan_device *device)
{
    using plan_kernels::copy_table;
    plan_tables t = plan_host_tables;
    cudaError_t status[9];
    device->projections = nullptr;
    status[0] = copy_table(&t.layers, PLAN_N_LAYERS);
    status[1] = copy_table(&t.heads, PLAN_N_LAYERS * 2 * PLAN_N_KV_HEADS);
    status[2] = copy_table(&t.groups, PLAN_N_GROUPS);
    status[3] = copy_table(&t.doubles, PLAN_N_DOUBLES);
    status[4] = copy_table(&t.floats, PLAN_N_FLOATS);
    status[5] = copy_table(&t.halves, PLAN_N_HALVES);
    status[6] = copy_table(&t.shorts, PLAN_N_SHORTS);
    status[7] = copy_table(&t.bytes, PLAN_N_BYTES);
    status[8] = cudaSuccess;
#if PLAN_HAS_TRELLIS
    status[8] = plan_kernels::upload_projections(&device->projections);
#endif
    device->tables = t;
    for (cudaError_t one : status)
        if (one != cudaSuccess) {
            plan_release(device);
            return one;
        }
    return cudaSuccess;
}

/* Codes keys [n][PLAN_N_KV_HEADS][PLAN_HEAD_DIM] and values [n][PLAN_N_KV_HEADS][PLAN_VALUE_DIM] into cache, n records
 * of the layer. n up to 2^31 - 1; 0 does nothing. Numbers must be finite. */
template <typename T>
static inline cudaError_t plan_encode(const plan_device &device, int layer, const T *keys, const T *values, int64_t n,
                                      uint8_t *cache, cudaStream_t stream)
{
    if (n == 0) return cudaSuccess;
    const cudaError_t status =
        plan_kernels::encode_one(device.tables, device.projections, layer, false, keys, n, cache, stream);
    if (status != cudaSuccess) return status;
    return plan_kernels::encode_one(device.tables, device.projections, layer, true, values, n, cache, stream);
}

/* The inverse: keys as they enter RoPE. */
template <typename T>
static inline cudaError_t plan_decode(const plan_device &device, int layer, const uint8_t *cache, int64_t n, T *keys,
                                      T *values, cudaStream_t stream)
{
    if (n == 0) return cudaSuccess;
    const cudaError_t status = plan_kernels::decode_one(device.tables, layer, false, cache, n, keys, stream);
    if (status != cudaSuccess) return status;
    return plan_kernels::decode_one(device.tables, layer, true, cache, n, values, stream);
}

/* Bytes of the workspace of plan_attend, for any number of tokens. */
static inline size_t plan_workspace_bytes()
{
    return sizeof(float) * plan_kernels::MAX_PARTS * PLAN_N_Q_HEADS * plan_kernels::PART_FLOATS;
}

/* Attention of one query token over tokens 0 to n_tokens - 1, which have the positions of their numbers.
 *   queries [PLAN_N_Q_HEADS][PLAN_HEAD_DIM]    as they leave RoPE
 *   cache [n_tokens]                           records of the layer
 *   exact_keys, exact_values                   [PLAN_N_SINK + PLAN_N_RECENT][PLAN_N_KV_HEADS][dims]: tokens that stay
 *                                              fp16, keys as they leave RoPE. Row t is token t < PLAN_N_SINK, row
 *                                              PLAN_N_SINK + (t - PLAN_N_SINK) % PLAN_N_RECENT one of the last
 *                                              PLAN_N_RECENT. NULL: all tokens are read from the cache
 *   out [PLAN_N_Q_HEADS][PLAN_VALUE_DIM]       softmax(PLAN_ATTENTION_SCALE * q . k) v; 0 without tokens
 *   log_sum_exp [PLAN_N_Q_HEADS]               of the scaled logits, natural log; NULL: not wanted
 *   workspace                                  plan_workspace_bytes() */
template <typename T>
static inline cudaError_t plan_attend(const plan_device &device, int layer, const T *queries, int64_t n_tokens,
                                      const uint8_t *cache, const __half *exact_keys, const __half *exact_values,
                                      T *out, float *log_sum_exp, void *workspace, cudaStream_t stream)
{
    using namespace plan_kernels;
    const attend_input in = {cache, exact_keys, exact_values, n_tokens};
    const int64_t part_tokens = tokens_of_part(n_tokens);
    const int n_parts = (int)((n_tokens + part_tokens - 1) / part_tokens);
    float *parts = static_cast<float *>(workspace);
    cudaError_t status = allow_shared(attend_kernel<T>, sizeof(attention));
    if (status != cudaSuccess) return status;
    if (n_parts > 0)
        attend_kernel<T><<<dim3(PLAN_N_KV_HEADS, (Q_PER_KV + QUERIES - 1) / QUERIES, (unsigned)n_parts), WARP * WARPS,
                           sizeof(attention), stream>>>(device.tables, layer, in, part_tokens, queries, parts);
    status = cudaGetLastError();
    if (status != cudaSuccess) return status;
    merge_kernel<T><<<PLAN_N_Q_HEADS, WARP * WARPS, 0, stream>>>(parts, n_parts, out, log_sum_exp);
    return cudaGetLastError();
}

#endif
