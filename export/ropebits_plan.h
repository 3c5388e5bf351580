/* ropebits_plan: reads bit plans (plan.rbp) into plain C arrays. For runtimes: one header, one small library (libropebits_plan), needs libzstd only.
 *
 *   ropebits_plan *plan; char error[256];
 *   if (ropebits_plan_open(&plan, "plan.rbp", error, sizeof error)) { fprintf(stderr, "%s\n", error); ... }
 *   const ropebits_head *head = ropebits_plan_head(plan, layer, kv_head);
 *   ...
 *   ropebits_plan_close(plan);
 *
 * Nothing here allocates behind your back after open; everything lives until close. A plan is checked completely when opened: magic, version,
 * checksum, sizes, ranges, every block in exactly one group. The file format, byte by byte: docs/plan-rbp.md. */
#ifndef ROPEBITS_PLAN_H
#define ROPEBITS_PLAN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ROPEBITS_PLAN_FORMAT_VERSION 1

enum { ROPEBITS_PAIRING_SPLIT_HALF = 0, ROPEBITS_PAIRING_INTERLEAVED = 1 };
enum { ROPEBITS_ROPE_DEFAULT = 0, ROPEBITS_ROPE_LINEAR = 1, ROPEBITS_ROPE_LLAMA3 = 2 };
enum { ROPEBITS_ROTATION_HAAR = 0, ROPEBITS_ROTATION_HADAMARD = 1 };     /* how they are built: docs/plan-rbp.md */
enum { ROPEBITS_CODEBOOK_BLOCK_GTQ = 0, ROPEBITS_CODEBOOK_SPHERE = 1 };
enum { ROPEBITS_ORDER_BLOCK = 0, ROPEBITS_ORDER_NATURAL = 1 };
enum { ROPEBITS_VALUES_FP16 = 16 };    /* value_width of values that are not quantized */

typedef struct ropebits_group {
    uint8_t width;              /* bits a code, 1..8 */
    uint8_t order;              /* ROPEBITS_ORDER_...: dims as block pairs, or ascending */
    uint8_t rotation;           /* ROPEBITS_ROTATION_... */
    uint8_t codebook;           /* ROPEBITS_CODEBOOK_... */
    uint64_t seed;              /* of the rotation */
    uint16_t n_dims;
    const uint16_t *dims;       /* [n_dims]: dims of the head in coding order */
    const float *centroids;     /* [1 << width], ascending */
} ropebits_group;

typedef struct ropebits_head {
    uint16_t n_groups;
    const ropebits_group *groups;
    const uint8_t *bits;        /* [head_dim / 2]: width of every RoPE block */
    uint32_t key_bits;          /* stored per token: codes padded to whole bytes, and a 16-bit norm per group */
} ropebits_head;

typedef struct ropebits_plan_info {
    const char *method;             /* "block-gtq" */
    const char *tool_version;       /* of ropebits, that wrote the plan */
    double avg_bits;                /* nominal budget of the keys, bits per dim */
    double key_true_bits;           /* what keys cost: codes, norms, padding; bits per dim */
    double bytes_per_token;         /* keys and values of all layers and heads */
    uint8_t value_width;            /* 1..8, or ROPEBITS_VALUES_FP16. One group of all dims, ascending, haar rotation with seed 1000 + kv_head */
    uint8_t value_codebook;         /* ROPEBITS_CODEBOOK_... */
    const float *value_centroids;   /* [1 << value_width]; NULL for ROPEBITS_VALUES_FP16 */

    const char *model_type;         /* "llama" */
    const char *config_sha256;      /* of config.json, 64 hex digits */
    const char *weights_sha256;     /* 64 hex digits, or "" */
    uint32_t n_layers, n_q_heads, n_kv_heads, head_dim, rotary_dim;
    double attention_scale;
    uint8_t pairing;                /* ROPEBITS_PAIRING_... */
    uint8_t rope_kind;              /* ROPEBITS_ROPE_... */
    double rope_theta, rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    uint64_t rope_original_max_position;
    const double *inv_freq;         /* [rotary_dim / 2], scaling included */

    const char *calibration_sha256; /* of the token ids as int32, 64 hex digits */
    uint64_t calibration_n_tokens, calibration_context;
} ropebits_plan_info;

typedef struct ropebits_plan ropebits_plan;

/* 0, or -1 with one sentence in error (always terminated; error may be NULL with size 0). *plan is NULL on failure. */
int ropebits_plan_open(ropebits_plan **plan, const char *path, char *error, size_t error_size);
int ropebits_plan_parse(ropebits_plan **plan, const void *bytes, size_t size_bytes, char *error, size_t error_size);
void ropebits_plan_close(ropebits_plan *plan);

const ropebits_plan_info *ropebits_plan_get_info(const ropebits_plan *plan);
/* NULL when out of range. */
const ropebits_head *ropebits_plan_head(const ropebits_plan *plan, uint32_t layer, uint32_t kv_head);

#ifdef __cplusplus
}
#endif

#endif
