/* config.json of a Hugging Face checkpoint, both generations: rope_theta + rope_scaling, and rope_parameters
 * (transformers 5). A missing or unknown rope setting is an error, never a silent default. So is an unknown
 * architecture, activation or feature of attention. */
#ifndef RB_MODEL_MODEL_CONFIG_H
#define RB_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model_family.h"
#include "model/rope_settings.h"

enum { MODEL_MAX_LAYERS = MODEL_FACTS_MAX_LAYERS };

typedef enum activation_kind {
    ACTIVATION_SILU,
    ACTIVATION_GELU,     /* x Phi(x), with erf */
    ACTIVATION_GELU_TANH /* its approximation with tanh */
} activation_kind;

/* A cache of latents (MLA, arXiv 2405.04434). A token has one latent of kv_rank, out of which kv_b_proj makes the part
 * without RoPE of every head's key and every head's value, and one key with RoPE of facts.head_dim for all heads. To
 * the world outside the layer the latent is the value: facts.value_dim is kv_rank, n_kv_heads is 1. */
typedef struct latent_config {
    int kv_rank, q_rank; /* q_rank 0: q is projected as usual */
    double norm_eps;     /* of the latents' norms: 1e-6, whatever rms_norm_eps says */
} latent_config;

/* A mixture of experts: a router's scores are softmax(x W^T), the best n_per_token of a token are visited, and their
 * MLPs are summed with the scores as weights. */
typedef struct expert_config {
    int n, n_per_token;
    int size;        /* intermediate size of one */
    int shared_size; /* of those that every token visits, together; 0: there are none */
    /* Only experts of the n_groups_per_token groups with the largest best score can be chosen; n_groups 1: all. */
    int n_groups, n_groups_per_token;
    bool normalizes; /* weights of a token are divided by their sum */
    double scale;    /* and multiplied by it */
} expert_config;

typedef struct model_config {
    const model_family *family;
    const char *tensor_prefix; /* before every name of the family: "", or that of a decoder inside another model */
    model_facts facts;         /* identity, geometry, rope; weights_sha256 stays "" here */
    int hidden_size, intermediate_size, vocab_size;
    int64_t max_position;
    double norm_eps;
    unsigned extras;      /* what not every model has: bits of layer_extra, but for EXTRA_DENSE_MLP and EXTRA_EXPERTS */
    bool tied_embeddings; /* the LM head is the embedding matrix */

    int query_dim;    /* dims of a query and a key in attention: head_dim, and with a latent cache those without RoPE */
    int attended_dim; /* dims of a value in attention */
    bool has_latent_cache;
    latent_config latent;
    int sliding_window;                  /* keys a query sees, itself included; 0: all */
    bool layer_slides[MODEL_MAX_LAYERS]; /* which layers use it */
    rope_settings rope, local_rope;      /* what facts.rope and facts.local_rope are resolved from */

    activation_kind activation;
    bool has_parallel_residual; /* attention and MLP read the same input */
    bool layer_has_experts[MODEL_MAX_LAYERS];
    expert_config experts; /* n is 0 without */

    char defaults[512]; /* fields that config.json leaves to transformers' defaults, "a, b"; "" where there are none */

    double embedding_scale, residual_scale, logit_scale; /* multiply embeddings, what a layer adds, logits; usually 1 */
    double attention_softcap, logit_softcap;             /* x becomes cap * tanh(x / cap); 0: stays */
} model_config;

/* Reads DIR/config.json. */
rb_status model_config_read(model_config *out, const char *folder, rb_error *err);

/* From text; `name` is used in messages. sha256 of the text goes into facts. RoPE is resolved for sequences up to
 * max_position. */
rb_status model_config_parse(model_config *out, const char *text, size_t length, const char *name, rb_error *err);

/* Resolves RoPE anew for sequences of which the longest has n_positions tokens: dynamic and longrope turn by it. */
rb_status model_config_resolve_rope(model_config *config, int64_t n_positions, const char *name, rb_error *err);

/* The longest sequence that the model takes: max_position, and with dynamic scaling `factor` times as many. */
int64_t model_config_max_context(const model_config *config);

/* Name of the vocabulary matrix at the end of the forward pass, without tensor_prefix. */
const char *model_config_lm_head(const model_config *config);

#endif
