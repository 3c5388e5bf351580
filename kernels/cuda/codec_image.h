/* The codecs of a layer's heads as the CUDA kernels read them: plain data, made on the host, no CUDA in it. A layer's
 * heads are of one codec family; what only a family's kernels read is in its own header, kernels/cuda/FAMILY_image.h.
 * kernels/cuda/codec_cuda.h copies an image to the device.
 *
 * A head's packed codes and its norms are two streams of their own, vector after vector. Each stream starts at a
 * multiple of 128 bytes, heads in order. */
#ifndef RB_KERNELS_CUDA_CODEC_IMAGE_H
#define RB_KERNELS_CUDA_CODEC_IMAGE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/block_codebook_image.h"
#include "kernels/cuda/groups_image.h"
#include "kernels/cuda/trellis_image.h"
#include "kernels/reference/codec_family.h"

enum {
    CODEC_IMAGE_DIM_STEP = 16,  /* head_dim is a multiple of this */
    CODEC_IMAGE_MAX_DIMS = 256, /* up to this */
    CODEC_IMAGE_MAX_NORMS = 32  /* that a vector has */
};

/* What is needed of every head, whatever the family: the sizes of its streams, and its share of the work. */
typedef struct codec_image_head {
    int32_t packed_bytes;      /* of a vector's codes */
    int32_t n_norms;           /* of a vector */
    int32_t norm_bytes;        /* of a norm: 2 (fp16), or 1 */
    int32_t cost, cost_before; /* of encoding 32 vectors, in about instructions; the same of all heads before */
} codec_image_head;
static_assert(sizeof(codec_image_head) == 20, "codec_image_head is read by the device");

/* On the host, or on the device as codec_device_image has it: then its arrays are there. */
typedef struct codec_image {
    codec_family family;
    int head_dim, n_heads;
    int max_packed_bytes, max_norms; /* largest over heads */
    codec_image_head *heads;         /* [n_heads] */
    union {
        groups_image groups;
        block_codebook_image block_codebook;
        trellis_image trellis;
    };
} codec_image;

/* Where a head's stream starts, in bytes, for n vectors a head; head = n_heads gives the size of all. */
int64_t codec_image_packed_offset(const codec_image *image, int head, int64_t n);
int64_t codec_image_norms_offset(const codec_image *image, int head, int64_t n);
/* Norms between a head's stream and norms [n][n_norms] as head_codec.h has them; `streams` holds those of all heads. */
void codec_image_read_norms(uint16_t *norms, const codec_image *image, int head, const uint8_t *streams, int64_t n);
void codec_image_write_norms(uint8_t *streams, const codec_image *image, int head, const uint16_t *norms, int64_t n);

#ifndef __cplusplus
#include "kernels/reference/head_codec.h"

bool codec_image_takes(int head_dim); /* whether it is within the limits above */
/* heads [n_heads] of one layer. Fails with RB_EUNSUPPORTED on heads of several families, a head_dim
 * outside the limits above, and what the family's kernels do not take. */
rb_status codec_image_build(codec_image **out, const plan_head *heads, int n_heads, const model_facts *model,
                            codec_tables *tables, rb_error *err);
void codec_image_free(codec_image *image);
/* Bytes of device memory that the tables of such a head take at most: for planning, where no image is made yet. */
int64_t codec_image_head_bytes(const plan_head *head, const model_facts *model);

/* ---- what goes to the device ----------------------------------------------------------------- */

/* One array of an image: a pointer member, and the bytes that it points to. */
typedef struct codec_image_part {
    size_t pointer_at; /* of the member in codec_image */
    size_t size_bytes;
} codec_image_part;

enum { CODEC_IMAGE_MAX_PARTS = 16 };
/* The part of `member` of codec_image, an array of so many elements. */
#define CODEC_IMAGE_PART(image, member, n)                                   \
    {                                                                        \
        offsetof(codec_image, member), (size_t)(n) * sizeof *(image)->member \
    }

int codec_image_list_parts(const codec_image *image, codec_image_part parts[CODEC_IMAGE_MAX_PARTS]); /* how many */

/* ---- what a family gives: one row of functions in the table of codec_image.c ----------------- */

typedef struct codec_image_functions {
    /* Fills the family's part, and heads but for cost_before. On failure clear follows. */
    rb_status (*build)(codec_image *image, const plan_head *heads, const model_facts *model, codec_tables *tables,
                       rb_error *err);
    void (*clear)(codec_image *image); /* its part */
    int64_t (*head_bytes)(const plan_head *head, const model_facts *model);
    int (*list_parts)(const codec_image *image, codec_image_part *parts);
} codec_image_functions;
#endif

#endif
