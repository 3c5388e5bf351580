/* Says in one line where a text stops being JSON, and why, which cJSON leaves out. Only core/json.c uses it. */
#ifndef RB_CORE_JSON_FAULT_H
#define RB_CORE_JSON_FAULT_H

#include "core/status.h"

/* text ends in NUL; at: where cJSON stopped. "config.json: line 15, column 30: a comma before '}', ...". A file that is
 * something else altogether is named as what it is (core/file_kind.h). Returns RB_EFORMAT. */
rb_status rb_json_fault(rb_error *err, const char *name, const char *text, const char *at);

/* The line of a place in a text, from 1. */
size_t rb_json_line(const char *text, const char *at);

/* Copies the start of a text to out [size], as much of it as is printable and on one line. */
void rb_json_excerpt(char *out, size_t size, const char *at);

#endif
