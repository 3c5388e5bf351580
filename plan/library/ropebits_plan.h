/* ropebits_plan: reads bit plans (plan.rbp) into plain C arrays. For runtimes: one header, one small library
 * (libropebits_plan), needs libzstd only.
 *
 *   ropebits_plan *plan; char error[256];
 *   if (ropebits_plan_open(&plan, "plan.rbp", error, sizeof error)) { fprintf(stderr, "%s\n", error); ... }
 *   const ropebits_head *head = ropebits_plan_head(plan, layer, kv_head);
 *   ...
 *   ropebits_plan_close(plan);
 *
 * Nothing is allocated after open; everything lives until close. A plan is checked completely when it is opened: magic,
 * version, checksum, sizes, ranges, every block in one group at most, one family a layer. Look at the family of a head
 * first: it says which of the three codings below is the head's. All heads of a layer are of one family; layers may
 * differ. The file format, byte by byte: docs/plan-rbp.md.
 *
 * ROPEBITS_FAMILY_GROUPS. What a runtime does with a key of the head, as it enters RoPE, x [head_dim]:
 *
 *   store     y = (x - center) * scales, the scale of a block on both its dims (no center: 0, no scales: 1).
 *             For each group: take its dims of y in coding order, norm = their length, divide, rotate,
 *             code = number of boundaries below, boundaries half way between centroids.
 *   restore   centroids of the codes, to length 1, rotated back, times the stored norm; then x = y / scales + center.
 *             A block of no group (bits 0) stores nothing: its y is 0, so it comes back as its center, or as 0.
 *
 * Norms: ROPEBITS_NORM_FP16 is the fp16 number. ROPEBITS_NORM_LOG8 is one byte: 0 is norm 0, c = 1..255 is
 * 2^(norm_exponent - (255 - c) / 16), with the norm_exponent of the group. Storing takes
 * c = 255 + round(16 * (log2(norm) - norm_exponent)), at most 255; below 1 it is 0.
 *
 * Scales cost nothing at run time when they are folded into the weights: rows of k_proj (and its bias) of a block times
 * its scale, the rows of q_proj (and its bias) of every query head of this KV head over it. That leaves every logit as
 * it is and commutes with RoPE (one scalar a block). `ropebits export --format folded` writes such weights. Otherwise
 * apply them as above.
 *
 * A center belongs to keys before RoPE. A cache that quantizes before RoPE does as above. One that stores rotated keys
 * takes the center off before RoPE, stores R_t (x - center), and adds q . R_t center to the logit of token t, q being
 * the rotated query: R_t turns by position t, and multiplies the blocks that turn by the layer's attention factor
 * (ropebits_plan_attention_factor), for queries and keys alike.
 *
 * ROPEBITS_FAMILY_BLOCK_CODEBOOK. A head has no groups, norms and scales, and stores less: every RoPE block is one
 * code, a point in the plane for both its dims. Block i < rotary_dim / 2 is dims (i, i + rotary_dim / 2) for split-half
 * pairing; every other block is dims (2i, 2i + 1). In the dims of block i, z = x - center, and
 *
 *   m = maps + 3 * i, n = 1 << bits[i], points = ropebits_plan_points(plan, bits[i]),
 *   code c is the point p = (points[c], points[n + c]), mapped to M p = (m[0] p_0, m[1] p_0 + m[2] p_1).
 *
 * A block of more than 10 bits has a level for each dim in place of a point. Its code is a | b << f, with
 * f = ropebits_first_bits(m, bits[i]), and p = (s[a], t[b]), s = ropebits_plan_levels(plan, f) and
 * t = ropebits_plan_levels(plan, bits[i] - f).
 *
 *   stream    of a token: gain_bits bits of the gain's code, then bits[i] bits of the code of every block in order,
 *             least significant bit first, padded to a byte: key_bits.
 *   restore   g = 2^((gain's code - zero) / 2) as a float, zero = (1 << gain_bits) / 4 in whole numbers (gain_bits 0:
 *             g = 1); z = g * M p; x = z + center. A block of 0 bits stores nothing: it comes back as its center, or
 *             as 0. A kernel makes tables of M p once.
 *   store     a block as the point whose M p is nearest to z / g, the lowest code of equals. Of levels first a, for
 *             which m[0] s[a] is nearest to the first dim of z / g, then b, for which m[2] t[b] is nearest to the
 *             second less m[1] s[a]; 0 where the number of the map is 0. For the gain, start at the
 *             level round(log2(sum weights[i] |z_i|^2 / sum weights[i] (m0^2 + m1^2 + m2^2)) + zero), sums over the
 *             blocks that have bits, kept within 0 .. 2^gain_bits - 1. Take, among it and the levels beside it (kept
 *             within too), the one that leaves the least sum of weights[i] |z_i - what is restored|^2, the lowest of
 *             equals.
 *
 * ROPEBITS_FAMILY_TRELLIS, of keys and of values (ropebits_plan_value_head; then d is value_dim in place of head_dim
 * and x a value). A head has no groups, norms, scales and bits of blocks: x is a sum of d basis vectors, and the
 * factors, its coordinates, are coded one after the other. With w = widths, B_i = row i of basis, n the number of
 * coordinates that have bits, which come first, and table = ropebits_plan_trellis(plan, w[i]),
 *
 *   stream    of a token: w[i] bits of every coordinate in order, each least significant bit first, and gain_bits bits
 *             of the gain's code l; padded to a byte: key_bits. The first coordinate has 8 bits. Coordinate i is
 *             y_i = table[the 8 bits of the stream that end with its own], the first of them the lowest.
 *   restore   g = 2^((l - gain_zero) / 2) as a float, x = center + g * (sum of y_i B_i over i < n).
 *   store     z = (x - center) B^-1, s_i = 1 / (1 - e_i), e_i the mean squared error of table i for a normal variable
 *             (docs/plan-rbp.md of ropebits), W = weights, sums over i < n. The gain's code is
 *             round(log2(sum W_i (z_i s_i)^2 / sum W_i) + gain_zero), kept within 0 .. 2^gain_bits - 1. Then take
 *             the bits whose y have the least sum of W_i (z_i s_i / g - y_i)^2: a search by dynamic programming over
 *             the 256 states, 8 bits of the stream each.
 *
 * The products with B^-1 and B can go into the weights of the values' projections: `ropebits export --format folded`.
 *
 * Exact tokens. The first n_sink tokens of a sequence take most of a model's attention and lie far from what the codes
 * expect; a plan may leave them, and the last n_recent, in fp16 (ropebits_plan_info). Keys and values of token t of a
 * sequence whose newest token is s are stored as above where n_sink <= t <= s - n_recent. So a cache has an area of
 * n_sink tokens that never change, a ring of n_recent, and the coded tokens: a token that leaves the ring is coded
 * then. A runtime may quantize exact tokens too; it loses what they are worth.
 *
 * How codes are chosen is the encoder's own business: the formulas restore any of them. ROPEBITS_ENCODER_NEAREST is the
 * encoder above. A plan that says ROPEBITS_ENCODER_SEARCH was measured with a better one, which needs the coherence of
 * a group (docs/method.md of ropebits). */
