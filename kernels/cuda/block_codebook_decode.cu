/* Restoring keys of family block-codebook: see kernels/reference/block_codebook_codec.h for what they are,
 * kernels/cuda/block_codebook_image.h for the tables.
 *
 * A lane has the same four neighbouring blocks of every vector. Their widths, maps and centres stay in its registers;
 * from each vector it reads the 64 bits that hold their codes. So a block costs about 15 instructions: cut out a code,
 * look up a point, x = c + g M p, round. Results go straight from registers to memory, as runs of four dims (eight with
 * interleaved pairs). Shared memory holds only packed codes, points and levels. Layers that have blocks with levels
 * have a kernel of their own, which looks up two words a block. */
#include "kernels/cuda/block_codebook_device.cuh"

enum { DECODE_WARPS = 8, DECODE_BLOCKS = 3, DECODE_ROWS = 32, LANE_BLOCKS = 4 };

struct block_codebook_decode_args {
    codec_image image;     /* on the device */
    const uint8_t *packed; /* [n_heads] streams of [n][packed_bytes] u8 */
    void *x_hat;           /* [n_heads][n][head_dim] of the kernel's T; elements from head to head, vector to vector: */
    int64_t head_stride, token_stride, n;
    int warp_bytes; /* of shared memory */
};

/* What a lane knows of its blocks. */
struct lane_blocks {
    int bit_first;
    int bits[LANE_BLOCKS], first[LANE_BLOCKS]; /* first of the points in the book */
    uint32_t mask[LANE_BLOCKS];
    /* With levels x is the word at first + (code & first_mask), y that at second + (code >> shift). Of points both are
     * one. */
    int second[LANE_BLOCKS], shift[LANE_BLOCKS];
    uint32_t first_mask[LANE_BLOCKS];
    float m0[LANE_BLOCKS], m1[LANE_BLOCKS], m2[LANE_BLOCKS], x[LANE_BLOCKS], y[LANE_BLOCKS];
};

__device__ __forceinline__ lane_blocks read_blocks(const block_codebook_image_block *blocks,
                                                   const block_codebook_image &image)
{
    lane_blocks own;
    own.bit_first = blocks[0].bit_first;
#pragma unroll
    for (int i = 0; i < LANE_BLOCKS; i++) {
        own.bits[i] = blocks[i].bits;
        const int first_bits = blocks[i].first_bits;
        own.first[i] =
            first_bits > 0 ? block_codebook_first_level(image, first_bits) : block_codebook_book_first(own.bits[i]);
        own.mask[i] = (1u << own.bits[i]) - 1u;
        own.second[i] = first_bits > 0 ? block_codebook_first_level(image, own.bits[i] - first_bits) : own.first[i];
        own.shift[i] = first_bits;
        own.first_mask[i] = first_bits > 0 ? (1u << first_bits) - 1u : own.mask[i];
        own.m0[i] = blocks[i].map[0];
        own.m1[i] = blocks[i].map[1];
        own.m2[i] = blocks[i].map[2];
        own.x[i] = blocks[i].center[0];
        own.y[i] = blocks[i].center[1];
    }
    return own;
}

/* ---- values to their places ------------------------------------------------------------------ */

__device__ __forceinline__ uint32_t round_pair(float a, float b, __half) { return as_bits(__floats2half2_rn(a, b)); }
__device__ __forceinline__ uint32_t round_pair(float a, float b, __nv_bfloat16)
{
    return as_bits(__floats2bfloat162_rn(a, b));
}
__device__ __forceinline__ void store_value(__half *to, float value) { *to = __float2half_rn(value); }
__device__ __forceinline__ void store_value(__nv_bfloat16 *to, float value) { *to = __float2bfloat16_rn(value); }
__device__ __forceinline__ void store_value(float *to, float value) { *to = value; }

