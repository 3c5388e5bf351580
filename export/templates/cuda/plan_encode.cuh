/* Encoding: one thread block codes one vector, in double. See plan_kernels.cuh. */
#ifndef PLAN_ENCODE_CUH
#define PLAN_ENCODE_CUH

#include <cstdlib>

#include "plan_decode.cuh"

namespace plan_kernels
{

constexpr int ENCODE_THREADS = 256;
constexpr int STREAM_WORDS = (PLAN_MAX_CODE_BYTES + 3) / 4 + 1;

/* Shared memory of the block. */
struct encoder {
    double x[PLAN_MAX_DIMS], z[PLAN_MAX_DIMS], y[PLAN_MAX_DIMS]; /* as it came, on the way, as it is coded */
    double partial[ENCODE_THREADS];
    uint16_t codes[PLAN_MAX_DIMS], trial[PLAN_MAX_DIMS];
    unsigned stream[STREAM_WORDS];
    unsigned norm; /* of a group, as it is stored */
};

/* Every thread gets the sum. The order is fixed: the same vector gives the same bits. */
static __device__ inline double block_sum(encoder &e, double x)
{
    __syncthreads();
    e.partial[threadIdx.x] = x;
    for (int step = ENCODE_THREADS / 2; step > 0; step /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < step) e.partial[threadIdx.x] += e.partial[threadIdx.x + step];
    }
    __syncthreads();
    return e.partial[0];
}

/* n <= 16 bits of value from bit `at` of the stream on, which are 0 so far. Threads may meet in a word. */
static __device__ inline void put_bits(encoder &e, int at, unsigned value, int n)
{
    if (n == 0) return;
    atomicOr(&e.stream[at / 32], value << at % 32);
    if (at % 32 + n > 32) atomicOr(&e.stream[at / 32 + 1], value >> (32 - at % 32));
}

static __device__ inline int nearest_level(const plan_head &head, double level)
{
    const double most = (1 << head.gain_bits) - 1;
    return (int)fmin(fmax(floor(level + 0.5), 0.0), most);
}

#if PLAN_HAS_GROUPS
/* Boundaries, half way between centroids, below y. */
static __device__ inline int code_of(const float *centroids, int n, double y)
{
    int code = 0;
    while (code + 1 < n && 0.5 * ((double)centroids[code] + (double)centroids[code + 1]) < y) code++;
    return code;
}

/* Codes of y stretched, and the cosine of the angle between y and what they stand for. */
static __device__ inline double try_stretch(encoder &e, const float *centroids, const plan_group &group, double stretch,
                                            uint16_t *codes)
{
    double product = 0.0, square = 0.0;
    for (int j = threadIdx.x; j < group.n_dims; j += ENCODE_THREADS) {
        codes[j] = (uint16_t)code_of(centroids, 1 << group.width, e.y[j] * stretch);
        const double c = centroids[codes[j]];
        product += c * e.y[j];
        square += c * c;
    }
    product = block_sum(e, product);
    square = block_sum(e, square);
    return square > 0.0 ? product / sqrt(square) : 0.0;
}

/* Of the vector and its stretches, the codes that come closest in angle. Returns what the norm is multiplied by. */
static __device__ inline double search(encoder &e, const float *centroids, const plan_group &group)
{
    const double stretches[] = PLAN_STRETCHES;
    double best = try_stretch(e, centroids, group, 1.0, e.codes);
    for (double stretch : stretches) {
        if (group.width == 1) break; /* signs do not change */
        const double angle = try_stretch(e, centroids, group, stretch, e.trial);
        if (angle <= best) continue;
        best = angle;
        for (int j = threadIdx.x; j < group.n_dims; j += ENCODE_THREADS) e.codes[j] = e.trial[j];
        __syncthreads();
    }
    const double kappa = group.coherence;
    return best * kappa / (best * best * kappa + 1.0 - best * best);
}

/* The norm as it is stored. */
static __device__ inline unsigned norm_word(const plan_head &head, const plan_group &group, double norm)
{
    if (head.norm_bytes == 2) return __half_as_ushort(__float2half_rn((float)norm));
    const double code = 255 + 16 * (log2(norm) - group.norm_exponent);
    return !(code >= 0.5) ? 0 : code >= 255 ? 255 : (unsigned)(code + 0.5);
}

