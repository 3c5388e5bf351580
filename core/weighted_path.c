/* "FILE:weight": see core/weighted_path.h. */
#include "core/weighted_path.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

rb_status rb_weighted_path(weighted_path *out, const char *text, rb_error *err)
{
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    *out = (weighted_path){.weight = 1.0};
    const double number = colon ? strtod(colon + 1, &end) : (double)NAN;
    const bool has_weight =
        colon && colon > text && end != colon + 1 && *end == '\0' && isfinite(number) && access(text, F_OK) != 0;
    if (!has_weight) return rb_format(&out->path, err, "%s", text);
    if (!(number > 0.0))
        return rb_fail(err, RB_EUSAGE, "%s: the weight is %s, expected a number above 0", text, colon + 1);
    out->weight = number;
    return rb_format(&out->path, err, "%.*s", (int)(colon - text), text);
}
