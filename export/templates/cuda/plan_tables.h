/* The tables of one bit plan, and how a token is stored. For C and CUDA: needs plan_constants.h beside it, and
 * stdint.h.
 *
 * A token of a layer is one record of plan_layer.record_bytes bytes: for each KV head the codes of its key and then
 * their norms, and after all keys the same of its values. A cache of one sequence is an array of records. Where in the
 * record the parts of a head lie, and how they are coded, says its plan_head. Codes are one stream of bits, each code
 * least significant bit first, filling bytes from bit 0 up. Numbers of more than one byte are little-endian.
 *
 * Keys are coded as they enter RoPE. */
#ifndef PLAN_TABLES_H
#define PLAN_TABLES_H

#include <stdint.h>

#include "plan_constants.h"

/* How a head is coded. */
enum { PLAN_GROUPS, PLAN_BLOCK_CODEBOOK, PLAN_TRELLIS, PLAN_FP16 };
/* A block of more bits has a level for each of its dims in place of a point. */
enum { PLAN_MAX_POINT_BITS = 10, PLAN_STATE_BITS = 8, PLAN_STATES = 256, PLAN_NONE = -1 };

/* "At" is an index into one of the arrays of plan_tables; PLAN_NONE: there is none. */
typedef struct plan_group {
    int32_t n_dims, width; /* bits of a code */
    int32_t first_bit;     /* of its first code, in the stream of the head */
    int32_t dims_at;       /* shorts [n_dims]: its dims in the order of their codes */
    int32_t rotation_at;   /* floats [n_dims][n_dims] */
    int32_t centroids_at;  /* floats [1 << width], ascending */
    int32_t norm_exponent; /* of norms of one byte */
    float coherence;       /* for an encoder that searches */
} plan_group;

typedef struct plan_head {
    int32_t family;                        /* PLAN_GROUPS, ... */
    int32_t dims;                          /* of a vector */
    int32_t codes_at, code_bytes;          /* in the record */
    int32_t norms_at, norm_bytes, n_norms; /* in the record; bytes of one norm, 2: fp16, 1: log8 */
    int32_t center_at;                     /* floats [dims] */
    /* groups */
    int32_t n_groups, first_group; /* of plan_tables.groups */
    int32_t scales_at;             /* floats [dims] */
    int32_t searches;              /* 1: the encoder tries the vector stretched, too */
    /* block-codebook: bits of a block, both dims together; trellis: bits of a coordinate */
    int32_t bits_at;                          /* bytes [dims / 2], of trellis [dims] */
    int32_t starts_at;                        /* shorts, likewise: the first bit of each in the stream */
    int32_t first_bits_at;                    /* bytes [dims / 2]: of a block's first level, where it has levels */
    int32_t maps_at;                          /* floats [dims / 2][3] */
    int32_t weights_at;                       /* floats [dims / 2], of trellis [dims]; for the encoder */
    int32_t gain_bits, gain_zero, gain_start; /* the first bit of the gain's code */
    int32_t n_coded;                          /* trellis: coordinates that have bits, which come first */
    int32_t basis_at;                         /* halves [dims][dims]: fp16 words, a row a coordinate */
} plan_head;

typedef struct plan_layer {
    int32_t record_bytes;
    int32_t inv_freq_at;     /* doubles [PLAN_ROTARY_DIM / 2] */
    double attention_factor; /* RoPE multiplies queries and keys by it besides turning them */
} plan_layer;

typedef struct plan_tables {
    const plan_layer *layers;                   /* [PLAN_N_LAYERS] */
    const plan_head *heads;                     /* [PLAN_N_LAYERS][2: keys, values][PLAN_N_KV_HEADS] */
    const plan_group *groups;                   /* [PLAN_N_GROUPS] */
    const double *doubles;                      /* [PLAN_N_DOUBLES] */
    const float *floats;                        /* [PLAN_N_FLOATS] */
    const uint16_t *halves;                     /* [PLAN_N_HALVES] */
    const uint16_t *shorts;                     /* [PLAN_N_SHORTS] */
    const uint8_t *bytes;                       /* [PLAN_N_BYTES] */
    int32_t points_at[PLAN_MAX_POINT_BITS + 1]; /* floats [2][1 << bits], by bits: x of every point, then y */
    int32_t levels_at[9];                       /* floats [1 << bits], by bits */
    int32_t trellis_at[9];                      /* floats [PLAN_STATES], by width */
} plan_tables;

#ifdef __cplusplus
extern "C" {
#endif
extern const plan_tables plan_host_tables;
#ifdef __cplusplus
}
#endif

#endif
