/* Token ids from a file: tokens_from_file of texts/token_source.h.
 *
 * A file says by its content what it is. Ids are below 2^24 in every vocabulary there is, so each int32 has a byte of
 * zero, which no text has: that tells binary from text, whatever the first byte is. Binary of another element type
 * reads as int32 too, into numbers that no tokenizer gave; what can be told of it is told. */
#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "texts/token_source.h"

enum { MAX_FILE_BYTES = 1 << 30, MAX_ID = 1 << 24 };

#define EXPECTED "expected a JSON list of ids, one id a line, or little-endian int32 without a header"

/* ---- text ------------------------------------------------------------------------------------ */

/* What an entry is, for messages: "-2", "2.5", "a list". */
static const char *describe_entry(char *text, size_t size, const cJSON *item)
{
    if (cJSON_IsNumber(item)) snprintf(text, size, "%.17g", item->valuedouble);
    else snprintf(text, size, "%s", cJSON_IsString(item) ? "a string" : cJSON_IsArray(item) ? "a list" : "no number");
    return text;
}

static rb_status parse_json_ids(token_list *out, const char *bytes, size_t size, const char *path, rb_error *err)
{
    cJSON *document = NULL;
    const cJSON *item;
    char text[32];
    rb_status st;
    RB_TRY(st, rb_json_parse(&document, bytes, size, path, err), done);
    if (!cJSON_IsArray(document)) {
        st = rb_fail(err, RB_EFORMAT, "%s: expected a JSON list of token ids", path);
        goto done;
    }
    RB_TRY(st, rb_alloc(&out->ids, (size_t)cJSON_GetArraySize(document), sizeof *out->ids, "token ids", err), done);
    cJSON_ArrayForEach (item, document) {
        const double value = cJSON_IsNumber(item) ? item->valuedouble : -1.0;
        if (!(value >= 0.0 && value <= INT32_MAX && value == floor(value))) {
            st = rb_fail(err, RB_EFORMAT, "%s: entry %lld is %s, expected a token id (a whole number from 0)", path,
                         (long long)out->n, describe_entry(text, sizeof text, item));
            goto done;
        }
        out->ids[out->n++] = (int32_t)value;
    }
    if (out->n == 0) st = rb_fail(err, RB_EFORMAT, "%s: holds no token ids", path);
done:
    cJSON_Delete(document);
    return st;
}

/* Digits, with white space between them. */
static rb_status parse_line_ids(token_list *out, const char *bytes, size_t size, const char *path, rb_error *err)
{
    int64_t line = 1;
    rb_status st = rb_alloc(&out->ids, size / 2 + 1, sizeof *out->ids, "token ids", err);
    if (st != RB_OK) return st;
    for (size_t at = 0; at < size;) {
        if (isspace((unsigned char)bytes[at])) {
            line += bytes[at++] == '\n';
            continue;
        }
        const size_t word = strcspn(bytes + at, " \t\r\n\v\f"), n_digits = strspn(bytes + at, "0123456789");
        if (n_digits != word)
            return rb_fail(err, RB_EFORMAT, "%s: line %lld: \"%.*s\" is no token id, " EXPECTED, path, (long long)line,
                           (int)(word < 20 ? word : 20), bytes + at);
        int64_t value = 0;
        for (; at < size && isdigit((unsigned char)bytes[at]); at++) {
            value = value * 10 + (bytes[at] - '0');
            if (value > INT32_MAX)
                return rb_fail(err, RB_EFORMAT, "%s: line %lld: token id beyond %d", path, (long long)line, INT32_MAX);
        }
        out->ids[out->n++] = (int32_t)value;
    }
    return out->n > 0 ? RB_OK : rb_fail(err, RB_EFORMAT, "%s: holds no token ids", path);
}

/* ---- files of another kind ------------------------------------------------------------------- */

static rb_status refuse_other_kinds(const char *bytes, size_t size, const char *path, rb_error *err)
{
    static const struct {
        const char *magic, *name;
        size_t n;
    } kinds[] = {
        {"\x93NUMPY", "a NumPy .npy file; array.astype('<i4').tofile(...) writes its ids without the header", 6},
        {"\x1f\x8b\x08", "compressed by gzip", 3},
        {"\x28\xb5\x2f\xfd", "compressed by zstd", 4},
        {"\xfd"
         "7zXZ",
         "compressed by xz", 5},
        {"BZh", "compressed by bzip2", 3},
        {"PK\x03\x04", "a zip archive (.npz, .pt)", 4},
        {"\x89HDF", "an HDF5 file", 4},
        {"PAR1", "a Parquet file", 4},
        {"ARROW1", "an Arrow file", 6},
        {"GGUF", "a GGUF file", 4},
        {"\xff\xfe", "UTF-16 text", 2},
        {"\xfe\xff", "UTF-16 text", 2},
        /* 20240520 and 20240801, each with a header of 256 int32 */
        {"\x88\xd8\x34\x01", "an llm.c token file (a header of 1024 bytes, then uint16 ids)", 4},
        {"\xa1\xd9\x34\x01", "an llm.c token file (a header of 1024 bytes, then uint32 ids)", 4},
    };
    for (size_t i = 0; i < RB_COUNT(kinds); i++)
        if (size >= kinds[i].n && memcmp(bytes, kinds[i].magic, kinds[i].n) == 0)
            return rb_fail(err, RB_EFORMAT, "%s: %s, " EXPECTED, path, kinds[i].name);
    return RB_OK;
}

