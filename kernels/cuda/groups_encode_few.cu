/* Quantizing few vectors of family groups, of the published form or the general one, where no encoder searches: see
 * kernels/cuda/codec_few.cuh for when, kernels/reference/groups_codec.c for the definition.
 *
 * A thread block has one vector. Its dims, less the centre and scaled, go to coding order, brought near 1 by a power of
 * two. Then warps multiply: a warp has rows of the rotations, 32 apart, and reads them in order from global memory, f32
 * as they are; a Hadamard rotation is a matrix here. Each group also has a warp for its norm. At last a thread for each
 * coordinate finds its code by halving. */
#include "kernels/cuda/codec_few.cuh"
#include "kernels/cuda/groups_load.cuh"

enum {
    MAX_DIMS = CODEC_IMAGE_MAX_DIMS,
    MAX_LEVELS = 128, /* above 0, of 8 bits */
    ROWS_AT_ONCE = 4  /* that a warp multiplies: their loads are under way together */
};
static_assert(static_cast<int>(GROUPS_MAX_GROUPS) <= static_cast<int>(FEW_WARPS), "each group has a warp for its norm");

/* What the thread block knows of its vector; by coding position, where nothing else is said. */
struct few_dims {
    groups_image_group groups[GROUPS_MAX_GROUPS];
    float edges[GROUPS_MAX_GROUPS][MAX_LEVELS]; /* as groups_image.h has them */
    uint32_t largest[MAX_DIMS / 32];            /* of 32 dims: magnitude, as bits */
    float x[MAX_DIMS];                          /* (x - c) s times a power of two */
    float y[MAX_DIMS];                          /* R x */
    uint8_t group[MAX_DIMS];
    float root[GROUPS_MAX_GROUPS]; /* 1 / norm of a group; 0 where that is 0 */
    head_streams streams;
    uint32_t words[FEW_WORDS];
};

/* A dim of the vector less its centre; 0 where it is in no group. */
struct own_dim {
    int position;
    bool is_coded;
    float x, inverse_scale;
};

template <typename T> __device__ __forceinline__ own_dim load_dim(const few_args &args, const groups_image_head &head)
{
    const groups_image &own = args.image.groups;
    const int dim = threadIdx.x, head_dim = args.image.head_dim, at = blockIdx.y * head_dim + dim;
    if (dim >= head_dim) return {0, false, 0.0f, 1.0f};
    const int position = own.position[at], column = blockIdx.y * own.max_columns + own.column[at];
    if (position >= head.n_coded) return {position, false, 0.0f, 1.0f};
    return {position, true, to_float(own_vector<T>(args)[dim]) - own.centers[column], own.inverse_scales[column]};
}

/* Brings a rotation to the L2 cache while boundaries are loaded and dims wait for each other. By a warp. */
__device__ __forceinline__ void prefetch_rotation(const float *rotation, int dims)
{
    enum { LINE_FLOATS = LINE_BYTES / sizeof(float) };
    for (int i = (threadIdx.x & 31) * LINE_FLOATS; i < dims * dims; i += 32 * LINE_FLOATS) prefetch(rotation + i);
}

/* The head's groups, and the boundaries of each. By the whole block. */
__device__ __forceinline__ void load_groups(few_dims &vector, const groups_image &own, const groups_image_head &head)
{
    const groups_image_group *groups = own.at + head.first_group;
    const int lane = threadIdx.x & 31;
    for (int g = threadIdx.x / 32; g < head.n_groups; g += FEW_WARPS) {
        const int n_levels = (1 << groups[g].width) / 2;
        const float *edges = own.books + head.first_book + groups[g].book;
        prefetch_rotation(own.rotations + groups[g].rotation, groups[g].dims);
        for (int i = lane; i < n_levels; i += 32) vector.edges[g][i] = edges[i];
        if (lane == 0) vector.groups[g] = groups[g];
    }
}

/* The power of two that brings the vector near 1. */
__device__ __forceinline__ float vector_scale(const few_dims &vector, int head_dim)
{
    uint32_t largest = 0;
    for (int i = 0; i < (head_dim + 31) / 32; i++) largest = max(largest, vector.largest[i]);
    return scale_of(__uint_as_float(largest));
}

/* Groups are in the order of their coordinates. By a warp. */
__device__ __forceinline__ int group_at(const few_dims &vector, int n_groups, int position)
{
    const int lane = threadIdx.x & 31;
    return __popc(__ballot_sync(0xffffffffu, lane < n_groups && vector.groups[lane].first <= position)) - 1;
}

/* A row of the rotation of its group; none has no dims. */
struct rotation_row {
    const float *at;
    int dims, first; /* of the group */
};

__device__ __forceinline__ rotation_row find_row(few_dims &vector, const float *rotations, int n_groups, int n_coded,
                                                 int position)
{
    if (position >= n_coded) return {rotations, 0, 0};
    const int g = group_at(vector, n_groups, position);
    const groups_image_group &group = vector.groups[g];
    if ((threadIdx.x & 31) == 0) vector.group[position] = static_cast<uint8_t>(g);
    return {rotations + group.rotation + (position - group.first) * group.dims, group.dims, group.first};
}

