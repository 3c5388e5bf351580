/* Quantizing vectors in the general form: 8-bit norms, an encoder that searches, scales and centres. See
 * kernels/cuda/groups_encode.cuh for the frame.
 *
 * A warp takes one row block of 16 vectors and one group at a time, in three passes.
 *   Rotation   Products start from -R S c. Coordinates go to shared memory, where a lane finds its own again. Their
 *              squares give the norm; those of the operands would not, where there is a centre.
 *   Search     For each stretch it sums the products of coordinates and centroids, and the centroids' squares. A
 *              coordinate goes up the levels as it is stretched, a boundary or two a step.
 *   Coding     It is that of the published form, at the stretch with the largest cosine. Only a coordinate within
 *              rounding of a boundary can get another code than in the search. */
#include "kernels/cuda/groups_encode.cuh"
#include "kernels/reference/encoder_stretches.h"

enum { N_STRETCHES = 7, OWN_STRETCH = 2 }; /* the vector as it is */
static __device__ constexpr float stretch_of(int i)
{
    const double stretches[N_STRETCHES] = {ENCODER_STRETCHES_DOWN, 1.0, ENCODER_STRETCHES_UP};
    return static_cast<float>(stretches[i]);
}

/* What a lane knows of its two rows, lane / 4 and the one 8 below. */
struct block_rows {
    float root[2]; /* product to coordinate of the unit vector */
    float norm[2]; /* as products have it */
    float stretch[2], cosine[2];
};

/* Added to a norm, so that a row of zeros can be divided by it: NO_SQUARES' root. */
static constexpr float NO_NORM = 1e-18f;

/* ---- rotation -------------------------------------------------------------------------------- */

/* The sum over the four lanes that share a row. */
__device__ __forceinline__ float sum_row(float mine)
{
    mine += __shfl_xor_sync(0xffffffffu, mine, 1);
    return mine + __shfl_xor_sync(0xffffffffu, mine, 2);
}

