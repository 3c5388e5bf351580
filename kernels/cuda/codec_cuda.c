/* Codec images on the device: see kernels/cuda/codec_cuda.h. */
#include "kernels/cuda/codec_cuda.h"

#include <stdlib.h>
#include <string.h>

enum { N_ARRAYS = 20 };

struct codec_cuda {
    codec_device_image image;
    rb_cuda_array arrays[N_ARRAYS];
};

/* What of an image goes to the device. */
typedef struct image_part {
    const void *data;
    size_t size_bytes;
} image_part;

static void list_parts(const codec_image *image, image_part parts[N_ARRAYS])
{
    const block_codebook_image *planes = &image->block_codebook;
    const size_t d = (size_t)image->head_dim, n = (size_t)image->n_heads, n_columns = n * (size_t)image->max_columns;
    const image_part all[N_ARRAYS] = {
        {image->heads, n * sizeof *image->heads},
        {image->groups, (size_t)image->n_groups * sizeof *image->groups},
        {image->column, n * d * sizeof *image->column},
        {image->position, n * d * sizeof *image->position},
        {image->pairs, n * d / 2 * sizeof *image->pairs},
        {image->fragments, image->n_fragments * CODEC_IMAGE_LANES * sizeof *image->fragments},
        {image->books, image->n_books * sizeof *image->books},
        {image->halves, image->n_halves * sizeof *image->halves},
        {image->cells, image->n_cells * sizeof *image->cells},
        {image->rotations, image->n_rotations * sizeof *image->rotations},
        {image->shifts, n_columns * sizeof *image->shifts},
        {image->inverse_scales, n_columns * sizeof *image->inverse_scales},
        {image->centers, n_columns * sizeof *image->centers},
        {planes->heads, n * sizeof *planes->heads},
        {planes->list, n * sizeof *planes->list},
        {planes->blocks, n * (size_t)planes->n_blocks * sizeof *planes->blocks},
        {planes->points_x, planes->n_points * sizeof *planes->points_x},
        {planes->points_y, planes->n_points * sizeof *planes->points_y},
        {planes->cells, planes->n_cells * sizeof *planes->cells},
        {planes->book, planes->n_book * sizeof *planes->book},
    };
    memcpy(parts, all, sizeof all);
}

int64_t codec_cuda_bytes(const codec_image *image)
{
    image_part parts[N_ARRAYS];
    size_t total = 0;
    list_parts(image, parts);
    for (int i = 0; i < N_ARRAYS; i++) total += parts[i].size_bytes;
    return (int64_t)total;
}

static rb_status upload(rb_cuda_array *array, const image_part *part, rb_error *err)
{
    const rb_status st = rb_cuda_array_alloc(array, part->size_bytes, "codec tables", err);
    return st == RB_OK && part->size_bytes > 0 ? rb_cuda()->copy(array->at, part->data, part->size_bytes, NULL, err)
                                               : st;
}

static int larger(int a, int b) { return a > b ? a : b; }

static void set_block_codebook(block_codebook_device_image *made, const block_codebook_image *image,
                               const rb_cuda_array *arrays)
{
    *made = (block_codebook_device_image){
        .n_blocks = image->n_blocks, .n_block_codebook = image->n_block_codebook, .max_bits = image->max_bits};
    for (int i = 0; i < image->n_block_codebook; i++) {
        const block_codebook_image_head *head = &image->heads[image->list[i]];
        made->max_points = larger(made->max_points, head->n_points);
        made->max_cells = larger(made->max_cells, head->n_cells);
        made->max_packed_bytes = larger(made->max_packed_bytes, head->packed_bytes);
    }
    made->heads = arrays[0].at;
    made->list = arrays[1].at;
    made->blocks = arrays[2].at;
    made->points_x = arrays[3].at;
    made->points_y = arrays[4].at;
    made->cells = arrays[5].at;
    made->book = arrays[6].at;
}

rb_status codec_cuda_create(codec_cuda **out, const codec_image *image, rb_error *err)
{
    image_part parts[N_ARRAYS];
    codec_cuda *codec = NULL;
    rb_status st;
    *out = NULL;
    list_parts(image, parts);
    RB_TRY(st, rb_alloc(&codec, 1, sizeof *codec, "codec", err), done);
    for (int i = 0; i < N_ARRAYS; i++) RB_TRY(st, upload(&codec->arrays[i], &parts[i], err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
    codec_device_image *made = &codec->image;
    *made = (codec_device_image){.head_dim = image->head_dim,
                                 .n_heads = image->n_heads,
                                 .n_grouped = image->n_grouped,
                                 .is_published = image->is_published,
                                 .max_columns = image->max_columns};
    for (int h = 0; h < image->n_heads; h++) {
        made->max_packed_bytes = larger(made->max_packed_bytes, image->heads[h].packed_bytes);
        made->max_books = larger(made->max_books, image->heads[h].n_books);
        made->max_halves = larger(made->max_halves, image->heads[h].n_halves);
        made->max_cells = larger(made->max_cells, image->heads[h].n_cells);
        made->max_groups = larger(made->max_groups, image->heads[h].n_groups);
        made->max_fragments_encode = larger(made->max_fragments_encode, image->heads[h].n_fragments_encode);
        made->max_fragments_decode = larger(made->max_fragments_decode, image->heads[h].n_fragments_decode);
    }
    for (int g = 0; g < image->n_groups; g++) {
        made->max_tiles = larger(made->max_tiles, image->groups[g].n_tiles);
        made->max_steps = larger(made->max_steps, image->groups[g].n_steps);
        if (image->groups[g].width >= CODEC_IMAGE_CELL_WIDTH && image->groups[g].log2_cells == 0) made->has_search = 1;
    }
    made->heads = codec->arrays[0].at;
    made->groups = codec->arrays[1].at;
    made->column = codec->arrays[2].at;
    made->position = codec->arrays[3].at;
    made->pairs = codec->arrays[4].at;
    made->fragments = codec->arrays[5].at;
    made->books = codec->arrays[6].at;
    made->halves = codec->arrays[7].at;
    made->cells = codec->arrays[8].at;
    made->rotations = codec->arrays[9].at;
    made->shifts = codec->arrays[10].at;
    made->inverse_scales = codec->arrays[11].at;
    made->centers = codec->arrays[12].at;
    set_block_codebook(&made->block_codebook, &image->block_codebook, &codec->arrays[13]);
    *out = codec;
    codec = NULL;
done:
    codec_cuda_free(codec);
    return st;
}

void codec_cuda_free(codec_cuda *codec)
{
    if (!codec) return;
    for (int i = 0; i < N_ARRAYS; i++) rb_cuda_array_free(&codec->arrays[i]);
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
