/* Quantizing vectors: see kernels/codec_cuda.h for the contract and kernels/codec_image.h for the layout.
 *
 * A warp takes 16 or 32 vectors of one head at a time: loads them and puts their dims in coding order in its own part of shared memory; then, group by
 * group, sums the norms from the operands it has just loaded for the products, rotates on the tensor cores, compares with the boundaries and leaves pairs of
 * codes where the dims were; then packs them, a vector a lane. Warps never wait for each other.
 *
 * fp16 input is an exact operand. bf16 and f32 are first brought near 1 by a power of two for each vector; bf16 then is exact again, f32 is split like
 * the rotation into high and low, and the product low x low is dropped. */
#include <string.h>

#include "kernels/codec_coding.cuh"
#include "kernels/codec_load.cuh"
#include "kernels/codec_transform.cuh"

struct encode_args {
    codec_device_image image;
    const void *x;
    int64_t head_stride, n;
    int token_stride;
    uint8_t *packed;
    uint16_t *norms;
    unsigned long long *first_bad;
    int fragment_bytes;     /* of shared memory for the fragments */
    int warp_bytes;
};

/* Of a kernel for groups of up to STEPS steps: vectors a warp takes at a time, in row blocks of an mma, and warps of a block (one block fills a multiprocessor, and
 * the fragments are in shared memory once), by the registers that operands take. */
template <typename T, int STEPS>
struct warp_plan {
    enum {
        BLOCKS = STEPS > 8 || input_traits<T>::HAS_LOW ? 1 : 2,
        ROWS = 16 * BLOCKS,
        WARPS = input_traits<T>::HAS_LOW ? (STEPS <= 4 ? 16 : 8) : STEPS <= 8 ? 16 : 12
    };
};

/* ---- a group ----------------------------------------------------------------------------------------------------------------- */

/* What a warp has in shared memory. */
struct warp_memory {
    /* [rows][tile_stride(n_columns)], and f32's low parts behind. A group's pairs of codes, 16 bits each, take the place of its dims; a row's packed codes that
     * of the row: they never get ahead of the pairs they are made of. */
    __half *tile;
    float *inverse_scale;       /* [rows] */
    uint16_t *norms;            /* [rows][n_groups] */
    const float *books;         /* the block's */
    const codec_image_cell *cells;
};

/* Operands of BLOCKS row blocks in registers, and the rows' norms. */
template <typename T, int STEPS, int BLOCKS>
struct group_operands {
    row_operands<STEPS, input_traits<T>::HAS_LOW> block[BLOCKS];
    float norm[2 * BLOCKS], root[2 * BLOCKS];       /* as the operands are scaled; and 1 / norm */
};

/* Loads the operands and stores the norms. largest_norm: of those stored, as bits. */
template <int N_STEPS, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void load_group(group_operands<T, STEPS, BLOCKS> &operands, unsigned &largest_norm, const group_call<BLOCKS, warp_memory> &call)
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < BLOCKS; m++) {
        float squares[2];
        load_operands<N_STEPS>(operands.block[m], squares, call.place.operand[m] + call.shape.column, call.place.low, call.shape);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int i = 2 * m + r;
            const float root = fast_rsqrt(squares[r]), norm = squares[r] * root;
            operands.norm[i] = norm;
            operands.root[i] = root;
            const float scaled = input_traits<T>::IS_SCALED ? norm * call.memory.inverse_scale[i * 8 + (lane >> 2)] : norm;
            const unsigned rounded = __half_as_ushort(__float2half_rn(scaled));
            largest_norm = max(largest_norm, rounded);
            if ((lane & 3) == 0) call.place.norms[i * 8 * call.n_groups + call.g] = static_cast<uint16_t>(rounded);
        }
    }
}

/* One tile of the rotated vectors: c = 8 columns of them. N_STEPS: of the group, or 0: at most STEPS. */
template <int N_STEPS, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void rotate_tile(float (&c)[BLOCKS][4], const group_operands<T, STEPS, BLOCKS> &operands, const uint4 *fragment, int n_steps)
{
    enum { HAS_LOW = input_traits<T>::HAS_LOW };
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        if (N_STEPS || s < n_steps) {
            const uint4 rotation = fragment[s * CODEC_IMAGE_LANES];
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) {
                if (s == 0) multiply_from(c[m], operands.block[m].a[s], rotation.x, rotation.y, BELOW_ZERO);
                else multiply(c[m], operands.block[m].a[s], rotation.x, rotation.y);
            }
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) multiply(c[m], operands.block[m].a[s], rotation.z, rotation.w);
            if (HAS_LOW) {
#pragma unroll
                for (int m = 0; m < BLOCKS; m++) multiply(c[m], operands.block[m].a_low[HAS_LOW ? s : 0], rotation.x, rotation.y);
            }
        }
}

