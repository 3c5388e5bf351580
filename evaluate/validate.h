/* The work of `ropebits validate`. The CUDA kernels (or the C reference itself) run a plan's codecs on a capture's test
 * keys and values, and the result is compared with the reference, vector by vector. */
#ifndef RB_EVALUATE_VALIDATE_H
#define RB_EVALUATE_VALIDATE_H

#include "calibrate/capture_file.h"
#include "core/program.h"
#include "kernels/check/codec_check.h"
#include "kernels/check/codec_trial.h"
#include "plan/bit_plan.h"

enum { VALIDATE_MAX_ROWS = 2 * CODEC_N_DTYPES, VALIDATE_N_QUERIES = 4, VALIDATE_TIMED_VECTORS = 65536 };

/* The finding for keys or values of one type. */
typedef struct validate_row {
    const char *what; /* "keys", "values" */
    codec_dtype type;
    codec_bounds bounds;
    codec_report report; /* over all layers and heads */
    int64_t bytes_outside, bytes_unstable;
    double vector_bytes, packed_bytes; /* bytes of vectors and of packed streams that a timed run reads or writes */
    codec_trial_times times;           /* of one layer */
} validate_row;

typedef struct validate_result {
    rb_device_kind device;
    int n_rows;
    validate_row rows[VALIDATE_MAX_ROWS];
} validate_result;

typedef struct validate_request {
    const capture_file *capture;
    const bit_plan *plan; /* of the capture's model */
    rb_device_kind device;
    bool types[CODEC_N_DTYPES]; /* which to run */
    int64_t n_sink;             /* first tokens of every test sequence, which are left out: kernels never meet them */
    int64_t n_tokens;           /* at most so many of the test text; 0: all */
    int64_t n_timed;            /* vectors a head to time; 0: no timing */
} validate_request;

/* Values are validated where the plan quantizes them and the capture has them. Fails with RB_ENONFINITE on a vector
 * that the codec cannot hold, naming it. */
rb_status validate_plan(validate_result *out, const validate_request *request, rb_error *err);

bool validate_row_is_good(const validate_row *row);
bool validate_is_good(const validate_result *result);

#endif
