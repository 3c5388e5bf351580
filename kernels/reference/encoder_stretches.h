/* What the encoder that searches stretches a vector by, beside 1 (kernels/reference/groups_plan.h), for C and CUDA:
 * below 1 and above, ascending. */
#ifndef RB_KERNELS_REFERENCE_ENCODER_STRETCHES_H
#define RB_KERNELS_REFERENCE_ENCODER_STRETCHES_H

#define ENCODER_STRETCHES_DOWN 0.84, 0.92
#define ENCODER_STRETCHES_UP   1.08, 1.17, 1.27, 1.38
#define ENCODER_STRETCHES                            \
    {                                                \
        ENCODER_STRETCHES_DOWN, ENCODER_STRETCHES_UP \
    }

#endif
