/* The gain that encoders of family block-codebook choose: see kernels/reference/block_codebook_codec.h. */
#ifndef RB_KERNELS_CUDA_BLOCK_CODEBOOK_GAIN_CUH
#define RB_KERNELS_CUDA_BLOCK_CODEBOOK_GAIN_CUH

#include "kernels/cuda/block_codebook_search.h"

enum { N_GAINS = 3 };

/* The three levels of the gain around the one that a vector's size points to, as far as there are any. */
struct gain_choice {
    int level;
    float gain[N_GAINS], inverse[N_GAINS], error[N_GAINS];
};

__device__ __forceinline__ gain_choice start_choice(const block_codebook_image_head &head, float square)
{
    const int largest = (1 << head.gain_bits) - 1;
    gain_choice choice;
    choice.level = block_codebook_level(square, head.inverse_size, head.gain_bits);
#pragma unroll
    for (int k = 0; k < N_GAINS; k++) {
        choice.gain[k] = head.gains[max(min(choice.level + k - 1, largest), 0)];
        choice.inverse[k] = 1.0f / choice.gain[k];
        choice.error[k] = 0.0f;
    }
    return choice;
}

/* Which of the three: the least error, the lowest of equals. */
__device__ __forceinline__ int best_gain(const gain_choice &choice, int gain_bits)
{
    const bool has_lower = choice.level > 0 && choice.error[0] <= choice.error[1];
    const float least = has_lower ? choice.error[0] : choice.error[1];
    const bool has_upper = choice.level < (1 << gain_bits) - 1 && choice.error[2] < least;
    return has_upper ? 2 : has_lower ? 0 : 1;
}

#endif
