/* Codec images on the device: see kernels/cuda/codec_cuda.h. */
#include "kernels/cuda/codec_cuda.h"

#include <stdlib.h>
#include <string.h>

struct codec_cuda {
    codec_device_image image;
    rb_cuda_array arrays[CODEC_IMAGE_MAX_PARTS];
};

int64_t codec_cuda_bytes(const codec_image *image)
{
    codec_image_part parts[CODEC_IMAGE_MAX_PARTS];
    const int n = codec_image_list_parts(image, parts);
    size_t total = 0;
    for (int i = 0; i < n; i++) total += parts[i].size_bytes;
    return (int64_t)total;
}

/* The part's array to the device. `made` is a copy of the image: its pointer becomes the array's there. */
static rb_status upload(codec_image *made, rb_cuda_array *array, const codec_image_part *part, rb_error *err)
{
    char *pointer = (char *)made + part->pointer_at;
    const void *from;
    rb_status st;
    memcpy(&from, pointer, sizeof from);
    RB_TRY(st, rb_cuda_array_alloc(array, part->size_bytes, "codec tables", err), done);
    memcpy(pointer, &array->at, sizeof array->at);
    if (part->size_bytes > 0) st = rb_cuda()->copy(array->at, from, part->size_bytes, NULL, err);
done:
    return st;
}

rb_status codec_cuda_create(codec_cuda **out, const codec_image *image, rb_error *err)
{
    codec_image_part parts[CODEC_IMAGE_MAX_PARTS];
    const int n = codec_image_list_parts(image, parts);
    codec_cuda *codec = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&codec, 1, sizeof *codec, "codec", err), done);
    codec->image.on_device = *image;
    for (int i = 0; i < n; i++) RB_TRY(st, upload(&codec->image.on_device, &codec->arrays[i], &parts[i], err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    *out = codec;
    codec = NULL;
done:
    codec_cuda_free(codec);
    return st;
}

void codec_cuda_free(codec_cuda *codec)
{
    if (!codec) return;
    for (int i = 0; i < CODEC_IMAGE_MAX_PARTS; i++) rb_cuda_array_free(&codec->arrays[i]);
    free(codec);
}

const codec_device_image *codec_cuda_image(const codec_cuda *codec) { return &codec->image; }

rb_status codec_cuda_functions(const codec_cuda_api **api, rb_error *err)
{
    const void *table = NULL;
    const rb_status st = rb_cuda_table(&table, "rb_codec_cuda", err);
    *api = table;
    return st;
}
