/* The search of family trellis (kernels/reference/trellis.h) as a warp does it (kernels/cuda/trellis_encode.cu): what a
 * lane does by itself, one code for the device and for the tests, which play 32 lanes.
 *
 * Lane l has the costs of the states 8 l to 8 l + 7. The states that lead to one group of new states are neighbours: up
 * to 3 bits a lane has whole groups, above that 2^(width - 3) lanes share one. Which state of a group is the best goes
 * to four words, of which a lane has a bit each:
 *
 *   1 bit          word k: of the lane's group k, 0 to 3
 *   2 bits         word 2 k + b: bit b of the lane's group k, 0 or 1
 *   3 bits         word b: bit b
 *   4 bits and up  word b: bit b of the lane's own best state; word 3: the lanes whose best is their group's
 *
 * A new state asks for the least cost of the group that its lower bits name. */
#ifndef RB_KERNELS_CUDA_TRELLIS_SEARCH_H
#define RB_KERNELS_CUDA_TRELLIS_SEARCH_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define RB_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RB_HOST_DEVICE inline
#endif

enum {
    TRELLIS_LANE_BITS = 3,
    TRELLIS_LANE_STATES = 1 << TRELLIS_LANE_BITS,
    TRELLIS_LANE_GROUPS = 4, /* at most */
    TRELLIS_COMPARISONS = 7, /* at most */
    TRELLIS_WORDS = 4        /* of a coordinate's choices */
};

/* The lesser of two costs, which are no less than 0; of equals the first. */
static RB_HOST_DEVICE float trellis_lesser(bool *is_second, float first, float second)
{
#ifdef __CUDA_ARCH__
    bool is_first; /* such floats have the order of their bits; this is one instruction from Hopper on */
    const int least = __vibmin_s32(__float_as_int(first), __float_as_int(second), &is_first);
    *is_second = !is_first;
    return __int_as_float(least);
#else
    *is_second = second < first;
    return *is_second ? second : first;
#endif
}

/* Of four neighbours; is_second: of the first two, of the last two, and of both halves. */
static RB_HOST_DEVICE float trellis_least_of_four(bool *is_second, const float *cost)
{
    const float first = trellis_lesser(&is_second[0], cost[0], cost[1]),
                second = trellis_lesser(&is_second[1], cost[2], cost[3]);
    return trellis_lesser(&is_second[2], first, second);
}

/* least: of the lane's groups, or of its part of one; is_second: what each comparison said. Returns how many there
 * were. */
static RB_HOST_DEVICE int trellis_merge(float *least, bool *is_second, const float *cost, int width)
{
    if (width == 1) {
        least[0] = trellis_lesser(&is_second[0], cost[0], cost[1]);
        least[1] = trellis_lesser(&is_second[1], cost[2], cost[3]);
        least[2] = trellis_lesser(&is_second[2], cost[4], cost[5]);
        least[3] = trellis_lesser(&is_second[3], cost[6], cost[7]);
        return 4;
    }
    const float first = trellis_least_of_four(is_second, cost), second = trellis_least_of_four(is_second + 3, cost + 4);
    if (width == 2) {
        least[0] = first;
        least[1] = second;
        return 6;
    }
    least[0] = trellis_lesser(&is_second[6], first, second);
    return 7;
}

static RB_HOST_DEVICE uint32_t trellis_either(uint32_t is_second, uint32_t first, uint32_t second)
{
    return (first & ~is_second) | (second & is_second);
}

/* The words from the comparisons of all lanes, a bit a lane. Word 3 above 3 bits is another's. */
static RB_HOST_DEVICE void trellis_join(uint32_t *words, const uint32_t *is_second, int width)
{
    if (width == 1) {
        words[0] = is_second[0], words[1] = is_second[1], words[2] = is_second[2], words[3] = is_second[3];
        return;
    }
    const uint32_t first = trellis_either(is_second[2], is_second[0], is_second[1]),
                   second = trellis_either(is_second[5], is_second[3], is_second[4]);
    if (width == 2) {
        words[0] = first, words[1] = is_second[2], words[2] = second, words[3] = is_second[5];
        return;
    }
    words[0] = trellis_either(is_second[6], first, second);
    words[1] = trellis_either(is_second[6], is_second[2], is_second[5]);
    words[2] = is_second[6];
    words[3] = 0;
}

/* Log2 of the groups that a lane has. */
static RB_HOST_DEVICE int trellis_log2_groups(int width)
{
    return width < TRELLIS_LANE_BITS ? TRELLIS_LANE_BITS - width : 0;
}

/* Where new state 8 lane + k finds the least cost that it comes from: group trellis_group_of of trellis_lane_of. */
static RB_HOST_DEVICE int trellis_group_of(int k, int width) { return k & ((1 << trellis_log2_groups(width)) - 1); }
static RB_HOST_DEVICE int trellis_lane_of(int lane, int k, int width)
{
    const int group = (TRELLIS_LANE_STATES * lane + k) & ((256 >> width) - 1);
    return width < TRELLIS_LANE_BITS ? group >> trellis_log2_groups(width) : group << (width - TRELLIS_LANE_BITS);
}

static RB_HOST_DEVICE int trellis_first_bit(uint32_t word)
{
#ifdef __CUDA_ARCH__
    return __ffs(static_cast<int>(word)) - 1;
#else
    return __builtin_ctz(word);
#endif
}

/* The state before `state`; width: of the coordinate of `state`, whose words these are. */
static RB_HOST_DEVICE int trellis_previous(const uint32_t *words, int state, int width)
{
    const int group = state & ((256 >> width) - 1);
    if (width == 1) { /* selects: words are in registers, which have no index */
        const uint32_t low = group & 1 ? words[1] : words[0], high = group & 1 ? words[3] : words[2];
        return group << 1 | (int)((group & 2 ? high : low) >> (group >> 2) & 1u);
    }
    if (width == 2) {
        const int lane = group >> 1, k = group & 1;
        return group << 2 | (int)((k ? words[2] : words[0]) >> lane & 1u)
               | (int)((k ? words[3] : words[1]) >> lane & 1u) << 1;
    }
    int lane = group << (width - TRELLIS_LANE_BITS);
    if (width > TRELLIS_LANE_BITS) lane += trellis_first_bit(words[3] >> lane);
    return lane << TRELLIS_LANE_BITS | (int)(words[0] >> lane & 1u) | (int)(words[1] >> lane & 1u) << 1
           | (int)(words[2] >> lane & 1u) << 2;
}

/* A byte of the stream but for the gain; coordinate and shifts: trellis_image_byte. */
static RB_HOST_DEVICE unsigned trellis_byte(const uint8_t *states, int coordinate, int left, int right)
{
    const unsigned upper = left < 8 ? (unsigned)states[coordinate] << left : 0u,
                   lower = right < 8 ? (unsigned)states[coordinate - 1] >> right : 0u;
    return (upper | lower) & 0xffu;
}

#endif