/* row_scale: what the rows were brought near 1 by. */
template <typename T>
__device__ __forceinline__ void rotate_rows(block_rows &rows, const group_call<1, encode_memory> &call,
                                            const float (&row_scale)[2])
{
    enum { HAS_LOW = input_traits<T>::HAS_LOW, AT_ONCE = 4 };
    const int lane = threadIdx.x & 31, n_tiles = call.shape.n_tiles, n_steps = call.shape.n_steps,
              own_steps = (n_tiles + 1) / 2;
    const uint4 *fragment = call.fragments + call.group.encode * GROUPS_LANES + lane;
    const float2 *shift = reinterpret_cast<const float2 *>(call.memory.shifts + call.shape.column) + (lane & 3);
    const __half *operand = call.place.operand[0] + call.shape.column;
    float squares[2] = {0.0f, 0.0f};
#pragma unroll 1
    for (int tile = 0; tile < n_tiles; tile += AT_ONCE) {
        float c[AT_ONCE][4] = {};
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (tile + i < n_tiles) {
                const float2 from = shift[4 * (tile + i)];
                c[i][0] = fmaf(from.x, row_scale[0], BELOW_ZERO), c[i][1] = fmaf(from.y, row_scale[0], BELOW_ZERO);
                c[i][2] = fmaf(from.x, row_scale[1], BELOW_ZERO), c[i][3] = fmaf(from.y, row_scale[1], BELOW_ZERO);
            }
#pragma unroll 1
        for (int s = 0; s < own_steps; s++) {
            uint32_t a[4], a_low[4];
            load_matrices(a, operand + 16 * s);
            if (HAS_LOW) load_matrices(a_low, operand + call.place.low + 16 * s);
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                if (tile + i < n_tiles) {
                    const uint4 rotation = fragment[((tile + i) * n_steps + s) * GROUPS_LANES];
                    multiply(c[i], a, rotation.x, rotation.y);
                    multiply(c[i], a, rotation.z, rotation.w);
                    if (HAS_LOW) multiply(c[i], a_low, rotation.x, rotation.y);
                }
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (tile + i < n_tiles) {
                call.memory.coordinates[(tile + i) * 32 + lane] = make_float4(c[i][0], c[i][1], c[i][2], c[i][3]);
                squares[0] = fmaf(c[i][0], c[i][0], fmaf(c[i][1], c[i][1], squares[0]));
                squares[1] = fmaf(c[i][2], c[i][2], fmaf(c[i][3], c[i][3], squares[1]));
            }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float square = sum_row(squares[r]);
        rows.root[r] = fast_rsqrt(square + NO_SQUARES);
        rows.norm[r] = square * rows.root[r];
    }
}

/* ---- levels ---------------------------------------------------------------------------------- */

/* How the level of a coordinate above 0 is found: with 2 bits by a compare as in groups_coding.cuh; with more by a
 * binary search, and from there by a walk up the pairs (boundary, centroid). */
struct level_tables {
    const float2 *walk;
    int half;          /* levels: 2^width / 2 */
    float first, step; /* centroids of the lowest and of the next, less the lowest */
    float edge;        /* of 2 bits */
};

__device__ __forceinline__ level_tables find_tables(const group_call<1, encode_memory> &call)
{
    const float *books = call.memory.books;
    level_tables tables;
    tables.walk = reinterpret_cast<const float2 *>(books + call.group.walk);
    tables.half = (1 << call.shape.width) / 2;
    tables.first = tables.walk[0].y;
    tables.step = tables.half > 1 ? tables.walk[1].y - tables.first : 0.0f;
    tables.edge = books[call.group.book];
    return tables;
}

/* 1 above the boundary, else 0. */
__device__ __forceinline__ float is_outer(const level_tables &tables, float size, float stretch)
{
    return __saturatef(fmaf(size, stretch * GROUPS_STEEP, tables.edge));
}

/* Levels of four coordinates. */
__device__ __forceinline__ void find_levels(int (&level)[4], const level_tables &tables, const float (&stretched)[4])
{
#pragma unroll
    for (int v = 0; v < 4; v++) level[v] = 0;
#pragma unroll 1
    for (int step = tables.half / 2; step > 0; step /= 2)
#pragma unroll
        for (int v = 0; v < 4; v++)
            if (stretched[v] > tables.walk[level[v] + step - 1].x) level[v] += step;
}

/* To the next level where size is above the boundary; at: of the level in shared memory. Left to itself the compiler
 * makes it a branch. */
__device__ __forceinline__ void step_up(float2 &level, uint32_t &at, float size)
{
    asm("{\n"
        ".reg .pred is_above;\n"
        "setp.gt.f32 is_above, %3, %0;\n"
        "@is_above add.u32 %2, %2, 8;\n"
        "@is_above ld.shared.v2.f32 {%0, %1}, [%2];\n"
        "}"
        : "+f"(level.x), "+f"(level.y), "+r"(at)
        : "f"(size));
}

/* Sizes of a lane's four coordinates of a tile, of the unit vectors. */
__device__ __forceinline__ void find_sizes_of(float (&size)[4], const float4 &products, const block_rows &rows)
{
    size[0] = fabsf(products.x) * rows.root[0], size[1] = fabsf(products.y) * rows.root[0];
    size[2] = fabsf(products.z) * rows.root[1], size[3] = fabsf(products.w) * rows.root[1];
}

/* ---- search ---------------------------------------------------------------------------------- */

/* Sums for both rows and every stretch: coordinates times centroids, squares of centroids. */
struct stretch_sums {
    float product[2][N_STRETCHES], square[2][N_STRETCHES];
};

/* The first of the largest, the own one before all others. */
__device__ __forceinline__ void choose_stretches(block_rows &rows, const stretch_sums &sums)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        rows.cosine[r] = sums.product[r][OWN_STRETCH] * fast_rsqrt(sums.square[r][OWN_STRETCH]);
        rows.stretch[r] = 1.0f;
#pragma unroll
        for (int s = 0; s < N_STRETCHES; s++) {
            const float cosine = sums.product[r][s] * fast_rsqrt(sums.square[r][s]);
            if (s == OWN_STRETCH || !(cosine > rows.cosine[r])) continue;
            rows.cosine[r] = cosine;
            rows.stretch[r] = stretch_of(s);
        }
    }
}

