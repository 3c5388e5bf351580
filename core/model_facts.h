/* What every ropebits file says about the model it belongs to: identity, geometry, RoPE. There is one struct, one JSON
 * form, one HDF5 form, and one comparison that names both values.
 *
 * RoPE blocks. Block i < rotary_dim / 2 is the pair of dims that inv_freq[i] turns: (i, i + rotary_dim/2) for
 * split-half pairing, (2i, 2i + 1) for interleaved. Dims past rotary_dim form blocks of two adjacent dims with
 * frequency zero, so a head always has head_dim / 2 blocks. */
#ifndef RB_CORE_MODEL_FACTS_H
#define RB_CORE_MODEL_FACTS_H

#include <cjson/cJSON.h>
#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/sha256.h"
#include "core/status.h"
#include "core/text_bos.h"

enum { RB_MAX_HEAD_DIM = 1024, RB_MAX_BLOCKS = RB_MAX_HEAD_DIM / 2, MODEL_FACTS_MAX_LAYERS = 1024 };

typedef enum rope_pairing { ROPE_SPLIT_HALF, ROPE_INTERLEAVED } rope_pairing; /* "split-half", "interleaved" */

/* Called "default", "linear", "llama3", "dynamic", "yarn", "longrope", "proportional", as in transformers. */
typedef enum rope_kind {
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_LLAMA3,
    ROPE_DYNAMIC,
    ROPE_YARN,
    ROPE_LONGROPE,
    ROPE_PROPORTIONAL,
    ROPE_N_KINDS
} rope_kind;

typedef struct rope_facts {
    rope_kind kind;
    rope_pairing pairing;
    double theta;
    double factor;                            /* 1 for default */
    double low_freq_factor, high_freq_factor; /* for llama3; otherwise 0 */
    int64_t original_max_position;            /* where rope_kind_has_original; otherwise 0 */
    double attention_factor;                  /* cos and sin are multiplied by it: yarn and longrope; otherwise 1 */
    /* Resolved, scaling included, radians per token; rotary_dim / 2 of them. 0 for blocks that proportional RoPE leaves
     * as they are. */
    double inv_freq[RB_MAX_BLOCKS];
} rope_facts;

typedef struct model_facts {
    char model_type[32]; /* "llama", "qwen2", ... as in config.json */
    char config_sha256[RB_SHA256_HEX];
    char weights_sha256[RB_SHA256_HEX];        /* "" when not asked for */
    char weights_sample_sha256[RB_SHA256_HEX]; /* model/weights_identity.h; "" in a plan, and where nobody sampled */
    int n_layers, n_q_heads, n_kv_heads;
    int head_dim, rotary_dim; /* of a query and a key as they enter RoPE */
    int value_dim;            /* of a value as the cache holds it: head_dim, or the rank of a latent cache (MLA) */
    double attention_scale;   /* what the model multiplies logits by, usually 1/sqrt(head_dim) */
    rope_facts rope;          /* of every layer, but for those of layer_is_local */
    rope_facts local_rope;    /* of the layers with a sliding window, where they turn in another way (Gemma 3) */
    bool has_local_rope;
    bool layer_is_local[MODEL_FACTS_MAX_LAYERS]; /* all false without local_rope */
} model_facts;

/* A stretch of token ids that was run through the model. */
typedef struct text_facts {
    char tokens_sha256[RB_SHA256_HEX]; /* of the ids as little-endian int32; "" when absent */
    int64_t n_tokens;
    int64_t context; /* the ids are cut into sequences of this length; positions start at 0 in each */
    text_bos bos;    /* the beginning-of-text tokens among the ids */
} text_facts;

static inline int model_n_blocks(const model_facts *facts) { return facts->head_dim / 2; }
static inline int model_q_per_kv(const model_facts *facts) { return facts->n_q_heads / facts->n_kv_heads; }

/* The RoPE of a layer. */
static inline const rope_facts *model_rope(const model_facts *facts, int layer)
{
    return facts->layer_is_local[layer] ? &facts->local_rope : &facts->rope;
}

/* The two dims of a block; its frequency in a layer (0 past rotary_dim); and what RoPE multiplies a pair by besides
 * turning it, attention_factor (1 past rotary_dim). */
void model_block_dims(const model_facts *facts, int block, int dims[2]);
double model_block_freq(const model_facts *facts, int layer, int block);
double model_block_gain(const model_facts *facts, int layer, int block);
/* What a logit has of a block, q . R k, RoPE multiplies by the square of its gain, and the logit's variance by its
 * fourth power. So this is what a query energy of the block counts, a key's being that of the keys as the cache codes
 * them, before RoPE. 1 without a gain. */
double model_query_weight(const model_facts *facts, int layer, int block);

/* Facts whose heads are the values: head_dim is value_dim. For codecs, which know one head_dim. */
model_facts model_value_facts(const model_facts *facts);

const char *rope_kind_name(rope_kind kind);
bool rope_kind_has_original(rope_kind kind); /* whether original_max_position means something */
const char *rope_pairing_name(rope_pairing pairing);

/* Ranges and consistency (heads divide, dims even, frequencies finite and positive). `where` starts the message. */
rb_status model_facts_check(const model_facts *facts, const char *where, rb_error *err);

/* Fails with RB_EMISMATCH and names the field and both values: "a.h5 and b.json: head_dim 64 and 128". Each hash of
 * the weights is compared when both sides have it. */
rb_status model_facts_same(const model_facts *a, const char *name_a, const model_facts *b, const char *name_b,
                           rb_error *err);

/* JSON: {"model_type", "config_sha256", "weights_sha256"?, "weights_sample_sha256"?, "n_layers", "n_q_heads",
 * "n_kv_heads", "head_dim", "rotary_dim", "value_dim"?, "attention_scale", "rope": {"kind", "pairing", "theta",
 * "factor"?, ..., "attention_factor"?, "inv_freq": [..]}, "local_rope"?: {the same, "layers": [..]}}. Absent: value_dim
 * is head_dim, attention_factor 1. So models that need neither have the files that they had before there were such
 * members. */
rb_status model_facts_to_json(cJSON **out, const model_facts *facts, rb_error *err);
rb_status model_facts_from_json(model_facts *facts, const cJSON *object, const char *where, rb_error *err);

/* HDF5: the same names as attributes of the group, RoPE parameters as rope_kind, rope_pairing, rope_theta, ...;
 * /rope/inv_freq [n] f64. Those of a local rope as local_rope_kind, ..., /rope/local_inv_freq, and its layers as
 * /rope/local_layers i32. */
rb_status model_facts_write_h5(hid_t file, const model_facts *facts, rb_error *err);
struct rb_h5_contents; /* core/hdf5/hdf5_file.h */
rb_status model_facts_read_h5(model_facts *facts, const struct rb_h5_contents *file, const char *name, rb_error *err);

/* {"tokens_sha256", "n_tokens", "context", "bos"?, "bos_ids"?}, or null for an empty text_facts. Null, or no object at
 * all (NULL), is read as an empty one. */
rb_status text_facts_to_json(cJSON **out, const text_facts *text, rb_error *err);
rb_status text_facts_from_json(text_facts *text, const cJSON *object, const char *where, rb_error *err);

#endif
