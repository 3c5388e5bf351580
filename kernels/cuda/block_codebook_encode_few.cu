/* Quantizing few keys of family block-codebook: see kernels/cuda/codec_few.cuh for when, and
 * kernels/cuda/block_codebook_encode.cu for the encoder of many, whose arithmetic this is.
 *
 * A thread block has one key. A thread finds where its block of two dims is; one warp adds up the size, which gives the
 * level. Then warps take the blocks: lanes try all points, for the level and its two neighbours at once. Points are
 * read from global memory, in order; the cells that find them faster for many keys would be read only once. Sums go
 * from the first block to the last, as the encoder of many has them, so that both choose the same gain. */
#include "kernels/cuda/block_codebook_device.cuh"
#include "kernels/cuda/block_codebook_gain.cuh"
#include "kernels/cuda/codec_few.cuh"

enum { MAX_BLOCKS = CODEC_IMAGE_MAX_DIMS / 2 };

/* What the thread block knows of its key. */
struct few_blocks {
    float x[MAX_BLOCKS], y[MAX_BLOCKS]; /* less the centre */
    float weight[MAX_BLOCKS], square[MAX_BLOCKS];
    float distance[N_GAINS][MAX_BLOCKS]; /* squared, to the nearest points; 0 without bits */
    uint16_t code[N_GAINS][MAX_BLOCKS];
    gain_choice choice;
    int which; /* of the three gains */
    head_streams streams;
    uint32_t words[FEW_WORDS];
};

/* Where a block is. Its square is not a number where a dim is not finite. */
template <typename T>
__device__ __forceinline__ void place_block(few_blocks &key, int i, const T *x, const block_codebook_image_block &block)
{
    const float first = to_float(x[block.dims & 0xffff]), second = to_float(x[block.dims >> 16]),
                a = first - block.center[0], b = second - block.center[1];
    key.x[i] = a;
    key.y[i] = b;
    key.weight[i] = block.weight;
    key.square[i] = fmaf(a, a, b * b) + fmaf(first, 0.0f, second * 0.0f);
}

/* sum w v of the blocks. */
__device__ __forceinline__ float weighed_sum(const few_blocks &key, const float *v, int n_blocks)
{
    float sum = 0.0f;
#pragma unroll 8
    for (int i = 0; i < n_blocks; i++) sum = fmaf(key.weight[i], v[i], sum);
    return sum;
}

/* A warp's own points, which are read as soon as the gain is known. */
__device__ __forceinline__ void prefetch_points(block_codebook_points points, int n_points)
{
    enum { LINE_FLOATS = LINE_BYTES / sizeof(float) };
    const int at = (threadIdx.x & 31) * LINE_FLOATS;
    if (at >= n_points) return;
    prefetch(points.x + at);
    prefetch(points.y + at);
}

/* The nearest of all points at the three gains, the lowest of equals. By a warp. */
__device__ __forceinline__ void search_points(few_blocks &key, int i, block_codebook_points points, int n_points)
{
    const int lane = threadIdx.x & 31;
    const float x = key.x[i], y = key.y[i];
    float gain[N_GAINS];
    block_codebook_match match[N_GAINS];
#pragma unroll
    for (int k = 0; k < N_GAINS; k++) {
        gain[k] = key.choice.gain[k];
        match[k] = {0, INFINITY};
    }
#pragma unroll 2
    for (int code = lane; code < n_points; code += 32)
#pragma unroll
        for (int k = 0; k < N_GAINS; k++) block_codebook_try(&match[k], points, code, x, y, gain[k]);
#pragma unroll
    for (int k = 0; k < N_GAINS; k++) {
        /* Floats that are not negative are ordered as their bits are. */
        const uint32_t own = __float_as_uint(match[k].distance), least = warp_least(own),
                       code = warp_least(own == least ? static_cast<uint32_t>(match[k].code) : ~0u);
        if (lane == k) {
            key.distance[k][i] = __uint_as_float(least);
            key.code[k][i] = static_cast<uint16_t>(code);
        }
    }
}

/* By a warp, whose first lanes have a gain each. */
__device__ __forceinline__ void search_levels(few_blocks &key, int i, const block_codebook_image_block &block,
                                              block_codebook_levels levels)
{
    const int k = threadIdx.x & 31;
    if (k >= N_GAINS) return;
    const block_codebook_match match =
        block_codebook_search_levels(&block, levels, key.x[i], key.y[i], key.choice.gain[k]);
    key.distance[k][i] = match.distance;
    key.code[k][i] = static_cast<uint16_t>(match.code);
}

