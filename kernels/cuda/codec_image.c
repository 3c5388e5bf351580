/* The images of codecs, whatever their family: see kernels/cuda/codec_image.h. */
#include "kernels/cuda/codec_image.h"

#include <stdlib.h>
#include <string.h>

enum { STREAM_ALIGNMENT = 128 };

#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const codec_image_functions prefix##_image_functions;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION

#define RB_FAMILY_ROW(NAME, prefix, name) &prefix##_image_functions,
static const codec_image_functions *const family_functions[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW

/* ---- streams --------------------------------------------------------------------------------- */

static int64_t align_stream(int64_t size_bytes)
{
    return (size_bytes + STREAM_ALIGNMENT - 1) / STREAM_ALIGNMENT * STREAM_ALIGNMENT;
}

int64_t codec_image_packed_offset(const codec_image *image, int head, int64_t n)
{
    int64_t offset = 0;
    for (int h = 0; h < head; h++) offset += align_stream(n * image->heads[h].packed_bytes);
    return offset;
}

int64_t codec_image_norms_offset(const codec_image *image, int head, int64_t n)
{
    int64_t offset = 0;
    for (int h = 0; h < head; h++) offset += align_stream(n * image->heads[h].n_norms * image->heads[h].norm_bytes);
    return offset;
}

void codec_image_read_norms(uint16_t *norms, const codec_image *image, int head, const uint8_t *streams, int64_t n)
{
    const uint8_t *from = streams + codec_image_norms_offset(image, head, n);
    const int64_t n_norms = n * image->heads[head].n_norms;
    if (image->heads[head].norm_bytes == 1)
        for (int64_t i = 0; i < n_norms; i++) norms[i] = from[i];
    else memcpy(norms, from, (size_t)n_norms * sizeof *norms);
}

void codec_image_write_norms(uint8_t *streams, const codec_image *image, int head, const uint16_t *norms, int64_t n)
{
    uint8_t *to = streams + codec_image_norms_offset(image, head, n);
    const int64_t n_norms = n * image->heads[head].n_norms;
    if (image->heads[head].norm_bytes == 1)
        for (int64_t i = 0; i < n_norms; i++) to[i] = (uint8_t)norms[i];
    else memcpy(to, norms, (size_t)n_norms * sizeof *norms);
}

/* ---- life ------------------------------------------------------------------------------------ */

bool codec_image_takes(int head_dim)
{
    return head_dim % CODEC_IMAGE_DIM_STEP == 0 && head_dim <= CODEC_IMAGE_MAX_DIMS;
}

static rb_status check_limits(const plan_head *heads, int n_heads, const model_facts *model, rb_error *err)
{
    if (!codec_image_takes(model->head_dim))
        return rb_fail(err, RB_EUNSUPPORTED,
                       "the CUDA kernels take a head_dim that is a multiple of %d up to %d, found %d",
                       CODEC_IMAGE_DIM_STEP, CODEC_IMAGE_MAX_DIMS, model->head_dim);
    for (int h = 1; h < n_heads; h++)
        if (heads[h].family != heads[0].family)
            return rb_fail(err, RB_EUNSUPPORTED,
                           "the CUDA kernels take layers of one codec family, kv_head 0 is of %s, kv_head %d of %s",
                           codec_family_names[heads[0].family], h, codec_family_names[heads[h].family]);
    return RB_OK;
}

static int larger(int a, int b) { return a > b ? a : b; }

/* What follows from all heads. */
static void sum_up(codec_image *image)
{
    for (int h = 0; h < image->n_heads; h++) {
        codec_image_head *head = &image->heads[h];
        head->cost_before = h > 0 ? head[-1].cost_before + head[-1].cost : 0;
        image->max_packed_bytes = larger(image->max_packed_bytes, head->packed_bytes);
        image->max_norms = larger(image->max_norms, head->n_norms);
    }
}

rb_status codec_image_build(codec_image **out, const plan_head *heads, int n_heads, const model_facts *model,
                            codec_tables *tables, rb_error *err)
{
    codec_image *image = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, check_limits(heads, n_heads, model, err), done);
    RB_TRY(st, rb_alloc(&image, 1, sizeof *image, "codec image", err), done);
    *image = (codec_image){.family = heads[0].family, .head_dim = model->head_dim, .n_heads = n_heads};
    RB_TRY(st, rb_alloc(&image->heads, (size_t)n_heads, sizeof *image->heads, "codec image", err), done);
    RB_TRY(st, family_functions[image->family]->build(image, heads, model, tables, err), done);
    sum_up(image);
    *out = image;
    image = NULL;
done:
    codec_image_free(image);
    return st;
}

void codec_image_free(codec_image *image)
{
    if (!image) return;
    family_functions[image->family]->clear(image);
    free(image->heads);
    free(image);
}

/* ---- device memory --------------------------------------------------------------------------- */

int64_t codec_image_head_bytes(const plan_head *head, const model_facts *model)
{
    return (int64_t)sizeof(codec_image_head) + family_functions[head->family]->head_bytes(head, model);
}

int codec_image_list_parts(const codec_image *image, codec_image_part parts[CODEC_IMAGE_MAX_PARTS])
{
    parts[0] = (codec_image_part)CODEC_IMAGE_PART(image, heads, image->n_heads);
    return 1 + family_functions[image->family]->list_parts(image, parts + 1);
}
