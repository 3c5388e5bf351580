/* What the files of model facts share: their limits, and how facts that came from a file are checked. Nobody else
 * includes it. */
#ifndef RB_CORE_MODEL_FACTS_FORMS_H
#define RB_CORE_MODEL_FACTS_FORMS_H

#include <stdbool.h>

#include "core/model_facts.h"

enum { MODEL_FACTS_MAX_HEADS = 4096 };
static const int64_t MODEL_FACTS_MAX_POSITION = (int64_t)1 << 40;

/* Kind and pairing by their names. Fails with RB_EFORMAT on unknown ones. */
rb_status rope_facts_parse_names(rope_facts *rope, const char *kind, const char *pairing, const char *where,
                                 rb_error *err);

/* model_facts_check for facts that came from a file: what is wrong with them is wrong with the file (RB_EFORMAT). */
rb_status model_facts_check_as_read(const model_facts *facts, const char *where, rb_error *err);

bool model_facts_is_sha256(const char *hex);

#endif
