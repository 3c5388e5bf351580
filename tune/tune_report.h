/* What `ropebits tune` says of a search: all points, and the answer. */
#ifndef RB_TUNE_TUNE_REPORT_H
#define RB_TUNE_TUNE_REPORT_H

#include "tune/tune_log.h"

/* A table by rising size. path: where the answer's plan is. RB_ENOMEM. */
rb_status tune_report_print(const tune_log *log, const char *path, rb_error *err);
/* One sentence on standard error: nothing holds, and what came nearest. */
void tune_report_none(const tune_log *log);

#endif
