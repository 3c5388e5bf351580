/* Quantizing vectors in the published form: nearest centroids, fp16 norms. See kernels/cuda/groups_encode.cuh for the
 * frame.
 *
 * Group by group the coder loads the operands of the products, sums the norms from them, rotates on the tensor cores,
 * and compares with the boundaries. */
#include "kernels/cuda/codec_few.cuh"
#include "kernels/cuda/groups_encode.cuh"
#include "kernels/cuda/groups_transform.cuh"

/* A kernel for groups of up to STEPS steps. BLOCKS: row blocks of an mma, 16 vectors each, that a warp takes at a time.
 * WARPS: of a block, as many as the registers for operands allow; one block fills a multiprocessor, so that the
 * fragments are in shared memory once. */
template <typename T, int STEPS> struct encode_plan {
    enum {
        BLOCKS = STEPS > 8 || input_traits<T>::HAS_LOW ? 1 : 2,
        WARPS = input_traits<T>::HAS_LOW ? (STEPS <= 4 ? 16 : 8)
                : STEPS <= 8             ? 16
                                         : 12
    };
};

/* ---- a group --------------------------------------------------------------------------------- */

/* Operands of BLOCKS row blocks in registers, and the rows' norms. */
template <typename T, int STEPS, int BLOCKS> struct group_operands {
    row_operands<STEPS, input_traits<T>::HAS_LOW> block[BLOCKS];
    float norm[2 * BLOCKS], root[2 * BLOCKS]; /* as the operands are scaled; and 1 / norm */
};

/* Loads the operands and stores the norms. largest_norm: of those stored, as bits. */
template <int N_STEPS, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void load_group(group_operands<T, STEPS, BLOCKS> &operands, unsigned &largest_norm,
                                           const group_call<BLOCKS, encode_memory> &call)
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < BLOCKS; m++) {
        float squares[2];
        load_operands<N_STEPS>(operands.block[m], squares, call.place.operand[m] + call.shape.column, call.place.low,
                               call.shape);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int i = 2 * m + r;
            const float root = fast_rsqrt(squares[r]), norm = squares[r] * root;
            operands.norm[i] = norm;
            operands.root[i] = root;
            const float scaled =
                input_traits<T>::IS_SCALED ? norm * call.memory.inverse_scale[i * 8 + (lane >> 2)] : norm;
            const unsigned rounded = __half_as_ushort(__float2half_rn(scaled));
            largest_norm = max(largest_norm, rounded);
            if ((lane & 3) == 0) call.place.norms[i * 8 * call.n_groups + call.g] = static_cast<uint16_t>(rounded);
        }
    }
}

/* One tile of the rotated vectors: c = 8 columns of them. N_STEPS: of the group, or 0: at most STEPS. */
template <int N_STEPS, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void rotate_tile(float (&c)[BLOCKS][4], const group_operands<T, STEPS, BLOCKS> &operands,
                                            const uint4 *fragment, int n_steps)
{
    enum { HAS_LOW = input_traits<T>::HAS_LOW };
#pragma unroll
    for (int s = 0; s < STEPS; s++)
        if (N_STEPS || s < n_steps) {
            const uint4 rotation = fragment[s * GROUPS_LANES];
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) {
                if (s == 0) multiply_from(c[m], operands.block[m].a[s], rotation.x, rotation.y, BELOW_ZERO);
                else multiply(c[m], operands.block[m].a[s], rotation.x, rotation.y);
            }
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) multiply(c[m], operands.block[m].a[s], rotation.z, rotation.w);
            if (HAS_LOW) {
#pragma unroll
                for (int m = 0; m < BLOCKS; m++)
                    multiply(c[m], operands.block[m].a_low[HAS_LOW ? s : 0], rotation.x, rotation.y);
            }
        }
}