/* Coding of a group's rows: boundaries of each, and where its next pair of codes goes. */
template <int BLOCKS>
struct group_coding {
    coder by;
    row_edges edges[2 * BLOCKS];
    uint16_t *pairs[2 * BLOCKS];
};

template <coding BY, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ group_coding<BLOCKS> start_coding(const group_operands<T, STEPS, BLOCKS> &operands, const group_call<BLOCKS, warp_memory> &call,
                                                             float product_scale)
{
    const int lane = threadIdx.x & 31;
    group_coding<BLOCKS> coding;
    coding.by = make_coder(BY, call.group, BY <= BY_WIDTH_3 ? static_cast<int>(BY) : call.shape.width, call.memory.books, call.memory.cells);
#pragma unroll
    for (int i = 0; i < 2 * BLOCKS; i++) {
        coding.edges[i] = make_edges<BY>(coding.by, call.group.log2_cells, operands.norm[i], operands.root[i], product_scale);
        coding.pairs[i] = reinterpret_cast<uint16_t *>(call.memory.tile + call.place.row[i]) + call.shape.column + (lane & 3);
    }
    return coding;
}

/* Codes of a tile of row block m, in pairs to where the lane's rows have them. Pairs past the group's end, which lanes without dims make, stay within its own columns. */
template <coding BY, int BLOCKS>
__device__ __forceinline__ void code_tile(const float (&c)[4], const group_coding<BLOCKS> &coding, int m, int tile)
{
    const coder &by = coding.by;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const row_edges &edges = coding.edges[2 * m + r];
        const float pair = fmaf(code_of<BY>(c[2 * r + 1], edges, by), by.second_code, code_of<BY>(c[2 * r], edges, by)) + by.pair_bias;
        coding.pairs[2 * m + r][4 * tile] = static_cast<uint16_t>(__float_as_uint(pair));
    }
}

template <int BLOCKS>
__device__ __forceinline__ void skip_tiles(group_coding<BLOCKS> &coding, int n_tiles)
{
#pragma unroll
    for (int i = 0; i < 2 * BLOCKS; i++) coding.pairs[i] += 4 * n_tiles;
}

/* Rotates and codes, two tiles at a time where registers allow; pairs of codes go where the group's dims were. */
template <coding BY, int N_STEPS, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void code_group(const group_operands<T, STEPS, BLOCKS> &operands, const group_call<BLOCKS, warp_memory> &call)
{
    enum { AT_ONCE = STEPS <= 4 ? 2 : 1 };
    const int lane = threadIdx.x & 31, n_steps = N_STEPS ? N_STEPS : call.shape.n_steps;
    group_coding<BLOCKS> coding = start_coding<BY>(operands, call, CODEC_IMAGE_FRAGMENT_SCALE);
    const uint4 *fragment = call.fragments + call.group.encode * CODEC_IMAGE_LANES + lane;
    int left = call.shape.n_tiles;
#pragma unroll 1        /* registers are short */
    for (; left >= AT_ONCE; left -= AT_ONCE) {
        float c[AT_ONCE][BLOCKS][4];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++, fragment += n_steps * CODEC_IMAGE_LANES) rotate_tile<N_STEPS>(c[i], operands, fragment, n_steps);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) code_tile<BY>(c[i][m], coding, m, i);
        skip_tiles(coding, AT_ONCE);
    }
    if (left > 0) {
        float c[BLOCKS][4];
        rotate_tile<N_STEPS>(c, operands, fragment, n_steps);
#pragma unroll
        for (int m = 0; m < BLOCKS; m++) code_tile<BY>(c[m], coding, m, 0);
    }
}