/* To length 1, rotated: then every coordinate by itself. */
static __device__ inline void encode_group(encoder &e, const plan_tables &t, const plan_head &head,
                                           const plan_group &group, uint8_t *norm_at)
{
    const float *rotation = t.floats + group.rotation_at, *centroids = t.floats + group.centroids_at;
    const uint16_t *dims = t.shorts + group.dims_at;
    double square = 0.0;
    for (int j = threadIdx.x; j < group.n_dims; j += ENCODE_THREADS) {
        const double scale = head.scales_at == PLAN_NONE ? 1.0 : t.floats[head.scales_at + dims[j]];
        e.z[j] = (e.x[dims[j]] - center_of(t, head, dims[j])) * scale;
        square += e.z[j] * e.z[j];
    }
    double norm = sqrt(block_sum(e, square));
    const double to_unit = norm > 0.0 ? 1.0 / norm : 0.0;
    for (int i = threadIdx.x; i < group.n_dims; i += ENCODE_THREADS) {
        double sum = 0.0;
        for (int j = 0; j < group.n_dims; j++) sum += rotation[i * group.n_dims + j] * (e.z[j] * to_unit);
        e.y[i] = sum;
    }
    __syncthreads();
    if (head.searches) norm *= search(e, centroids, group);
    else try_stretch(e, centroids, group, 1.0, e.codes);
    __syncthreads();
    for (int j = threadIdx.x; j < group.n_dims; j += ENCODE_THREADS)
        put_bits(e, group.first_bit + j * group.width, e.codes[j], group.width);
    if (threadIdx.x == 0) e.norm = norm_word(head, group, norm);
    __syncthreads();
    /* By way of shared memory: where the lower byte of a number just rounded to fp16 is stored at once, ptxas of CUDA
     * 13.0 converts the number to a whole one instead (F2I.U8.F16). */
    if ((int)threadIdx.x < head.norm_bytes) norm_at[threadIdx.x] = (uint8_t)(e.norm >> 8 * threadIdx.x);
    __syncthreads();
}

static __device__ inline void encode_groups(encoder &e, const plan_tables &t, const plan_head &head, uint8_t *record)
{
    for (int g = 0; g < head.n_groups; g++)
        encode_group(e, t, head, t.groups[head.first_group + g], record + head.norms_at + g * head.norm_bytes);
}
#endif

#if PLAN_HAS_BLOCK_CODEBOOK
static __device__ inline int nearest_of(const float *levels, int n, double x)
{
    int nearest = 0;
    for (int i = 1; i < n; i++)
        if (fabs(x - levels[i]) < fabs(x - levels[nearest])) nearest = i;
    return nearest;
}

/* The code of (x, y) in a block, and the squared distance that it leaves. */
static __device__ inline int search_block(const plan_tables &t, const plan_head &head, int block, double x, double y,
                                          double *distance)
{
    const float *map = t.floats + head.maps_at + 3 * block;
    const int bits = t.bytes[head.bits_at + block], first = t.bytes[head.first_bits_at + block];
    int nearest = 0;
    if (bits > PLAN_MAX_POINT_BITS) { /* one level after the other */
        const float *a = t.floats + t.levels_at[first], *b = t.floats + t.levels_at[bits - first];
        const int i = map[0] == 0.0f ? 0 : nearest_of(a, 1 << first, x / map[0]);
        const double rest = y - (double)map[1] * a[i];
        const int j = map[2] == 0.0f ? 0 : nearest_of(b, 1 << (bits - first), rest / map[2]);
        const double dx = x - (double)map[0] * a[i], dy = rest - (double)map[2] * b[j];
        *distance = dx * dx + dy * dy;
        return i | j << first;
    }
    *distance = INFINITY;
    for (int code = 0; code < 1 << bits; code++) {
        double a, b;
        point_of(t, head, block, code, &a, &b);
        const double dx = x - map[0] * a, dy = y - (map[1] * a + map[2] * b), d = dx * dx + dy * dy;
        if (d < *distance) {
            *distance = d;
            nearest = code;
        }
    }
    return nearest;
}

