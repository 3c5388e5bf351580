/* Row operations of the forward pass, vectorised: norms, activations, the pieces of a softmax. Each works on one row
 * and one thread; callers spread rows over threads. The order of a sum depends only on the CPU's vector width. */
#ifndef RB_MODEL_VECTOR_MATH_H
#define RB_MODEL_VECTOR_MATH_H

#include <stdint.h>

/* out[i] = weight[i] * (x[i] / sqrt(mean(x^2) + eps)), in f32 as transformers does. out may be x. n > 0. */
void rms_norm_row(float *out, const float *x, const float *weight, float eps, int64_t n);

/* LayerNorm: out[i] = weight[i] * (x[i] - mean) / sqrt(variance + eps) + bias[i]. out may be x. n > 0. */
void layer_norm_row(float *out, const float *x, const float *weight, const float *bias, float eps, int64_t n);

/* Sum of squares. */
float square_sum_row(const float *x, int64_t n);

/* Activations x[i] = f(x[i]): silu x / (1 + exp(-x)); gelu x Phi(x) with erf; the approximation of gelu with tanh. */
void silu_row(float *x, int64_t n);
void gelu_row(float *x, int64_t n);
void gelu_tanh_row(float *x, int64_t n);

/* gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i]. */
void swiglu_row(float *gate, const float *up, int64_t n);

/* x[i] *= y[i]; x[i] += factor * y[i]. */
void multiply_row(float *x, const float *y, int64_t n);
void add_scaled_row(float *x, const float *y, float factor, int64_t n);

/* x[i] = cap * tanh(x[i] / cap). */
void softcap_row(float *x, float cap, int64_t n);

/* x[i] = exp(x[i] - shift), returns their sum. For x <= shift as a softmax has it; relative error of a value below
 * 2e-7, a NaN stays NaN. */
float exp_sum_row(float *x, float shift, int64_t n);

/* Largest of n > 0 values. */
float max_row(const float *x, int64_t n);

/* out[i] = factor * x[i]; out may be x. */
void scale_row(float *out, const float *x, float factor, int64_t n);

#endif
