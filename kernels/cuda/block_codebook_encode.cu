/* Quantizing keys of family block-codebook: see kernels/reference/block_codebook_codec.h for what is computed,
 * kernels/cuda/block_codebook_search.h for how a block's nearest point is found.
 *
 * A warp takes 32 vectors of a head, one a lane, in its own part of shared memory, with their blocks in order. All
 * lanes are at the same block, so its numbers are read once for all and its tables by all at once. A vector takes three
 * passes. The first sums its size, which gives the level. The second finds for every block the nearest points at the
 * level and its two neighbours, and sums the three errors; codes take the place of the block's dims. The third packs
 * the codes of the best level; blocks that have levels in place of points keep their dims, and are searched again
 * there. Packed bits take the place of the vector: they never get ahead of the codes.
 *
 * What the host's compiler sees too, the tables and the search of a cell, is tested without a GPU in
 * tests/kernels/test_block_codebook_image.c; this file only on one, in tests/gpu/test_codec_cuda_block_codebook.c. */
#include "kernels/cuda/block_codebook_device.cuh"
#include "kernels/cuda/block_codebook_gain.cuh"
#include "kernels/cuda/codec_bits.cuh"
#include "kernels/cuda/codec_few.cuh"

enum { ENCODE_WARPS = 16, ENCODE_ROWS = 32, CODE_BITS = 10 };

struct block_codebook_encode_args {
    codec_image image; /* on the device */
    const void *x;     /* [n_heads][n][head_dim] of the kernel's T; elements from head to head, vector to vector: */
    int64_t head_stride, n, token_stride;
    uint8_t *packed;               /* [n_heads] streams of [n][packed_bytes] u8 */
    unsigned long long *first_bad; /* [1] u64 */
    int fast_bytes;                /* of shared memory for points and cells */
    int warp_bytes;
};

/* Elements from row to row: an odd number of blocks, so that lanes with a row each meet all banks. */
__host__ __device__ inline int row_stride(int n_blocks) { return 2 * n_blocks + 2; }

/* ---- vectors to rows ------------------------------------------------------------------------- */

/* Eight dims as they lie in memory. */
template <typename T> struct dim_run {
    enum { N_WORDS = 2 * sizeof(T) };
    uint32_t word[N_WORDS];
};

template <typename T> __device__ __forceinline__ void load_run(dim_run<T> &run, const T *from)
{
#pragma unroll
    for (int i = 0; i < dim_run<T>::N_WORDS / 4; i++) {
        const uint4 part = __ldcs(reinterpret_cast<const uint4 *>(from) + i);
        run.word[4 * i] = part.x, run.word[4 * i + 1] = part.y, run.word[4 * i + 2] = part.z,
                     run.word[4 * i + 3] = part.w;
    }
}

/* Dim i of two runs, which are a block, or lie anywhere. */
__device__ __forceinline__ void store_pair(__half *to, const dim_run<__half> &a, const dim_run<__half> &b, int i)
{
    *reinterpret_cast<uint32_t *>(to) = __byte_perm(a.word[i / 2], b.word[i / 2], i & 1 ? 0x7632 : 0x5410);
}
__device__ __forceinline__ void store_pair(float *to, const dim_run<float> &a, const dim_run<float> &b, int i)
{
    *reinterpret_cast<uint2 *>(to) = make_uint2(a.word[i], b.word[i]);
}
__device__ __forceinline__ void store_dim(__half *to, const dim_run<__half> &run, int i)
{
    *reinterpret_cast<uint16_t *>(to) = static_cast<uint16_t>(run.word[i / 2] >> 16 * (i & 1));
}
__device__ __forceinline__ void store_dim(float *to, const dim_run<float> &run, int i)
{
    *reinterpret_cast<uint32_t *>(to) = run.word[i];
}

/* To rows of the warp's tile, in the order of blocks. STORED: float, or __half for all that has 16 bits. Rows past the
 * last are the last again. */
