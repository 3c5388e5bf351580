/* Quantizing vectors: see kernels/codec_cuda.h for the contract and kernels/codec_image.h for the layout.
 *
 * A warp takes 32 vectors of one head at a time: loads them, puts their dims in coding order in its own part of shared memory, and then, group by group,
 * sums the norms from the operands it has just loaded for the products, rotates on the tensor cores, compares with the boundaries, and packs. The
 * columns of the rotation are dealt so that a lane's results are neighbours in the packed stream (codec_image.c). Warps never wait for each other.
 *
 * fp16 input is an exact operand. bf16 and f32 are first brought near 1 by a power of two for each vector; bf16 then is exact again, f32 is split like
 * the rotation into high and low, and the product low x low is dropped. */
#include <string.h>

#include "kernels/codec_device.cuh"

struct encode_args {
    codec_device_image image;
    const void *x;
    int64_t head_stride, token_stride, n;
    uint8_t *packed;
    uint16_t *norms;
    unsigned long long *first_bad;
    int fragment_bytes;     /* of shared memory for the fragments; 0: read them from global memory */
    int warp_bytes;
};

/* ---- loading ----------------------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ void load_floats(float (&out)[8], const float *from)
{
    const float4 a = reinterpret_cast<const float4 *>(from)[0], b = reinterpret_cast<const float4 *>(from)[1];
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w, out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}

__device__ __forceinline__ void load_floats(float (&out)[8], const __nv_bfloat16 *from)
{
    const uint4 bits = *reinterpret_cast<const uint4 *>(from);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = __uint_as_float(words[i] << 16);
        out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

/* The power of two that brings the largest magnitude of a vector to [1024, 2048); 1 where there is none. */
__device__ __forceinline__ float scale_of(float largest)
{
    const int exponent = __float_as_int(largest) >> 23 & 255;
    if (exponent == 255 || largest == 0.0f) return 1.0f;
    return __int_as_float(min(264 - exponent, 254) << 23);
}

/* Where a lane puts two runs of 8 dims, [8 c, 8 c + 8) and the same half a vector later; the same for all rows. Offsets in a row, in halves. */
struct lane_columns {
    uint32_t low[8], high[8];       /* split pairs: low alone; natural order: the first of each */
};

__device__ __forceinline__ lane_columns find_columns(const uint16_t *column, int c, int half_dim)
{
    lane_columns at = {};
    if (8 * c < half_dim)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            at.low[i] = column[8 * c + i];
            at.high[i] = column[half_dim + 8 * c + i];
        }
    return at;
}

template <int ORDER>
__device__ __forceinline__ void store_row(__half *row, const uint32_t (&low)[4], const uint32_t (&high)[4], const lane_columns &at)
{
    if (ORDER == CODEC_ORDER_NATURAL) {
        *reinterpret_cast<uint4 *>(row + at.low[0]) = make_uint4(low[0], low[1], low[2], low[3]);
        *reinterpret_cast<uint4 *>(row + at.high[0]) = make_uint4(high[0], high[1], high[2], high[3]);
    } else if (ORDER == CODEC_ORDER_SPLIT_PAIRS) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            *reinterpret_cast<uint32_t *>(row + at.low[2 * i]) = __byte_perm(low[i], high[i], 0x5410);
            *reinterpret_cast<uint32_t *>(row + at.low[2 * i + 1]) = __byte_perm(low[i], high[i], 0x7632);
        }
    } else {
        uint16_t *bits = reinterpret_cast<uint16_t *>(row);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            bits[at.low[i]] = static_cast<uint16_t>(low[i / 2] >> 16 * (i & 1));
            bits[at.high[i]] = static_cast<uint16_t>(high[i / 2] >> 16 * (i & 1));
        }
    }
}

/* A vector is loaded by 2^k lanes, each with two runs of 8 dims; some of them idle unless head_dim / 16 is a power of two. */
struct row_split {
    int lanes, rows, lane, row;     /* lanes a row, rows a warp, this lane's */
};

__device__ __forceinline__ row_split split_rows(int head_dim)
{
    int lanes = 1;
    while (lanes < head_dim / 16) lanes *= 2;
    const int lane = threadIdx.x & 31;
    return {lanes, 32 / lanes, lane & (lanes - 1), lane / lanes};
}

