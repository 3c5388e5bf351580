/* See core/plain_name.h. */
#include "core/plain_name.h"

#include <string.h>

bool rb_is_plain_name(const char *text)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-";
    return text[0] != '\0' && text[strspn(text, allowed)] == '\0';
}

rb_status rb_check_plain_name(const char *text, const char *what, const char *where, rb_error *err)
{
    if (rb_is_plain_name(text)) return RB_OK;
    return rb_fail(err, RB_EFORMAT, "%s: %s is \"%.100s\", expected a name of letters, digits, '.', '_', '+' and '-'",
                   where, what, text);
}