template <typename STORED>
__device__ __forceinline__ void load_vectors(STORED *tile, const uint16_t *position, const STORED *x,
                                             int64_t token_stride, int n_rows, int head_dim, bool is_split)
{
    enum { IN_FLIGHT = sizeof(STORED) == 2 ? 4 : 2 };
    const row_split split = split_rows(head_dim);
    const int half_dim = head_dim / 2, dim = 8 * split.lane, stride = row_stride(half_dim);
    if (dim >= half_dim) return;
    STORED *row = tile + split.row * stride;
    STORED *low_at[8], *high_at[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        low_at[i] = row + position[dim + i];
        high_at[i] = row + position[half_dim + dim + i];
    }
    const STORED *from = x + dim;
#pragma unroll 1
    for (int first = 0; first < ENCODE_ROWS; first += IN_FLIGHT * split.rows) {
        dim_run<STORED> low[IN_FLIGHT], high[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) {
            const STORED *vector = from + min(first + i * split.rows + split.row, n_rows - 1) * token_stride;
            load_run(low[i], vector);
            load_run(high[i], vector + half_dim);
        }
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; i++) {
            const int distance = (first + i * split.rows) * stride;
            if (first + i * split.rows + split.row >= ENCODE_ROWS) continue;
            if (is_split) {
#pragma unroll
                for (int j = 0; j < 8; j++) store_pair(low_at[j] + distance, low[i], high[i], j);
            } else {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    store_dim(low_at[j] + distance, low[i], j);
                    store_dim(high_at[j] + distance, high[i], j);
                }
            }
        }
    }
}

/* ---- a vector a lane ------------------------------------------------------------------------- */

template <typename T> struct block_codebook_input {
    typedef __half stored;
};
template <> struct block_codebook_input<float> {
    typedef float stored;
};

