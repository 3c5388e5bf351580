/* Names that files carry (a model's type, a method). They are printed, and written into C, HTML and JSON, so they are
 * of letters, digits, '.', '_', '+' and '-' only: nothing in them ends a comment or steers a terminal. */
#ifndef RB_CORE_PLAIN_NAME_H
#define RB_CORE_PLAIN_NAME_H

#include <stdbool.h>

#include "core/status.h"

/* At least one character. */
bool rb_is_plain_name(const char *text);
/* RB_EFORMAT with "WHERE: WHAT is "TEXT", expected ..." for any other text. */
rb_status rb_check_plain_name(const char *text, const char *what, const char *where, rb_error *err);

#endif