/* The same by a transform, of one row block. */
template <coding BY, typename PLAN, int N_STEPS, typename T>
__device__ __forceinline__ void code_transform(const group_operands<T, N_STEPS, 1> &operands, const group_call<1, warp_memory> &call)
{
    const uint4 *fragment = call.fragments + call.group.encode * CODEC_IMAGE_LANES + (threadIdx.x & 31);
    group_coding<1> coding = start_coding<BY>(operands, call, transform_scale(N_STEPS));
#pragma unroll 1
    for (int part = 0; part < PLAN::PARTS; part++) {
        float c[PLAN::TILES][4];
        transform_rows<PLAN>(c, operands.block[0], fragment, 1, part, BELOW_ZERO);
#pragma unroll
        for (int tile = 0; tile < PLAN::TILES; tile++) code_tile<BY>(c[tile], coding, 0, tile);
        skip_tiles(coding, PLAN::TILES);
    }
}

template <coding BY>
struct coding_tag {
    static constexpr coding value = BY;
};

/* Calls code_with with the tag of the coding that the group has. */
template <bool IS_FAST, typename CODE>
__device__ __forceinline__ void choose_coding(const group_shape &shape, const CODE &code_with)
{
    if (!IS_FAST && shape.is_searched) {
        code_with(coding_tag<BY_SEARCH>());
        return;
    }
    switch (shape.width) {
    case BY_WIDTH_1: code_with(coding_tag<BY_WIDTH_1>()); break;
    case BY_WIDTH_2: code_with(coding_tag<BY_WIDTH_2>()); break;
    case BY_WIDTH_3: code_with(coding_tag<BY_WIDTH_3>()); break;
    default: code_with(coding_tag<BY_CELLS>()); break;
    }
}

template <int N_STEPS, bool IS_FAST, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void encode_group(unsigned &largest_norm, const group_call<BLOCKS, warp_memory> &call)
{
    group_operands<T, STEPS, BLOCKS> operands;
    load_group<N_STEPS>(operands, largest_norm, call);
    __syncwarp();       /* all operands are in registers: their place may be written */
    choose_coding<IS_FAST>(call.shape, [&](auto by) { code_group<by.value, N_STEPS>(operands, call); });
}

/* The same by a transform. One row block after the other: a transform needs all its coordinates in registers. */
template <int N_STEPS, bool IS_FAST, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void transform_group(unsigned &largest_norm, const group_call<BLOCKS, warp_memory> &whole)
{
    typedef transform_plan<N_STEPS, STEPS> plan;
#pragma unroll 1
    for (int m = 0; m < BLOCKS; m++) {
        const lane_place<1> place = place_of_block(whole.place, m, whole.n_groups);
        warp_memory memory = whole.memory;
        memory.inverse_scale += 16 * m;
        const group_call<1, warp_memory> call = {whole.group, whole.shape, whole.g, whole.n_groups, place, memory, whole.fragments};
        group_operands<T, N_STEPS, 1> operands;
        load_group<N_STEPS>(operands, largest_norm, call);
        __syncwarp();
        choose_coding<IS_FAST>(call.shape, [&](auto by) { code_transform<by.value, plan>(operands, call); });
    }
}

/* Transforms of 4, 8 and 16 steps. */
template <bool IS_FAST, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void encode_transform(unsigned &largest_norm, const group_call<BLOCKS, warp_memory> &call)
{
    if (call.shape.n_steps == 4) transform_group<4, IS_FAST, T, STEPS>(largest_norm, call);
    else if constexpr (STEPS > 4) {
        if (call.shape.n_steps == 8) transform_group<8, IS_FAST, T, STEPS>(largest_norm, call);
        else if constexpr (STEPS > 8) transform_group<16, IS_FAST, T, STEPS>(largest_norm, call);
    }
}

/* Code of its own for every number of steps that codec_image_steps gives, up to STEPS. */
template <bool IS_FAST, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void encode_exactly(unsigned &largest_norm, const group_call<BLOCKS, warp_memory> &call)
{
    const int n_steps = call.shape.n_steps;
    if (n_steps == 1) encode_group<1, IS_FAST, T, 1>(largest_norm, call);
    else if (n_steps == 2) encode_group<2, IS_FAST, T, 2>(largest_norm, call);
    else if (n_steps == 3) encode_group<3, IS_FAST, T, 3>(largest_norm, call);
    else if (n_steps == 4) encode_group<4, IS_FAST, T, 4>(largest_norm, call);
    else if constexpr (STEPS > 4) {
        if (n_steps == 6) encode_group<6, IS_FAST, T, 6>(largest_norm, call);
        else if (n_steps == 8) encode_group<8, IS_FAST, T, 8>(largest_norm, call);
        else if constexpr (STEPS > 8) {
            if (n_steps == 12) encode_group<12, IS_FAST, T, 12>(largest_norm, call);
            else encode_group<16, IS_FAST, T, 16>(largest_norm, call);
        }
    }
}