__device__ __forceinline__ void search_block(few_blocks &key, int i, const block_codebook_image_block &block,
                                             block_codebook_points points, block_codebook_levels levels)
{
    const int lane = threadIdx.x & 31;
    if (block.bits == 0) {
        if (lane < N_GAINS) key.distance[lane][i] = 0.0f;
    } else if (block.first_bits > 0) search_levels(key, i, block, levels);
    else search_points(key, i, points, 1 << block.bits);
}

/* The level of the gain. By a warp; what stands for a key that is refused has no meaning, but is always the same. */
__device__ __forceinline__ void find_level(few_blocks &key, const few_args &args, const block_codebook_image_head &head,
                                           int n_blocks)
{
    const int lane = threadIdx.x & 31;
    const float square = weighed_sum(key, key.square, n_blocks);
    if (!(square < INFINITY))
        for (int i = lane; i < n_blocks; i += 32) key.x[i] = key.y[i] = 0.0f;
    if (lane > 0) return;
    key.choice = start_choice(head, square);
    if (!(square < INFINITY)) refuse_vector(args);
}

/* The best gain, and its bits. By a warp. */
__device__ __forceinline__ void choose_gain(few_blocks &key, int gain_bits, int n_blocks)
{
    const int lane = threadIdx.x & 31;
    if (lane < N_GAINS) key.choice.error[lane] = weighed_sum(key, key.distance[lane], n_blocks);
    __syncwarp();
    if (lane > 0) return;
    key.which = gain_bits > 0 ? best_gain(key.choice, gain_bits) : 1;
    put_bits(key.words, 0, static_cast<uint32_t>(key.choice.level + key.which - 1), gain_bits);
}

template <typename T> __global__ void __launch_bounds__(FEW_THREADS) block_codebook_few_kernel(const few_args args)
{
    __shared__ few_blocks key;
    const block_codebook_image &own = args.image.block_codebook;
    const int n_blocks = own.n_blocks, warp = threadIdx.x / 32, i = threadIdx.x;
    const block_codebook_image_head &head = own.heads[blockIdx.y];
    const block_codebook_image_block *blocks = own.blocks + static_cast<int64_t>(blockIdx.y) * n_blocks;
    const block_codebook_levels levels = {own.edges, own.levels};
    const float *points_x = own.points_x + head.first_point, *points_y = own.points_y + head.first_point;

    if (i < n_blocks) place_block(key, i, own_vector<T>(args), blocks[i]);
    for (int b = warp; b < n_blocks; b += FEW_WARPS)
        if (blocks[b].bits > 0 && blocks[b].first_bits == 0)
            prefetch_points({points_x + blocks[b].first_point, points_y + blocks[b].first_point}, 1 << blocks[b].bits);
    clear_words(key.words);
    __syncthreads();
    if (warp == 0) find_level(key, args, head, n_blocks);
    if (warp == FEW_WARPS - 1) {
        const head_streams streams = find_streams(args.image.heads, blockIdx.y, args.n);
        if (threadIdx.x % 32 == 0) key.streams = streams;
    }
    __syncthreads();
    for (int b = warp; b < n_blocks; b += FEW_WARPS)
        search_block(key, b, blocks[b], {points_x + blocks[b].first_point, points_y + blocks[b].first_point}, levels);
    __syncthreads();
    if (warp == 0) choose_gain(key, head.gain_bits, n_blocks);
    __syncthreads();
    if (i < n_blocks && blocks[i].bits > 0)
        put_bits(key.words, blocks[i].bit_first, key.code[key.which][i], blocks[i].bits);
    __syncthreads();
    send_words(args, key.streams, key.words);
}

rb_status block_codebook_encode_few(const codec_encode_call &call, rb_error *err)
{
    static const char *const name = "block-codebook encode kernel for few vectors";
    if (call.x.type == CODEC_F16) return launch_few(block_codebook_few_kernel<__half>, call, name, err);
    if (call.x.type == CODEC_BF16) return launch_few(block_codebook_few_kernel<__nv_bfloat16>, call, name, err);
    return launch_few(block_codebook_few_kernel<float>, call, name, err);
}