/* By the whole block. */
__device__ __forceinline__ void rotate(few_dims &vector, const float *rotations, int n_groups, int n_coded)
{
    const int lane = threadIdx.x & 31;
    for (int position = threadIdx.x / 32; position < n_coded; position += FEW_WARPS * ROWS_AT_ONCE) {
        rotation_row row[ROWS_AT_ONCE];
        float sum[ROWS_AT_ONCE] = {};
        int most = 0;
#pragma unroll
        for (int r = 0; r < ROWS_AT_ONCE; r++) {
            row[r] = find_row(vector, rotations, n_groups, n_coded, position + r * FEW_WARPS);
            most = max(most, row[r].dims);
        }
#pragma unroll 4
        for (int j = lane; j < most; j += 32)
#pragma unroll
            for (int r = 0; r < ROWS_AT_ONCE; r++)
                if (j < row[r].dims) sum[r] = fmaf(row[r].at[j], vector.x[row[r].first + j], sum[r]);
#pragma unroll
        for (int r = 0; r < ROWS_AT_ONCE; r++) {
            const float y = warp_sum(sum[r]);
            if (lane == r && row[r].dims > 0) vector.y[position + r * FEW_WARPS] = y;
        }
    }
}

/* Stores a group's norm, which is the vector's over `scale`; refuses the vector where it cannot. */
__device__ __forceinline__ void store_norm(const few_args &args, const few_dims &vector, int g, float norm, float scale)
{
    const codec_image_head &head = args.image.heads[blockIdx.y];
    const int64_t at = static_cast<int64_t>(blockIdx.x) * head.n_norms + g;
    uint8_t *norms = args.norms + vector.streams.norms;
    bool is_bad = !(norm < INFINITY);
    if (head.norm_bytes == 1) {
        norms[at] = static_cast<uint8_t>(byte_of_norm(norm, -vector.groups[g].norm_exponent, 1.0f / scale));
    } else {
        const unsigned rounded = __half_as_ushort(__float2half_rn(norm * (1.0f / scale)));
        reinterpret_cast<uint16_t *>(norms)[at] = static_cast<uint16_t>(rounded);
        is_bad |= rounded >= 0x7c00u;
    }
    if (is_bad) refuse_vector(args);
}

/* By a warp. */
__device__ __forceinline__ void find_norm(few_dims &vector, const few_args &args, int g)
{
    const groups_image_group &group = vector.groups[g];
    const int lane = threadIdx.x & 31;
    float square = 0.0f;
    for (int j = lane; j < group.dims; j += 32) {
        const float x = vector.x[group.first + j];
        square = fmaf(x, x, square);
    }
    square = warp_sum(square);
    if (lane > 0) return;
    const float norm = sqrtf(square);
    vector.root[g] = norm > 0.0f ? 1.0f / norm : 0.0f;
    store_norm(args, vector, g, norm, vector_scale(vector, args.image.head_dim));
}

/* The number of boundaries below y; they are symmetric, and 0 belongs to the lower half. */
__device__ __forceinline__ uint32_t code_of(const float *edges, int width, float y)
{
    const int half = (1 << width) / 2;
    int level = 0;
    for (int step = half / 2; step > 0; step /= 2)
        if (fmaf(fabsf(y), GROUPS_STEEP, edges[level + step - 1]) > 0.0f) level += step;
    return static_cast<uint32_t>(y > 0.0f ? half + level : half - 1 - level);
}

__device__ __forceinline__ void put_code(few_dims &vector, int position)
{
    const int g = vector.group[position];
    const groups_image_group &group = vector.groups[g];
    put_bits(vector.words, group.bit_first + (position - group.first) * group.width,
             code_of(vector.edges[g], group.width, vector.y[position] * vector.root[g]), group.width);
}

template <typename T> __global__ void __launch_bounds__(FEW_THREADS) groups_few_kernel(const few_args args)
{
    __shared__ few_dims vector;
    const groups_image &own = args.image.groups;
    const groups_image_head &head = own.heads[blockIdx.y];
    const int head_dim = args.image.head_dim, n_groups = head.n_groups, n_coded = head.n_coded, warp = threadIdx.x / 32,
              lane = threadIdx.x & 31;

    const own_dim dim = load_dim<T>(args, head);
    if (warp < MAX_DIMS / 32) {
        const uint32_t largest = warp_largest(__float_as_uint(fabsf(dim.x)));
        if (lane == 0) vector.largest[warp] = largest;
    }
    load_groups(vector, own, head);
    if (warp == FEW_WARPS - 1) {
        const head_streams streams = find_streams(args.image.heads, blockIdx.y, args.n);
        if (lane == 0) vector.streams = streams;
    }
    clear_words(vector.words);
    __syncthreads();
    if (dim.is_coded) vector.x[dim.position] = dim.x * vector_scale(vector, head_dim) / dim.inverse_scale;
    __syncthreads();
    rotate(vector, own.rotations, n_groups, n_coded);
    if (warp < n_groups) find_norm(vector, args, warp);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < n_coded) put_code(vector, threadIdx.x);
    __syncthreads();
    send_words(args, vector.streams, vector.words);
}

rb_status groups_encode_few(const codec_encode_call &call, rb_error *err)
{
    static const char *const name = "encode kernel for few vectors";
    if (call.x.type == CODEC_F16) return launch_few(groups_few_kernel<__half>, call, name, err);
    if (call.x.type == CODEC_BF16) return launch_few(groups_few_kernel<__nv_bfloat16>, call, name, err);
    return launch_few(groups_few_kernel<float>, call, name, err);
}