/* Codes of all blocks at a level of the gain, and the weighted squared error. */
static __device__ inline double try_level(encoder &e, const plan_tables &t, const plan_head &head, int level)
{
    const double gain = gain_at(head, level);
    double error = 0.0;
    for (int block = threadIdx.x; block < N_BLOCKS; block += ENCODE_THREADS) {
        double distance;
        int first, second;
        if (t.bytes[head.bits_at + block] == 0) continue;
        block_dims(block, &first, &second);
        e.trial[block] = (uint16_t)search_block(t, head, block, (e.x[first] - center_of(t, head, first)) / gain,
                                                (e.x[second] - center_of(t, head, second)) / gain, &distance);
        error += t.floats[head.weights_at + block] * gain * gain * distance;
    }
    return block_sum(e, error);
}

/* The level that the vector's size points to. */
static __device__ inline int first_level(encoder &e, const plan_tables &t, const plan_head &head)
{
    double square = 0.0, size = 0.0;
    for (int block = threadIdx.x; block < N_BLOCKS; block += ENCODE_THREADS) {
        const float *map = t.floats + head.maps_at + 3 * block;
        const double weight = t.floats[head.weights_at + block];
        int first, second;
        if (t.bytes[head.bits_at + block] == 0) continue;
        block_dims(block, &first, &second);
        const double a = e.x[first] - center_of(t, head, first), b = e.x[second] - center_of(t, head, second);
        square += weight * (a * a + b * b);
        for (int i = 0; i < 3; i++) size += weight * map[i] * map[i];
    }
    square = block_sum(e, square);
    size = block_sum(e, size);
    return nearest_level(head, square > 0.0 && size > 0.0 ? log2(square / size) + head.gain_zero : -INFINITY);
}

static __device__ inline void encode_block_codebook(encoder &e, const plan_tables &t, const plan_head &head)
{
    const int start = first_level(e, t, head), most = (1 << head.gain_bits) - 1, around = head.gain_bits > 0 ? 1 : 0;
    double least = INFINITY;
    int best = 0;
    for (int step = -around; step <= around; step++) {
        const int level = min(max(start + step, 0), most);
        const double error = try_level(e, t, head, level);
        if (!(error < least)) continue;
        least = error;
        best = level;
        for (int block = threadIdx.x; block < N_BLOCKS; block += ENCODE_THREADS) e.codes[block] = e.trial[block];
    }
    for (int block = threadIdx.x; block < N_BLOCKS; block += ENCODE_THREADS)
        put_bits(e, t.shorts[head.starts_at + block], e.codes[block], t.bytes[head.bits_at + block]);
    if (threadIdx.x == 0) put_bits(e, head.gain_start, (unsigned)best, head.gain_bits);
}
#endif

#if PLAN_HAS_TRELLIS
/* e.y: the coordinates of the vector, stretched, over the gain. Returns the level of the gain. projections: the inverse
 * of every basis, transposed and stretched (plan_upload). */
static __device__ inline int project(encoder &e, const plan_tables &t, const plan_head &head,
                                     const double *__restrict__ projections)
{
    double square = 0.0, weights = 0.0;
    for (int i = threadIdx.x; i < head.n_coded; i += ENCODE_THREADS) {
        const double *row = projections + head.basis_at + (int64_t)i * head.dims,
                     weight = t.floats[head.weights_at + i];
        double sum = 0.0;
        for (int j = 0; j < head.dims; j++) sum += (e.x[j] - center_of(t, head, j)) * row[j];
        e.y[i] = sum;
        square += weight * (sum * sum);
        weights += weight;
    }
    square = block_sum(e, square);
    weights = block_sum(e, weights);
    const int level = nearest_level(head, square > 0.0 ? log2(square / weights) + head.gain_zero : -INFINITY);
    for (int i = threadIdx.x; i < head.n_coded; i += ENCODE_THREADS) e.y[i] /= gain_at(head, level);
    __syncthreads();
    return level;
}