/* Four dims from a multiple of 4 on. */
template <typename T> __device__ __forceinline__ void store_four(T *to, float a, float b, float c, float d)
{
    __stcs(reinterpret_cast<uint2 *>(to), make_uint2(round_pair(a, b, T()), round_pair(c, d, T())));
}
__device__ __forceinline__ void store_four(float *to, float a, float b, float c, float d)
{
    __stcs(reinterpret_cast<float4 *>(to), make_float4(a, b, c, d));
}

/* Eight, from a multiple of 8 on. */
template <typename T>
__device__ __forceinline__ void store_pairs(T *to, const float (&x)[LANE_BLOCKS], const float (&y)[LANE_BLOCKS])
{
    __stcs(reinterpret_cast<uint4 *>(to), make_uint4(round_pair(x[0], y[0], T()), round_pair(x[1], y[1], T()),
                                                     round_pair(x[2], y[2], T()), round_pair(x[3], y[3], T())));
}
__device__ __forceinline__ void store_pairs(float *to, const float (&x)[LANE_BLOCKS], const float (&y)[LANE_BLOCKS])
{
    store_four(to, x[0], y[0], x[1], y[1]);
    store_four(to + 4, x[2], y[2], x[3], y[3]);
}

enum lane_order { TWO_RUNS, ONE_RUN, SCATTERED };

/* Where a lane's values go. */
struct lane_dims {
    lane_order order;
    int first, second; /* dims of its first block */
    const block_codebook_image_block *blocks;
};

__device__ __forceinline__ lane_dims find_dims(const block_codebook_image_block *blocks, bool is_scattered)
{
    const int first = blocks[0].dims & 0xffff, second = blocks[0].dims >> 16, next = blocks[1].dims & 0xffff;
    return {is_scattered ? SCATTERED : next == first + 1 ? TWO_RUNS : ONE_RUN, first, second, blocks};
}

