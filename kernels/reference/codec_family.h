/* The codec families: what kinds of quantizer a head can have. Every room makes its table of functions from this list.
 * A new family is a row here and one set of files; docs/architecture.md lists them.
 *
 *   groups          the published form and its extensions: blocks of equal width share a norm, a rotation and a
 *                   codebook (groups_plan.h)
 *   block-codebook  quantizes before RoPE: one code for both dims of a block, and a coarse gain a key
 *                   (block_codebook_plan.h)
 *   trellis         a vector is coded in a basis of its own, coordinate after coordinate, by a bit-shift trellis, and a
 *                   coarse gain a vector (trellis_plan.h) */
#ifndef RB_KERNELS_REFERENCE_CODEC_FAMILY_H
#define RB_KERNELS_REFERENCE_CODEC_FAMILY_H

/* ROW(its part of a constant's name, of its functions' and files' names, its name in options and files), in the order
 * of the numbers that plan.rbp stores. */
#define RB_CODEC_FAMILIES(ROW)                            \
    ROW(GROUPS, groups, "groups")                         \
    ROW(BLOCK_CODEBOOK, block_codebook, "block-codebook") \
    ROW(TRELLIS, trellis, "trellis")

#define RB_FAMILY_NUMBER(NAME, prefix, name) FAMILY_##NAME,
typedef enum codec_family { RB_CODEC_FAMILIES(RB_FAMILY_NUMBER) FAMILY_N_KINDS } codec_family;
#undef RB_FAMILY_NUMBER

extern const char *const codec_family_names[]; /* NULL-terminated */

#endif
