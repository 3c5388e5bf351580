/* One of n parts of a calibration run, for n processes: a share of the sequences of both sets.
 *
 * Every shard reads all texts, cuts them, plants needles and checks them as the whole run does, and then keeps its
 * sequences only: of S sequences of a set, shard i of n has those from i S / n up to (i + 1) S / n, rounded down. So
 * the shards in order are the run's tokens, and sizes differ by a sequence at most. `ropebits merge` puts them together
 * (calibrate/merge_parts.h). */
#ifndef RB_CALIBRATE_SHARD_H
#define RB_CALIBRATE_SHARD_H

#include "core/json.h"
#include "core/model_facts.h"

enum { SHARD_MAX = 256 }; /* shards of a run: merge has all of them open */

typedef struct shard {
    int64_t index, count;                 /* index from 0; count 1 or 0: the whole run */
    bool is_of_launcher;                  /* core/launcher.h said so, and no --shard */
    char tokens_sha256[2][RB_SHA256_HEX]; /* of the whole run's tokens, by capture_set; see shard_cut */
} shard;

static inline bool shard_is_part(const shard *part) { return part->count > 1; }

/* option: "i/n"; "none": the whole run; "auto": what the launcher says, which must say something; NULL: what it says,
 * if anything. Tells which shard was taken and from which variable. Fails with RB_EUSAGE on anything else, and as
 * rb_launcher_task. */
rb_status shard_choose(shard *out, const char *option, rb_error *err);

/* Where a shard is written, freed by free(). Tasks of a launcher have one command line, so that "out/capture.h5"
 * becomes "out/capture-2-of-4.h5"; with a shard from --shard it is `output` itself. *path is NULL for NULL. */
rb_status shard_output(char **path, const char *output, const shard *part, rb_error *err);

/* Keeps the shard's sequences. ids: the calibration tokens, then the test tokens, *n_ids of them; text[2] by
 * capture_set, with their numbers of tokens and their context. Changes all three. Notes the hashes of the whole. The
 * whole run's stay as they are. Fails with RB_EINVAL where a set has fewer sequences than there are shards. */
rb_status shard_cut(shard *part, int32_t *ids, int64_t *n_ids, text_facts text[2], rb_error *err);

/* The member "shard" of the options that a capture records: {"index", "count", "calibration_sha256", "test_sha256"}.
 * Nothing for a whole run, and an object without it is read as one (count 0). Reading fails and names the member. */
rb_status shard_to_json(cJSON *options, const shard *part, rb_error *err);
rb_status shard_from_json(shard *out, const cJSON *options, const char *where, rb_error *err);

#endif