template <int ORDER>
__device__ __forceinline__ void load_rows(__half *tile, __half *, float *, const __half *x, int64_t token_stride, int n_rows, const lane_columns &at,
                                          int head_dim, int stride)
{
    enum { IN_FLIGHT = 4 };
    const row_split split = split_rows(head_dim);
    const int half_dim = head_dim / 2;
    if (8 * split.lane >= half_dim) return;
    const __half *from = x + split.row * token_stride + 8 * split.lane;
    __half *to = tile + split.row * stride;
    for (int row = split.row; row < WARP_ROWS; row += IN_FLIGHT * split.rows) {
        uint4 low[IN_FLIGHT], high[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) {
            low[i] = high[i] = make_uint4(0, 0, 0, 0);
            if (row + i * split.rows < n_rows) {
                low[i] = __ldcs(reinterpret_cast<const uint4 *>(from));
                high[i] = __ldcs(reinterpret_cast<const uint4 *>(from + half_dim));
            }
            from += split.rows * token_stride;
        }
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) {
            const uint32_t a[4] = {low[i].x, low[i].y, low[i].z, low[i].w}, b[4] = {high[i].x, high[i].y, high[i].z, high[i].w};
            if (row + i * split.rows < WARP_ROWS) store_row<ORDER>(to, a, b, at);
            to += split.rows * stride;
        }
    }
}

/* bf16 and f32: scaled by a power of two a row; tile_low takes what f32 has beyond fp16 (NULL for bf16). */
template <int ORDER, typename T>
__device__ __forceinline__ void load_rows(__half *tile, __half *tile_low, float *inverse_scale, const T *x, int64_t token_stride, int n_rows,
                                          const lane_columns &at, int head_dim, int stride)
{
    const row_split split = split_rows(head_dim);
    const int half_dim = head_dim / 2, c = split.lane;
    const bool is_idle = 8 * c >= half_dim;
    for (int first = 0; first < WARP_ROWS; first += split.rows) {
        const int row = first + split.row;
        float v[2][8] = {};
        float largest = 0.0f;
        if (row < n_rows && !is_idle) {
            load_floats(v[0], x + row * token_stride + 8 * c);
            load_floats(v[1], x + row * token_stride + half_dim + 8 * c);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float magnitude = fabsf(v[i / 8][i & 7]);
            largest = magnitude <= largest ? largest : magnitude;       /* a NaN stays */
        }
        for (int mask = 1; mask < split.lanes; mask *= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, largest, mask);
            largest = other <= largest ? largest : other;
        }
        const float scale = scale_of(largest);
        if (c == 0) inverse_scale[row] = 1.0f / scale;
        if (is_idle) continue;
        uint32_t high[2][4], low[2][4];
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float a = v[r][2 * i] * scale, b = v[r][2 * i + 1] * scale;
                const __half2 rounded = __floats2half2_rn(a, b);
                const float2 back = __half22float2(rounded);
                high[r][i] = as_bits(rounded);
                low[r][i] = as_bits(__floats2half2_rn(a - back.x, b - back.y));
            }
        store_row<ORDER>(tile + row * stride, high[0], high[1], at);
        if (tile_low) store_row<ORDER>(tile_low + row * stride, low[0], low[1], at);
    }
}

/* ---- coding ------------------------------------------------------------------------------------------------------------------ */

/* How codes are found: few boundaries by comparing with those above 0, which are in registers; many by a table of cells; where two boundaries lie too close
 * for that, by a search. */
enum coding { BY_WIDTH_1 = 1, BY_WIDTH_2, BY_WIDTH_3, BY_CELLS, BY_SEARCH };

struct coder {
    float edge[3];
    const float *edges;                 /* of the boundaries above 0 */
    const codec_image_cell *cells;
    float cells_per_unit, rounder;      /* y * cells_per_unit + rounder has the cell in its low bits */
    unsigned cell_mask;
    float middle;                       /* (2^width - 1) / 2: between the codes of the two halves */
    int width;
};

/* A number this large added to a small one leaves it rounded to a whole number in the low bits. */
static constexpr float ROUNDER = 12582912.0f;

