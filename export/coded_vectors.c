/* See export/coded_vectors.h. */
#include "export/coded_vectors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/bit_packing.h"

static int norm_bits_of(const plan_head *head)
{
    const plan_groups *groups = plan_head_groups(head);
    return groups->n > 0 ? norm_kind_bits(groups->norm) : 0;
}

static rb_status prepare(coded_vectors *out, const head_codec *codec, const plan_head *head, int64_t n, rb_error *err)
{
    rb_status st;
    out->n = n;
    out->dims = head_codec_dims(codec);
    out->packed_bytes = (int)head_codec_packed_bytes(codec);
    out->n_norms = head_codec_n_norms(codec);
    out->norm_bits = norm_bits_of(head);
    RB_TRY(st, rb_alloc(&out->packed, (size_t)n, (size_t)out->packed_bytes, "packed codes", err), done);
    RB_TRY(st, rb_alloc(&out->norms, (size_t)n, (size_t)out->n_norms * sizeof *out->norms, "norms", err), done);
    RB_TRY(st, rb_alloc(&out->restored, (size_t)n, (size_t)out->dims * sizeof *out->restored, "restored vectors", err),
           done);
done:
    return st;
}

rb_status coded_vectors_encode(coded_vectors *out, const plan_head *head, const model_facts *model,
                               codec_tables *tables, const float *x, int64_t n, rb_error *err)
{
    head_codec *codec = NULL;
    uint8_t *codes = NULL;
    rb_status st;
    *out = (coded_vectors){0};
    RB_TRY(st, head_codec_create(&codec, head, model, tables, err), done);
    RB_TRY(st, prepare(out, codec, head, n, err), done);
    RB_TRY(st, rb_alloc(&out->x, (size_t)n, (size_t)out->dims * sizeof *out->x, "vectors", err), done);
    RB_TRY(st, rb_alloc(&codes, (size_t)n, (size_t)out->dims, "codes", err), done);
    memcpy(out->x, x, (size_t)n * (size_t)out->dims * sizeof *x);
    RB_TRY(st, head_codec_encode(codec, x, n, codes, out->norms, err), done);
    RB_TRY(st, head_codec_decode(codec, codes, out->norms, n, out->restored, err), done);
    for (int64_t v = 0; v < n; v++)
        pack_codes(out->packed + v * out->packed_bytes, codes + v * out->dims, head_codec_widths(codec), out->dims);
done:
    free(codes);
    head_codec_free(codec);
    return st;
}

rb_status coded_vectors_decode(coded_vectors *out, const plan_head *head, const model_facts *model,
                               codec_tables *tables, const uint8_t *packed, int64_t packed_bytes, const uint16_t *norms,
                               int64_t n_norms, int64_t n, rb_error *err)
{
    head_codec *codec = NULL;
    uint8_t *codes = NULL;
    rb_status st;
    *out = (coded_vectors){0};
    RB_TRY(st, head_codec_create(&codec, head, model, tables, err), done);
    RB_TRY(st, prepare(out, codec, head, n, err), done);
    if (packed_bytes != out->packed_bytes || n_norms != out->n_norms) {
        st = rb_fail(err, RB_EINVAL, "%lld bytes of codes and %lld norms a vector, expected %d and %d",
                     (long long)packed_bytes, (long long)n_norms, out->packed_bytes, out->n_norms);
        goto done;
    }
    memcpy(out->packed, packed, (size_t)n * (size_t)packed_bytes);
    if (n_norms > 0) memcpy(out->norms, norms, (size_t)n * (size_t)n_norms * sizeof *norms);
    RB_TRY(st, rb_alloc(&codes, (size_t)n, (size_t)out->dims, "codes", err), done);
    for (int64_t v = 0; v < n; v++) {
        st = unpack_codes(codes + v * out->dims, packed + v * packed_bytes, head_codec_widths(codec), out->dims, err);
        if (st != RB_OK) {
            rb_fail_in(err, st, "vector %lld", (long long)v);
            goto done;
        }
    }
    st = head_codec_decode(codec, codes, out->norms, n, out->restored, err);
done:
    free(codes);
    head_codec_free(codec);
    return st;
}

double coded_vectors_relative_error(const coded_vectors *vectors)
{
    double error = 0.0, square = 0.0;
    for (int64_t i = 0; i < vectors->n * vectors->dims; i++) {
        const double off = (double)vectors->x[i] - (double)vectors->restored[i];
        error += off * off;
        square += (double)vectors->x[i] * (double)vectors->x[i];
    }
    return square > 0.0 ? sqrt(error / square) : 0.0;
}

void coded_vectors_free(coded_vectors *vectors)
{
    free(vectors->x);
    free(vectors->packed);
    free(vectors->norms);
    free(vectors->restored);
}
