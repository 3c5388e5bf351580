/* Launching the kernels of all codec families: how many warps a block has, how many blocks there are, and the call. */
#ifndef RB_KERNELS_CUDA_CODEC_LAUNCH_CUH
#define RB_KERNELS_CUDA_CODEC_LAUNCH_CUH

#include "core/cuda_limits.cuh"
#include "kernels/cuda/codec_device.cuh"

static inline size_t round_up(size_t size, size_t to) { return (size + to - 1) / to * to; }

/* Room for what a kernel declares itself in shared memory. */
static const size_t STATIC_SHARED_BYTES = 3184;

/* What is to be launched. A block has as many warps as its shared memory allows, most_warps at most. There are as many
 * blocks as the GPU holds at once, or as have something to do. */
struct launch_request {
    const char *name;   /* of the kernel, in messages */
    int most_warps;     /* of a block */
    size_t block_bytes; /* of dynamic shared memory: what a block has once, */
    size_t warp_bytes;  /* and what each of its warps has */
    int64_t n_units;    /* of work, which the warps of the blocks along x take one by one */
    unsigned grid_y, grid_z;
};

/* Warps that fit in a block; 0: none. */
static inline int count_warps(const launch_request &want, const device_limits &limits)
{
    const size_t shared_bytes = limits.shared_bytes - STATIC_SHARED_BYTES;
    int warps = want.most_warps;
    while (warps > 0 && want.block_bytes + static_cast<size_t>(warps) * want.warp_bytes > shared_bytes) warps--;
    return warps;
}

/* resident: blocks that a multiprocessor holds at once. */
static inline unsigned count_blocks(const launch_request &want, const device_limits &limits, int resident, int warps)
{
    const int64_t needed = (want.n_units + warps - 1) / warps,
                  most = static_cast<int64_t>(resident) * limits.n_multiprocessors
                         / (static_cast<int64_t>(want.grid_y) * want.grid_z);
    return static_cast<unsigned>(max(min(needed, most), static_cast<int64_t>(1)));
}

/* Launches the kernel with args, unless fewer than least_warps fit in a block: then it refuses, or where is_launched is
 * not NULL says so there. */
template <typename ARGS>
static rb_status launch(void (*kernel)(ARGS), const ARGS &args, const launch_request &want, int least_warps,
                        bool *is_launched, cudaStream_t stream, rb_error *err)
{
    device_limits limits;
    int resident = 0, warps = 0, bytes = 0;
    rb_status st;
    RB_TRY(st, find_limits(&limits, err), done);
    warps = count_warps(want, limits);
    if (is_launched) *is_launched = warps >= least_warps;
    if (warps < least_warps)
        return is_launched ? RB_OK
                           : rb_fail(err, RB_EUNSUPPORTED, "the %s needs %zu bytes of shared memory, the GPU has %d",
                                     want.name, want.block_bytes + want.warp_bytes, limits.shared_bytes);
    bytes = static_cast<int>(want.block_bytes + warps * want.warp_bytes);
    st = rb_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), want.name,
                        err);
    if (st == RB_OK)
        st = rb_cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, warps * 32, bytes),
                            want.name, err);
    if (st != RB_OK) goto done;
    kernel<<<dim3(count_blocks(want, limits, resident, warps), want.grid_y, want.grid_z), warps * 32, bytes, stream>>>(
        args);
    st = rb_cuda_launched(want.name, err);
done:
    return st;
}

/* ---- kernels whose blocks share out the tiles of all heads ----------------------------------- */

/* Dynamic shared memory: tables that a kernel may also read from global memory, a block's others, and each warp's. */
struct tile_sizes {
    size_t fast, tables, warp;
};

/* Launches a kernel whose warps take tiles of `rows` vectors. is_fast: the fast tables are in shared memory. Where they
 * leave room for less than a quarter of the warps, it is better done without them: nothing runs, *is_launched is false.
 */
template <typename ARGS>
static rb_status launch_tiles(void (*kernel)(ARGS), ARGS &args, const char *name, const tile_sizes &sizes, bool is_fast,
                              int most_warps, int rows, bool *is_launched, cudaStream_t stream, rb_error *err)
{
    const launch_request want = {name,
                                 most_warps,
                                 (is_fast ? sizes.fast : 0) + sizes.tables,
                                 sizes.warp,
                                 count_tiles(args.n, rows) * args.image.n_heads,
                                 1,
                                 1};
    args.fast_bytes = static_cast<int>(sizes.fast);
    args.warp_bytes = static_cast<int>(sizes.warp);
    *is_launched = true;
    return launch(kernel, args, want, is_fast ? most_warps / 4 : 1, is_fast ? is_launched : nullptr, stream, err);
}

#endif