template <typename T>
__device__ __forceinline__ void store_blocks(T *to, const lane_dims &dims, const float (&x)[LANE_BLOCKS],
                                             const float (&y)[LANE_BLOCKS])
{
    if (dims.order == TWO_RUNS) {
        store_four(to + dims.first, x[0], x[1], x[2], x[3]);
        store_four(to + dims.second, y[0], y[1], y[2], y[3]);
    } else if (dims.order == ONE_RUN) {
        store_pairs(to + dims.first, x, y);
    } else {
#pragma unroll
        for (int i = 0; i < LANE_BLOCKS; i++) {
            store_value(to + (dims.blocks[i].dims & 0xffff), x[i]);
            store_value(to + (dims.blocks[i].dims >> 16), y[i]);
        }
    }
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* The lane's blocks of the vector whose packed bits start at this byte. */
template <bool HAS_LEVELS>
__device__ __forceinline__ void restore_blocks(float (&x)[LANE_BLOCKS], float (&y)[LANE_BLOCKS], const lane_blocks &own,
                                               const uint32_t *packed, int byte, float gain, const uint32_t *book)
{
    const unsigned bit = byte * 8 + own.bit_first;
    const uint32_t *words = packed + bit / 32;
    uint32_t low = __funnelshift_r(words[0], words[1], bit), high = __funnelshift_r(words[1], words[2], bit);
#pragma unroll
    for (int i = 0; i < LANE_BLOCKS; i++) {
        const uint32_t code = low & own.mask[i];
        const float2 p = HAS_LEVELS ? book_levels(book[own.first[i] + (code & own.first_mask[i])],
                                                  book[own.second[i] + (code >> own.shift[i])])
                                    : book_point(book[own.first[i] + code]);
        low = __funnelshift_r(low, high, own.bits[i]);
        high >>= own.bits[i];
        x[i] = fmaf(gain, own.m0[i] * p.x, own.x[i]);
        y[i] = fmaf(gain, fmaf(own.m2[i], p.y, own.m1[i] * p.x), own.y[i]);
    }
}

template <typename T, bool HAS_LEVELS>
__global__ void __launch_bounds__(DECODE_WARPS * 32, DECODE_BLOCKS)
    block_codebook_decode_kernel(const block_codebook_decode_args args)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float gains[BLOCK_CODEBOOK_MAX_GAINS];
    __shared__ head_streams streams;
    const block_codebook_image &own = args.image.block_codebook;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, n_blocks = own.n_blocks, head_index = blockIdx.y;
    const block_codebook_image_head &head = own.heads[head_index];
    uint32_t *book = reinterpret_cast<uint32_t *>(shared);
    uint32_t *packed = book + block_codebook_book_words(own) + warp * (args.warp_bytes / 4);
    copy_book(book, own);
    if (threadIdx.x < BLOCK_CODEBOOK_MAX_GAINS) gains[threadIdx.x] = head.gains[threadIdx.x];
    if (warp == 0) {
        const head_streams found = find_streams(args.image.heads, head_index, args.n);
        if (lane == 0) streams = found;
    }
    __syncthreads();

    int lanes = 1;
    while (lanes < n_blocks / LANE_BLOCKS) lanes *= 2;
    const int first_block = LANE_BLOCKS * (lane & (lanes - 1)), rows = 32 / lanes;
    const bool is_idle = first_block >= n_blocks;
    const block_codebook_image_block *blocks = own.blocks + head_index * n_blocks + (is_idle ? 0 : first_block);
    const lane_blocks mine = read_blocks(blocks, own);
    const lane_dims dims = find_dims(blocks, head.is_scattered != 0);
    const int packed_bytes = args.image.heads[head_index].packed_bytes;
    const unsigned gain_mask = (1u << head.gain_bits) - 1u;
    const vector_run run = find_run(args.n);
    T *x_hat = static_cast<T *>(args.x_hat) + head_index * args.head_stride;
    for (int64_t first = run.from; first < run.to; first += DECODE_ROWS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(DECODE_ROWS), run.to - first));
        warp_copy(reinterpret_cast<uint8_t *>(packed), args.packed + streams.packed + first * packed_bytes,
                  n_rows * packed_bytes);
        __syncwarp();
        T *to = x_hat + (first + lane / lanes) * args.token_stride;
        const int64_t step = rows * args.token_stride;
        if (!is_idle) {
#pragma unroll 2
            for (int row = lane / lanes; row < n_rows; row += rows, to += step) {
                const int byte = row * packed_bytes;
                const float gain = gains[reinterpret_cast<const uint8_t *>(packed)[byte] & gain_mask];
                float x[LANE_BLOCKS], y[LANE_BLOCKS];
                restore_blocks<HAS_LEVELS>(x, y, mine, packed, byte, gain, book);
                store_blocks(to, dims, x, y);
            }
        }
        __syncwarp();
    }
}

template <typename T> static rb_status launch_type(block_codebook_decode_args &args, cudaStream_t stream, rb_error *err)
{
    const codec_image &image = args.image;
    const size_t warp_bytes = round_up(static_cast<size_t>(DECODE_ROWS) * image.max_packed_bytes + 16, 128);
    const launch_request want = {"block-codebook decode kernel",
                                 DECODE_WARPS,
                                 block_codebook_book_bytes(image.block_codebook),
                                 warp_bytes,
                                 count_tiles(args.n, DECODE_ROWS),
                                 static_cast<unsigned>(image.n_heads),
                                 1};
    args.warp_bytes = static_cast<int>(warp_bytes);
    return image.block_codebook.n_levels > 0
               ? launch(block_codebook_decode_kernel<T, true>, args, want, 1, nullptr, stream, err)
               : launch(block_codebook_decode_kernel<T, false>, args, want, 1, nullptr, stream, err);
}

rb_status block_codebook_decode(const codec_decode_call &call, rb_error *err)
{
    block_codebook_decode_args args = {
        call.image, call.packed, call.x_hat.data, call.x_hat.head_stride, call.x_hat.token_stride, call.n, 0};
    if (call.x_hat.type == CODEC_F16) return launch_type<__half>(args, call.stream, err);
    if (call.x_hat.type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, call.stream, err);
    return launch_type<float>(args, call.stream, err);
}