/* The code, as a float. Compares are products with a steep slope, cut off at 0 and 1: the FMA pipe has twice the rate of the one that compares. */
template <coding BY>
__device__ __forceinline__ float code_of(float product, float inverse, const coder &by)
{
    /* 0 belongs to the lower half: far below any boundary's precision, but enough to give it a sign. */
    const float y = fmaf(product, inverse, -1e-30f);
    if (BY == BY_CELLS) {
        const codec_image_cell cell = by.cells[__float_as_uint(fmaf(y, by.cells_per_unit, by.rounder)) & by.cell_mask];
        return __saturatef(fmaf(y, CODEC_IMAGE_STEEP, cell.edge)) + cell.code;
    }
    float count = 0.5f;
    if (BY == BY_SEARCH) {
        unsigned at = 0;
        for (unsigned step = 1u << (by.width - 2); step > 0; step >>= 1)
            if (fmaf(fabsf(y), CODEC_IMAGE_STEEP, by.edges[at + step - 1]) > 0.0f) at += step;
        count += static_cast<float>(at);
    } else {
#pragma unroll
        for (int i = 0; i < (1 << static_cast<int>(BY)) / 2 - 1; i++) count += __saturatef(fmaf(fabsf(y), CODEC_IMAGE_STEEP, by.edge[i]));
    }
    return by.middle + copysignf(count, y);
}

/* Whole numbers below 2^23 added to this have their bits in the lowest of the sum. */
static constexpr float WHOLE = 8388608.0f;

/* The bits of one lane for one vector, appended in order and sent out 32 at a time. */
struct bit_run {
    uint32_t bits;
    int at;         /* bit of the warp's packed tile where `bits` goes */
};

/* The first `left` of 32 bits. */
__device__ __forceinline__ uint32_t counting_bits(int left) { return left >= 32 ? ~0u : left <= 0 ? 0 : (1u << left) - 1; }

__device__ __forceinline__ void flush(const bit_run &run, uint32_t surplus, uint32_t counts, uint32_t *tile)
{
    const int shift = run.at & 31;
    const uint32_t bits = (run.bits - surplus) & counts;
    uint32_t *word = tile + (run.at >> 5);
    if (bits << shift) atomicOr(word, bits << shift);
    const uint32_t rest = __funnelshift_l(bits, 0, shift);      /* what the shift lost */
    if (rest) atomicOr(word + 1, rest);
}

/* ---- a group ----------------------------------------------------------------------------------------------------------------- */

/* What a warp has in shared memory. */
struct warp_memory {
    __half *tile, *tile_low;    /* [WARP_ROWS][tile_stride(n_columns)] */
    float *inverse_scale;       /* [WARP_ROWS] */
    uint16_t *norms;            /* [WARP_ROWS][n_groups] */
    uint32_t *packed;           /* WARP_ROWS * packed_bytes, and what a lane without dims may touch behind */
};

template <typename T> struct input_traits;
template <> struct input_traits<__half> { enum { IS_SCALED = 0, HAS_LOW = 0 }; };
template <> struct input_traits<__nv_bfloat16> { enum { IS_SCALED = 1, HAS_LOW = 0 }; };
template <> struct input_traits<float> { enum { IS_SCALED = 1, HAS_LOW = 1 }; };

/* Warps of a block, by the registers that operands take. */
template <typename T, int STEPS>
constexpr int most_warps() { return input_traits<T>::HAS_LOW ? MAX_WARPS / 2 : STEPS > 4 ? 3 * MAX_WARPS / 4 : MAX_WARPS; }

/* Operands of BLOCKS row blocks in registers. IS_EXACT: the group has STEPS steps; else at most as many. */
template <typename T, int STEPS, bool IS_EXACT, int BLOCKS>
struct group_operands {
    enum { LOW_STEPS = input_traits<T>::HAS_LOW ? STEPS : 1 };
    uint32_t a[BLOCKS][STEPS][4], a_low[BLOCKS][LOW_STEPS][4];
    float inverse[BLOCKS][2];       /* of the norms, and of the fragments' scale */
};

