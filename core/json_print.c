/* Printing JSON. cJSON's printer is content with 15 digits when they are within one unit in the last place, so every
 * tenth double comes back different. This one prints the fewest of 15, 16 or 17 digits that read back as the same
 * double. Layout: two spaces a level; an array that holds no array or object is on one line. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/json.h"

static void print_value(FILE *out, const cJSON *json, int level);

static void print_number(FILE *out, double value)
{
    enum { FEWEST_DIGITS = 15, ENOUGH_DIGITS = 17 };
    /* Whole numbers up to here are printed without an exponent, so that readers keep them as integers. */
    static const double MAX_PLAIN = 0x1p53;
    char text[32];
    if (!isfinite(value)) {
        fputs("null", out);
        return;
    }
    if (value == floor(value) && fabs(value) <= MAX_PLAIN) {
        fprintf(out, "%.0f", value);
        return;
    }
    for (int digits = FEWEST_DIGITS; digits <= ENOUGH_DIGITS; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    fputs(text, out);
}

/* What a terminal would not show is written by its number, so that documents can be looked at. A byte that is no UTF-8,
 * which only the name of a file can have, becomes the replacement character: JSON is UTF-8. */
static void print_string(FILE *out, const char *text)
{
    static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    fputc('"', out);
    while (*text) {
        uint32_t point;
        const char *found = strchr(escaped, *text);
        const int n = rb_take_character(text, &point);
        if (found) fprintf(out, "\\%c", letters[found - escaped]);
        else if (n == 0) fputs("\\ufffd", out);
        else if (rb_is_shown(point)) fwrite(text, 1, (size_t)n, out);
        else fprintf(out, "\\u%04x", (unsigned)point); /* none of them is beyond U+FFFF */
        text += n > 0 ? n : 1;
    }
    fputc('"', out);
}

static bool is_flat(const cJSON *array)
{
    const cJSON *child;
    cJSON_ArrayForEach (child, array) {
        if (cJSON_IsArray(child) || cJSON_IsObject(child)) return false;
    }
    return true;
}

static void print_children(FILE *out, const cJSON *parent, int level, bool on_one_line)
{
    const cJSON *child;
    cJSON_ArrayForEach (child, parent) {
        if (child != parent->child) fputs(on_one_line ? ", " : ",", out);
        if (!on_one_line) fprintf(out, "\n%*s", 2 * (level + 1), "");
        if (cJSON_IsObject(parent)) {
            print_string(out, child->string);
            fputs(": ", out);
        }
        print_value(out, child, level + 1);
    }
    if (!on_one_line) fprintf(out, "\n%*s", 2 * level, "");
}

static void print_value(FILE *out, const cJSON *json, int level)
{
    switch (json->type & 0xff) {
    case cJSON_False: fputs("false", out); break;
    case cJSON_True: fputs("true", out); break;
    case cJSON_Number: print_number(out, json->valuedouble); break;
    case cJSON_String: print_string(out, json->valuestring); break;
    case cJSON_Raw: fputs(json->valuestring, out); break;
    case cJSON_Array:
        fputc('[', out);
        print_children(out, json, level, is_flat(json));
        fputc(']', out);
        break;
    case cJSON_Object:
        fputc('{', out);
        print_children(out, json, level, json->child == NULL);
        fputc('}', out);
        break;
    default: fputs("null", out); break;
    }
}

rb_status rb_json_print(char **out, const cJSON *json, rb_error *err)
{
    char *text = NULL;
    size_t size;
    *out = NULL;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) return rb_fail(err, RB_ENOMEM, "out of memory for a JSON document");
    print_value(stream, json, 0);
    fputc('\n', stream);
    const bool is_whole = !ferror(stream);
    if (fclose(stream) != 0 || !is_whole) {
        free(text);
        return rb_fail(err, RB_ENOMEM, "out of memory for a JSON document");
    }
    *out = text;
    return RB_OK;
}

rb_status rb_json_put(const cJSON *json, rb_error *err)
{
    char *text = NULL;
    rb_status st = rb_json_print(&text, json, err);
    if (st == RB_OK) fputs(text, stdout);
    free(text);
    return st;
}

rb_status rb_json_write(const cJSON *json, const char *path, rb_error *err)
{
    char *text = NULL;
    rb_status st = rb_json_print(&text, json, err);
    if (st == RB_OK) st = rb_atomic_write(path, text, strlen(text), err);
    free(text);
    return st;
}
