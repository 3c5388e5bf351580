/* TUNE.json: what was asked, and every plan that was evaluated for it (docs/tune.md). It is written after each pass, so
 * a search that was stopped goes on from it. */
#ifndef RB_TUNE_TUNE_LOG_H
#define RB_TUNE_TUNE_LOG_H

#include <cjson/cJSON.h>

#include "tune/tune_point.h"
#include "tune/tune_search.h"

#define TUNE_SCHEMA "ropebits-tune"
enum { TUNE_VERSION = 1, TUNE_MAX_POINTS = 256 };

typedef struct tune_log {
    cJSON *request; /* owned; what the numbers of a point depend on, as a tree whose leaves have names */
    tune_limits limits;
    double most_bits;          /* points that were asked for more are kept, and are no answer; INFINITY: any may be */
    tune_baseline unquantized; /* of the first pass */
    int n_points;
    tune_point points[TUNE_MAX_POINTS]; /* as they were evaluated */
} tune_log;

rb_status tune_log_to_json(cJSON **out, const tune_log *log, rb_error *err);
rb_status tune_log_write(const tune_log *log, const char *path, rb_error *err); /* atomic */
/* All but the limits, with any most_bits. Fails with RB_EFORMAT, RB_EINVAL or RB_EUNSUPPORTED, naming the member. Freed
 * with tune_log_free, also after a failure. */
rb_status tune_log_read(tune_log *out, const char *path, rb_error *err);
void tune_log_free(tune_log *log);

/* RB_EMISMATCH: the first leaf in which the recorded request differs from this one, and both values. */
rb_status tune_log_check_request(const tune_log *recorded, const cJSON *request, const char *path, rb_error *err);

/* Those of most_bits at most; out: room for n_points. Returns how many. */
int tune_log_search_points(search_point *out, const tune_log *log);
/* Whether the point holds the limits, within most_bits. */
bool tune_log_holds(const tune_log *log, const tune_point *point);
/* The point of least bits that does, or -1. */
int tune_log_answer(const tune_log *log);

#endif