#ifndef ROPEBITS_PLAN_H
#define ROPEBITS_PLAN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The newest this library reads; it reads those before it too. */
#define ROPEBITS_PLAN_FORMAT_VERSION 5

enum { ROPEBITS_PAIRING_SPLIT_HALF = 0, ROPEBITS_PAIRING_INTERLEAVED = 1 };
/* How the frequencies were scaled; inv_freq has the outcome. */
enum {
    ROPEBITS_ROPE_DEFAULT = 0,
    ROPEBITS_ROPE_LINEAR = 1,
    ROPEBITS_ROPE_LLAMA3 = 2,
    ROPEBITS_ROPE_DYNAMIC = 3,
    ROPEBITS_ROPE_YARN = 4,
    ROPEBITS_ROPE_LONGROPE = 5,
    ROPEBITS_ROPE_PROPORTIONAL = 6
};
enum { ROPEBITS_ROTATION_HAAR = 0, ROPEBITS_ROTATION_HADAMARD = 1 }; /* how they are built: docs/plan-rbp.md */
enum { ROPEBITS_CODEBOOK_BLOCK_GTQ = 0, ROPEBITS_CODEBOOK_SPHERE = 1 };
enum { ROPEBITS_ORDER_BLOCK = 0, ROPEBITS_ORDER_NATURAL = 1 };
enum { ROPEBITS_NORM_FP16 = 0, ROPEBITS_NORM_LOG8 = 1 };
enum { ROPEBITS_ENCODER_NEAREST = 0, ROPEBITS_ENCODER_SEARCH = 1 };
enum { ROPEBITS_FAMILY_GROUPS = 0, ROPEBITS_FAMILY_BLOCK_CODEBOOK = 1, ROPEBITS_FAMILY_TRELLIS = 2 };
enum {
    ROPEBITS_MAX_BLOCK_BITS = 16,
    ROPEBITS_MAX_POINT_BITS = 10, /* of a block whose code is a point; above, it is two levels */
    ROPEBITS_MAX_LEVEL_BITS = 8,
    ROPEBITS_MAX_GAIN_BITS = 4,
    ROPEBITS_MAX_TRELLIS_WIDTH = 8,
    ROPEBITS_MAX_ROTATION_DIMS = 4096
};
enum { ROPEBITS_VALUES_FP16 = 16 };    /* value_width where values are not quantized: of all heads or of none */
enum { ROPEBITS_VALUES_OF_HEADS = 0 }; /* value_width where ropebits_plan_value_head says it: likewise */

