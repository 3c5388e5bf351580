/* Where the tokens that begin a text stand among token ids. Models that were trained with them in front of every text
 * compute something else without them. */
#ifndef RB_CORE_TEXT_BOS_H
#define RB_CORE_TEXT_BOS_H

#include <cjson/cJSON.h>
#include <hdf5.h>
#include <stdint.h>

#include "core/status.h"

enum { BOS_MAX_TOKENS = 8 };

/* First to last. Most models have one, GLM has two. */
typedef struct bos_tokens {
    int n; /* 0: none */
    int32_t ids[BOS_MAX_TOKENS];
} bos_tokens;

typedef enum bos_mode {
    BOS_UNKNOWN,  /* a file does not say */
    BOS_NONE,     /* nowhere; ids of the user's are as they are */
    BOS_SEQUENCE, /* in front of every sequence */
    BOS_TEXT      /* in front of every text, which may be several sequences */
} bos_mode;

typedef struct text_bos {
    bos_mode mode;
    bos_tokens tokens; /* none unless mode is BOS_SEQUENCE or BOS_TEXT */
} text_bos;

const char *bos_mode_name(bos_mode mode); /* "none", "sequence", "text"; "unknown" */

/* Members "bos" and, where there are tokens, "bos_ids": [..]. An unknown mode adds nothing, and no members are read as
 * one. Reading fails with RB_EFORMAT, naming the member. */
rb_status text_bos_to_json(cJSON *object, const text_bos *bos, rb_error *err);
rb_status text_bos_from_json(text_bos *out, const cJSON *object, const char *where, rb_error *err);

/* The same as attributes of `object`, both strings: bos_ids is "[2]". */
struct rb_h5_contents;
rb_status text_bos_write_h5(hid_t loc, const char *object, const text_bos *bos, rb_error *err);
rb_status text_bos_read_h5(text_bos *out, const struct rb_h5_contents *file, const char *object, rb_error *err);

#endif