/* All of a head's groups for the rows of the warp. */
template <typename T, int STEPS, bool IS_FAST, int BLOCKS>
__device__ __forceinline__ unsigned encode_groups(const codec_image_group *groups, uint32_t my_shape, int n_groups, const lane_place<BLOCKS> &place,
                                                  const warp_memory &memory, const uint4 *fragments)
{
    unsigned largest_norm = 0;
#pragma unroll 1
    for (int g = 0; g < n_groups; g++) {
        const group_shape shape = read_shape(my_shape, g);
        const group_call<BLOCKS, warp_memory> call = {groups[g], shape, g, n_groups, place, memory, fragments};
        if (shape.is_transform) encode_transform<IS_FAST, T, STEPS>(largest_norm, call);
        else if constexpr (IS_FAST && !input_traits<T>::HAS_LOW) encode_exactly<IS_FAST, T, STEPS>(largest_norm, call);
        else encode_group<0, IS_FAST, T, STEPS>(largest_norm, call);
    }
    return largest_norm;
}

/* ---- packing ----------------------------------------------------------------------------------------------------------------- */

/* Bits of one vector, a lane's, sent out 32 at a time. All lanes are at the same bit; those that have no vector of their own send nothing. */
struct bit_writer {
    uint32_t *word;
    uint32_t bits;
    int n;
    bool is_own;
};

__device__ __forceinline__ void append(bit_writer &writer, uint32_t value, int n_bits)
{
    writer.bits |= value << writer.n;
    const uint32_t rest = __funnelshift_l(value, 0, writer.n);      /* what the shift lost */
    writer.n += n_bits;
    if (writer.n >= 32) {
        if (writer.is_own) *writer.word = writer.bits;
        writer.word++;
        writer.bits = rest;
        writer.n -= 32;
    }
}

/* How pairs of one width are put together. */
struct pair_joint {
    uint32_t second_pair;   /* a word's upper pair times this is what moves it down, behind the lower one */
    int four, shift;        /* bits of four codes; and how far pairs are shifted, which are doubled up to 3 bits */
};

__device__ __forceinline__ uint32_t join_pairs(uint32_t word, const pair_joint &joint) { return word + (word >> 16) * joint.second_pair; }

/* Eight codes of at most 4 bits. */
__device__ __forceinline__ uint32_t join_eight(const uint2 &words, const pair_joint &joint)
{
    return (join_pairs(words.x, joint) | join_pairs(words.y, joint) << joint.four) >> joint.shift;
}

/* n of the first bits, which may be all or none. */
__device__ __forceinline__ void append_first(bit_writer &writer, uint32_t bits, int n)
{
    append(writer, n >= 32 ? bits : bits & ((1u << n) - 1), n);
}

/* Four pairs of a lane's own vector. Another lane's may not be read here: it is being overwritten. */
__device__ __forceinline__ uint2 own_pairs(const bit_writer &writer, const uint2 *from) { return writer.is_own ? *from : make_uint2(0, 0); }