/* Loads the operands and stores the norms. */
template <typename T, int STEPS, bool IS_EXACT, int BLOCKS>
__device__ __forceinline__ void load_group(group_operands<T, STEPS, IS_EXACT, BLOCKS> &operands, const codec_image_group &group, int g, int n_groups, int block,
                                           int stride, const warp_memory &memory)
{
    enum { HAS_LOW = input_traits<T>::HAS_LOW };
    const int lane = threadIdx.x & 31, n_steps = IS_EXACT ? STEPS : uniform(group.n_steps);
    const bool ends_half = group.n_tiles & 1;
#pragma unroll
    for (int m = 0; m < BLOCKS; m++) {
        const int at = (block + m) * 16 * stride + group.column;
        float squares[2] = {0.0f, 0.0f};
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            if (s < n_steps) {
                load_a(operands.a[m][s], memory.tile + at + 16 * s, stride);
                if (HAS_LOW) load_a(operands.a_low[m][HAS_LOW ? s : 0], memory.tile_low + at + 16 * s, stride);
            }
        add_row_products(squares, operands.a[m], operands.a[m], n_steps, ends_half);
        if constexpr (HAS_LOW) {        /* (high + low)^2 but for low^2 */
            float mixed[2] = {0.0f, 0.0f};
            add_row_products(mixed, operands.a[m], operands.a_low[m], n_steps, ends_half);
            squares[0] += 2.0f * mixed[0];
            squares[1] += 2.0f * mixed[1];
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = (block + m) * 16 + r * 8 + (lane >> 2);
            const float root = rsqrtf(squares[r]), norm = squares[r] > 0.0f ? squares[r] * root : squares[r];
            operands.inverse[m][r] = squares[r] > 0.0f ? group.inverse_scale * root : 0.0f;
            const __half rounded = __float2half_rn(input_traits<T>::IS_SCALED ? norm * memory.inverse_scale[row] : norm);
            if ((lane & 3) == 0) memory.norms[row * n_groups + g] = __half_as_ushort(rounded);
        }
    }
}

struct block_tables {
    const codec_image_lane *fragments;
    const float *books;
    const codec_image_cell *cells;
};

/* One tile of the rotated vectors: c = 8 columns of them. */
template <typename T, int STEPS, bool IS_EXACT, int BLOCKS>
__device__ __forceinline__ void rotate_tile(float (&c)[BLOCKS][4], const group_operands<T, STEPS, IS_EXACT, BLOCKS> &operands, const uint4 *fragment, int n_steps)
{
    enum { HAS_LOW = input_traits<T>::HAS_LOW };
#pragma unroll
    for (int m = 0; m < BLOCKS; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[m][i] = 0.0f;
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        if (IS_EXACT || s < n_steps) {
            const uint4 rotation = fragment[s * CODEC_IMAGE_LANES];
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) multiply(c[m], operands.a[m][s], rotation.x, rotation.y);
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) multiply(c[m], operands.a[m][s], rotation.z, rotation.w);
            if (HAS_LOW) {
#pragma unroll
                for (int m = 0; m < BLOCKS; m++) multiply(c[m], operands.a_low[m][HAS_LOW ? s : 0], rotation.x, rotation.y);
            }
        }
}

__device__ __forceinline__ coder make_coder(coding by_what, const codec_image_group &group, int width, const block_tables &tables)
{
    coder by;
    by.width = width;
    by.middle = static_cast<float>((1 << width) - 1) * 0.5f;
    by.edges = tables.books + group.book;
#pragma unroll
    for (int i = 0; i < 3; i++) by.edge[i] = by_what <= BY_WIDTH_3 && i < (1 << width) / 2 - 1 ? by.edges[i] : 0.0f;
    const float half = static_cast<float>((1 << group.log2_cells) / 2);
    by.cell_mask = (1u << group.log2_cells) - 1;
    by.cells_per_unit = (half - 1.0f) * CODEC_IMAGE_CELL_RANGE;
    by.rounder = ROUNDER + half;
    by.cells = tables.cells + group.cells;
    return by;
}