template <coding BY, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ group_coding<BLOCKS> start_coding(const group_operands<T, STEPS, BLOCKS> &operands,
                                                             const group_call<BLOCKS, encode_memory> &call,
                                                             float product_scale)
{
    const int lane = threadIdx.x & 31;
    group_coding<BLOCKS> coding;
    coding.by = make_coder(BY, call.group, BY <= BY_WIDTH_3 ? static_cast<int>(BY) : call.shape.width,
                           call.memory.books, call.memory.cells);
#pragma unroll
    for (int i = 0; i < 2 * BLOCKS; i++) {
        coding.edges[i] =
            make_edges<BY>(coding.by, call.group.log2_cells, operands.norm[i], operands.root[i], product_scale);
        coding.pairs[i] =
            reinterpret_cast<uint16_t *>(call.memory.tile + call.place.row[i]) + call.shape.column + (lane & 3);
    }
    return coding;
}

/* Rotates and codes, two tiles at a time where registers allow; pairs of codes go where the group's dims were. */
template <coding BY, int N_STEPS, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void code_group(const group_operands<T, STEPS, BLOCKS> &operands,
                                           const group_call<BLOCKS, encode_memory> &call)
{
    enum { AT_ONCE = STEPS <= 4 ? 2 : 1 };
    const int lane = threadIdx.x & 31, n_steps = N_STEPS ? N_STEPS : call.shape.n_steps;
    group_coding<BLOCKS> coding = start_coding<BY>(operands, call, GROUPS_FRAGMENT_SCALE);
    const uint4 *fragment = call.fragments + call.group.encode * GROUPS_LANES + lane;
    int left = call.shape.n_tiles;
#pragma unroll 1 /* registers are short */
    for (; left >= AT_ONCE; left -= AT_ONCE) {
        float c[AT_ONCE][BLOCKS][4];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++, fragment += n_steps * GROUPS_LANES)
            rotate_tile<N_STEPS>(c[i], operands, fragment, n_steps);
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
__device__ __forceinline__ void code_transform(const group_operands<T, N_STEPS, 1> &operands,
                                               const group_call<1, encode_memory> &call)
{
    const uint4 *fragment = call.fragments + call.group.encode * GROUPS_LANES + (threadIdx.x & 31);
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

template <int N_STEPS, bool IS_FAST, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void encode_group(unsigned &largest_norm, const group_call<BLOCKS, encode_memory> &call)
{
    group_operands<T, STEPS, BLOCKS> operands;
    load_group<N_STEPS>(operands, largest_norm, call);
    __syncwarp(); /* all operands are in registers: their place may be written */
    choose_coding<IS_FAST>(call.shape, [&](auto by) { code_group<by.value, N_STEPS>(operands, call); });
}

/* The same by a transform. One row block after the other: a transform needs all its coordinates in registers. */
template <int N_STEPS, bool IS_FAST, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void transform_group(unsigned &largest_norm, const group_call<BLOCKS, encode_memory> &whole)
{
    typedef transform_plan<N_STEPS, STEPS> plan;
#pragma unroll 1
    for (int m = 0; m < BLOCKS; m++) {
        const lane_place<1> place = place_of_block(whole.place, m, whole.n_groups);
        encode_memory memory = whole.memory;
        memory.inverse_scale += 16 * m;
        const group_call<1, encode_memory> call = {whole.group, whole.shape, whole.g,        whole.n_groups,
                                                   place,       memory,      whole.fragments};
        group_operands<T, N_STEPS, 1> operands;
        load_group<N_STEPS>(operands, largest_norm, call);
        __syncwarp();
        choose_coding<IS_FAST>(call.shape, [&](auto by) { code_transform<by.value, plan>(operands, call); });
    }
}

/* Transforms of 4, 8 and 16 steps. */
template <bool IS_FAST, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void encode_transform(unsigned &largest_norm, const group_call<BLOCKS, encode_memory> &call)
{
    if (call.shape.n_steps == 4) transform_group<4, IS_FAST, T, STEPS>(largest_norm, call);
    else if constexpr (STEPS > 4) {
        if (call.shape.n_steps == 8) transform_group<8, IS_FAST, T, STEPS>(largest_norm, call);
        else if constexpr (STEPS > 8) transform_group<16, IS_FAST, T, STEPS>(largest_norm, call);
    }
}

/* Code of its own for every number of steps that groups_image_steps gives, up to STEPS. */
template <bool IS_FAST, typename T, int STEPS, int BLOCKS>
__device__ __forceinline__ void encode_exactly(unsigned &largest_norm, const group_call<BLOCKS, encode_memory> &call)
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
__device__ __forceinline__ unsigned encode_groups(const groups_image_group *groups, uint32_t my_shape, int n_groups,
                                                  const lane_place<BLOCKS> &place, const encode_memory &memory,
                                                  const uint4 *fragments)
{
    unsigned largest_norm = 0;
#pragma unroll 1
    for (int g = 0; g < n_groups; g++) {
        const group_shape shape = read_shape(my_shape, g);
        const group_call<BLOCKS, encode_memory> call = {groups[g], shape, g, n_groups, place, memory, fragments};
        if (shape.is_transform) encode_transform<IS_FAST, T, STEPS>(largest_norm, call);
        else if constexpr (IS_FAST && !input_traits<T>::HAS_LOW) encode_exactly<IS_FAST, T, STEPS>(largest_norm, call);
        else encode_group<0, IS_FAST, T, STEPS>(largest_norm, call);
    }
    return largest_norm;
}

template <typename T, int STEPS, bool FAST> struct published_coder {
    typedef T input;
    enum {
        BLOCKS = encode_plan<T, STEPS>::BLOCKS,
        WARPS = encode_plan<T, STEPS>::WARPS,
        IS_FAST = FAST,
        IS_GENERAL = 0
    };

    /* Whether there is a norm that is infinite or not a number. */
    static __device__ __forceinline__ bool encode_groups(const groups_image_group *groups, uint32_t my_shape,
                                                         const head_place &head, const groups_image_head &,
                                                         const lane_place<BLOCKS> &place, const encode_memory &memory,
                                                         const uint4 *fragments)
    {
        return ::encode_groups<T, STEPS, FAST>(groups, my_shape, head.n_groups, place, memory, fragments) >= 0x7c00u;
    }

    static __device__ __forceinline__ bool is_bad_row(const encode_memory &memory, int n_groups, int row)
    {
        const uint16_t *norms = reinterpret_cast<const uint16_t *>(memory.norms) + row * n_groups;
        bool is_bad = false;
        for (int g = 0; g < n_groups; g++) is_bad |= (norms[g] & 0x7c00) == 0x7c00;
        return is_bad;
    }
};

template <typename T, int STEPS, bool IS_FAST>
static rb_status launch_steps(encode_args &args, bool *is_launched, cudaStream_t stream, rb_error *err)
{
    typedef published_coder<T, STEPS, IS_FAST> coder;
    return launch_tiles(encode_kernel<coder>, args, "encode kernel", find_sizes<coder>(args.image, 0, 0), IS_FAST,
                        coder::WARPS, 16 * coder::BLOCKS, is_launched, stream, err);
}

/* By the largest group; without fragments in shared memory where they leave too little room, or codes are searched. */
template <typename T> static rb_status launch_type(encode_args &args, cudaStream_t stream, rb_error *err)
{
    const groups_image &own = args.image.groups;
    bool is_launched = false;
    rb_status st = RB_OK;
    if (!own.has_search) {
        if (own.max_steps <= 4) st = launch_steps<T, 4, true>(args, &is_launched, stream, err);
        else if (own.max_steps <= 8) st = launch_steps<T, 8, true>(args, &is_launched, stream, err);
        else st = launch_steps<T, GROUPS_MAX_STEPS, true>(args, &is_launched, stream, err);
    }
    if (st == RB_OK && !is_launched) st = launch_steps<T, GROUPS_MAX_STEPS, false>(args, &is_launched, stream, err);
    return st;
}

rb_status groups_encode(const codec_encode_call &call, rb_error *err)
{
    if (call.n <= FEW_VECTORS && !call.image.groups.is_searched) return groups_encode_few(call, err);
    encode_args args = {call.image,
                        call.x.data,
                        call.x.head_stride,
                        call.n,
                        static_cast<int>(call.x.token_stride),
                        call.packed,
                        call.norms,
                        reinterpret_cast<unsigned long long *>(call.first_bad),
                        0,
                        0,
                        0};
    if (!call.image.groups.is_published) return groups_encode_general(args, call.x.type, call.stream, err);
    if (call.x.type == CODEC_F16) return launch_type<__half>(args, call.stream, err);
    if (call.x.type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, call.stream, err);
    return launch_type<float>(args, call.stream, err);
}