/* Pairs of codes to packed bits, one vector a lane, eight codes at a time; of the last eight of a group some may not be codes. */
template <int ROWS>
__device__ __forceinline__ void pack_rows(uint32_t my_shape, int n_groups, int stride, const warp_memory &memory)
{
    const int lane = threadIdx.x & 31;
    __half *row = memory.tile + lane % ROWS * stride;
    bit_writer writer = {reinterpret_cast<uint32_t *>(row), 0, 0, ROWS == 32 || lane < ROWS};
#pragma unroll 1
    for (int g = 0; g < n_groups; g++) {
        const group_shape shape = read_shape(my_shape, g);
        const pair_joint joint = {(1u << 2 * shape.width) - (1u << 16), 4 * shape.width, shape.width <= BY_WIDTH_3 ? 1 : 0};
        const uint2 *from = reinterpret_cast<const uint2 *>(row + shape.column), *end = from + shape.dims / 8;
        const int left = shape.dims % 8 * shape.width;      /* bits */
        if (joint.four <= 16) {
#pragma unroll 1
            for (; from < end; from++) append(writer, join_eight(own_pairs(writer, from), joint), 2 * joint.four);
            if (left > 0) append_first(writer, join_eight(own_pairs(writer, from), joint), left);
        } else {
#pragma unroll 1
            for (; from < end; from++) {
                const uint2 words = own_pairs(writer, from);
                append(writer, join_pairs(words.x, joint), joint.four);
                append(writer, join_pairs(words.y, joint), joint.four);
            }
            if (left > 0) append_first(writer, join_pairs(own_pairs(writer, from).x, joint), min(left, joint.four));
            if (left > joint.four) append_first(writer, join_pairs(own_pairs(writer, from).y, joint), left - joint.four);
        }
    }
    if (writer.n > 0 && writer.is_own) *writer.word = writer.bits;
}

struct head_place {
    int n_groups, packed_bytes, stride;
    int part_bytes;             /* a packed row is sent in parts of 16, 4 or 1 bytes */
    unsigned row_reciprocal;    /* row of part i = i * row_reciprocal >> 22 */
};

__device__ __forceinline__ head_place place_head(const codec_image_head &head)
{
    const int packed_bytes = uniform(head.packed_bytes), part_bytes = packed_bytes % 16 == 0 ? 16 : packed_bytes % 4 == 0 ? 4 : 1;
    const unsigned row_parts = packed_bytes / part_bytes;
    return {uniform(head.n_groups), packed_bytes, tile_stride(uniform(head.n_columns)), part_bytes, ((1u << 22) + row_parts - 1) / row_parts};
}

template <typename PART>
__device__ __forceinline__ void send_parts(uint8_t *to, const head_place &head, const warp_memory &memory, int n_rows)
{
    const unsigned row_parts = head.packed_bytes / sizeof(PART), gap = 2 * head.stride - head.packed_bytes;
    const uint8_t *from = reinterpret_cast<const uint8_t *>(memory.tile);
    for (unsigned i = threadIdx.x & 31; i < n_rows * row_parts; i += 32)
        reinterpret_cast<PART *>(to)[i] = *reinterpret_cast<const PART *>(from + i * sizeof(PART) + (i * head.row_reciprocal >> 22) * gap);
}