/* ---- binary ---------------------------------------------------------------------------------- */

/* Whether the ids from `first` on, two by two, are all 0, or all 0 or -1: halves of int64, whose other half is the
 * number. */
static bool are_upper_halves(const token_list *list, int64_t first)
{
    if (list->n < 2 || list->n % 2 != 0) return false;
    for (int64_t i = first; i < list->n; i += 2)
        if (list->ids[i] != 0 && !(list->ids[i] == -1 && list->ids[i ^ 1] < 0)) return false;
    return true;
}

static bool is_whole_id(double x) { return x >= 0 && x < MAX_ID && x == floor(x); }

static bool are_big_endian(const token_list *list)
{
    for (int64_t i = 0; i < list->n; i++)
        if (__builtin_bswap32((uint32_t)list->ids[i]) >= MAX_ID) return false;
    return true;
}

static bool are_floats(const token_list *list)
{
    for (int64_t i = 0; i < list->n; i++) {
        float value;
        memcpy(&value, &list->ids[i], sizeof value);
        if (!is_whole_id((double)value)) return false;
    }
    return true;
}

/* Zeros alone may be anything. */
static bool are_doubles(const token_list *list)
{
    bool has_more = false;
    for (int64_t i = 0; i + 1 < list->n; i += 2) {
        double value;
        memcpy(&value, &list->ids[i], sizeof value);
        if (!is_whole_id(value)) return false;
        has_more = has_more || value > 0;
    }
    return has_more && list->n % 2 == 0;
}

/* Why the number at `index` is no id of any vocabulary. */
static const char *guess_type(const token_list *list, int64_t index)
{
    const int32_t id = list->ids[index];
    if (are_floats(list)) return "float32?";
    if (are_big_endian(list)) return "big-endian int32?";
    if (id < 0 && id > -MAX_ID) return "a negative number";
    return "uint16, or not ids at all?";
}

static rb_status check_element_type(const token_list *list, const char *path, rb_error *err)
{
    if (are_doubles(list)) return rb_fail(err, RB_EFORMAT, "%s: float64?; " EXPECTED, path);
    if (are_upper_halves(list, 1) || are_upper_halves(list, 0))
        return rb_fail(err, RB_EFORMAT, "%s: every second id is 0: int64?; " EXPECTED, path);
    for (int64_t i = 0; i < list->n; i++)
        if (list->ids[i] < 0 || list->ids[i] >= MAX_ID)
            return rb_fail(err, RB_EFORMAT, "%s: id %lld, read as int32, is %d: %s; " EXPECTED, path, (long long)i,
                           list->ids[i], guess_type(list, i));
    return RB_OK;
}

static rb_status parse_binary_ids(token_list *out, const char *bytes, size_t size, const char *path, rb_error *err)
{
    if (size % sizeof(int32_t) != 0)
        return rb_fail(err, RB_EFORMAT, "%s: binary of %zu bytes, no multiple of 4%s; " EXPECTED, path, size,
                       size % 2 == 0 ? ": uint16?" : "");
    rb_status st = rb_alloc(&out->ids, size / sizeof(int32_t), sizeof *out->ids, "token ids", err);
    if (st != RB_OK) return st;
    out->n = (int64_t)(size / sizeof(int32_t));
    memcpy(out->ids, bytes, size);
    return check_element_type(out, path, err);
}

/* ---- the file -------------------------------------------------------------------------------- */

static rb_status parse_text_ids(token_list *out, const char *bytes, size_t size, const char *path, rb_error *err)
{
    static const char byte_order_mark[] = "\xef\xbb\xbf"; /* some editors begin UTF-8 with it */
    const size_t mark = sizeof byte_order_mark - 1;
    if (size >= mark && memcmp(bytes, byte_order_mark, mark) == 0) {
        bytes += mark;
        size -= mark;
    }
    if (bytes[strspn(bytes, " \t\r\n")] == '[') return parse_json_ids(out, bytes, size, path, err);
    return parse_line_ids(out, bytes, size, path, err);
}

rb_status tokens_from_file(token_list *out, const char *path, rb_error *err)
{
    char *bytes = NULL;
    size_t size = 0;
    rb_status st;

    *out = (token_list){0};
    RB_TRY(st, rb_read_file(&bytes, &size, path, MAX_FILE_BYTES, err), done);
    RB_TRY(st, refuse_other_kinds(bytes, size, path, err), done);
    st = memchr(bytes, '\0', size) ? parse_binary_ids(out, bytes, size, path, err)
                                   : parse_text_ids(out, bytes, size, path, err);
done:
    free(bytes);
    if (st != RB_OK) token_list_free(out);
    return st;
}
