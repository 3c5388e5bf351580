/* A plan.rbp through both readers: the library's and ropebits' own. The mutator takes the file apart, changes the
 * payload, and makes sizes and checksum good again, since a damaged checksum is the end of any file.
 *
 * A plan that ropebits' reader takes is one that its writers take: it is written again and read again. */
#include <zstd.h>

#include "tests/fuzz/fuzz_support.h"

#include "plan/library/plan_rbp_format.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_rbp.h"
#include "tests/fuzz/plan_rbp_check.h"

FUZZ_INITIALIZE

enum { MAX_PAYLOAD = 1 << 20 };

static void put_u32(uint8_t *at, size_t value)
{
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (8 * i));
}

static size_t wrap(uint8_t *file, size_t max_size, const uint8_t *payload, size_t n)
{
    if (max_size < PLAN_RBP_HEADER_SIZE + PLAN_RBP_CRC_SIZE) return 0;
    const size_t frame =
        ZSTD_compress(file + PLAN_RBP_HEADER_SIZE, max_size - PLAN_RBP_HEADER_SIZE - PLAN_RBP_CRC_SIZE, payload, n, 1);
    if (ZSTD_isError(frame)) return 0;
    put_u32(file + 16, n);
    put_u32(file + 20, frame);
    put_u32(file + PLAN_RBP_HEADER_SIZE + frame, plan_rbp_crc32(file, PLAN_RBP_HEADER_SIZE + frame));
    return PLAN_RBP_HEADER_SIZE + frame + PLAN_RBP_CRC_SIZE;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static uint8_t payload[MAX_PAYLOAD], file[MAX_PAYLOAD];
    if (seed % 8 == 0 || size < PLAN_RBP_HEADER_SIZE + PLAN_RBP_CRC_SIZE) return LLVMFuzzerMutate(data, size, max_size);
    const size_t n = ZSTD_decompress(payload, sizeof payload, data + PLAN_RBP_HEADER_SIZE,
                                     size - PLAN_RBP_HEADER_SIZE - PLAN_RBP_CRC_SIZE);
    if (ZSTD_isError(n)) return LLVMFuzzerMutate(data, size, max_size);
    const size_t changed = LLVMFuzzerMutate(payload, n, sizeof payload);
    memcpy(file, data, PLAN_RBP_HEADER_SIZE);
    if (seed % 8 == 1) file[8] = (uint8_t)(1 + seed / 8 % 6); /* the version, which says what the payload has */
    const size_t made = wrap(file, sizeof file, payload, changed);
    if (made == 0 || made > max_size) return LLVMFuzzerMutate(data, size, max_size);
    memcpy(data, file, made);
    return made;
}

/* Everything that a plan points to is there. */
static void touch_head(const ropebits_head *head, uint32_t dim)
{
    if (head->bits) fuzz_touch(head->bits, dim / 2);
    if (head->scales) fuzz_touch(head->scales, dim / 2 * sizeof *head->scales);
    if (head->maps) fuzz_touch(head->maps, dim / 2 * 3 * sizeof *head->maps);
    if (head->weights) fuzz_touch(head->weights, dim / 2 * sizeof *head->weights);
    if (head->center) fuzz_touch(head->center, dim * sizeof *head->center);
    if (head->widths) fuzz_touch(head->widths, dim);
    if (head->basis) fuzz_touch(head->basis, (size_t)dim * dim * sizeof *head->basis);
    for (uint32_t i = 0; i < head->n_groups; i++) {
        const ropebits_group *group = &head->groups[i];
        fuzz_touch(group->dims, group->n_dims * sizeof *group->dims);
        fuzz_touch(group->centroids, sizeof *group->centroids << group->width);
    }
    if (head->value_centroids) fuzz_touch(head->value_centroids, sizeof *head->value_centroids << head->value_width);
}

static void touch(const ropebits_plan *plan)
{
    const ropebits_plan_info *info = ropebits_plan_get_info(plan);
    fuzz_touch(info->method, strlen(info->method));
    for (uint32_t layer = 0; layer < info->n_layers; layer++) {
        fuzz_touch(ropebits_plan_inv_freq(plan, layer), info->rotary_dim / 2 * sizeof(double));
        for (uint32_t head = 0; head < info->n_kv_heads; head++) {
            const ropebits_head *values = ropebits_plan_value_head(plan, layer, head);
            touch_head(ropebits_plan_head(plan, layer, head), info->head_dim);
            if (values) touch_head(values, info->value_dim);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[512] = "";
    ropebits_plan *plan = NULL;
    bit_plan *own = NULL;
    rb_error err = {0};
    if (ropebits_plan_parse(&plan, data, size, error, sizeof error) != 0) {
        snprintf(err.msg, sizeof err.msg, "%s", error);
        FUZZ_HOLDS(!plan && error[0] != '\0' && rb_is_plain_text(error), &err);
        return 0;
    }
    touch(plan);
    const rb_status st = plan_rbp_convert(&own, plan, "fuzz", &err);
    fuzz_check(st, &err);
    /* The writer makes the codebooks of block-codebook anew, and compresses as well as it can. */
    const bool is_slow = st == RB_OK && own->heads[0].family == FAMILY_BLOCK_CODEBOOK;
    if (st == RB_OK && fuzz_is_chosen(data, size, is_slow ? 256 : 8)) check_plan_rbp(own);
    bit_plan_free(own);
    ropebits_plan_close(plan);
    return 0;
}
