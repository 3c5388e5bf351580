/* One run of an implementation over the heads of a layer, from and to host memory, with what a check needs beside the
 * results: whether anything outside the outputs was written, whether a second run gives the same bytes, and how long it
 * takes. */
#ifndef RB_KERNELS_CHECK_CODEC_TRIAL_H
#define RB_KERNELS_CHECK_CODEC_TRIAL_H

#include "kernels/cuda/codec_cuda.h"
#include "kernels/reference/head_codec.h"

const char *codec_dtype_name(codec_dtype type);                /* "f16", "bf16", "f32" */
double codec_dtype_rounding(codec_dtype type);                 /* half a unit in the last place, relative */
double codec_dtype_rounding_least(codec_dtype type);           /* of subnormals: half the smallest, absolute */
void codec_dtype_round(float *x, int64_t n, codec_dtype type); /* in place; what does not fit becomes infinite */

typedef struct codec_trial_input {
    const plan_head *heads; /* [n_heads] of one layer */
    int n_heads;
    const model_facts *model;
    codec_tables *tables;
    codec_dtype type; /* of input and output vectors */
    const float *x;   /* [n_heads][n][head_dim], values that `type` holds exactly */
    int64_t n;
    const float *queries; /* [n_heads][n_queries][head_dim] */
    int n_queries;
    int64_t n_timed; /* vectors a head to time, x repeated; 0: no timing */
} codec_trial_input;

typedef struct codec_trial_times {
    double encode_s, decode_s, logits_s; /* medians of several runs of n_timed vectors; 0: not timed */
} codec_trial_times;

typedef struct codec_trial {
    codec_image *image; /* where a head's streams start */
    uint8_t *packed;
    uint8_t *norms;         /* codec_image_read_norms reads them */
    float *x_hat;           /* [n_heads][n][head_dim] */
    float *logits;          /* [n_heads][n_queries][n] */
    int64_t first_bad;      /* head * n + vector that was refused, or -1 */
    int64_t bytes_outside;  /* that changed around the outputs */
    int64_t bytes_unstable; /* that a second run made otherwise */
    codec_trial_times times;
} codec_trial;

/* On the GPU; rb_cuda_open first. */
rb_status codec_trial_cuda(codec_trial *out, const codec_trial_input *in, rb_error *err);
/* The C reference with pack_codes, through the same doors. As on the GPU, logits are those of what is stored, not of
 * vectors that `type` rounded. */
rb_status codec_trial_cpu(codec_trial *out, const codec_trial_input *in, rb_error *err);
void codec_trial_free(codec_trial *trial);

#endif