/* Rows of packed vectors to the stream, where they lie without gaps. */
__device__ __forceinline__ void send_packed(uint8_t *to, const head_place &head, const warp_memory &memory, int n_rows)
{
    if (head.part_bytes == 16) send_parts<uint4>(to, head, memory, n_rows);
    else if (head.part_bytes == 4) send_parts<uint32_t>(to, head, memory, n_rows);
    else send_parts<uint8_t>(to, head, memory, n_rows);
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

/* IS_FAST: the fragments have room in shared memory and no group is searched. */
template <typename T, int STEPS, bool IS_FAST>
__global__ void __launch_bounds__(warp_plan<T, STEPS>::WARPS * 32, 1) encode_kernel(const encode_args args)
{
    enum { BLOCKS = warp_plan<T, STEPS>::BLOCKS, ROWS = warp_plan<T, STEPS>::ROWS, HAS_LOW = input_traits<T>::HAS_LOW };
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ block_share share;
    __shared__ codec_image_group groups[CODEC_IMAGE_MAX_GROUPS];
    __shared__ uint32_t shapes[CODEC_IMAGE_MAX_GROUPS];
    __shared__ uint16_t pads[CODEC_IMAGE_MAX_GROUPS];
    const codec_device_image &image = args.image;
    const int head_dim = image.head_dim, lane = threadIdx.x & 31, warp = threadIdx.x / 32;

    uint8_t *next = shared;
    uint4 *fragments = reinterpret_cast<uint4 *>(next);
    if (IS_FAST) next += args.fragment_bytes;
    float *books = reinterpret_cast<float *>(next);
    next += (image.max_books * 4 + 15) / 16 * 16;
    codec_image_cell *cells = reinterpret_cast<codec_image_cell *>(next);
    next += (image.max_cells * 8 + 15) / 16 * 16;
    uint16_t *column = reinterpret_cast<uint16_t *>(next);
    next += head_dim * 2 + warp * args.warp_bytes;
    const int max_stride = tile_stride(image.max_columns) + 8, low_distance = ROWS * max_stride;
    warp_memory memory;
    memory.books = books;
    memory.cells = cells;
    memory.tile = reinterpret_cast<__half *>(next);
    next += ROWS * max_stride * (HAS_LOW ? 4 : 2);
    memory.inverse_scale = reinterpret_cast<float *>(next);
    next += ROWS * 4;
    memory.norms = reinterpret_cast<uint16_t *>(next);
    const uint4 zero = make_uint4(0, 0, 0, 0);

    find_share(&share, image.heads, image.n_heads, args.n, ROWS);
    for (int head_index = share.first_head; head_index < image.n_heads; head_index++) {
        const codec_image_head head = image.heads[head_index];
        if (!reaches_head(share, head, args.n, ROWS)) break;
        const head_place head_at = place_head(head);
        const int order = uniform(head.order), stride = head_at.stride;
        const uint4 *head_fragments = reinterpret_cast<const uint4 *>(image.fragments) + static_cast<int64_t>(head.first_fragment) * CODEC_IMAGE_LANES;
        __syncthreads();
        if (warp == 0) start_run(&share, image.heads, head_index, args.n, ROWS);
        if (IS_FAST) block_copy(fragments, head_fragments, head.n_fragments_encode * CODEC_IMAGE_LANES);
        block_copy(books, image.books + head.first_book, head.n_books);
        block_copy(cells, image.cells + head.first_cell, head.n_cells);
        block_copy(column, image.column + head_index * head_dim, head_dim);
        for (int i = threadIdx.x; i < head_at.n_groups; i += blockDim.x) {
            groups[i] = image.groups[head.first_group + i];
            groups[i].encode -= head.first_fragment;
            shapes[i] = pack_shape(groups[i]);
            pads[i] = static_cast<uint16_t>(groups[i].column + groups[i].dims / 8 * 8);     /* the last 8 columns, if not all of them are dims */
        }
        /* Columns between groups and behind the last are 0: rows are written column by column of what they have. */
        for (int i = lane; i < ROWS * stride / 8; i += 32) {
            reinterpret_cast<uint4 *>(memory.tile)[i] = zero;
            if (HAS_LOW) reinterpret_cast<uint4 *>(memory.tile + low_distance)[i] = zero;
        }
        __syncthreads();

        const tile_run run = share.run;
        const head_streams streams = share.streams;
        const row_split split = split_rows(head_dim);
        const row_place to = {memory.tile, stride, low_distance, column, memory.inverse_scale};
        const lane_place<BLOCKS> place = find_place<BLOCKS>(memory.tile, memory.norms, low_distance, stride, head_at.n_groups);
        const uint32_t my_shape = lane < head_at.n_groups ? shapes[lane] : 0;
        const T *x = static_cast<const T *>(args.x) + head_index * args.head_stride;
        for (unsigned tile = next_tile(run, &share), later; tile != NO_TILE; tile = later) {
            const int64_t first = static_cast<int64_t>(tile) * ROWS;
            const int n_rows = static_cast<int>(min(static_cast<int64_t>(ROWS), args.n - first));
            const T *rows = x + first * args.token_stride;
            /* What codes and packed bits have overwritten; dims are overwritten in turn. Where a group ends with a whole part, its neighbour's first 8 columns. */
            for (int i = lane; i < head_at.n_groups * ROWS; i += 32) *reinterpret_cast<uint4 *>(memory.tile + i % ROWS * stride + pads[i / ROWS]) = zero;
            __syncwarp();
            if (order == CODEC_ORDER_SPLIT_PAIRS)
                load_rows<CODEC_ORDER_SPLIT_PAIRS, ROWS>(to, rows, args.token_stride, n_rows, split, head_dim);
            else if (order == CODEC_ORDER_NATURAL)
                load_rows<CODEC_ORDER_NATURAL, ROWS>(to, rows, args.token_stride, n_rows, split, head_dim);
            else
                load_rows<CODEC_ORDER_ANY, ROWS>(to, rows, args.token_stride, n_rows, split, head_dim);
            later = next_tile(run, &share);
            if (later != NO_TILE) {
                const int64_t row = min(static_cast<int64_t>(later) * ROWS + lane % ROWS, args.n - 1);
                for (int at = lane / ROWS * LINE_BYTES; at < head_dim * static_cast<int>(sizeof(T)); at += 32 / ROWS * LINE_BYTES)
                    prefetch(reinterpret_cast<const char *>(x + row * args.token_stride) + at);
            }
            __syncwarp();
            const unsigned largest_norm = encode_groups<T, STEPS, IS_FAST>(groups, my_shape, head_at.n_groups, place, memory, IS_FAST ? fragments : head_fragments);
            __syncwarp();
            pack_rows<ROWS>(my_shape, head_at.n_groups, stride, memory);
            __syncwarp();
            send_packed(args.packed + streams.packed + first * head_at.packed_bytes, head_at, memory, n_rows);
            warp_copy(reinterpret_cast<uint8_t *>(args.norms + streams.norms + first * head_at.n_groups), reinterpret_cast<const uint8_t *>(memory.norms),
                      n_rows * head_at.n_groups * 2);
            if (__any_sync(0xffffffffu, largest_norm >= 0x7c00u))
                report_bad_rows(memory.norms, head_at.n_groups, n_rows, static_cast<uint64_t>(head_index) * args.n + first, args.first_bad);
            __syncwarp();
        }
    }
}

template <typename T, int ROWS>
static kernel_sizes find_sizes(const codec_device_image &image)
{
    const size_t tile = ROWS * 2 * static_cast<size_t>(tile_stride(image.max_columns) + 8);
    return {static_cast<size_t>(image.max_fragments_encode) * CODEC_IMAGE_LANES * sizeof(codec_image_lane),
            round_up(static_cast<size_t>(image.max_books) * 4, 16) + round_up(static_cast<size_t>(image.max_cells) * sizeof(codec_image_cell), 16) +
                static_cast<size_t>(image.head_dim) * 2,
            round_up(tile * (input_traits<T>::HAS_LOW ? 2 : 1) + ROWS * 4 + static_cast<size_t>(ROWS) * 2 * image.max_groups, 128)};
}

template <typename T, int STEPS, bool IS_FAST>
static rb_status launch(encode_args &args, bool *too_small, cudaStream_t stream, rb_error *err)
{
    typedef warp_plan<T, STEPS> plan;
    return launch_tiles(encode_kernel<T, STEPS, IS_FAST>, args, find_sizes<T, plan::ROWS>(args.image), IS_FAST, plan::WARPS, plan::ROWS, "encode kernel", too_small, stream,
                        err);
}

template <typename T>
static rb_status launch_type(encode_args &args, cudaStream_t stream, rb_error *err)
{
    bool too_small = true;
    rb_status st = RB_OK;
    if (!args.image.has_search) {
        if (args.image.max_steps <= 4) st = launch<T, 4, true>(args, &too_small, stream, err);
        else if (args.image.max_steps <= 8) st = launch<T, 8, true>(args, &too_small, stream, err);
        else st = launch<T, CODEC_IMAGE_MAX_STEPS, true>(args, &too_small, stream, err);
    }
    if (st == RB_OK && too_small) st = launch<T, CODEC_IMAGE_MAX_STEPS, false>(args, &too_small, stream, err);
    return st;
}

rb_status codec_encode(const codec_device_image *image, const codec_vectors *x, int64_t n, uint8_t *packed, uint16_t *norms, uint64_t *first_bad, void *stream,
                       rb_error *err)
{
    encode_args args = {*image, x->data, x->head_stride, n, static_cast<int>(x->token_stride), packed, norms, reinterpret_cast<unsigned long long *>(first_bad), 0, 0};
    if (x->token_stride < 0 || x->token_stride > INT32_MAX)
        return rb_fail(err, RB_EINVAL, "vectors lie %lld elements apart, expected at most %d", static_cast<long long>(x->token_stride), INT32_MAX);
    if (n == 0) return RB_OK;
    if (x->type == CODEC_F16) return launch_type<__half>(args, static_cast<cudaStream_t>(stream), err);
    if (x->type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, static_cast<cudaStream_t>(stream), err);
    return launch_type<float>(args, static_cast<cudaStream_t>(stream), err);
}
