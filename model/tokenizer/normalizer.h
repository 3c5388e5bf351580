/* The "normalizer" of tokenizer.json: null, NFC, or a Sequence of those. */
#ifndef RB_MODEL_TOKENIZER_NORMALIZER_H
#define RB_MODEL_TOKENIZER_NORMALIZER_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/status.h"

typedef struct normalizer {
    bool nfc; /* Unicode Normalization Form C (UAX 15); false: text stays as it is */
} normalizer;

/* component may be NULL (absent). Fails with RB_EUNSUPPORTED, naming another component. */
rb_status normalizer_read(normalizer *out, const cJSON *component, rb_error *err);

/* Normalises valid UTF-8. *owned is NULL when the text is already in form and *out is the text itself; else it holds
 * *out and is freed by free(). */
rb_status normalizer_apply(const normalizer *normalizer, const char *text, size_t length, const char **out,
                           size_t *out_length, char **owned, rb_error *err);

#endif
