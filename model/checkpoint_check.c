/* What a forward pass needs from a checkpoint: names and shapes of every tensor, checked without reading data.
 *
 * A tensor that the configuration says is not there, but is (a bias, a q/k norm), is an error too: the forward pass
 * would leave it out. */
#include <stdio.h>
#include <string.h>

#include "model/checkpoint.h"

/* Sizes a dim of a weight can have. */
typedef enum tensor_dim { DIM_NONE, DIM_HIDDEN, DIM_QUERY, DIM_KEY, DIM_HEAD, DIM_MLP } tensor_dim;
/* When a tensor is there. */
typedef enum tensor_use { USE_ALWAYS, USE_QKV_BIAS, USE_O_BIAS, USE_MLP_BIAS, USE_QK_NORM } tensor_use;

/* Tensors of one layer, behind "model.layers.N.". */
static const struct {
    const char *name;
    tensor_dim rows, cols;
    tensor_use use;
} LAYER_TENSORS[] = {
    {"input_layernorm.weight", DIM_HIDDEN, DIM_NONE, USE_ALWAYS},
    {"self_attn.q_proj.weight", DIM_QUERY, DIM_HIDDEN, USE_ALWAYS},
    {"self_attn.k_proj.weight", DIM_KEY, DIM_HIDDEN, USE_ALWAYS},
    {"self_attn.v_proj.weight", DIM_KEY, DIM_HIDDEN, USE_ALWAYS},
    {"self_attn.o_proj.weight", DIM_HIDDEN, DIM_QUERY, USE_ALWAYS},
    {"self_attn.q_proj.bias", DIM_QUERY, DIM_NONE, USE_QKV_BIAS},
    {"self_attn.k_proj.bias", DIM_KEY, DIM_NONE, USE_QKV_BIAS},
    {"self_attn.v_proj.bias", DIM_KEY, DIM_NONE, USE_QKV_BIAS},
    {"self_attn.o_proj.bias", DIM_HIDDEN, DIM_NONE, USE_O_BIAS},
    {"self_attn.q_norm.weight", DIM_HEAD, DIM_NONE, USE_QK_NORM},
    {"self_attn.k_norm.weight", DIM_HEAD, DIM_NONE, USE_QK_NORM},
    {"post_attention_layernorm.weight", DIM_HIDDEN, DIM_NONE, USE_ALWAYS},
    {"mlp.gate_proj.weight", DIM_MLP, DIM_HIDDEN, USE_ALWAYS},
    {"mlp.up_proj.weight", DIM_MLP, DIM_HIDDEN, USE_ALWAYS},
    {"mlp.down_proj.weight", DIM_HIDDEN, DIM_MLP, USE_ALWAYS},
    {"mlp.gate_proj.bias", DIM_MLP, DIM_NONE, USE_MLP_BIAS},
    {"mlp.up_proj.bias", DIM_MLP, DIM_NONE, USE_MLP_BIAS},
    {"mlp.down_proj.bias", DIM_HIDDEN, DIM_NONE, USE_MLP_BIAS},
};

static int64_t dim_size(const model_config *config, tensor_dim dim)
{
    const model_facts *facts = &config->facts;
    switch (dim) {
    case DIM_HIDDEN: return config->hidden_size;
    case DIM_QUERY: return (int64_t)facts->n_q_heads * facts->head_dim;
    case DIM_KEY: return (int64_t)facts->n_kv_heads * facts->head_dim;
    case DIM_HEAD: return facts->head_dim;
    case DIM_MLP: return config->intermediate_size;
    case DIM_NONE: break;
    }
    return 0;
}

static bool is_used(const model_config *config, tensor_use use)
{
    switch (use) {
    case USE_ALWAYS: return true;
    case USE_QKV_BIAS: return config->qkv_bias;
    case USE_O_BIAS: return config->o_bias;
    case USE_MLP_BIAS: return config->mlp_bias;
    case USE_QK_NORM: return config->qk_norm;
    }
    return false;
}

static rb_status check_tensor(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape, rb_error *err)
{
    const safetensor *tensor;
    const rb_status st = checkpoint_tensor(ckpt, name, rank, shape, &tensor, err);
    if (st != RB_OK) return st;
    if (!tensor_dtype_is_float(tensor->dtype))
        return rb_fail(err, RB_EUNSUPPORTED, "%s: tensor \"%s\" is %s, expected F32, F16 or BF16",
                       checkpoint_folder(ckpt), name, tensor_dtype_name(tensor->dtype));
    return RB_OK;
}

static rb_status check_layer(const checkpoint *ckpt, int layer, rb_error *err)
{
    enum { NAME_BYTES = 96 };
    const model_config *config = checkpoint_config(ckpt);
    for (size_t i = 0; i < RB_COUNT(LAYER_TENSORS); i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "model.layers.%d.%s", layer, LAYER_TENSORS[i].name);
        if (!is_used(config, LAYER_TENSORS[i].use)) {
            if (checkpoint_has(ckpt, name))
                return rb_fail(err, RB_EMISMATCH,
                               "%s: tensor \"%s\" is there, but config.json (model_type %s) does not use it",
                               checkpoint_folder(ckpt), name, config->facts.model_type);
            continue;
        }
        const int64_t shape[2] = {dim_size(config, LAYER_TENSORS[i].rows), dim_size(config, LAYER_TENSORS[i].cols)};
        const rb_status st = check_tensor(ckpt, name, LAYER_TENSORS[i].cols == DIM_NONE ? 1 : 2, shape, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

rb_status checkpoint_check(const checkpoint *ckpt, rb_error *err)
{
    const model_config *config = checkpoint_config(ckpt);
    const int64_t hidden[1] = {config->hidden_size}, vocab[2] = {config->vocab_size, config->hidden_size};
    rb_status st;

    RB_TRY(st, check_tensor(ckpt, "model.embed_tokens.weight", 2, vocab, err), done);
    for (int layer = 0; layer < config->facts.n_layers; layer++) RB_TRY(st, check_layer(ckpt, layer, err), done);
    RB_TRY(st, check_tensor(ckpt, "model.norm.weight", 1, hidden, err), done);
    if (!config->tied_embeddings) RB_TRY(st, check_tensor(ckpt, "lm_head.weight", 2, vocab, err), done);
done:
    return st;
}
