/* JSON through cJSON, with the checks and messages that cJSON leaves out: duplicate keys, trailing text, wrong types,
 * ranges.
 *
 * Getters name the place: `where` is "config.json" or "plan.json: layers[3]"; a message reads
 * "plan.json: layers[3].bits: found a string, expected an array". */
#ifndef RB_CORE_JSON_H
#define RB_CORE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

/* Parses exactly length bytes. Refuses NUL bytes, trailing text, duplicate keys in any object. `name` is for messages.
 * Free with cJSON_Delete. */
rb_status rb_json_parse(cJSON **out, const char *text, size_t length, const char *name, rb_error *err);

/* Reads and parses a file of at most max_bytes (0: 256 MiB). */
rb_status rb_json_read(cJSON **out, const char *path, size_t max_bytes, rb_error *err);

/* Formatted document with a final newline; numbers keep their double exactly. Freed by free(). */
rb_status rb_json_print(char **out, const cJSON *json, rb_error *err);
/* The same on standard output, for --json. The end of the program checks whether it arrived. */
rb_status rb_json_put(const cJSON *json, rb_error *err);
rb_status rb_json_write(const cJSON *json, const char *path, rb_error *err); /* atomic, see core/atomic_file.h */

/* Case-sensitive member, or NULL; a JSON null counts as absent. */
const cJSON *rb_json_find(const cJSON *object, const char *key);

/* Required members. */
rb_status rb_json_get_object(const cJSON *object, const char *key, const char *where, const cJSON **out, rb_error *err);
rb_status rb_json_get_array(const cJSON *object, const char *key, const char *where, const cJSON **out, rb_error *err);
rb_status rb_json_get_string(const cJSON *object, const char *key, const char *where, const char **out, rb_error *err);
rb_status rb_json_get_number(const cJSON *object, const char *key, const char *where, double min, double max,
                             double *out, rb_error *err);
/* Whole numbers only. */
rb_status rb_json_get_int(const cJSON *object, const char *key, const char *where, int64_t min, int64_t max,
                          int64_t *out, rb_error *err);
rb_status rb_json_get_bool(const cJSON *object, const char *key, const char *where, bool *out, rb_error *err);

/* Fails with RB_EFORMAT and names the first member of an object that is not in `known` (NULL at the end). A misspelt
 * member would otherwise silently mean the default. */
rb_status rb_json_check_members(const cJSON *object, const char *where, const char *const *known, rb_error *err);

/* Checks "schema" and "version" of a document. A message names both values. */
rb_status rb_json_check_schema(const cJSON *document, const char *name, const char *schema, int version, rb_error *err);

/* Building: every add fails with RB_ENOMEM. A double that is not finite becomes null. */
rb_status rb_json_new_object(cJSON **out, rb_error *err);
rb_status rb_json_add_string(cJSON *object, const char *key, const char *value, rb_error *err);
rb_status rb_json_add_number(cJSON *object, const char *key, double value, rb_error *err);
rb_status rb_json_add_bool(cJSON *object, const char *key, bool value, rb_error *err);
rb_status rb_json_add_null(cJSON *object, const char *key, rb_error *err);
rb_status rb_json_add_numbers(cJSON *object, const char *key, const double *values, int n, rb_error *err);
/* object/array take ownership of *item even on failure, and set *item to NULL. */
rb_status rb_json_add_item(cJSON *object, const char *key, cJSON **item, rb_error *err);
rb_status rb_json_append(cJSON *array, cJSON **item, rb_error *err);

#endif
