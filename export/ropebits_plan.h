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
enum { ROPEBITS_ROTATION_HAAR = 0 };
enum { ROPEBITS_CODEBOOK_BLOCK_GTQ = 0, ROPEBITS_CODEBOOK_SPHERE = 1 };
enum { ROPEBITS_ORDER_BLOCK = 0, ROPEBITS_ORDER_NATURAL = 1 };

typedef struct ropebits_group {
    uint8_t width;              /* bits a code, 1..8 */
    uint8_t order;              /* of the dims: block pairs, or ascending */
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
    uint32_t key_bits;          /* stored per token: codes, fp16 norms, padding */
} ropebits_head;

typedef struct ropebits_plan_info {
    const char *method;             /* "block-gtq" */
    const char *model_type;         /* "llama" */
    const char *config_sha256;      /* 64 hex digits */
    uint32_t n_layers, n_q_heads, n_kv_heads, head_dim, rotary_dim;
    uint8_t pairing;                /* ROPEBITS_PAIRING_... */
    uint8_t value_width;            /* 1..8, or 16: values stay fp16 */
    double avg_bits, key_true_bits, bytes_per_token;
    const double *inv_freq;         /* [rotary_dim / 2] */
    const float *value_centroids;   /* [1 << value_width]; NULL when value_width is 16 */
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