/* 1 bit: signs do not change. */
__device__ __forceinline__ void search_signs(block_rows &rows, const group_call<1, encode_memory> &call)
{
    float sum[2] = {0.0f, 0.0f};
    for (int tile = 0; tile < call.shape.n_tiles; tile++) {
        float size[4];
        find_sizes_of(size, call.memory.coordinates[tile * 32 + (threadIdx.x & 31)], rows);
        sum[0] += size[0] + size[1];
        sum[1] += size[2] + size[3];
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        rows.cosine[r] = sum_row(sum[r]) * fast_rsqrt(static_cast<float>(call.shape.dims));
        rows.stretch[r] = 1.0f;
    }
}

/* 2 bits: for each stretch the coordinates above the boundary are added up and counted. */
__device__ __forceinline__ void search_two_bits(block_rows &rows, const group_call<1, encode_memory> &call,
                                                const level_tables &tables)
{
    stretch_sums sums = {};
    float all[2] = {0.0f, 0.0f};
#pragma unroll 1
    for (int tile = 0; tile < call.shape.n_tiles; tile++) {
        float size[4];
        find_sizes_of(size, call.memory.coordinates[tile * 32 + (threadIdx.x & 31)], rows);
#pragma unroll
        for (int v = 0; v < 4; v++) {
            all[v / 2] += size[v];
#pragma unroll
            for (int s = 0; s < N_STRETCHES; s++) {
                const float outer = is_outer(tables, size[v], stretch_of(s));
                sums.product[v / 2][s] = fmaf(outer, size[v], sums.product[v / 2][s]);
                sums.square[v / 2][s] += outer;
            }
        }
    }
    const float inner_square = tables.first * tables.first, outer = tables.first + tables.step,
                squares_apart = outer * outer - inner_square;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inner_product = tables.first * sum_row(all[r]),
                    inner_squares = static_cast<float>(call.shape.dims) * inner_square;
#pragma unroll
        for (int s = 0; s < N_STRETCHES; s++) {
            sums.product[r][s] = fmaf(tables.step, sum_row(sums.product[r][s]), inner_product);
            sums.square[r][s] = fmaf(squares_apart, sum_row(sums.square[r][s]), inner_squares);
        }
    }
    choose_stretches(rows, sums);
}

/* More bits. ONE_STEP: a stretch crosses one boundary at most. Columns after the group's dims are at the lowest level
 * of every stretch. */
template <bool ONE_STEP>
__device__ __forceinline__ void search_by_walk(block_rows &rows, const group_call<1, encode_memory> &call,
                                               const level_tables &tables)
{
    const int n_crossed = ONE_STEP ? 1 : call.group.n_crossed;
    stretch_sums sums = {};
#pragma unroll 1
    for (int tile = 0; tile < call.shape.n_tiles; tile++) {
        float size[4], stretched[4];
        int first[4];
        uint32_t at[4];
        float2 level[4];
        find_sizes_of(size, call.memory.coordinates[tile * 32 + (threadIdx.x & 31)], rows);
#pragma unroll
        for (int v = 0; v < 4; v++) stretched[v] = size[v] * stretch_of(0);
        find_levels(first, tables, stretched);
#pragma unroll
        for (int v = 0; v < 4; v++) {
            level[v] = tables.walk[first[v]];
            at[v] = static_cast<uint32_t>(__cvta_generic_to_shared(tables.walk + first[v]));
        }
#pragma unroll
        for (int s = 0; s < N_STRETCHES; s++) {
#pragma unroll
            for (int v = 0; v < 4; v++) stretched[v] = size[v] * stretch_of(s);
            for (int i = 0; s > 0 && i < n_crossed; i++)
#pragma unroll
                for (int v = 0; v < 4; v++) step_up(level[v], at[v], stretched[v]);
#pragma unroll
            for (int v = 0; v < 4; v++) {
                sums.product[v / 2][s] = fmaf(size[v], level[v].y, sums.product[v / 2][s]);
                sums.square[v / 2][s] = fmaf(level[v].y, level[v].y, sums.square[v / 2][s]);
            }
        }
    }
    const float not_dims = static_cast<float>(8 * call.shape.n_tiles - call.shape.dims) * tables.first * tables.first;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int s = 0; s < N_STRETCHES; s++) {
            sums.product[r][s] = sum_row(sums.product[r][s]);
            sums.square[r][s] = sum_row(sums.square[r][s]) - not_dims;
        }
    choose_stretches(rows, sums);
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Pairs of codes to where the group's dims were: boundaries are brought to the products as groups_coding.cuh does, and
 * divided by the stretch. */
