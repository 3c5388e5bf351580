/* Beginning-of-text tokens in files: see core/text_bos.h. */
#include "core/text_bos.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/hdf5/hdf5_file.h"
#include "core/json.h"

static const char *const names[] = {
    [BOS_UNKNOWN] = "unknown", [BOS_NONE] = "none", [BOS_SEQUENCE] = "sequence", [BOS_TEXT] = "text"};

const char *bos_mode_name(bos_mode mode) { return names[mode]; }

static rb_status mode_from_name(bos_mode *out, const char *name, const char *where, rb_error *err)
{
    for (bos_mode mode = BOS_NONE; mode <= BOS_TEXT; mode++)
        if (strcmp(name, names[mode]) == 0) {
            *out = mode;
            return RB_OK;
        }
    return rb_fail(err, RB_EFORMAT, "%s.bos: found \"%.32s\", expected none, sequence or text", where, name);
}

static rb_status ids_from_json(bos_tokens *out, const cJSON *list, const char *where, rb_error *err)
{
    const cJSON *item;
    const int n = cJSON_GetArraySize(list);
    if (!cJSON_IsArray(list) || n < 1 || n > BOS_MAX_TOKENS)
        return rb_fail(err, RB_EFORMAT, "%s.bos_ids: expected a list of 1 to %d token ids", where, BOS_MAX_TOKENS);
    cJSON_ArrayForEach (item, list) {
        const double id = cJSON_IsNumber(item) ? item->valuedouble : -1.0;
        if (!(id >= 0 && id <= INT32_MAX && id == (double)(int32_t)id))
            return rb_fail(err, RB_EFORMAT, "%s.bos_ids: expected token ids, whole numbers from 0", where);
        out->ids[out->n++] = (int32_t)id;
    }
    return RB_OK;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

rb_status text_bos_to_json(cJSON *object, const text_bos *bos, rb_error *err)
{
    double ids[BOS_MAX_TOKENS];
    rb_status st;
    if (bos->mode == BOS_UNKNOWN) return RB_OK;
    RB_TRY(st, rb_json_add_string(object, "bos", names[bos->mode], err), done);
    for (int i = 0; i < bos->tokens.n; i++) ids[i] = bos->tokens.ids[i];
    if (bos->tokens.n > 0) st = rb_json_add_numbers(object, "bos_ids", ids, bos->tokens.n, err);
done:
    return st;
}

rb_status text_bos_from_json(text_bos *out, const cJSON *object, const char *where, rb_error *err)
{
    const char *name;
    rb_status st;
    *out = (text_bos){0};
    if (!rb_json_find(object, "bos")) return RB_OK;
    RB_TRY(st, rb_json_get_string(object, "bos", where, &name, err), done);
    RB_TRY(st, mode_from_name(&out->mode, name, where, err), done);
    if (out->mode != BOS_NONE) st = ids_from_json(&out->tokens, rb_json_find(object, "bos_ids"), where, err);
done:
    return st;
}

/* ---- HDF5 ------------------------------------------------------------------------------------ */

enum { IDS_SIZE = BOS_MAX_TOKENS * 12 + 4 };

rb_status text_bos_write_h5(hid_t loc, const char *object, const text_bos *bos, rb_error *err)
{
    char ids[IDS_SIZE] = "[";
    size_t n = 1;
    if (bos->mode == BOS_UNKNOWN) return RB_OK;
    const rb_status st = rb_h5_set_string(loc, object, "bos", names[bos->mode], err);
    if (st != RB_OK || bos->tokens.n == 0) return st;
    for (int i = 0; i < bos->tokens.n; i++)
        n += (size_t)snprintf(ids + n, sizeof ids - n, "%s%d", i > 0 ? "," : "", bos->tokens.ids[i]);
    snprintf(ids + n, sizeof ids - n, "]");
    return rb_h5_set_string(loc, object, "bos_ids", ids, err);
}

rb_status text_bos_read_h5(text_bos *out, const rb_h5_contents *file, const char *object, rb_error *err)
{
    char name[16], ids[IDS_SIZE];
    cJSON *list = NULL;
    rb_status st;
    *out = (text_bos){0};
    if (!rb_h5_has_attribute(file, object, "bos")) return RB_OK;
    RB_TRY(st, rb_h5_get_string(file, object, "bos", name, sizeof name, err), done);
    RB_TRY(st, mode_from_name(&out->mode, name, object, err), done);
    if (out->mode == BOS_NONE) goto done;
    RB_TRY(st, rb_h5_get_string(file, object, "bos_ids", ids, sizeof ids, err), done);
    RB_TRY(st, rb_json_parse(&list, ids, strlen(ids), object, err), done);
    st = ids_from_json(&out->tokens, list, object, err);
done:
    cJSON_Delete(list);
    return st;
}
