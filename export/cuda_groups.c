/* Heads of family groups in generated CUDA: see export/cuda_tables.h. */
#include "export/cuda_tables.h"

/* A block's scale is that of both its dims. */
static rb_status add_scales(cuda_tables *tables, cuda_head *out, const ropebits_head *head, int dims, rb_error *err)
{
    const ropebits_plan_info *info = tables->info;
    const int n_turned = (int)info->rotary_dim / 2;
    float by_dim[RB_MAX_HEAD_DIM];
    for (int block = 0; block < dims / 2; block++) {
        const bool is_split = info->pairing == ROPEBITS_PAIRING_SPLIT_HALF && block < n_turned;
        by_dim[is_split ? block : 2 * block] = head->scales[block];
        by_dim[is_split ? block + n_turned : 2 * block + 1] = head->scales[block];
    }
    return cuda_append(&tables->floats, by_dim, dims, &out->scales_at, err);
}

static rb_status add_groups(cuda_tables *tables, cuda_head *out, const ropebits_head *head, int dims, rb_error *err)
{
    int32_t bits = 0;
    rb_status st = RB_OK;
    out->n_groups = out->n_norms = head->n_groups;
    out->norm_bytes = head->norm_bits / 8;
    out->searches = head->encoder == ROPEBITS_ENCODER_SEARCH;
    out->first_group = (int32_t)tables->groups.n;
    for (int g = 0; g < head->n_groups; g++) RB_TRY(st, cuda_add_group(tables, &head->groups[g], &bits, err), done);
    out->code_bytes = (bits + 7) / 8;
    if (head->scales) st = add_scales(tables, out, head, dims, err);
done:
    return st;
}

extern const cuda_family cuda_family_groups;
const cuda_family cuda_family_groups = {.add = add_groups};
