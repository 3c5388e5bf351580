/* The reader of the result of `ropebits evaluate`, for `compare` and `run`. There is one run for each plan, after that
 * of the unquantized model.
 *
 *   { "schema", "version", "tool_version", "model": {..}, "text": {..}, "documents_sha256": ".." | null,
 *     "options": {..},
 *     "runs": [ {"name", "method", "avg_bits", "value_bits", "key_true_bits", "value_true_bits", "n_predicted",
 *                "perplexity",
 *                "kl_mean", "kl_p999", "top1_agreement", "attention_kl", "attention_overlap", "output_error",
 *                "needles": {"n", "n_right"} | null,
 *                "understanding": {"n", "agreement", "accuracy"} | null, ..}, .. ] }
 *
 * Members that are not listed here are for people and are not read. */
#ifndef RB_EVALUATE_EVALUATION_FILE_H
#define RB_EVALUATE_EVALUATION_FILE_H

#include <cjson/cJSON.h>

#include "core/model_facts.h"

#define EVALUATION_SCHEMA      "ropebits-evaluation"
#define EVALUATION_UNQUANTIZED "unquantized" /* name of the first run, whose method is "none" */
enum { EVALUATION_VERSION = 2, EVALUATION_NAME_SIZE = 256, EVALUATION_MAX_RUNS = 256 };

/* Bits are per dim. A number is NaN where the document has null: bits of the unquantized run, what compares a run with
 * the unquantized one, and what could not be measured. */
typedef struct evaluation_run {
    char name[EVALUATION_NAME_SIZE]; /* the plan's file name without its folder */
    char method[32];
    double avg_bits, value_bits; /* nominal, keys and values */
    double key_true_bits, value_true_bits;
    int64_t n_predicted; /* tokens that perplexity, KL and top-1 are of; 0: an older result does not say */
    double perplexity;
    double kl_mean, kl_p999; /* nats a token, from the unquantized model's next-token distribution */
    double top1_agreement;   /* share of tokens, 0 to 1 */
    double attention_kl;     /* nats a query; NaN: no query was sampled */
    /* Share of a query's most attended keys, 0 to 1; NaN: no query that sees enough of them. */
    double attention_overlap;
    double output_error;                                    /* of the attention's output, relative; NaN: no output */
    int64_t n_needles, n_needles_right;                     /* both 0 when no needles were asked for */
    int64_t n_understanding;                                /* documents; 0: none, and both shares are NaN */
    double understanding_agreement, understanding_accuracy; /* shares of answer tokens, 0 to 1 */
} evaluation_run;

typedef struct evaluation {
    model_facts model;
    text_facts text;
    char documents_sha256[RB_SHA256_HEX]; /* of the needle documents; "" when there are none */
    int n_runs;
    evaluation_run *runs; /* owned */
} evaluation;

/* `name` starts messages. Fails with RB_EFORMAT, RB_EINVAL (a number out of range) or RB_EUNSUPPORTED (another
 * version), naming the member, what it holds and what was expected. Freed with evaluation_free. */
rb_status evaluation_from_json(evaluation **out, const cJSON *document, const char *name, rb_error *err);
rb_status evaluation_read(evaluation **out, const char *path, rb_error *err);
void evaluation_free(evaluation *result); /* accepts NULL */

#endif