/* Rotates, codes and packs. Where registers allow, a tile's products are on their way while the tile before is coded. */
template <coding BY, typename T, int STEPS, bool IS_EXACT, int BLOCKS>
__device__ __forceinline__ void code_group(const group_operands<T, STEPS, IS_EXACT, BLOCKS> &operands, const codec_image_group &group, int packed_bytes, int block,
                                           const warp_memory &memory, const block_tables &tables)
{
    const int lane = threadIdx.x & 31, t = lane & 3, width = BY <= BY_WIDTH_3 ? static_cast<int>(BY) : uniform(group.width);
    const int n_steps = IS_EXACT ? STEPS : uniform(group.n_steps), n_tiles = uniform(group.n_tiles), lane_dims = 2 * n_tiles;
    const coder by = make_coder(BY, group, width, tables);
    bit_run runs[BLOCKS][2];
#pragma unroll
    for (int m = 0; m < BLOCKS; m++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            runs[m][r] = {0, ((block + m) * 16 + r * 8 + (lane >> 2)) * packed_bytes * 8 + group.bit_first + t * lane_dims * width};
    int waiting = 0;                                    /* bits in each run */
    uint32_t surplus = 0;                               /* what WHOLE added to each run */
    const float second_code = static_cast<float>(1 << width);
    int left = (group.dims - t * lane_dims) * width;    /* bits that count; what lanes without dims compute is left out when runs are sent */
    const uint4 *fragment = reinterpret_cast<const uint4 *>(tables.fragments + group.encode * CODEC_IMAGE_LANES + lane);
    const bool is_ahead = STEPS <= 4;
    float next[BLOCKS][4];
    if (is_ahead) rotate_tile(next, operands, fragment, n_steps);
#pragma unroll 1        /* registers are short */
    for (int tile = 1; tile <= n_tiles; tile++) {
        float c[BLOCKS][4];
        uint32_t pair[2 * BLOCKS];      /* two codes, and WHOLE's bits */
        if (is_ahead) memcpy(c, next, sizeof c);
        if (!is_ahead) rotate_tile(c, operands, fragment, n_steps);
        fragment += n_steps * CODEC_IMAGE_LANES;
        if (is_ahead && tile < n_tiles) rotate_tile(next, operands, fragment, n_steps);
#pragma unroll
        for (int i = 0; i < 2 * BLOCKS; i++) {
            const float inverse = operands.inverse[i / 2][i & 1], *y = &c[i / 2][2 * (i & 1)];
            pair[i] = __float_as_uint(fmaf(code_of<BY>(y[1], inverse, by), second_code, code_of<BY>(y[0], inverse, by)) + WHOLE);
        }
#pragma unroll
        for (int i = 0; i < 2 * BLOCKS; i++) runs[i / 2][i & 1].bits += pair[i] * (1u << waiting);
        surplus += __float_as_uint(WHOLE) << waiting;
        if (waiting + 2 * width >= 32) {
            const uint32_t counts = counting_bits(left);
#pragma unroll
            for (int i = 0; i < 2 * BLOCKS; i++) {
                bit_run &run = runs[i / 2][i & 1];
                flush(run, surplus, counts, memory.packed);
                run.at += 32;
                run.bits = (pair[i] - __float_as_uint(WHOLE)) >> (32 - waiting);      /* 2 width <= 16, so waiting >= 16 here */
            }
            left -= 32;
            surplus = 0;
        }
        waiting = (waiting + 2 * width) & 31;
    }
    if (waiting > 0) {
        const uint32_t counts = counting_bits(left);
#pragma unroll
        for (int i = 0; i < 2 * BLOCKS; i++) flush(runs[i / 2][i & 1], surplus, counts, memory.packed);
    }
}

struct head_place {
    int n_groups, packed_bytes, stride;
};

template <typename T, int STEPS, bool IS_EXACT, int BLOCKS>
__device__ __forceinline__ void encode_group(const codec_image_group &group, int g, int block, const head_place &head, const warp_memory &memory,
                                             const block_tables &tables)
{
    group_operands<T, STEPS, IS_EXACT, BLOCKS> operands;
    load_group(operands, group, g, head.n_groups, block, head.stride, memory);
    switch (uniform(group.width <= BY_WIDTH_3 ? group.width : group.log2_cells > 0 ? BY_CELLS : BY_SEARCH)) {
    case BY_WIDTH_1: code_group<BY_WIDTH_1>(operands, group, head.packed_bytes, block, memory, tables); break;
    case BY_WIDTH_2: code_group<BY_WIDTH_2>(operands, group, head.packed_bytes, block, memory, tables); break;
    case BY_WIDTH_3: code_group<BY_WIDTH_3>(operands, group, head.packed_bytes, block, memory, tables); break;
    case BY_CELLS: code_group<BY_CELLS>(operands, group, head.packed_bytes, block, memory, tables); break;
    default: code_group<BY_SEARCH>(operands, group, head.packed_bytes, block, memory, tables); break;
    }
}

/* All of a head's groups for the rows of the warp. Small groups, which mixed plans are made of, have code of their own for each number of steps. */
template <typename T, int STEPS>
__device__ __forceinline__ void encode_groups(const codec_image_group *groups, const head_place &head, const warp_memory &memory, const block_tables &tables)
{
    enum { BLOCKS = STEPS > (input_traits<T>::HAS_LOW ? 4 : 8) ? 1 : 2 };
    for (int g = 0; g < head.n_groups; g++)
        for (int block = 0; block < 2; block += BLOCKS) {
            const codec_image_group &group = groups[g];
            const int n_steps = uniform(group.n_steps);
            if (STEPS > 4) {
                if (n_steps == STEPS)
                    encode_group<T, STEPS, true, BLOCKS>(group, g, block, head, memory, tables);
                else
                    encode_group<T, STEPS, false, BLOCKS>(group, g, block, head, memory, tables);
            } else if (input_traits<T>::HAS_LOW) {
                encode_group<T, 4, false, BLOCKS>(group, g, block, head, memory, tables);
            } else {
                switch (n_steps) {
                case 1: encode_group<T, 1, true, BLOCKS>(group, g, block, head, memory, tables); break;
                case 2: encode_group<T, 2, true, BLOCKS>(group, g, block, head, memory, tables); break;
                case 3: encode_group<T, 3, true, BLOCKS>(group, g, block, head, memory, tables); break;
                default: encode_group<T, 4, true, BLOCKS>(group, g, block, head, memory, tables); break;
                }
            }
        }
}

/* ---- the kernel -------------------------------------------------------------------------------------------------------------- */

/* The first row of the tile with a norm that is infinite or not a number, if any. */
__device__ __forceinline__ void report_bad_rows(const uint16_t *norms, int n_groups, int n_rows, uint64_t first_vector, unsigned long long *first_bad)
{
    const int lane = threadIdx.x & 31;
    bool is_bad = false;
    if (lane < n_rows)
        for (int g = 0; g < n_groups; g++) is_bad |= (norms[lane * n_groups + g] & 0x7c00) == 0x7c00;
    if (is_bad) atomicMin(first_bad, static_cast<unsigned long long>(first_vector + lane));
}

template <typename T, int STEPS>
__global__ void __launch_bounds__(most_warps<T, STEPS>() * 32, 1) encode_kernel(const encode_args args)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ head_streams streams;
    __shared__ codec_image_group groups[CODEC_IMAGE_MAX_GROUPS];
    __shared__ unsigned taken;
    const codec_device_image &image = args.image;
    const int head_dim = image.head_dim, lane = threadIdx.x & 31, warp = threadIdx.x / 32;

    uint8_t *next = shared;
    codec_image_lane *fragments = reinterpret_cast<codec_image_lane *>(next);
    next += args.fragment_bytes;
    float *books = reinterpret_cast<float *>(next);
    next += (image.max_books * 4 + 15) / 16 * 16;
    codec_image_cell *cells = reinterpret_cast<codec_image_cell *>(next);
    next += (image.max_cells * 8 + 15) / 16 * 16;
    uint16_t *column = reinterpret_cast<uint16_t *>(next);
    next += head_dim * 2 + static_cast<int64_t>(warp) * args.warp_bytes;
    const int max_stride = tile_stride(image.max_columns) + 8;
    warp_memory memory;
    memory.tile = reinterpret_cast<__half *>(next);
    next += WARP_ROWS * max_stride * 2;
    memory.tile_low = input_traits<T>::HAS_LOW ? reinterpret_cast<__half *>(next) : nullptr;
    next += input_traits<T>::HAS_LOW ? WARP_ROWS * max_stride * 2 : 0;
    memory.inverse_scale = reinterpret_cast<float *>(next);
    next += WARP_ROWS * 4;
    memory.norms = reinterpret_cast<uint16_t *>(next);
    next += WARP_ROWS * 2 * image.max_groups;
    memory.packed = reinterpret_cast<uint32_t *>(next);
    const uint4 zero = make_uint4(0, 0, 0, 0);

    for (int head_index = 0; head_index < image.n_heads; head_index++) {
        const tile_run run = find_run(image.heads, image.n_heads, head_index, args.n);
        if (run.n == 0) continue;
        const codec_image_head head = image.heads[head_index];
        const int n_groups = uniform(head.n_groups), order = uniform(head.order), stride = tile_stride(head.n_columns);
        const codec_image_lane *head_fragments = image.fragments + static_cast<int64_t>(head.first_fragment) * CODEC_IMAGE_LANES;
        __syncthreads();
        if (args.fragment_bytes > 0)
            for (int i = threadIdx.x; i < head.n_fragments_encode * CODEC_IMAGE_LANES; i += blockDim.x)
                reinterpret_cast<uint4 *>(fragments)[i] = reinterpret_cast<const uint4 *>(head_fragments)[i];
        for (int i = threadIdx.x; i < head.n_books; i += blockDim.x) books[i] = image.books[head.first_book + i];
        for (int i = threadIdx.x; i < head.n_cells; i += blockDim.x) cells[i] = image.cells[head.first_cell + i];
        for (int i = threadIdx.x; i < head_dim; i += blockDim.x) column[i] = image.column[head_index * head_dim + i];
        for (int i = threadIdx.x; i < n_groups; i += blockDim.x) {
            groups[i] = image.groups[head.first_group + i];
            groups[i].encode -= head.first_fragment;
        }
        if (threadIdx.x == 0) {
            streams = find_streams(image.heads, head_index, args.n);
            taken = 0;
        }
        /* Columns between groups and behind the last stay 0: rows are written column by column of what they have. */
        for (int i = lane; i < WARP_ROWS * stride / 8; i += 32) {
            reinterpret_cast<uint4 *>(memory.tile)[i] = zero;
            if (memory.tile_low) reinterpret_cast<uint4 *>(memory.tile_low)[i] = zero;
        }
        __syncthreads();

        const lane_columns at = find_columns(column, split_rows(head_dim).lane, head_dim / 2);
        const head_place place = {n_groups, head.packed_bytes, stride};
        const block_tables tables = {args.fragment_bytes > 0 ? fragments : head_fragments, books, cells};
        const T *x = static_cast<const T *>(args.x) + head_index * args.head_stride;
        for (int64_t tile = next_tile(run, &taken); tile >= 0; tile = next_tile(run, &taken)) {
            const int64_t first = tile * WARP_ROWS;
            const int n_rows = static_cast<int>(min(static_cast<int64_t>(WARP_ROWS), args.n - first));
            const T *rows = x + first * args.token_stride;
            for (int i = lane; i < WARP_ROWS * head.packed_bytes / 16 + 1; i += 32) reinterpret_cast<uint4 *>(memory.packed)[i] = zero;
            if (order == CODEC_ORDER_SPLIT_PAIRS)
                load_rows<CODEC_ORDER_SPLIT_PAIRS>(memory.tile, memory.tile_low, memory.inverse_scale, rows, args.token_stride, n_rows, at, head_dim, stride);
            else if (order == CODEC_ORDER_NATURAL)
                load_rows<CODEC_ORDER_NATURAL>(memory.tile, memory.tile_low, memory.inverse_scale, rows, args.token_stride, n_rows, at, head_dim, stride);
            else
                load_rows<CODEC_ORDER_ANY>(memory.tile, memory.tile_low, memory.inverse_scale, rows, args.token_stride, n_rows, at, head_dim, stride);
            __syncwarp();
            encode_groups<T, STEPS>(groups, place, memory, tables);
            __syncwarp();
            warp_copy(args.packed + streams.packed + first * head.packed_bytes, reinterpret_cast<const uint8_t *>(memory.packed), n_rows * head.packed_bytes);
            warp_copy(reinterpret_cast<uint8_t *>(args.norms + streams.norms + first * n_groups), reinterpret_cast<const uint8_t *>(memory.norms),
                      n_rows * n_groups * 2);
            report_bad_rows(memory.norms, n_groups, n_rows, static_cast<uint64_t>(head_index) * args.n + first, args.first_bad);
            __syncwarp();
        }
    }
}

