/* What both attention kernels (attention_bf16.cu, attention_f32.cu) share, and how attention_cuda.cu calls them. The
 * kernels walk the keys in tiles with a running maximum and sum (online softmax: Milakov and Gimelshein, arXiv
 * 1805.02867; FlashAttention-2, arXiv 2307.08691). A block takes a tile of queries of one head. It visits the key tiles
 * from the first key that its first query sees to the last key that its last query sees; since sequences lie end to
 * end, both bounds only grow from query to query. Inside a tile each row masks by its own bounds. With recent keys
 * there are two such walks, one after the other, into the same sums. Blocks with the last queries, which have the most
 * keys, start first. */
#ifndef RB_MODEL_CUDA_ATTENTION_TILE_CUH
#define RB_MODEL_CUDA_ATTENTION_TILE_CUH

#include <math_constants.h>

#include "core/cuda_check.cuh"
#include "model/cuda/attention_cuda.h"

static const float LOG2_E = 1.44269504088896340736f;

struct query_tile {
    int q_head, kv_head;
    int first_row, n_rows;       /* rows of q and out; fewer than the tile's size at the end */
    int first_token, last_token; /* of its rows */
};

/* Keys and values that token s sees when the distance s - t of their token t is in [nearest, farthest]. There is one
 * source, or one of recent keys and one of the others. */
struct key_source {
    const void *k, *v;
    int nearest, farthest;
};

/* Source 0 is that of recent keys, where there are some. The other source comes last, and may see nothing. */
__device__ __forceinline__ key_source source_of(const attention_cuda_input &in, int source)
{
    const int farthest = in.sliding_window > 0 ? in.sliding_window - 1 : INT32_MAX;
    if (in.n_recent > 0 && source == 0) return {in.recent_k, in.recent_v, 0, min(in.n_recent - 1, farthest)};
    return {in.k, in.v, in.n_recent, farthest};
}

__device__ __forceinline__ int n_sources(const attention_cuda_input &in) { return in.n_recent > 0 ? 2 : 1; }

__device__ __forceinline__ int first_visible(const attention_cuda_input &in, const key_source &source, int token)
{
    return max(in.token_sequence_start[token], token - source.farthest);
}

/* What scores, scaled once, are multiplied by before 2^x makes weights of them. */
template <bool IS_CAPPED> __device__ __forceinline__ float score_scale(const attention_cuda_input &in)
{
    return (IS_CAPPED ? 1.0f : in.scale) * LOG2_E;
}

__device__ __forceinline__ float cap_score(const attention_cuda_input &in, float score)
{
    return in.softcap * tanhf(score * in.scale / in.softcap);
}

/* Heads are neighbours, so that blocks that run together share keys in L2. */
template <int QUERIES> __device__ __forceinline__ query_tile find_tile(const attention_cuda_input &in)
{
    const int n_tiles = gridDim.x / in.n_q_heads, n_queries = static_cast<int>(in.n_queries),
              first_query = static_cast<int>(in.first_query);
    query_tile tile;
    tile.q_head = blockIdx.x % in.n_q_heads;
    tile.kv_head = tile.q_head / (in.n_q_heads / in.n_kv_heads);
    tile.first_row = (n_tiles - 1 - static_cast<int>(blockIdx.x / in.n_q_heads)) * QUERIES;
    tile.n_rows = min(QUERIES, n_queries - tile.first_row);
    tile.first_token = first_query + tile.first_row;
    tile.last_token = tile.first_token + tile.n_rows - 1;
    return tile;
}

/* ---- host ------------------------------------------------------------------------------------ */

/* One block for each tile and head, up to 2^31 - 1, the limit of the grid's x. */
static inline rb_status count_blocks(unsigned *n_blocks, const attention_cuda_input *in, int queries_per_block,
                                     rb_error *err)
{
    const int64_t n = (in->n_queries + queries_per_block - 1) / queries_per_block * in->n_q_heads;
    if (n > INT32_MAX)
        return rb_fail(err, RB_EINVAL, "attention in %lld blocks, expected at most %d: fewer queries a call",
                       static_cast<long long>(n), INT32_MAX);
    *n_blocks = static_cast<unsigned>(n);
    return RB_OK;
}

/* The input has been checked and has queries. */
rb_status attention_bf16(const attention_cuda_input *in, cudaStream_t stream, rb_error *err);
rb_status attention_f32(const attention_cuda_input *in, cudaStream_t stream, rb_error *err);

#endif