/* The path of the least weighted error through the states, 8 bits of the stream each: a thread a state. After
 * coordinate i, cost of a state is that of the best path to it; choice [i][upper bits of the state before] is which of
 * the states with these upper bits that path came from. */
static __device__ inline void encode_trellis(encoder &e, const plan_tables &t, const plan_head &head,
                                             const double *projections, uint8_t (*choice)[PLAN_STATES / 2])
{
    __shared__ double cost[PLAN_STATES], least[PLAN_STATES];
    const int state = threadIdx.x, level = project(e, t, head, projections);
    for (int i = 0; i < head.n_coded; i++) {
        const int width = t.bytes[head.bits_at + i], n_before = PLAN_STATES >> width;
        if (i > 0 && state < n_before) {
            int from = 0;
            for (int j = 1; j < 1 << width; j++)
                if (cost[state << width | j] < cost[state << width | from]) from = j;
            least[state] = cost[state << width | from];
            choice[i][state] = (uint8_t)from;
        }
        __syncthreads();
        const double off = e.y[i] - t.floats[t.trellis_at[width] + state];
        cost[state] = (i > 0 ? least[state & (n_before - 1)] : 0.0) + t.floats[head.weights_at + i] * (off * off);
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    int last = 0;
    for (int s = 1; s < PLAN_STATES; s++)
        if (cost[s] < cost[last]) last = s;
    for (int i = head.n_coded - 1; i >= 0; i--) {
        const int width = t.bytes[head.bits_at + i], before = last & ((PLAN_STATES >> width) - 1);
        put_bits(e, t.shorts[head.starts_at + i], (unsigned)(last >> (PLAN_STATE_BITS - width)), width);
        if (i > 0) last = before << width | choice[i][before];
    }
    put_bits(e, head.gain_start, (unsigned)level, head.gain_bits);
}
#endif

/* Block (token, KV head). */
template <typename T>
static __global__ void __launch_bounds__(ENCODE_THREADS)
    encode_kernel(plan_tables t, const double *projections, int layer, bool is_value,
                  const T *__restrict__ vectors, // [n][PLAN_N_KV_HEADS][dims]
                  uint8_t *__restrict__ cache)   // [n][record_bytes]
{
    extern __shared__ __align__(16) uint8_t choices[]; /* [n_coded][PLAN_STATES / 2], for trellis */
    __shared__ encoder e;
    const int64_t v = (int64_t)blockIdx.x * PLAN_N_KV_HEADS + blockIdx.y;
    const plan_head &head = head_of(t, layer, is_value, blockIdx.y);
    uint8_t *record = cache + (int64_t)blockIdx.x * t.layers[layer].record_bytes;
    (void)projections;
    (void)choices;
    for (int i = threadIdx.x; i < head.dims; i += ENCODE_THREADS) e.x[i] = to_float(vectors[v * head.dims + i]);
    for (int i = threadIdx.x; i < STREAM_WORDS; i += ENCODE_THREADS) e.stream[i] = 0;
    __syncthreads();
    switch (head.family) {
#if PLAN_HAS_GROUPS
    case PLAN_GROUPS: encode_groups(e, t, head, record); break;
#endif
#if PLAN_HAS_BLOCK_CODEBOOK
    case PLAN_BLOCK_CODEBOOK: encode_block_codebook(e, t, head); break;
#endif
#if PLAN_HAS_TRELLIS
    case PLAN_TRELLIS:
        encode_trellis(e, t, head, projections, reinterpret_cast<uint8_t(*)[PLAN_STATES / 2]>(choices));
        break;
#endif
    default:
        for (int i = threadIdx.x; i < head.dims; i += ENCODE_THREADS)
            put_bits(e, 16 * i, __half_as_ushort(__float2half_rn((float)e.x[i])), 16);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < head.code_bytes; i += ENCODE_THREADS)
        record[head.codes_at + i] = (uint8_t)(e.stream[i / 4] >> 8 * (i % 4));
}

/* ---- what a trellis needs of the host -------------------------------------------------------- */

#if PLAN_HAS_TRELLIS
/* inverse [n][n] of matrix [n][n], which is used up, by Gauss and Jordan with pivots. */
static inline void invert(double *matrix, double *inverse, int n)
{
    for (int i = 0; i < n * n; i++) inverse[i] = i / n == i % n ? 1.0 : 0.0;
    for (int column = 0; column < n; column++) {
        int pivot = column;
        for (int row = column + 1; row < n; row++)
            if (fabs(matrix[row * n + column]) > fabs(matrix[pivot * n + column])) pivot = row;
        for (int j = 0; j < n && pivot != column; j++) {
            const double m = matrix[column * n + j], i = inverse[column * n + j];
            matrix[column * n + j] = matrix[pivot * n + j];
            matrix[pivot * n + j] = m;
            inverse[column * n + j] = inverse[pivot * n + j];
            inverse[pivot * n + j] = i;
        }
        const double scale = 1.0 / matrix[column * n + column];
        for (int j = 0; j < n; j++) {
            matrix[column * n + j] *= scale;
            inverse[column * n + j] *= scale;
        }
        for (int row = 0; row < n; row++) {
            const double factor = matrix[row * n + column];
            for (int j = 0; row != column && factor != 0.0 && j < n; j++) {
                matrix[row * n + j] -= factor * matrix[column * n + j];
                inverse[row * n + j] -= factor * inverse[column * n + j];
            }
        }
    }
}

/* A row of `out` a coordinate: what a vector, less its centre, is multiplied by. The number nearest to a coordinate is
 * on average too small by its error, so the coordinate is stretched by 1 / (1 - error). */
static inline void project_head(double *out, const plan_head &head, double *matrix, double *inverse)
{
    const double errors[] = PLAN_TRELLIS_ERRORS; /* mean squared, of a normal variable, by width */
    const int n = head.dims;
    for (int i = 0; i < n * n; i++)
        matrix[i] = __half2float(__ushort_as_half(plan_host_tables.halves[head.basis_at + i]));
    invert(matrix, inverse, n);
    for (int i = 0; i < head.n_coded; i++)
        for (int j = 0; j < n; j++)
            out[i * n + j] = inverse[j * n + i] / (1.0 - errors[plan_host_tables.bytes[head.bits_at + i]]);
}

static inline cudaError_t upload_projections(const double **projections)
{
    double *all = static_cast<double *>(calloc(PLAN_N_HALVES, sizeof(double)));
    double *matrix = static_cast<double *>(calloc(2 * PLAN_MAX_DIMS * PLAN_MAX_DIMS, sizeof(double)));
    cudaError_t status = all && matrix ? cudaSuccess : cudaErrorMemoryAllocation;
    for (int h = 0; h < PLAN_N_LAYERS * 2 * PLAN_N_KV_HEADS && status == cudaSuccess; h++) {
        const plan_head &head = plan_host_tables.heads[h];
        if (head.family == PLAN_TRELLIS)
            project_head(all + head.basis_at, head, matrix, matrix + PLAN_MAX_DIMS * PLAN_MAX_DIMS);
    }
    *projections = all;
    if (status == cudaSuccess) status = copy_table(projections, PLAN_N_HALVES);
    free(all);
    free(matrix);
    return status;
}
#endif

/* Bytes of shared memory that the encoder of a trellis needs beside its own. */
constexpr size_t CHOICE_BYTES = PLAN_HAS_TRELLIS ? (size_t)PLAN_MAX_DIMS * (PLAN_STATES / 2) : 0;

template <typename T>
static inline cudaError_t encode_one(const plan_tables &t, const double *projections, int layer, bool is_value,
                                     const T *vectors, int64_t n, uint8_t *cache, cudaStream_t stream)
{
    cudaError_t status = allow_shared(encode_kernel<T>, CHOICE_BYTES);
    if (status != cudaSuccess) return status;
    encode_kernel<T><<<dim3((unsigned)n, PLAN_N_KV_HEADS), ENCODE_THREADS, CHOICE_BYTES, stream>>>(
        t, projections, layer, is_value, vectors, cache);
    return cudaGetLastError();
}

} /* namespace plan_kernels */

#endif
