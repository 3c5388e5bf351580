/* What a forward pass needs from a checkpoint: names and shapes of every tensor, checked without reading data.
 *
 * A tensor that is there although the configuration does not use it (a bias, a q/k norm) is an error too: the forward
 * pass would ignore it. */
#include "model/checkpoint.h"
#include "model/layer_tensors.h"

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

static rb_status check_layer_tensor(const checkpoint *ckpt, const layer_tensor *tensor, int layer, int expert,
                                    rb_error *err)
{
    const model_config *config = checkpoint_config(ckpt);
    char name[LAYER_TENSOR_NAME];
    int64_t shape[2];
    layer_tensor_name(name, config, tensor, layer, expert);
    if (layer_tensor_is_used(config, tensor, layer)) {
        const int rank = layer_tensor_shape(config, tensor, shape);
        return check_tensor(ckpt, name, rank, shape, err);
    }
    if (checkpoint_has(ckpt, name))
        return rb_fail(err, RB_EMISMATCH, "%s: tensor \"%s\" is there, but config.json (model_type %s) does not use it",
                       checkpoint_folder(ckpt), name, config->facts.model_type);
    return RB_OK;
}

static rb_status check_layer(const checkpoint *ckpt, int layer, rb_error *err)
{
    const model_config *config = checkpoint_config(ckpt);
    const checkpoint_tensors *tensors = config->family->tensors;
    rb_status st = RB_OK;
    for (int i = 0; i < tensors->n_layer && st == RB_OK; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        const int n_experts = tensor->step == STEP_EXPERT ? config->experts.n : 1;
        for (int expert = 0; expert < n_experts && st == RB_OK; expert++)
            st = check_layer_tensor(ckpt, tensor, layer, expert, err);
    }
    return st;
}

rb_status checkpoint_check(const checkpoint *ckpt, rb_error *err)
{
    const model_config *config = checkpoint_config(ckpt);
    const checkpoint_tensors *tensors = config->family->tensors;
    const int64_t hidden[1] = {config->hidden_size}, vocab[2] = {config->vocab_size, config->hidden_size};
    char name[LAYER_TENSOR_NAME];
    rb_status st;

    model_tensor_name(name, config, tensors->embedding);
    RB_TRY(st, check_tensor(ckpt, name, 2, vocab, err), done);
    for (int layer = 0; layer < config->facts.n_layers; layer++) RB_TRY(st, check_layer(ckpt, layer, err), done);
    model_tensor_name(name, config, tensors->final_norm);
    RB_TRY(st, check_tensor(ckpt, name, 1, hidden, err), done);
    if (tensors->final_norm_bias) {
        model_tensor_name(name, config, tensors->final_norm_bias);
        RB_TRY(st, check_tensor(ckpt, name, 1, hidden, err), done);
    }
    model_tensor_name(name, config, model_config_lm_head(config));
    RB_TRY(st, check_tensor(ckpt, name, 2, vocab, err), done);
done:
    return st;
}
