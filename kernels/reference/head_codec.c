/* The quantizer of one head: see kernels/reference/head_codec.h. Here is what all families share; vectors go to them in
 * tiles. */
#include "kernels/reference/head_codec.h"

#include <assert.h>
#include <stdlib.h>

#include "kernels/reference/bit_packing.h"

#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const head_codec_functions prefix##_codec_functions;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION

#define RB_FAMILY_ROW(NAME, prefix, name) &prefix##_codec_functions,
static const head_codec_functions *const family_functions[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW

struct head_codec {
    codec_family family;
    const head_codec_functions *functions;
    void *own; /* the family's */
    int head_dim;
    code_layout layout;
    size_t packed_bytes;
};

/* ---- life ------------------------------------------------------------------------------------ */

rb_status head_codec_create(head_codec **out, const plan_head *head, const model_facts *model, codec_tables *tables,
                            rb_error *err)
{
    const size_t head_dim = (size_t)model->head_dim;
    head_codec *codec = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&codec, 1, sizeof *codec, "codec", err), done);
    codec->family = head->family;
    codec->functions = family_functions[head->family];
    codec->head_dim = model->head_dim;
    RB_TRY(st, rb_alloc(&codec->layout.permutation, head_dim, sizeof *codec->layout.permutation, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->layout.widths, head_dim, sizeof *codec->layout.widths, "codec", err), done);
    RB_TRY(st, codec->functions->create(&codec->own, &codec->layout, head, model, tables, err), done);
    codec->packed_bytes = packed_size_bytes(codec->layout.widths, codec->head_dim);
    *out = codec;
    codec = NULL;
done:
    head_codec_free(codec);
    return st;
}

void head_codec_free(head_codec *codec)
{
    if (!codec) return;
    codec->functions->free(codec->own);
    free(codec->layout.permutation);
    free(codec->layout.widths);
    free(codec);
}

int head_codec_n_norms(const head_codec *codec) { return codec->layout.n_norms; }
int head_codec_dims(const head_codec *codec) { return codec->head_dim; }
const int *head_codec_permutation(const head_codec *codec) { return codec->layout.permutation; }
const uint8_t *head_codec_widths(const head_codec *codec) { return codec->layout.widths; }
size_t head_codec_packed_bytes(const head_codec *codec) { return codec->packed_bytes; }

const void *head_codec_own(const head_codec *codec, codec_family family)
{
    assert(codec->family == family);
    (void)family;
    return codec->own;
}

/* ---- many vectors ---------------------------------------------------------------------------- */

static int tile_size(int64_t at, int64_t n) { return (int)(n - at < HEAD_CODEC_TILE ? n - at : HEAD_CODEC_TILE); }

static rb_status alloc_work(uint8_t **work, const head_codec *codec, rb_error *err)
{
    return rb_alloc(work, codec->functions->work_size(codec->own), 1, "codec tile", err);
}

rb_status head_codec_encode(const head_codec *codec, const float *x, int64_t n, uint8_t *codes, uint16_t *norms,
                            rb_error *err)
{
    uint8_t *work = NULL;
    rb_status st = alloc_work(&work, codec, err);
    for (int64_t at = 0; at < n && st == RB_OK; at += HEAD_CODEC_TILE)
        st = codec->functions->encode(codec->own, work, x + at * codec->head_dim, tile_size(at, n),
                                      codes + at * codec->head_dim, norms + at * codec->layout.n_norms, at, err);
    free(work);
    return st;
}

rb_status head_codec_decode(const head_codec *codec, const uint8_t *codes, const uint16_t *norms, int64_t n,
                            float *x_hat, rb_error *err)
{
    uint8_t *work = NULL;
    const rb_status st = alloc_work(&work, codec, err);
    for (int64_t at = 0; at < n && st == RB_OK; at += HEAD_CODEC_TILE)
        codec->functions->decode(codec->own, work, codes + at * codec->head_dim, norms + at * codec->layout.n_norms,
                                 tile_size(at, n), x_hat + at * codec->head_dim);
    free(work);
    return st;
}

rb_status head_codec_round_trip(const head_codec *codec, const float *x, int64_t n, float *x_hat, rb_error *err)
{
    uint8_t *work = NULL, *codes = NULL;
    uint16_t *norms = NULL;
    rb_status st;
    RB_TRY(st, alloc_work(&work, codec, err), done);
    RB_TRY(st, rb_alloc(&codes, HEAD_CODEC_TILE * (size_t)codec->head_dim, 1, "codec tile", err), done);
    RB_TRY(st, rb_alloc(&norms, HEAD_CODEC_TILE * (size_t)codec->layout.n_norms, sizeof *norms, "codec tile", err),
           done);
    for (int64_t at = 0; at < n; at += HEAD_CODEC_TILE) {
        const int size = tile_size(at, n);
        RB_TRY(st, codec->functions->encode(codec->own, work, x + at * codec->head_dim, size, codes, norms, at, err),
               done);
        codec->functions->decode(codec->own, work, codes, norms, size, x_hat + at * codec->head_dim);
    }
done:
    free(codes);
    free(norms);
    free(work);
    return st;
}