template <coding BY>
__device__ __forceinline__ void store_codes(const group_call<1, encode_memory> &call, const block_rows &rows)
{
    const int lane = threadIdx.x & 31;
    group_coding<1> coding;
    float most[2]; /* products of 1: stretched, a coordinate may lie after the last cell, where its code is that of 1 */
    coding.by = make_coder(BY, call.group, BY <= BY_WIDTH_3 ? static_cast<int>(BY) : call.shape.width,
                           call.memory.books, call.memory.cells);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        most[r] = __fdividef(rows.norm[r] + NO_NORM, rows.stretch[r]);
        coding.edges[r] =
            make_edges<BY>(coding.by, call.group.log2_cells, most[r], rows.root[r] * rows.stretch[r], 1.0f);
        coding.pairs[r] =
            reinterpret_cast<uint16_t *>(call.memory.tile + call.place.row[r]) + call.shape.column + (lane & 3);
    }
#pragma unroll 2
    for (int tile = 0; tile < call.shape.n_tiles; tile++) {
        const float4 products = call.memory.coordinates[tile * 32 + lane];
        float c[4] = {products.x, products.y, products.z, products.w};
#pragma unroll
        for (int v = 0; BY == BY_CELLS && v < 4; v++) c[v] = fmaxf(fminf(c[v], most[v / 2]), -most[v / 2]);
        code_tile<BY>(c, coding, 0, tile);
    }
}

/* ---- norms ----------------------------------------------------------------------------------- */

/* plan_encoder_gain, cos kappa / (cos^2 kappa + 1 - cos^2); 1 where nothing was searched: cos is 1 then, kappa too. */
__device__ __forceinline__ float encoder_gain(float cosine, float coherence)
{
    return __fdiv_rn(cosine * coherence, fmaf(cosine * cosine, coherence - 1.0f, 1.0f));
}

/* Stores the rows' norms; a row without a number for one gets no number for its scale. */
__device__ __forceinline__ bool store_norms(const group_call<1, encode_memory> &call, const block_rows &rows, int m,
                                            int norm_bytes, const float (&inverse_scale)[2], float *row_scales)
{
    enum { LOG2_FRAGMENT_SCALE = 8 };
    const int lane = threadIdx.x & 31, exponent = call.group.encode_exponent - LOG2_FRAGMENT_SCALE;
    uint8_t *byte_norms = call.memory.norms + (16 * m + (lane >> 2)) * call.n_groups;
    bool has_bad = false;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float norm = rows.norm[r] * encoder_gain(rows.cosine[r], call.group.coherence);
        const int at = 8 * r * call.n_groups + call.g;
        bool is_bad = !(rows.norm[r] < INFINITY);
        if (norm_bytes == 1) {
            const unsigned code = byte_of_norm(norm, exponent - call.group.norm_exponent, inverse_scale[r]);
            if ((lane & 3) == 0) byte_norms[at] = static_cast<uint8_t>(code);
        } else {
            const unsigned rounded = __half_as_ushort(__float2half_rn(ldexpf(norm, exponent) * inverse_scale[r]));
            is_bad |= rounded >= 0x7c00u;
            if ((lane & 3) == 0) call.place.norms[at] = static_cast<uint16_t>(rounded);
        }
        if (is_bad && (lane & 3) == 0) row_scales[8 * r + (lane >> 2)] = NAN;
        has_bad |= is_bad;
    }
    return has_bad;
}
static_assert(GROUPS_FRAGMENT_SCALE == 256.0f, "store_norms has its logarithm");

