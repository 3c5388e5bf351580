/* NFC by utf8proc: see normalizer.h. */
#include "model/tokenizer/normalizer.h"

#include <stdint.h>
#include <string.h>
#include <utf8proc.h>

#include "core/json.h"

static rb_status read_step(normalizer *out, const cJSON *step, const char *where, rb_error *err)
{
    const char *type;
    const rb_status st = rb_json_get_string(step, "type", where, &type, err);
    if (st != RB_OK) return st;
    if (strcmp(type, "NFC") != 0)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: found %s, supported are null and NFC", where, type);
    out->nfc = true;
    return RB_OK;
}

rb_status normalizer_read(normalizer *out, const cJSON *component, rb_error *err)
{
    const cJSON *steps, *step;
    const char *type;
    rb_status st;

    out->nfc = false;
    if (!component) return RB_OK;
    RB_TRY(st, rb_json_get_string(component, "type", "normalizer", &type, err), done);
    if (strcmp(type, "Sequence") != 0) return read_step(out, component, "normalizer", err);
    RB_TRY(st, rb_json_get_array(component, "normalizers", "normalizer", &steps, err), done);
    cJSON_ArrayForEach (step, steps) RB_TRY(st, read_step(out, step, "normalizer.normalizers", err), done);
done:
    return st;
}

/* Characters below U+0300 neither combine nor decompose further under NFC (NFC_Quick_Check = Yes, combining class 0),
 * and their lead bytes are below 0xcc. Most texts need no more than this check. */
static bool is_below_combining(const char *text, size_t length)
{
    unsigned char high = 0;
    for (size_t i = 0; i < length; i++) high |= (unsigned char)((unsigned char)text[i] >= 0xcc);
    return !high;
}

rb_status normalizer_apply(const normalizer *norm, const char *text, size_t length, const char **out,
                           size_t *out_length, char **owned, rb_error *err)
{
    utf8proc_uint8_t *composed = NULL;

    *out = text;
    *out_length = length;
    *owned = NULL;
    if (!norm->nfc || is_below_combining(text, length)) return RB_OK;
    if (length > PTRDIFF_MAX) return rb_fail(err, RB_EINVAL, "text of %zu bytes is too long to normalise", length);
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    const utf8proc_ssize_t size =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &composed, options);
    if (size < 0)
        return rb_fail(err, size == UTF8PROC_ERROR_NOMEM ? RB_ENOMEM : RB_EINVAL, "NFC of %zu bytes: %s", length,
                       utf8proc_errmsg(size));
    *owned = (char *)composed;
    *out = *owned;
    *out_length = (size_t)size;
    return RB_OK;
}
