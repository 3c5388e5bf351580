/* "FILE" or "FILE:weight", as an option or a pipeline names one of several texts. */
#ifndef RB_CORE_WEIGHTED_PATH_H
#define RB_CORE_WEIGHTED_PATH_H

#include "core/status.h"

typedef struct weighted_path {
    char *path;    /* freed by free() */
    double weight; /* above 0; 1 when there is none */
} weighted_path;

/* What follows the last ':' is a weight when it is a number and no file has the whole name. Fails with RB_EUSAGE on a
 * weight that is not above 0. */
rb_status rb_weighted_path(weighted_path *out, const char *text, rb_error *err);

#endif
