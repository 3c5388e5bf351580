/* Heads of family block-codebook in generated CUDA: see export/cuda_tables.h. */
#include "export/cuda_tables.h"
#include "kernels/reference/block_codebook_codec.h"

static rb_status add_block_codebook(cuda_tables *tables, cuda_head *out, const ropebits_head *head, int dims,
                                    rb_error *err)
{
    const int n = dims / 2;
    uint16_t starts[RB_MAX_BLOCKS];
    uint8_t first_bits[RB_MAX_BLOCKS] = {0};
    int bits = head->gain_bits;
    rb_status st;
    for (int block = 0; block < n; block++) {
        starts[block] = (uint16_t)bits;
        bits += head->bits[block];
        if (block_codebook_has_levels(head->bits[block]))
            first_bits[block] = (uint8_t)ropebits_first_bits(
                head->maps + (size_t)BLOCK_CODEBOOK_MAP_SIZE * (size_t)block, head->bits[block]);
    }
    out->gain_bits = head->gain_bits;
    out->gain_zero = block_codebook_gain_zero(head->gain_bits);
    out->code_bytes = (bits + 7) / 8;
    RB_TRY(st, cuda_append(&tables->bytes, head->bits, n, &out->bits_at, err), done);
    RB_TRY(st, cuda_append(&tables->bytes, first_bits, n, &out->first_bits_at, err), done);
    RB_TRY(st, cuda_append(&tables->shorts, starts, n, &out->starts_at, err), done);
    RB_TRY(st, cuda_append(&tables->floats, head->maps, (int64_t)BLOCK_CODEBOOK_MAP_SIZE * n, &out->maps_at, err),
           done);
    st = cuda_append(&tables->floats, head->weights, n, &out->weights_at, err);
done:
    return st;
}

extern const cuda_family cuda_family_block_codebook;
const cuda_family cuda_family_block_codebook = {.add = add_block_codebook};
