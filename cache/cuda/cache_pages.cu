/* Tokens on their way into pages and out: turning, routing, and copies. See cache_cuda.h. */
#include <cuda_fp16.h>

#include "cache/cuda/cache_kernels.cuh"
#include "cache/cuda/vector_numbers.cuh"

enum { THREADS = 256 };

static unsigned blocks_for(int64_t n) { return static_cast<unsigned>((n + THREADS - 1) / THREADS); }

__device__ __forceinline__ int64_t thread_number() { return static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; }

__device__ __forceinline__ float load(const ropebits_kv_vectors &from, int64_t token, int head, int dim)
{
    return load_number(from.data, from.dtype, token * from.token_stride + head * from.head_stride + dim);
}

__device__ __forceinline__ void store(const ropebits_kv_vectors &to, int64_t token, int head, int dim, float x)
{
    store_number(to.data, to.dtype, token * to.token_stride + head * to.head_stride + dim, x);
}

/* ---- turning ------------------------------------------------------------------------------------- */

/* cos and sin of a block's turn; in double up to one round, since positions are large. */
__device__ __forceinline__ float2 turn_of(const turn_call &turn, int block, int64_t position)
{
    const double rounds = static_cast<double>(position) * turn.inv_freq[block] * 0.15915494309189533577;
    float s, c;
    sincospif(static_cast<float>(2.0 * (rounds - rint(rounds))), &s, &c);
    return make_float2(c, s);
}

/* (x, y) of a block turned by a position, or back. */
__device__ __forceinline__ float2 turn_block(const turn_call &turn, int block, int64_t position, int sign, float x,
                                             float y)
{
    const float2 cs = turn_of(turn, block, position);
    const float gain = sign > 0 ? turn.gain[block] : 1.0f / turn.gain[block], s = sign * cs.y;
    return make_float2(gain * (x * cs.x - y * s), gain * (x * s + y * cs.x));
}

__global__ void positions_kernel(uint2 *positions, turn_call turn, int64_t n)
{
    const int64_t i = thread_number();
    const int n_blocks = turn.head_dim / 2;
    if (i >= n) return;
    const float2 cs = turn_of(turn, static_cast<int>(i % n_blocks), i / n_blocks * ATTEND_TILE);
    const __half2 first = __floats2half2_rn(cs.x, -cs.y), second = __floats2half2_rn(cs.y, cs.x);
    positions[i] =
        make_uint2(*reinterpret_cast<const uint32_t *>(&first), *reinterpret_cast<const uint32_t *>(&second));
}

rb_status cache_fill_positions(uint32_t *positions, const turn_call *turn, int64_t n_tiles, void *stream, rb_error *err)
{
    const int64_t n = n_tiles * turn->head_dim / 2;
    if (n == 0) return RB_OK;
    positions_kernel<<<blocks_for(n), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
        reinterpret_cast<uint2 *>(positions), *turn, n);
    return rb_cuda_launched("positions kernel", err);
}

__global__ void turn_kernel(turn_call turn, ropebits_kv_vectors to, ropebits_kv_vectors from, int64_t n,
                            const int32_t *positions, int sign)
{
    const int64_t i = thread_number();
    const int n_blocks = turn.head_dim / 2;
    if (i >= n * turn.n_kv_heads * n_blocks) return;
    const int block = static_cast<int>(i % n_blocks), head = static_cast<int>(i / n_blocks % turn.n_kv_heads);
    const int64_t token = i / n_blocks / turn.n_kv_heads;
    const int first = turn.dims[2 * block], second = turn.dims[2 * block + 1];
    float2 pair = make_float2(load(from, token, head, first), load(from, token, head, second));
    if (positions) pair = turn_block(turn, block, positions[token], sign, pair.x, pair.y);
    store(to, token, head, first, pair.x);
    store(to, token, head, second, pair.y);
}

rb_status cache_turn(const turn_call *turn, const ropebits_kv_vectors *to, const ropebits_kv_vectors *from, int64_t n,
                     const int32_t *positions, int sign, void *stream, rb_error *err)
{
    const int64_t size = n * turn->n_kv_heads * (turn->head_dim / 2);
    if (size == 0) return RB_OK;
    turn_kernel<<<blocks_for(size), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(*turn, *to, *from, n, positions,
                                                                                     sign);
    return rb_cuda_launched("turn kernel", err);
}

/* ---- slots --------------------------------------------------------------------------------------- */

__device__ __forceinline__ int64_t aligned(int64_t size_bytes) { return (size_bytes + 127) / 128 * 128; }

