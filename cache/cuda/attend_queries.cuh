/* Queries as the products of scores take them. */
#ifndef RB_CACHE_CUDA_ATTEND_QUERIES_CUH
#define RB_CACHE_CUDA_ATTEND_QUERIES_CUH

#include "cache/cuda/attend_device.cuh"

/* Query lane / 4, its blocks i = 0 and 1 of lane % 4, fp16 pairs: [n_steps][32][2]. */
__device__ inline void fill_queries(uint2 *out, const attend_args &args, const attend_place &at,
                                    const attend_head &head)
{
    const ropebits_kv_vectors &from = args.call.queries.queries;
    const attend_side &keys = args.call.keys;
    const int n_queries = count_queries(args, at), n_blocks = args.call.head_dim / 2;
    for (int i = threadIdx.x; i < head.n_steps * 64; i += blockDim.x) {
        const int lane = i / 2 % 32, query = lane / 4,
                  block = keys.blocks[head.first_block + i / 64 * 8 + i % 2 * 4 + lane % 4];
        uint32_t pair = 0;
        if (block < n_blocks && query < n_queries) {
            const int64_t first =
                at.sequence * from.token_stride
                + (at.head * args.queries_each + at.query_group * ATTEND_QUERIES + query) * from.head_stride;
            pair = pack_halves(load_number(from.data, from.dtype, first + keys.dims[2 * block]),
                               load_number(from.data, from.dtype, first + keys.dims[2 * block + 1]));
        }
        reinterpret_cast<uint32_t *>(out)[i] = pair;
    }
}

/* Bytes of a page's positions. */
__host__ __device__ inline int positions_bytes(int n_blocks) { return PAGE_TILES * n_blocks * 8; }

__device__ __forceinline__ void stage_positions(void *to, const attend_args &args, int page, int n_blocks)
{
    stage(to, args.call.positions + static_cast<int64_t>(page) * PAGE_TILES * n_blocks * 2, positions_bytes(n_blocks));
}

#endif
