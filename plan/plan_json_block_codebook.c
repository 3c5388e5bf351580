/* See plan_json_block_codebook.h. */
#include "plan/plan_json_block_codebook.h"

#include <math.h>
#include <stdlib.h>

#include "core/json.h"

/* ---- writing --------------------------------------------------------------------------------- */

static rb_status no_memory(rb_error *err) { return rb_fail(err, RB_ENOMEM, "out of memory for a plan's JSON"); }

static rb_status maps_to_json(cJSON *json, const plan_block_codebook *planes, int n_blocks, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *map = NULL;
    rb_status st = list ? RB_OK : no_memory(err);
    for (int block = 0; block < n_blocks && st == RB_OK; block++) {
        map = cJSON_CreateFloatArray(planes->maps + BLOCK_CODEBOOK_MAP_SIZE * block,
                                     BLOCK_CODEBOOK_MAP_SIZE); /* as doubles, exactly */
        st = map ? rb_json_append(list, &map, err) : no_memory(err);
        cJSON_Delete(map);
    }
    if (st == RB_OK) st = rb_json_add_item(json, "maps", &list, err);
    cJSON_Delete(list);
    return st;
}

rb_status plan_block_codebook_to_json(cJSON *json, const plan_block_codebook *planes, int n_blocks, rb_error *err)
{
    cJSON *weights = NULL;
    rb_status st;
    RB_TRY(st, rb_json_add_string(json, "family", codec_family_names[FAMILY_BLOCK_CODEBOOK], err), done);
    RB_TRY(st, rb_json_add_number(json, "gain_bits", planes->gain_bits, err), done);
    RB_TRY(st, maps_to_json(json, planes, n_blocks, err), done);
    weights = cJSON_CreateFloatArray(planes->weights, n_blocks);
    st = weights ? rb_json_add_item(json, "weights", &weights, err) : no_memory(err);
done:
    cJSON_Delete(weights);
    return st;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* One list of n numbers; what names it. */
static rb_status numbers_from_json(double *out, const cJSON *list, int n, const char *what, const char *where,
                                   rb_error *err)
{
    const cJSON *item;
    int i = 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != n)
        return rb_fail(err, RB_EFORMAT, "%s: %s is no list of %d numbers", where, what, n);
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item)) return rb_fail(err, RB_EFORMAT, "%s: %s[%d] is no number", where, what, i);
        out[i++] = item->valuedouble;
    }
    return RB_OK;
}

static rb_status bits_from_json(uint8_t *bits, const cJSON *json, int n_blocks, const char *where, rb_error *err)
{
    double numbers[RB_MAX_BLOCKS];
    const rb_status st = numbers_from_json(numbers, rb_json_find(json, "bits"), n_blocks, "bits", where, err);
    for (int block = 0; st == RB_OK && block < n_blocks; block++) {
        if (!(numbers[block] >= 0 && numbers[block] <= BLOCK_CODEBOOK_MAX_BITS)
            || numbers[block] != floor(numbers[block]))
            return rb_fail(err, RB_EFORMAT, "%s: bits[%d] is %g, expected a whole number from 0 to %d", where, block,
                           numbers[block], BLOCK_CODEBOOK_MAX_BITS);
        bits[block] = (uint8_t)numbers[block];
    }
    return st;
}

static rb_status maps_from_json(double *maps, const cJSON *json, int n_blocks, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    char what[32];
    int block = 0;
    rb_status st = rb_json_get_array(json, "maps", where, &list, err);
    if (st == RB_OK && cJSON_GetArraySize(list) != n_blocks)
        st = rb_fail(err, RB_EFORMAT, "%s: maps has %d entries, expected %d blocks", where, cJSON_GetArraySize(list),
                     n_blocks);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        snprintf(what, sizeof what, "maps[%d]", block);
        st = numbers_from_json(maps + BLOCK_CODEBOOK_MAP_SIZE * block++, item, BLOCK_CODEBOOK_MAP_SIZE, what, where,
                               err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

/* What making the head rounded is not what the writer had. */
static rb_status check_unchanged(const plan_block_codebook *planes, const double *maps, const double *weights,
                                 int n_blocks, const char *where, rb_error *err)
{
    for (int i = 0; i < BLOCK_CODEBOOK_MAP_SIZE * n_blocks; i++)
        if ((double)planes->maps[i] != maps[i] || !isfinite(planes->maps[i]))
            return rb_fail(err, RB_EFORMAT, "%s: maps[%d][%d] is %.17g, expected a number that fp16 holds", where,
                           i / BLOCK_CODEBOOK_MAP_SIZE, i % BLOCK_CODEBOOK_MAP_SIZE, maps[i]);
    for (int block = 0; block < n_blocks; block++)
        if ((double)planes->weights[block] != weights[block] || !isfinite(planes->weights[block]))
            return rb_fail(err, RB_EFORMAT, "%s: weights[%d] is %.17g, expected a number from %g that fp16 holds",
                           where, block, weights[block], BLOCK_CODEBOOK_LEAST_WEIGHT);
    return RB_OK;
}

rb_status plan_block_codebook_from_json(plan_head *head, const cJSON *json, int n_blocks, const char *where,
                                        rb_error *err)
{
    static const char *const of_groups[] = {"groups", "norm", "encoder", "scales"};
    double maps[BLOCK_CODEBOOK_MAP_SIZE * RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS];
    uint8_t bits[RB_MAX_BLOCKS];
    int64_t gain_bits;
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(of_groups); i++)
        if (rb_json_find(json, of_groups[i]))
            return rb_fail(err, RB_EFORMAT, "%s: has %s, expected none of family block-codebook", where, of_groups[i]);
    RB_TRY(st, bits_from_json(bits, json, n_blocks, where, err), done);
    RB_TRY(st, rb_json_get_int(json, "gain_bits", where, 0, BLOCK_CODEBOOK_MAX_GAIN_BITS, &gain_bits, err), done);
    RB_TRY(st, maps_from_json(maps, json, n_blocks, where, err), done);
    RB_TRY(st, numbers_from_json(weights, rb_json_find(json, "weights"), n_blocks, "weights", where, err), done);
    RB_TRY(st, plan_head_set_block_codebook(head, bits, maps, weights, (int)gain_bits, n_blocks, err), done);
    RB_TRY(st, check_unchanged(&head->block_codebook, maps, weights, n_blocks, where, err), done);
done:
    return st;
}

rb_status plan_json_refuse_block_codebook(const cJSON *json, const char *where, rb_error *err)
{
    static const char *const of_block_codebook[] = {"gain_bits", "maps", "weights"};
    for (size_t i = 0; i < RB_COUNT(of_block_codebook); i++)
        if (rb_json_find(json, of_block_codebook[i]))
            return rb_fail(err, RB_EFORMAT, "%s: has %s, expected them of family block-codebook alone", where,
                           of_block_codebook[i]);
    return RB_OK;
}