/* A block has 32 tokens of one head; streams as codec_image_packed_offset and codec_image_norms_offset have them. */
__global__ void copy_codes_kernel(attend_side side, uint8_t *streams, uint8_t *norms, int64_t n, const int64_t *slots,
                                  uint8_t *pages, int64_t page_bytes, int to_pages)
{
    const cache_part part = side.heads[blockIdx.y].part;
    for (int h = 0; h < static_cast<int>(blockIdx.y); h++) {
        streams += aligned(n * side.heads[h].part.code_bytes);
        norms += aligned(n * side.heads[h].part.norm_bytes);
    }
    const int64_t first = static_cast<int64_t>(blockIdx.x) * 32;
    const int size = part.code_bytes + part.norm_bytes;
    for (int i = threadIdx.x; i < 32 * size; i += blockDim.x) {
        const int64_t token = first + i / size;
        if (token >= n || slots[token] < 0) continue;
        uint8_t *page = pages + slots[token] / CACHE_PAGE_TOKENS * page_bytes;
        const int64_t row = slots[token] % CACHE_PAGE_TOKENS;
        const int byte = i % size, of_norm = byte - part.code_bytes;
        uint8_t *there = of_norm < 0 ? page + part.codes_at + row * part.code_bytes + byte
                                     : page + part.norms_at + row * part.norm_bytes + of_norm;
        uint8_t *here =
            of_norm < 0 ? streams + token * part.code_bytes + byte : norms + token * part.norm_bytes + of_norm;
        if (to_pages) *there = *here;
        else *here = *there;
    }
}

rb_status cache_copy_codes(const attend_side *side, uint8_t *streams, uint8_t *norms, int64_t n, const int64_t *slots,
                           void *pages, int64_t page_bytes, int to_pages, void *stream, rb_error *err)
{
    if (n == 0) return RB_OK;
    copy_codes_kernel<<<dim3(static_cast<unsigned>((n + 31) / 32), side->n_heads), THREADS, 0,
                        static_cast<cudaStream_t>(stream)>>>(*side, streams, norms, n, slots,
                                                             static_cast<uint8_t *>(pages), page_bytes, to_pages);
    return rb_cuda_launched("page copy kernel", err);
}

__global__ void copy_halves_kernel(attend_side side, ropebits_kv_vectors vectors, int64_t n, const int64_t *slots,
                                   uint8_t *pages, int64_t page_bytes, int to_pages)
{
    const int64_t i = thread_number();
    if (i >= n * side.n_heads * side.n_dims) return;
    const int dim = static_cast<int>(i % side.n_dims), head = static_cast<int>(i / side.n_dims % side.n_heads);
    const int64_t token = i / side.n_dims / side.n_heads, slot = slots[token];
    if (slot < 0) return;
    __half *there =
        reinterpret_cast<__half *>(pages + slot / CACHE_PAGE_TOKENS * page_bytes + side.heads[head].part.codes_at)
        + slot % CACHE_PAGE_TOKENS * side.n_dims + dim;
    if (to_pages) *there = __float2half_rn(load(vectors, token, head, dim));
    else store(vectors, token, head, dim, __half2float(*there));
}

rb_status cache_copy_halves(const attend_side *side, const ropebits_kv_vectors *vectors, int64_t n,
                            const int64_t *slots, void *pages, int64_t page_bytes, int to_pages, void *stream,
                            rb_error *err)
{
    const int64_t size = n * side->n_heads * side->n_dims;
    if (size == 0) return RB_OK;
    copy_halves_kernel<<<blocks_for(size), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
        *side, *vectors, n, slots, static_cast<uint8_t *>(pages), page_bytes, to_pages);
    return rb_cuda_launched("page copy kernel", err);
}

/* ---- appending ----------------------------------------------------------------------------------- */

__device__ __forceinline__ int sequence_of(const ropebits_kv_tokens &tokens, int64_t i)
{
    return tokens.sequence ? tokens.sequence[i] : 0;
}

__device__ __forceinline__ int exact_row_of(int token, int n_sink, int n_recent)
{
    return token < n_sink ? token : n_sink + (token - n_sink) % n_recent;
}

__global__ void route_kernel(ropebits_kv_tokens tokens, ropebits_kv_pages pages, int n_sink, int n_recent,
                             cache_route route)
{
    const int64_t i = thread_number();
    if (i >= tokens.n) return;
    const int sequence = sequence_of(tokens, i), token = tokens.token[i] - n_recent;
    const int64_t before = i - n_recent;
    route.position[i] = token < 0 ? 0 : token;
    route.slot[i] = -1;
    route.source[i] = 0;
    if (token < n_sink) return;
    const int64_t page = pages.block_table[sequence * pages.block_stride + token / CACHE_PAGE_TOKENS];
    route.slot[i] = page * CACHE_PAGE_TOKENS + token % CACHE_PAGE_TOKENS;
    route.source[i] = before >= 0 && sequence_of(tokens, before) == sequence
                          ? before
                          : -1 - static_cast<int64_t>(exact_row_of(token, n_sink, n_recent));
}

rb_status cache_route_tokens(const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages, int n_sink, int n_recent,
                             const cache_route *route, void *stream, rb_error *err)
{
    if (tokens->n == 0) return RB_OK;
    route_kernel<<<blocks_for(tokens->n), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(*tokens, *pages, n_sink,
                                                                                           n_recent, *route);
    return rb_cuda_launched("route kernel", err);
}

