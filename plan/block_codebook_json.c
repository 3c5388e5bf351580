/* Family block-codebook in plan.json: what a head has in place of groups. Fields: docs/plan-json.md. */
#include <math.h>
#include <stdio.h>

#include "core/json.h"
#include "plan/block_codebook_form.h"
#include "plan/plan_json_parts.h"

const char *const block_codebook_json_members[] = {"bits", "gain_bits", "maps", "weights", NULL};

/* ---- writing --------------------------------------------------------------------------------- */

static rb_status maps_to_json(cJSON *json, const float *maps, int n_blocks, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *map = NULL;
    rb_status st = list ? RB_OK : plan_json_no_memory(err);
    for (int block = 0; block < n_blocks && st == RB_OK; block++) {
        map = cJSON_CreateFloatArray(maps + BLOCK_CODEBOOK_MAP_SIZE * block, BLOCK_CODEBOOK_MAP_SIZE);
        st = map ? rb_json_append(list, &map, err) : plan_json_no_memory(err);
        cJSON_Delete(map);
    }
    if (st == RB_OK) st = rb_json_add_item(json, "maps", &list, err);
    cJSON_Delete(list);
    return st;
}

rb_status block_codebook_to_json(cJSON *json, const plan_head *head, const model_facts *model, rb_error *err)
{
    const plan_block_codebook *own = &head->block_codebook;
    const int n_blocks = model_n_blocks(model);
    rb_status st;
    RB_TRY(st, rb_json_add_number(json, "gain_bits", own->gain_bits, err), done);
    RB_TRY(st, maps_to_json(json, own->maps, n_blocks, err), done);
    RB_TRY(st, plan_json_add_floats(json, "weights", own->weights, n_blocks, err), done);
    RB_TRY(st, plan_json_add_floats(json, "center", head->center, model->head_dim, err), done);
done:
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

/* A number that making the head rounded is not what the writer had. */
static rb_status check_unchanged(const plan_block_codebook *own, const double *maps, const double *weights,
                                 int n_blocks, const char *where, rb_error *err)
{
    for (int i = 0; i < BLOCK_CODEBOOK_MAP_SIZE * n_blocks; i++)
        if ((double)own->maps[i] != maps[i] || !isfinite(own->maps[i]))
            return rb_fail(err, RB_EFORMAT, "%s: maps[%d][%d] is %.17g, expected a number that fp16 holds", where,
                           i / BLOCK_CODEBOOK_MAP_SIZE, i % BLOCK_CODEBOOK_MAP_SIZE, maps[i]);
    for (int block = 0; block < n_blocks; block++)
        if ((double)own->weights[block] != weights[block] || !isfinite(own->weights[block]))
            return rb_fail(err, RB_EFORMAT, "%s: weights[%d] is %.17g, expected a number from %g that fp16 holds",
                           where, block, weights[block], BLOCK_CODEBOOK_LEAST_WEIGHT);
    return RB_OK;
}

rb_status block_codebook_from_json(plan_head *out, const cJSON *json, const model_facts *model, const char *where,
                                   rb_error *err)
{
    double maps[BLOCK_CODEBOOK_MAP_SIZE * RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS];
    const int n_blocks = model_n_blocks(model);
    uint8_t bits[RB_MAX_BLOCKS];
    int64_t gain_bits;
    rb_status st;
    RB_TRY(st, bits_from_json(bits, json, n_blocks, where, err), done);
    RB_TRY(st, rb_json_get_int(json, "gain_bits", where, 0, BLOCK_CODEBOOK_MAX_GAIN_BITS, &gain_bits, err), done);
    RB_TRY(st, maps_from_json(maps, json, n_blocks, where, err), done);
    RB_TRY(st, numbers_from_json(weights, rb_json_find(json, "weights"), n_blocks, "weights", where, err), done);
    RB_TRY(st, plan_head_set_block_codebook(out, bits, maps, weights, (int)gain_bits, n_blocks, err), done);
    RB_TRY(st, check_unchanged(&out->block_codebook, maps, weights, n_blocks, where, err), done);
done:
    return st;
}