__device__ __forceinline__ float2 read_block(const __half *row, int block, __half)
{
    return __half22float2(*reinterpret_cast<const __half2 *>(row + 2 * block));
}
__device__ __forceinline__ float2 read_block(const __half *row, int block, __nv_bfloat16)
{
    const uint32_t word = *reinterpret_cast<const uint32_t *>(row + 2 * block);
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
__device__ __forceinline__ float2 read_block(const float *row, int block, float)
{
    return *reinterpret_cast<const float2 *>(row + 2 * block);
}

/* Sum w |z|^2. Not a number, or infinite, where a dim of the vector is, or where f32 cannot hold the sum. */
template <typename T>
__device__ __forceinline__ float vector_square(const typename block_codebook_input<T>::stored *row,
                                               const block_codebook_image_block *blocks, int n_blocks)
{
    float square = 0.0f, check = 0.0f;
#pragma unroll 4
    for (int i = 0; i < n_blocks; i++) {
        const float2 x = read_block(row, i, T());
        const float a = x.x - blocks[i].center[0], b = x.y - blocks[i].center[1];
        check = fmaf(x.x, 0.0f, fmaf(x.y, 0.0f, check));
        square = fmaf(blocks[i].weight, fmaf(a, a, b * b), square);
    }
    return square + check;
}

/* Where a block's key is: less the centre, and on the grid at gain 1. */
struct block_place {
    float x, y, u, v;
};

template <typename T>
__device__ __forceinline__ block_place find_block(const typename block_codebook_input<T>::stored *row, int i,
                                                  const block_codebook_image_block &block)
{
    const float2 at = read_block(row, i, T());
    const float x = at.x - block.center[0], y = at.y - block.center[1];
    return {x, y, fmaf(x, block.to_grid[0], y * block.to_grid[1]), fmaf(x, block.to_grid[2], y * block.to_grid[3])};
}

/* Adds the errors; returns the codes, of FIRST_GAIN to FIRST_GAIN + GAINS - 1. */
template <int GAINS>
__device__ __forceinline__ uint32_t add_matches(gain_choice &choice, const block_codebook_match (&match)[GAINS],
                                                float weight)
{
    enum { FIRST = GAINS == 1 };
    uint32_t codes = 0;
#pragma unroll
    for (int k = 0; k < GAINS; k++) {
        choice.error[FIRST + k] = fmaf(weight, match[k].distance, choice.error[FIRST + k]);
        codes |= static_cast<uint32_t>(match[k].code) << CODE_BITS * (FIRST + k);
    }
    return codes;
}

/* Element k, by selects: registers have no index. GAINS: how many there are; one is the middle one. */
template <int GAINS> __device__ __forceinline__ float pick(const float (&of)[N_GAINS], int k)
{
    return GAINS == 1 || k == 1 ? of[1] : k == 0 ? of[0] : of[2];
}

/* The nearest points at the three gains, or without gains at the middle one. */
template <int GAINS>
__device__ __forceinline__ uint32_t search_block(gain_choice &choice, const block_place &at,
                                                 const block_codebook_image_block &block, block_codebook_points points,
                                                 const uint32_t *cells)
{
    block_codebook_match match[GAINS];
#pragma unroll 1
    for (int k = 0; k < GAINS; k++) {
        const float gain = pick<GAINS>(choice.gain, k);
        const block_codebook_match found = block.n_columns > 0
                                               ? block_codebook_search(&block, points, cells, at.x, at.y, at.u, at.v,
                                                                       gain, pick<GAINS>(choice.inverse, k))
                                               : block_codebook_search_all(points, 1 << block.bits, at.x, at.y, gain);
#pragma unroll
        for (int j = 0; j < GAINS; j++) match[j] = j == k ? found : match[j];
    }
    return add_matches(choice, match, block.weight);
}

/* From shared memory, at a 32-bit address: addresses are counted by hand, since each look-up is only a few
 * instructions. */
__device__ __forceinline__ uint32_t shared_address(const void *at)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}
__device__ __forceinline__ uint32_t load_word(uint32_t address)
{
    uint32_t word;
    asm("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address));
    return word;
}
__device__ __forceinline__ float load_float(uint32_t address) { return __uint_as_float(load_word(address)); }

/* The same where tables are in shared memory and a cell is one word, as they mostly are. It has no branches, so that
 * the gains' chains of look-ups run side by side: all four codes of a cell are tried, and the rare lists that are
 * longer are searched again. The index of a cell is in the low bits of a sum with MAGIC. HAS_OFFSETS: a cell has 4
 * times the code, which with the start of the points, the same for all lanes, is an address. */
template <int GAINS, bool HAS_OFFSETS>
__device__ __forceinline__ uint32_t search_words(gain_choice &choice, const block_place &at,
                                                 const block_codebook_image_block &block, block_codebook_points points,
                                                 const uint32_t *cells)
{
    enum { FIRST = GAINS == 1 };
    constexpr float MAGIC = 12582912.0f; /* 3 2^22: a float above it counts in ones */
    constexpr uint32_t MAGIC_BITS = 0x4b400000u;
    const float columns = block.half_columns, rows = block.half_rows, columns_magic = columns + MAGIC,
                rows_magic = rows + MAGIC;
    const uint32_t row_bytes = 4u * block.n_columns, first = shared_address(cells) - MAGIC_BITS * (row_bytes + 4u),
                   at_x = uniform(shared_address(points.x)), at_y = uniform(shared_address(points.y));
    block_codebook_match match[GAINS];
    uint32_t word[GAINS];
    bool is_long = false;
#pragma unroll
    for (int k = 0; k < GAINS; k++) {
        const float u = block_codebook_compand(at.u * choice.inverse[FIRST + k]),
                    v = block_codebook_compand(at.v * choice.inverse[FIRST + k]);
        word[k] = load_word(__float_as_uint(fmaf(v, rows, rows_magic)) * row_bytes
                            + (__float_as_uint(fmaf(u, columns, columns_magic)) * 4u + first));
    }
#pragma unroll
    for (int k = 0; k < GAINS; k++) {
        const float gain = choice.gain[FIRST + k];
        const uint32_t listed =
            HAS_OFFSETS
                ? word[k] & 0xfcfcfcfcu
                : word[k]; /* a long list's word has no offsets: what is read for it is not used, but must be a word */
#pragma unroll
        for (int i = 0; i < BLOCK_CODEBOOK_CELL_CODES; i++) {
            const uint32_t code = __byte_perm(listed, 0, 0x4440 + i), offset = HAS_OFFSETS ? code : 4u * code;
            const float dx = fmaf(-gain, load_float(at_x + offset), at.x),
                        dy = fmaf(-gain, load_float(at_y + offset), at.y), distance = fmaf(dx, dx, dy * dy);
            const bool is_better = i == 0 || distance < match[k].distance;
            match[k].code = is_better ? static_cast<int>(code) : match[k].code;
            match[k].distance = is_better ? distance : match[k].distance;
        }
        if (HAS_OFFSETS) match[k].code >>= 2;
        is_long |= (word[k] & 0xffu) > word[k] >> 24;
    }
    if (is_long)
#pragma unroll 1
        for (int k = 0; k < GAINS; k++) {
            const block_codebook_match found =
                block_codebook_search(&block, points, cells, at.x, at.y, at.u, at.v, pick<GAINS>(choice.gain, k),
                                      pick<GAINS>(choice.inverse, k));
#pragma unroll
            for (int j = 0; j < GAINS; j++) match[j] = j == k ? found : match[j];
        }
    return add_matches(choice, match, block.weight);
}

/* Adds the errors of a block that has levels. Their look-ups go to global memory: 4 KB, which stay near. */
template <int GAINS>
__device__ __forceinline__ void search_levels(gain_choice &choice, const block_place &at,
                                              const block_codebook_image_block &block, block_codebook_levels levels)
{
#pragma unroll
    for (int k = GAINS == 1; k < GAINS + (GAINS == 1); k++) {
        const block_codebook_match match = block_codebook_search_levels(&block, levels, at.x, at.y, choice.gain[k]);
        choice.error[k] = fmaf(block.weight, match.distance, choice.error[k]);
    }
}

/* Searches all blocks. A block's codes take its place in the row, but where it has levels. */
template <typename T, int GAINS, bool IS_FAST>
__device__ __forceinline__ void search_blocks(gain_choice &choice, typename block_codebook_input<T>::stored *row,
                                              const block_codebook_image_block *blocks, int n_blocks,
                                              block_codebook_points points, const uint32_t *cells,
                                              block_codebook_levels levels)
{
#pragma unroll 1
    for (int i = 0; i < n_blocks; i++) {
        const block_codebook_image_block &block = blocks[i];
        const int bits = block.bits;
        if (bits == 0) continue;
        const block_place at = find_block<T>(row, i, block);
        if (block.first_bits > 0) {
            search_levels<GAINS>(choice, at, block, levels);
            continue;
        }
        const block_codebook_points own = {points.x + block.first_point, points.y + block.first_point};
        const uint32_t *own_cells = cells + block.first_cell;
        uint32_t codes;
        if (IS_FAST && block.n_columns > 0 && bits <= BLOCK_CODEBOOK_OFFSET_BITS)
            codes = search_words<GAINS, true>(choice, at, block, own, own_cells);
        else if (IS_FAST && block.n_columns > 0 && bits <= BLOCK_CODEBOOK_BYTE_BITS)
            codes = search_words<GAINS, false>(choice, at, block, own, own_cells);
        else codes = search_block<GAINS>(choice, at, block, own, own_cells);
        *reinterpret_cast<uint32_t *>(row + 2 * i) = codes;
    }
}

/* A block's code at the gain that was chosen. */
template <typename T>
__device__ __forceinline__ uint32_t chosen_code(const typename block_codebook_input<T>::stored *row, int i,
                                                const block_codebook_image_block &block, int which, float gain,
                                                block_codebook_levels levels)
{
    if (block.first_bits == 0)
        return *reinterpret_cast<const uint32_t *>(row + 2 * i) >> CODE_BITS * which & ((1u << CODE_BITS) - 1u);
    const block_place at = find_block<T>(row, i, block);
    return static_cast<uint32_t>(block_codebook_search_levels(&block, levels, at.x, at.y, gain).code);
}

/* Gain and codes to bits, from the start of the row on. */
template <typename T>
__device__ __forceinline__ void pack_vector(typename block_codebook_input<T>::stored *row,
                                            const block_codebook_image_block *blocks, int n_blocks, int gain_bits,
                                            const gain_choice &choice, int which, block_codebook_levels levels)
{
    const float gain = pick<N_GAINS>(choice.gain, which);
    bit_writer writer = {reinterpret_cast<uint32_t *>(row), 0, 0, true};
    append(writer, static_cast<uint32_t>(choice.level + which - 1), gain_bits);
#pragma unroll 1
    for (int i = 0; i < n_blocks; i++) {
        const int bits = blocks[i].bits;
        if (bits > 0) append(writer, chosen_code<T>(row, i, blocks[i], which, gain, levels), bits);
    }
    if (writer.n > 0) *writer.word = writer.bits;
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* Parts of 4 bytes or of 1: rows start at multiples of 4. */
__device__ __forceinline__ void send_rows(uint8_t *to, const void *tile, int stride_bytes, int packed_bytes, int n_rows)
{
    const packed_rows rows = find_rows(packed_bytes, stride_bytes / 2, packed_bytes % 4 == 0 ? 4 : 1);
    if (rows.part_bytes == 4) send_parts<uint32_t>(to, rows, static_cast<const __half *>(tile), n_rows);
    else send_parts<uint8_t>(to, rows, static_cast<const __half *>(tile), n_rows);
}

static_assert(sizeof(block_share) + sizeof(block_codebook_image_head) <= STATIC_SHARED_BYTES,
              "room for share and head");

/* IS_FAST: points and cells have room in shared memory; else they are read from global memory. */
template <typename T, bool IS_FAST>
__global__ void __launch_bounds__(ENCODE_WARPS * 32, 1)
    block_codebook_encode_kernel(const block_codebook_encode_args args)
{
    typedef typename block_codebook_input<T>::stored stored;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ block_share share;
    __shared__ block_codebook_image_head head;
    const codec_image &image = args.image;
    const block_codebook_image &own = image.block_codebook;
    const int n_blocks = own.n_blocks, head_dim = 2 * n_blocks, lane = threadIdx.x & 31, warp = threadIdx.x / 32,
              stride = row_stride(n_blocks);

    uint8_t *next = shared;
    float *shared_points = reinterpret_cast<float *>(next); /* x of all, then y */
    uint32_t *shared_cells = reinterpret_cast<uint32_t *>(shared_points + 2 * own.max_points);
    if (IS_FAST) next += args.fast_bytes;
    block_codebook_image_block *blocks = reinterpret_cast<block_codebook_image_block *>(next);
    next += n_blocks * sizeof *blocks + warp * args.warp_bytes;
    stored *tile = reinterpret_cast<stored *>(next), *row = tile + lane * stride;

    find_share(&share, image.heads, image.n_heads, args.n, ENCODE_ROWS);
    for (int head_index = share.first_head; head_index < image.n_heads; head_index++) {
        if (!reaches_head(share, image.heads[head_index], args.n, ENCODE_ROWS)) break;
        __syncthreads();
        if (warp == 0) start_run(&share, image.heads, head_index, args.n, ENCODE_ROWS);
        block_copy(&head, own.heads + head_index, 1);
        block_copy(reinterpret_cast<uint4 *>(blocks),
                   reinterpret_cast<const uint4 *>(own.blocks + head_index * n_blocks),
                   n_blocks * static_cast<int>(sizeof *blocks / 16));
        const int first_point = own.heads[head_index].first_point;
        const block_codebook_points head_points = {own.points_x + first_point, own.points_y + first_point};
        const uint32_t *head_cells = own.cells + own.heads[head_index].first_cell;
        if (IS_FAST) {
            block_copy(shared_points, head_points.x, own.heads[head_index].n_points);
            block_copy(shared_points + own.max_points, head_points.y, own.heads[head_index].n_points);
            block_copy(shared_cells, head_cells, own.heads[head_index].n_cells);
        }
        const block_codebook_points points =
            IS_FAST ? block_codebook_points{shared_points, shared_points + own.max_points} : head_points;
        const uint32_t *cells = IS_FAST ? shared_cells : head_cells;
        const block_codebook_levels levels = {own.edges, own.levels};
        __syncthreads();

        const tile_run run = share.run;
        const int packed_bytes = image.heads[head_index].packed_bytes, gain_bits = head.gain_bits;
        const stored *x = static_cast<const stored *>(args.x) + head_index * args.head_stride;
        for (unsigned at = next_tile(run, &share), later; at != NO_TILE; at = later) {
            const int64_t first = static_cast<int64_t>(at) * ENCODE_ROWS;
            const int n_rows = static_cast<int>(min(static_cast<int64_t>(ENCODE_ROWS), args.n - first));
            load_vectors(tile, own.position + head_index * head_dim, x + first * args.token_stride, args.token_stride,
                         n_rows, head_dim, head.is_split != 0);
            later = next_tile(run, &share);
            if (later != NO_TILE) {
                const int64_t vector = min(static_cast<int64_t>(later) * ENCODE_ROWS + lane, args.n - 1);
                for (int byte = 0; byte < head_dim * static_cast<int>(sizeof(T)); byte += LINE_BYTES)
                    prefetch(reinterpret_cast<const char *>(x + vector * args.token_stride) + byte);
            }
            __syncwarp();
            const float square = vector_square<T>(row, blocks, n_blocks);
            if (!(square < INFINITY)) /* to be refused: the search wants numbers */
                for (int i = 0; i < head_dim; i++) row[i] = stored(0.0f);
            gain_choice choice = start_choice(head, square);
            if (gain_bits > 0) search_blocks<T, N_GAINS, IS_FAST>(choice, row, blocks, n_blocks, points, cells, levels);
            else search_blocks<T, 1, IS_FAST>(choice, row, blocks, n_blocks, points, cells, levels);
            const int which = gain_bits > 0 ? best_gain(choice, gain_bits) : 1;
            pack_vector<T>(row, blocks, n_blocks, gain_bits, choice, which, levels);
            __syncwarp();
            send_rows(args.packed + share.streams.packed + first * packed_bytes, tile,
                      stride * static_cast<int>(sizeof(stored)), packed_bytes, n_rows);
            if (lane < n_rows && !(square < INFINITY))
                atomicMin(args.first_bad,
                          static_cast<unsigned long long>(static_cast<uint64_t>(head_index) * args.n + first + lane));
            __syncwarp();
        }
    }
}

template <typename T> static rb_status launch_type(block_codebook_encode_args &args, cudaStream_t stream, rb_error *err)
{
    static const char *const name = "block-codebook encode kernel";
    const block_codebook_image &own = args.image.block_codebook;
    const size_t tables =
        static_cast<size_t>(own.max_points) * 2 * sizeof(float) + static_cast<size_t>(own.max_cells) * sizeof(uint32_t);
    const tile_sizes sizes = {round_up(tables, 128),
                              static_cast<size_t>(own.n_blocks) * sizeof(block_codebook_image_block),
                              round_up(static_cast<size_t>(ENCODE_ROWS) * row_stride(own.n_blocks) * sizeof(T), 128)};
    bool is_launched = false;
    const rb_status st = launch_tiles(block_codebook_encode_kernel<T, true>, args, name, sizes, true, ENCODE_WARPS,
                                      ENCODE_ROWS, &is_launched, stream, err);
    if (st != RB_OK || is_launched) return st;
    return launch_tiles(block_codebook_encode_kernel<T, false>, args, name, sizes, false, ENCODE_WARPS, ENCODE_ROWS,
                        &is_launched, stream, err);
}

rb_status block_codebook_encode(const codec_encode_call &call, rb_error *err)
{
    if (call.n <= FEW_VECTORS) return block_codebook_encode_few(call, err);
    block_codebook_encode_args args = {call.image,
                                       call.x.data,
                                       call.x.head_stride,
                                       call.n,
                                       call.x.token_stride,
                                       call.packed,
                                       reinterpret_cast<unsigned long long *>(call.first_bad),
                                       0,
                                       0};
    if (call.x.type == CODEC_F16) return launch_type<__half>(args, call.stream, err);
    if (call.x.type == CODEC_BF16) return launch_type<__nv_bfloat16>(args, call.stream, err);
    return launch_type<float>(args, call.stream, err);
}
