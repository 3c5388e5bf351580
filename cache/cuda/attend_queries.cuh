/* Queries as the products of scores take them. */
#ifndef RB_CACHE_CUDA_ATTEND_QUERIES_CUH
#define RB_CACHE_CUDA_ATTEND_QUERIES_CUH

#include "cache/cuda/attend_device.cuh"

/* Query lane / 4, its blocks i = 0 and 1 of lane % 4: [n_steps][32][4]. */
__device__ inline void fill_queries(float *out, const attend_args &args, const attend_place &at,
                                    const attend_head &head)
{
    const ropebits_kv_vectors &from = args.call.queries.queries;
    const attend_side &keys = args.call.keys;
    const int n_queries = count_queries(args, at), n_blocks = args.call.head_dim / 2;
    for (int i = threadIdx.x; i < head.n_steps * 32 * 4; i += blockDim.x) {
        const int query = i / 4 % 32 / 4,
                  block = keys.blocks[head.first_block + i / 128 * 8 + i / 2 % 2 * 4 + i / 4 % 4];
        float x = 0.0f;
        if (block < n_blocks && query < n_queries) {
            const int q_head = at.head * args.queries_each + at.query_group * ATTEND_QUERIES + query;
            x = load_number(from.data, from.dtype,
                            at.sequence * from.token_stride + q_head * from.head_stride + keys.dims[2 * block + i % 2]);
        }
        out[i] = x;
    }
}

/* Operand B of a step: the query's blocks i = 0 and 1, turned back by the tile's first position. */
__device__ __forceinline__ uint2 turn_query(const float4 &query, const float4 &turn)
{
    return make_uint2(pack_halves(query.x * turn.x + query.y * turn.y, query.y * turn.x - query.x * turn.y),
                      pack_halves(query.z * turn.z + query.w * turn.w, query.w * turn.z - query.z * turn.w));
}

#endif
