/* What a pre-tokenizer is made of; shared by pretokenizer.c, which cuts, and pretokenizer_file.c, which reads. Nobody
 * else includes it. */
#ifndef RB_MODEL_TOKENIZER_PRETOKENIZER_STEPS_H
#define RB_MODEL_TOKENIZER_PRETOKENIZER_STEPS_H

#include "model/tokenizer/pretokenizer.h"
#include "model/tokenizer/text_pattern.h"

/* What becomes of the matches of a pattern. */
typedef enum split_behavior {
    SPLIT_REMOVED,              /* dropped */
    SPLIT_ISOLATED,             /* pieces of their own */
    SPLIT_MERGED_WITH_PREVIOUS, /* part of the piece before, unless that is a match too */
    SPLIT_MERGED_WITH_NEXT,     /* part of the piece after, unless that is a match too */
    SPLIT_CONTIGUOUS            /* matches that touch are one piece */
} split_behavior;

typedef enum pretokenizer_kind {
    STEP_SPLIT,
    STEP_SIGN_SPACES, /* spaces become `sign` */
    STEP_PREFIX,      /* `sign` goes in front of a piece that does not start with it */
    STEP_BYTE_LEVEL   /* bytes become symbols */
} pretokenizer_kind;

typedef struct pretokenizer_step {
    pretokenizer_kind kind;
    text_pattern pattern;
    split_behavior behavior;
    bool is_inverted;
    char sign[5];           /* one character */
    bool is_for_first_only; /* STEP_PREFIX: only the piece that begins the text */
} pretokenizer_step;

enum { PRETOKENIZER_MAX_STEPS = 48 };

struct pretokenizer {
    pretokenizer_step steps[PRETOKENIZER_MAX_STEPS];
    int n_steps;
};

#endif