/* Row of a sequence's exact area: keys of all heads, then values. */
__device__ __forceinline__ __half *exact_row(const ropebits_kv_pages &pages, const turn_call &turn, int sequence,
                                             int64_t row)
{
    const int64_t row_halves = static_cast<int64_t>(turn.n_kv_heads) * (turn.head_dim + turn.value_dim);
    return reinterpret_cast<__half *>(static_cast<uint8_t *>(pages.exact) + sequence * pages.exact_stride_bytes)
           + row * row_halves;
}

/* A thread has two dims of a key, or of a value. */
__global__ void gather_kernel(ropebits_kv_tokens tokens, ropebits_kv_pages pages, cache_route route, turn_call turn,
                              float *keys, float *values)
{
    const int key_blocks = turn.head_dim / 2, value_pairs = turn.value_dim / 2,
              each = turn.n_kv_heads * (key_blocks + value_pairs);
    const int64_t i = thread_number(), n = i / each;
    if (n >= tokens.n) return;
    const int at = static_cast<int>(i % each), is_value = at >= turn.n_kv_heads * key_blocks,
              in = is_value ? at - turn.n_kv_heads * key_blocks : at, size = is_value ? value_pairs : key_blocks,
              head = in / size, pair = in % size, n_dims = 2 * size;
    float *to = (is_value ? values : keys) + (n * turn.n_kv_heads + head) * n_dims;
    const int first = is_value ? 2 * pair : turn.dims[2 * pair],
              second = is_value ? first + 1 : turn.dims[2 * pair + 1];
    const int64_t source = route.source[n];
    float2 x = make_float2(0.0f, 0.0f);
    if (route.slot[n] >= 0) {
        const ropebits_kv_vectors &from = is_value ? tokens.values : tokens.keys;
        if (source >= 0) {
            x = make_float2(load(from, source, head, first), load(from, source, head, second));
        } else {
            const __half *row = exact_row(pages, turn, sequence_of(tokens, n), -1 - source)
                                + (is_value ? turn.n_kv_heads * turn.head_dim : 0) + head * n_dims;
            x = make_float2(__half2float(row[first]), __half2float(row[second]));
        }
        if (!is_value && (source < 0 || tokens.keys_are_turned))
            x = turn_block(turn, pair, route.position[n], -1, x.x, x.y);
    }
    to[first] = x.x;
    to[second] = x.y;
}

rb_status cache_gather(const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages, const cache_route *route,
                       const turn_call *turn, float *keys, float *values, void *stream, rb_error *err)
{
    const int64_t size = tokens->n * turn->n_kv_heads * (turn->head_dim + turn->value_dim) / 2;
    if (size == 0) return RB_OK;
    gather_kernel<<<blocks_for(size), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(*tokens, *pages, *route, *turn,
                                                                                       keys, values);
    return rb_cuda_launched("gather kernel", err);
}

__global__ void keep_exact_kernel(ropebits_kv_tokens tokens, ropebits_kv_pages pages, turn_call turn, int n_sink,
                                  int n_recent)
{
    const int key_blocks = turn.head_dim / 2, value_pairs = turn.value_dim / 2,
              each = turn.n_kv_heads * (key_blocks + value_pairs);
    const int64_t i = thread_number(), n = i / each;
    if (n >= tokens.n) return;
    const int token = tokens.token[n], sequence = sequence_of(tokens, n);
    const bool is_passed = n + n_recent < tokens.n && sequence_of(tokens, n + n_recent) == sequence;
    if (token >= n_sink && (n_recent == 0 || is_passed)) return;
    const int at = static_cast<int>(i % each), is_value = at >= turn.n_kv_heads * key_blocks,
              in = is_value ? at - turn.n_kv_heads * key_blocks : at, size = is_value ? value_pairs : key_blocks,
              head = in / size, pair = in % size;
    const int first = is_value ? 2 * pair : turn.dims[2 * pair],
              second = is_value ? first + 1 : turn.dims[2 * pair + 1];
    const ropebits_kv_vectors &from = is_value ? tokens.values : tokens.keys;
    float2 x = make_float2(load(from, n, head, first), load(from, n, head, second));
    if (!is_value && !tokens.keys_are_turned) x = turn_block(turn, pair, token, 1, x.x, x.y);
    __half *row = exact_row(pages, turn, sequence, exact_row_of(token, n_sink, n_recent > 0 ? n_recent : 1))
                  + (is_value ? turn.n_kv_heads * turn.head_dim : 0) + head * 2 * size;
    row[first] = __float2half_rn(x.x);
    row[second] = __float2half_rn(x.y);
}

rb_status cache_keep_exact(const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages, const turn_call *turn,
                           int n_sink, int n_recent, void *stream, rb_error *err)
{
    const int64_t size = tokens->n * turn->n_kv_heads * (turn->head_dim + turn->value_dim) / 2;
    if (size == 0 || n_sink + n_recent == 0) return RB_OK;
    keep_exact_kernel<<<blocks_for(size), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(*tokens, *pages, *turn,
                                                                                           n_sink, n_recent);
    return rb_cuda_launched("exact tokens kernel", err);
}