typedef struct ropebits_group {
    uint8_t width;    /* bits a code, 1..8 */
    uint8_t order;    /* ROPEBITS_ORDER_...: dims as block pairs, or ascending */
    uint8_t rotation; /* ROPEBITS_ROTATION_... */
    uint8_t codebook; /* ROPEBITS_CODEBOOK_... */
    uint64_t seed;    /* of the rotation */
    uint16_t n_dims;
    const uint16_t *dims;   /* [n_dims]: dims of the head in coding order */
    const float *centroids; /* [1 << width], ascending */
    int16_t norm_exponent;  /* of ROPEBITS_NORM_LOG8, -126..126; else 0 */
    float coherence;        /* of ROPEBITS_ENCODER_SEARCH, above 0: for the encoder only; else 1 */
} ropebits_group;

typedef struct ropebits_head {
    uint16_t n_groups; /* 0 in a head of block-codebook or trellis */
    const ropebits_group *groups;
    /* [head_dim / 2]: the width of every RoPE block, for block-codebook the bits of its code, both dims together, up to
     * 16; 0: nothing is stored. NULL for trellis, whose coordinates belong to no block */
    const uint8_t *bits;
    /* Stored per token: codes padded to whole bytes, and a norm of norm_bits per group; for block-codebook and
     * trellis gain and codes, padded. Of a value head: of a value */
    uint32_t key_bits;
    uint8_t norm;        /* ROPEBITS_NORM_... */
    uint8_t norm_bits;   /* 16 or 8; 0 for block-codebook and trellis */
    uint8_t encoder;     /* ROPEBITS_ENCODER_... */
    const float *scales; /* [head_dim / 2], above 0, or NULL: none. Numbers that fp16 holds */
    const float *center; /* [head_dim], or NULL: none. Numbers that fp16 holds */
    /* 1..8, or ROPEBITS_VALUES_FP16, or ROPEBITS_VALUES_OF_HEADS. With a width, values are one group of all value_dim
     * dims, ascending, haar rotation with seed 1000 + kv_head */
    uint8_t value_width;
    /* Stored per token: codes padded to whole bytes, and an fp16 norm; 16 * value_dim for ROPEBITS_VALUES_FP16,
     * key_bits of the value head for ROPEBITS_VALUES_OF_HEADS */
    uint32_t value_bits;
    const float *value_centroids; /* [1 << value_width]; NULL without a width */
    uint8_t family;               /* ROPEBITS_FAMILY_..., one for all heads of a layer */
    /* For ROPEBITS_FAMILY_BLOCK_CODEBOOK; else 0 and NULL, but gain_bits and weights, which ROPEBITS_FAMILY_TRELLIS has
     * too. Numbers that fp16 holds. */
    uint8_t gain_bits;    /* 0..4: bits of the gain's code in the stream of a token */
    const float *maps;    /* [head_dim / 2][3] */
    const float *weights; /* [head_dim / 2], of trellis [d], above 0: for the encoder only */
    /* For ROPEBITS_FAMILY_TRELLIS; else 0 and NULL. d is head_dim, of a value head value_dim. */
    uint8_t gain_zero;     /* the level of the gain that is 1 */
    const uint8_t *widths; /* [d]: bits of every coordinate, 0..8, the first 8; those of no bits come last */
    const uint16_t *basis; /* [d][d]: fp16 words; rows of coordinates of no bits are for the encoder only */
} ropebits_head;

