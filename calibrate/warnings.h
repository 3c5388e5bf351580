/* What a user should know about a model before its statistics are trusted: one line each, told on stderr and kept for
 * --json. */
#ifndef RB_CALIBRATE_WARNINGS_H
#define RB_CALIBRATE_WARNINGS_H

#include "core/json.h"
#include "model/checkpoint.h"

enum { MAX_WARNINGS = 16, WARNING_BYTES = 320 };

typedef struct warning_list {
    int n;
    char text[MAX_WARNINGS][WARNING_BYTES];
} warning_list;

/* Adds a line; more than MAX_WARNINGS are dropped. */
void warnings_add(warning_list *list, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void warnings_tell(const warning_list *list); /* on stderr */
/* Member "warnings": a list of strings. */
rb_status warnings_to_json(cJSON *object, const warning_list *list, rb_error *err);

/* "3 of 30 layers (0, 8 to 9)" for the layers of `is_meant` [n_layers]. */
void warnings_name_layers(char *text, size_t size, const bool *is_meant, int n_layers);

/* Warns where the bias of k_proj is more than WARNING_BIAS_SHARE of the energy of the keys that leave it, by the
 * weights: hidden states that left the norm have mean square 1 a dim before its weight g, so that with key rows W and
 * bias b (W times the norm's own bias included)
 *
 *   share = sum b_i^2 / (sum b_i^2 + sum W_ij^2 g_j^2)
 *
 * Such keys are much the same at every position: their energies say more of the bias than of the text. Reads the rows
 * of the keys of every layer; models without such a bias cost nothing. */
#define WARNING_BIAS_SHARE 0.5
rb_status warnings_add_key_bias(warning_list *list, const checkpoint *ckpt, rb_error *err);

/* Adds which types of quantized weights the checkpoint has. checkpoint_open has told it already: for --json only. */
void warnings_add_quantized(warning_list *list, const checkpoint *ckpt);

#endif
