/* Constants of plan.rbp that its writer (ropebits) and its reader (libropebits_plan, which links nothing of ropebits)
 * share. The format, byte by byte: docs/plan-rbp.md. */
#ifndef RB_PLAN_LIBRARY_PLAN_RBP_FORMAT_H
#define RB_PLAN_LIBRARY_PLAN_RBP_FORMAT_H

#include <stddef.h>
#include <stdint.h>

/* "\r\n" shows a transfer that rewrote line ends, as in PNG. */
#define PLAN_RBP_MAGIC "RBPLAN\r\n"
enum {
    PLAN_RBP_MAGIC_SIZE = 8,
    PLAN_RBP_HEADER_SIZE = 24, /* magic, u32 version, u32 zero, u32 payload size, u32 frame size */
    PLAN_RBP_CRC_SIZE = 4,     /* after the frame: CRC-32 of all bytes before it */
    PLAN_RBP_SHA256_SIZE = 32,
    PLAN_RBP_UNIT_DIMS = 0,         /* a codebook table for N(0, 1): centroid = value / sqrt(dims) */
    PLAN_RBP_PUBLISHED_VERSION = 1, /* of plans of the published form, so that older readers take them; */
    PLAN_RBP_GENERAL_VERSION = 2,   /* of other plans whose heads are all of groups; */
    PLAN_RBP_POINTS_VERSION = 3,    /* of plans with heads of block-codebook, the first with families and points */
    PLAN_RBP_MODEL_VERSION = 4,     /* of plans, of any family, whose model has facts that earlier versions lack */
    PLAN_RBP_EXACT_VERSION = 5,     /* of plans with tokens that stay fp16, or heads of trellis, of keys or values, */
    PLAN_RBP_MAX_EXACT = 1 << 24,   /* of sinks, and of recent tokens */
    PLAN_RBP_LEVELS_VERSION = 5,    /* of plans with blocks of more than 10 bits, of any model: they have levels */
    PLAN_RBP_OLD_MAX_ROPE_KIND = 2, /* the last kind of RoPE before PLAN_RBP_MODEL_VERSION: llama3 */
    PLAN_RBP_NO_GROUP = 255,        /* block_group of a block that stores nothing; heads have 255 groups at most */
    PLAN_RBP_MAX_NORM_EXPONENT = 126,
    PLAN_RBP_WIDTH_PER_HEAD = 0, /* value_width where heads have values of different widths: a column of them follows */
    PLAN_RBP_VALUE_HEADS = 255   /* value_width where values have heads of their own, of trellis, after those of keys */
};
/* Weights of block-codebook and trellis are this and more. */
enum { PLAN_RBP_LEAST_WEIGHT_INVERSE = 1 << 14 };
#define PLAN_RBP_LEAST_WEIGHT (1.0f / PLAN_RBP_LEAST_WEIGHT_INVERSE)
/* The largest plans have a basis of 32 KiB a head: 80 layers of 64 KV heads take 335 MB before compression, keys and
 * values. More than this is damage, not a plan. */
#define PLAN_RBP_MAX_PAYLOAD (1u << 30)

/* CRC-32 (IEEE 802.3, reflected, as in zlib and PNG). */
static inline uint32_t plan_rbp_crc32(const uint8_t *bytes, size_t n)
{
    uint32_t table[256], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) table[i] = (table[i] >> 1) ^ (0xedb88320u & (0u - (table[i] & 1u)));
    }
    for (size_t i = 0; i < n; i++) crc = (crc >> 8) ^ table[(crc ^ bytes[i]) & 0xff];
    return ~crc;
}

#endif