typedef struct ropebits_plan_info {
    const char *method;       /* "block-gtq" */
    const char *tool_version; /* of ropebits, that wrote the plan */
    double avg_bits;          /* nominal budget of the keys, bits per dim */
    double key_true_bits;     /* what keys cost: codes, norms, padding; bits per dim */
    double bytes_per_token;   /* of a token that is quantized: keys and values of all layers and heads */
    uint8_t value_codebook;   /* ROPEBITS_CODEBOOK_..., of all heads */

    const char *model_type;     /* "llama" */
    const char *config_sha256;  /* of config.json, 64 hex digits */
    const char *weights_sha256; /* 64 hex digits, or "" */
    uint32_t n_layers, n_q_heads, n_kv_heads, head_dim, rotary_dim;
    double attention_scale;
    uint8_t pairing;   /* ROPEBITS_PAIRING_... */
    uint8_t rope_kind; /* ROPEBITS_ROPE_... */
    double rope_theta, rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    uint64_t rope_original_max_position;
    const double *inv_freq; /* [rotary_dim / 2], scaling included */

    const char *calibration_sha256; /* of the token ids as int32, 64 hex digits */
    uint64_t calibration_n_tokens, calibration_context;

    uint32_t value_dim;           /* of a value in the cache: head_dim, or the rank of a latent cache (MLA) */
    double rope_attention_factor; /* RoPE multiplies queries and keys by it besides turning them; usually 1 */
    /* Layers that turn by a RoPE of their own, as those with a sliding window in Gemma 3. Pairing and rotary_dim are
     * the same in all layers. ropebits_plan_inv_freq has the frequencies of any layer. */
    const uint8_t *layer_is_local; /* [n_layers]: 1 for such layers; NULL: there are none, and what follows is 0 */
    uint8_t local_rope_kind;
    double local_rope_theta, local_rope_factor, local_rope_low_freq_factor, local_rope_high_freq_factor;
    uint64_t local_rope_original_max_position;
    double local_rope_attention_factor;
    const double *local_inv_freq; /* [rotary_dim / 2] */

    /* Exact tokens: keys and values of the first n_sink tokens of a sequence, and of the last n_recent before a query
     * (its own included), stay fp16. 0: none. */
    uint32_t n_sink, n_recent;
} ropebits_plan_info;

typedef struct ropebits_plan ropebits_plan;

/* 0, or -1 with one sentence in error (always terminated; error may be NULL with size 0). *plan is NULL on failure. */
int ropebits_plan_open(ropebits_plan **plan, const char *path, char *error, size_t error_size);
int ropebits_plan_parse(ropebits_plan **plan, const void *bytes, size_t size_bytes, char *error, size_t error_size);
void ropebits_plan_close(ropebits_plan *plan);

const ropebits_plan_info *ropebits_plan_get_info(const ropebits_plan *plan);
/* Bytes of a sequence of n_tokens, its exact tokens in fp16. */
double ropebits_plan_bytes(const ropebits_plan *plan, uint64_t n_tokens);
/* NULL when out of range. */
const ropebits_head *ropebits_plan_head(const ropebits_plan *plan, uint32_t layer, uint32_t kv_head);
/* How the values of a KV head are coded, where value_width is ROPEBITS_VALUES_OF_HEADS: a head of
 * ROPEBITS_FAMILY_TRELLIS whose dims are those of a value. NULL when the plan has none, or out of range. */
const ropebits_head *ropebits_plan_value_head(const ropebits_plan *plan, uint32_t layer, uint32_t kv_head);
/* The frequencies of a layer, [rotary_dim / 2], and what RoPE multiplies by there; NULL and 0 when out of range. */
const double *ropebits_plan_inv_freq(const ropebits_plan *plan, uint32_t layer);
double ropebits_plan_attention_factor(const ropebits_plan *plan, uint32_t layer);
/* The codebook of blocks of so many bits, [2][1 << bits]: every point's x, then every point's y, in the order of their
 * codes. NULL when the plan has no such block. */
const float *ropebits_plan_points(const ropebits_plan *plan, uint32_t bits);
/* The levels of so many bits, [1 << bits], ascending, for blocks of more than ROPEBITS_MAX_POINT_BITS bits. NULL when
 * no block of the plan has such. */
const float *ropebits_plan_levels(const ropebits_plan *plan, uint32_t bits);
/* The bits of the first dim's level, of a block of more than ROPEBITS_MAX_POINT_BITS bits with this map [3]: those b
 * from bits - 8 to 8 that make m[0]^2 4^-b + m[2]^2 4^-(bits - b) least, the fewest of equals. */
uint32_t ropebits_first_bits(const float *map, uint32_t bits);
/* The table of coordinates of so many bits, [256]: the number of every 8 bits of the stream. NULL when the plan has no
 * such coordinate. */
const float *ropebits_plan_trellis(const ropebits_plan *plan, uint32_t width);
/* The rotation R of a group by its kind, seed and number of dims: matrix [dims][dims], row by row, the caller's; dims 1
 * to ROPEBITS_MAX_ROTATION_DIMS. 0, or -1 with one sentence in error, as ropebits_plan_open. About 2 ms for 128 dims,
 * and most plans name few: keep it. */
int ropebits_plan_rotation(uint8_t kind, uint64_t seed, uint32_t dims, float *matrix, char *error, size_t error_size);

#ifdef __cplusplus
}
#endif

#endif
