/* The tokens after which a model's text ends. */
#ifndef RB_MODEL_MODEL_EOS_H
#define RB_MODEL_MODEL_EOS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

enum { EOS_MAX_TOKENS = 32 };

typedef struct eos_tokens {
    int n;
    int32_t ids[EOS_MAX_TOKENS];
} eos_tokens;

/* eos_token_id, a number or a list of them, of generation_config.json, or where that says nothing of config.json; the
 * eos, eot and eom tokens of a GGUF's metadata. None where no file says it. Fails with RB_EFORMAT on members of the
 * wrong type. */
rb_status model_eos_find(eos_tokens *out, const char *model_path, rb_error *err);
bool eos_tokens_have(const eos_tokens *tokens, int32_t id);

#endif
