/* Heads of family trellis in generated CUDA: see export/cuda_tables.h. */
#include "export/cuda_tables.h"

static rb_status add_trellis(cuda_tables *tables, cuda_head *out, const ropebits_head *head, int dims, rb_error *err)
{
    uint16_t starts[RB_MAX_HEAD_DIM];
    int bits = 0;
    rb_status st;
    for (int i = 0; i < dims; i++) {
        starts[i] = (uint16_t)bits;
        bits += head->widths[i];
        out->n_coded += head->widths[i] > 0;
    }
    out->gain_bits = head->gain_bits;
    out->gain_zero = head->gain_zero;
    out->gain_start = bits;
    out->code_bytes = (bits + head->gain_bits + 7) / 8;
    RB_TRY(st, cuda_append(&tables->bytes, head->widths, dims, &out->bits_at, err), done);
    RB_TRY(st, cuda_append(&tables->shorts, starts, dims, &out->starts_at, err), done);
    RB_TRY(st, cuda_append(&tables->floats, head->weights, dims, &out->weights_at, err), done);
    st = cuda_append(&tables->halves, head->basis, (int64_t)dims * dims, &out->basis_at, err);
done:
    return st;
}

extern const cuda_family cuda_family_trellis;
const cuda_family cuda_family_trellis = {.add = add_trellis};
