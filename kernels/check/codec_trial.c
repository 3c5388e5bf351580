/* What trials on the CPU and the GPU share, and the CPU's: see kernels/check/codec_trial.h. */
#include "kernels/check/codec_trial.h"

#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/message.h"
#include "kernels/reference/bit_packing.h"

static const char *const type_names[CODEC_N_DTYPES] = {"f16", "bf16", "f32"};

const char *codec_dtype_name(codec_dtype type) { return type_names[type]; }

double codec_dtype_rounding(codec_dtype type)
{
    return type == CODEC_F16 ? 0x1p-11 : type == CODEC_BF16 ? 0x1p-8 : 0x1p-24;
}

double codec_dtype_rounding_least(codec_dtype type)
{
    return type == CODEC_F16 ? 0x1p-25 : type == CODEC_BF16 ? 0x1p-134 : 0x1p-150;
}

void codec_dtype_round(float *x, int64_t n, codec_dtype type)
{
    if (type == CODEC_F16)
        for (int64_t i = 0; i < n; i++) x[i] = rb_f16_to_f32(rb_f32_to_f16(x[i]));
    if (type == CODEC_BF16)
        for (int64_t i = 0; i < n; i++) x[i] = rb_bf16_to_f32(rb_f32_to_bf16(x[i]));
}

void codec_trial_free(codec_trial *trial)
{
    codec_image_free(trial->image);
    free(trial->packed);
    free(trial->norms);
    free(trial->x_hat);
    free(trial->logits);
    *trial = (codec_trial){0};
}

/* ---- the CPU --------------------------------------------------------------------------------- */

static rb_status alloc_outputs(codec_trial *out, const codec_trial_input *in, rb_error *err)
{
    const size_t heads = (size_t)in->n_heads, n = (size_t)in->n, d = (size_t)in->model->head_dim;
    rb_status st;
    RB_TRY(st,
           rb_alloc(&out->packed, (size_t)codec_image_packed_offset(out->image, in->n_heads, in->n), 1, "packed codes",
                    err),
           done);
    RB_TRY(st, rb_alloc(&out->norms, (size_t)codec_image_norms_offset(out->image, in->n_heads, in->n), 1, "norms", err),
           done);
    RB_TRY(st, rb_alloc(&out->x_hat, heads * n * d, sizeof *out->x_hat, "restored vectors", err), done);
    RB_TRY(st, rb_alloc(&out->logits, heads * (size_t)in->n_queries * n, sizeof *out->logits, "logits", err), done);
done:
    return st;
}

static rb_status encode_head(codec_trial *out, const codec_trial_input *in, const head_codec *codec, int h,
                             uint8_t *codes, uint16_t *norms, rb_error *err)
{
    const int d = in->model->head_dim;
    const size_t packed_bytes = head_codec_packed_bytes(codec);
    uint8_t *packed = out->packed + codec_image_packed_offset(out->image, h, in->n);
    const rb_status st = head_codec_encode(codec, in->x + (int64_t)h * in->n * d, in->n, codes, norms, err);
    for (int64_t v = 0; st == RB_OK && v < in->n; v++)
        pack_codes(packed + (size_t)v * packed_bytes, codes + v * d, head_codec_widths(codec), d);
    if (st == RB_OK) codec_image_write_norms(out->norms, out->image, h, norms, in->n);
    return st;
}

static rb_status decode_head(codec_trial *out, const codec_trial_input *in, const head_codec *codec, int h,
                             uint8_t *codes, uint16_t *norms, rb_error *err)
{
    const int d = in->model->head_dim;
    const size_t packed_bytes = head_codec_packed_bytes(codec);
    const uint8_t *packed = out->packed + codec_image_packed_offset(out->image, h, in->n);
    float *x_hat = out->x_hat + (int64_t)h * in->n * d;
    rb_status st = RB_OK;
    for (int64_t v = 0; st == RB_OK && v < in->n; v++)
        st = unpack_codes(codes + v * d, packed + (size_t)v * packed_bytes, head_codec_widths(codec), d, err);
    codec_image_read_norms(norms, out->image, h, out->norms, in->n);
    if (st == RB_OK) st = head_codec_decode(codec, codes, norms, in->n, x_hat, err);
    return st;
}

static void head_logits(codec_trial *out, const codec_trial_input *in, int h)
{
    const int64_t d = in->model->head_dim;
    for (int query = 0; query < in->n_queries; query++)
        for (int64_t v = 0; v < in->n; v++) {
            const float *q = in->queries + ((int64_t)h * in->n_queries + query) * d,
                        *k = out->x_hat + ((int64_t)h * in->n + v) * d;
            double sum = 0.0;
            for (int64_t j = 0; j < d; j++) sum += (double)q[j] * (double)k[j];
            out->logits[((int64_t)h * in->n_queries + query) * in->n + v] = (float)sum;
        }
}

static rb_status try_head(codec_trial *out, const codec_trial_input *in, int h, rb_error *err)
{
    head_codec *codec = NULL;
    uint8_t *codes = NULL;
    uint16_t *norms = NULL;
    rb_status st;
    RB_TRY(st, head_codec_create(&codec, &in->heads[h], in->model, in->tables, err), done);
    RB_TRY(st, rb_alloc(&codes, (size_t)in->n, (size_t)in->model->head_dim, "codes", err), done);
    RB_TRY(st, rb_alloc(&norms, (size_t)in->n * (size_t)head_codec_n_norms(codec), sizeof *norms, "norms", err), done);
    const double started_s = rb_now_s();
    RB_TRY(st, encode_head(out, in, codec, h, codes, norms, err), done);
    const double encoded_s = rb_now_s();
    RB_TRY(st, decode_head(out, in, codec, h, codes, norms, err), done);
    const double decoded_s = rb_now_s();
    head_logits(out, in, h);
    const double ended_s = rb_now_s();
    codec_dtype_round(out->x_hat + (int64_t)h * in->n * in->model->head_dim, in->n * in->model->head_dim, in->type);
    out->times.encode_s += encoded_s - started_s;
    out->times.decode_s += decoded_s - encoded_s;
    out->times.logits_s += ended_s - decoded_s;
done:
    head_codec_free(codec);
    free(codes);
    free(norms);
    return st;
}

rb_status codec_trial_cpu(codec_trial *out, const codec_trial_input *in, rb_error *err)
{
    rb_status st;
    *out = (codec_trial){.first_bad = -1};
    RB_TRY(st, codec_image_build(&out->image, in->heads, in->n_heads, in->model, in->tables, err), done);
    RB_TRY(st, alloc_outputs(out, in, err), done);
    for (int h = 0; h < in->n_heads; h++) RB_TRY(st, try_head(out, in, h, err), done);
done:
    if (st != RB_OK) codec_trial_free(out);
    return st;
}
