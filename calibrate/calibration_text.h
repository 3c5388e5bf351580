/* Which token ids a capture is made from: texts by weight, needle documents among them, and the test text. */
#ifndef RB_CALIBRATE_CALIBRATION_TEXT_H
#define RB_CALIBRATE_CALIBRATION_TEXT_H

#include "calibrate/calibrate_run.h"
#include "calibrate/capture_file.h"
#include "calibrate/shard.h"
#include "core/json.h"
#include "texts/token_source.h"

/* What one of the texts gave. */
typedef struct text_part {
    char *path; /* owned */
    double weight;
    int64_t n_tokens;
} text_part;

typedef struct calibration_text {
    token_list tokens; /* calibration ids, then test ids */
    int64_t n_laid;    /* calibration ids so far, while loading */
    int n_parts;
    text_part *parts;  /* in the order of the ids; none when ids came from --tokens */
    int64_t n_needles; /* sequences that are needle documents */
    text_bos bos[CAPTURE_N_SETS];
    shard part; /* which part of all that `tokens` has in the end; the other members are of the whole run */
} calibration_text;

/* Every text gets its share of the calibration sequences, at least one, by the method of largest remainders. All
 * sequences but the last have `context` tokens.
 *
 * Beginning-of-text tokens stand where opt->bos says (texts/sequences.h) and are among the tokens that are counted. By
 * default ids from --tokens are as they are. Each text begins anew, and the test text is one.
 *
 * With needles, evenly spread sequences become needle documents, with the sequence's own tokens as haystack. The tasks
 * take turns, each at a random depth. The test text stays as it is; it must not share a run of tokens with the
 * calibration texts as they were before (tokens_check_disjoint).
 *
 * Fails on fewer sequences than texts, a text that is too short, ids outside the vocabulary, sequences too short for
 * needles. Free on failure too. */
rb_status calibration_text_load(calibration_text *out, const calibrate_options *options, int64_t n_test,
                                int64_t context, int64_t vocab_size, rb_error *err);
void calibration_text_free(calibration_text *text);

/* Members "texts", "needles" and "shard" of what calibrate records and prints. Absent parts are left out. */
rb_status calibration_text_to_json(cJSON *object, const calibration_text *text, const calibrate_options *options,
                                   rb_error *err);

/* Prints the texts where there is more than one, the needles and the shard. n_tokens: of the whole run. */
void calibration_text_print(const calibration_text *text, int64_t n_tokens, int64_t context);

/* How many of n_sequences each text gets; weights [n_texts] above 0, n_texts <= n_sequences. Ties go to the first. */
void calibration_shares(int64_t *shares, const double *weights, int n_texts, int64_t n_sequences);

#endif