/* ---- groups ---------------------------------------------------------------------------------- */

template <typename T>
__device__ __forceinline__ bool encode_rows(const group_call<1, encode_memory> &call, int m, int norm_bytes,
                                            bool is_searched)
{
    const int lane = threadIdx.x & 31, width = call.shape.width;
    float *row_scales = call.memory.inverse_scale + 16 * m;
    block_rows rows;
    float inverse_scale[2], row_scale[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        inverse_scale[r] = input_traits<T>::IS_SCALED ? row_scales[8 * r + (lane >> 2)] : 1.0f;
        row_scale[r] = 1.0f / inverse_scale[r];
        rows.stretch[r] = rows.cosine[r] = 1.0f;
    }
    rotate_rows<T>(rows, call, row_scale);
    if (is_searched) {
        const level_tables tables = find_tables(call);
        if (width == BY_WIDTH_1) search_signs(rows, call);
        else if (width == BY_WIDTH_2) search_two_bits(rows, call, tables);
        else if (call.group.n_crossed <= 1) search_by_walk<true>(rows, call, tables);
        else search_by_walk<false>(rows, call, tables);
    }
    __syncwarp(); /* all operands have been read: their place may be written */
    choose_coding<false>(call.shape, [&](auto by) { store_codes<by.value>(call, rows); });
    return store_norms(call, rows, m, norm_bytes, inverse_scale, row_scales);
}

template <typename T> struct general_coder {
    typedef T input;
    enum { BLOCKS = input_traits<T>::HAS_LOW ? 1 : 2, WARPS = 16, IS_FAST = 0, IS_GENERAL = 1 };

    /* Whether there is a norm that cannot be stored: its rows have no number for a scale. */
    static __device__ __forceinline__ bool encode_groups(const groups_image_group *groups, uint32_t my_shape,
                                                         const head_place &head, const groups_image_head &facts,
                                                         const lane_place<BLOCKS> &place, const encode_memory &memory,
                                                         const uint4 *fragments)
    {
        const bool is_searched = uniform(facts.is_searched) != 0;
        bool has_bad = false;
        if (!input_traits<T>::IS_SCALED) {
            if ((threadIdx.x & 31) < 16 * BLOCKS) memory.inverse_scale[threadIdx.x & 31] = 1.0f;
            __syncwarp();
        }
#pragma unroll 1
        for (int g = 0; g < head.n_groups; g++) {
            const group_shape shape = read_shape(my_shape, g);
#pragma unroll 1
            for (int m = 0; m < BLOCKS; m++) {
                const lane_place<1> own = place_of_block(place, m, head.n_groups);
                const group_call<1, encode_memory> call = {groups[g], shape, g, head.n_groups, own, memory, fragments};
                has_bad |= encode_rows<T>(call, m, head.norm_bytes, is_searched);
                __syncwarp();
            }
        }
        return has_bad;
    }

    static __device__ __forceinline__ bool is_bad_row(const encode_memory &memory, int, int row)
    {
        return isnan(memory.inverse_scale[row]);
    }
};

template <typename T> static rb_status launch_type(encode_args &args, cudaStream_t stream, rb_error *err)
{
    typedef general_coder<T> coder;
    const groups_image &own = args.image.groups;
    const tile_sizes sizes =
        find_sizes<coder>(args.image, own.max_columns * sizeof(float), own.max_tiles * 32 * sizeof(float4));
    bool is_launched = false;
    rb_status st = RB_OK;
    for (args.is_fast = 1; args.is_fast >= 0 && st == RB_OK && !is_launched; args.is_fast--)
        st = launch_tiles(encode_kernel<coder>, args, "encode kernel", sizes, args.is_fast != 0, coder::WARPS,
                          16 * coder::BLOCKS, &is_launched, stream, err);
    return st;
}

rb_status groups_encode_general(encode_args &args, codec_dtype type, cudaStream_t stream, rb_error *err)
{
    if (type == CODEC_F16) return launch_type<__half>(args, stream, err);
    if (type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, stream, err);
    return launch_type<float>(args, stream, err);
}