template <typename T, int STEPS>
static rb_status launch(encode_args &args, cudaStream_t stream, rb_error *err)
{
    const codec_device_image &image = args.image;
    const int max_warps = most_warps<T, STEPS>();
    const size_t tile_bytes = WARP_ROWS * 2 * static_cast<size_t>(tile_stride(image.max_columns) + 8);
    const size_t tables = round_up(static_cast<size_t>(image.max_books) * 4, 16) + round_up(static_cast<size_t>(image.max_cells) * sizeof(codec_image_cell), 16) +
                          static_cast<size_t>(image.head_dim) * 2;
    size_t fragments = static_cast<size_t>(image.max_fragments_encode) * CODEC_IMAGE_LANES * sizeof(codec_image_lane);
    const size_t warp_bytes = round_up(tile_bytes * (input_traits<T>::HAS_LOW ? 2 : 1) + WARP_ROWS * 4 + static_cast<size_t>(WARP_ROWS) * 2 * image.max_groups +
                                           static_cast<size_t>(WARP_ROWS) * image.max_packed_bytes + 16,
                                       128);
    codec_device_limits limits;
    int resident = 0;
    rb_status st = find_limits(&limits, err);
    if (st != RB_OK) return st;
    const size_t fixed = sizeof(head_streams) + CODEC_IMAGE_MAX_GROUPS * sizeof(codec_image_group) + 256, room = limits.shared_bytes - fixed;
    int warps = warps_that_fit(fragments + tables, warp_bytes, room, max_warps);
    if (warps < max_warps / 4) {
        fragments = 0;
        warps = warps_that_fit(tables, warp_bytes, room, max_warps);
    }
    if (warps == 0) return rb_fail(err, RB_EUNSUPPORTED, "the encode kernel needs %zu bytes of shared memory, the GPU has %d", tables + warp_bytes, limits.shared_bytes);
    args.fragment_bytes = static_cast<int>(fragments);
    args.warp_bytes = static_cast<int>(warp_bytes);
    const size_t bytes = fragments + tables + warps * warp_bytes;
    st = rb_cuda_status(cudaFuncSetAttribute(encode_kernel<T, STEPS>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "encode", err);
    if (st != RB_OK) return st;
    st = rb_cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, encode_kernel<T, STEPS>, warps * 32, bytes), "encode", err);
    if (st != RB_OK) return st;
    const int64_t tiles = (args.n + WARP_ROWS - 1) / WARP_ROWS * image.n_heads, needed = (tiles + warps - 1) / warps;
    int64_t blocks = static_cast<int64_t>(resident) * limits.n_multiprocessors;
    if (blocks > needed) blocks = needed;
    encode_kernel<T, STEPS><<<static_cast<unsigned>(blocks), warps * 32, bytes, stream>>>(args);
    return rb_cuda_launched("encode kernel", err);
}

template <typename T>
static rb_status launch_type(encode_args &args, cudaStream_t stream, rb_error *err)
{
    if (args.image.max_steps <= 4) return launch<T, 4>(args, stream, err);
    if (args.image.max_steps <= 8) return launch<T, 8>(args, stream, err);
    return launch<T, 16>(args, stream, err);
}

rb_status codec_encode(const codec_device_image *image, const codec_vectors *x, int64_t n, uint8_t *packed, uint16_t *norms, uint64_t *first_bad, void *stream,
                       rb_error *err)
{
    encode_args args = {*image, x->data, x->head_stride, x->token_stride, n, packed, norms, reinterpret_cast<unsigned long long *>(first_bad), 0, 0};
    if (n == 0) return RB_OK;
    if (x->type == CODEC_F16) return launch_type<__half>(args, static_cast<cudaStream_t>(stream), err);
    if (x->type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, static_cast<cudaStream_t>(stream), err);
    return launch_type<float>(args, static_cast<cudaStream_t>(stream), err);
}
