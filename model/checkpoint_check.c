/* What a forward pass needs from a checkpoint: names and shapes of every tensor, checked without reading data.
 *
 * A tensor that is there although the configuration does not use it (a bias, a q/k norm) is an error too: the forward
 * pass would ignore it. */
#include <stdlib.h>

#include "model/checkpoint.h"
#include "model/layer_tensors.h"
#include "model/unread_tensors.h"

/* A check that is under way: what every tensor of the checkpoint was found to be for. */
typedef struct check_state {
    const checkpoint *ckpt;
    tensor_use *uses;
} check_state;

static rb_status check_tensor(const check_state *check, const char *name, int rank, const int64_t *shape,
                              tensor_use use, rb_error *err)
{
    const checkpoint *ckpt = check->ckpt;
    const safetensor *tensor;
    const rb_status st = checkpoint_tensor(ckpt, name, rank, shape, &tensor, err);
    if (st != RB_OK) return st;
    if (!tensor_dtype_is_float(tensor->dtype))
        return rb_fail(err, RB_EUNSUPPORTED, "%s: tensor \"%s\" is %s, expected F32, F16 or BF16",
                       checkpoint_folder(ckpt), name, tensor_dtype_name(tensor->dtype));
    tensor_use *found = &check->uses[checkpoint_tensor_index(ckpt, name)];
    if (*found != TENSOR_FOR_HEADS) *found = use; /* a tied embedding is for both */
    return RB_OK;
}

static rb_status check_layer_tensor(const check_state *check, const layer_tensor *tensor, int layer, int expert,
                                    rb_error *err)
{
    const model_config *config = checkpoint_config(check->ckpt);
    const bool is_last = layer == config->facts.n_layers - 1;
    char name[LAYER_TENSOR_NAME];
    int64_t shape[2];
    layer_tensor_name(name, config, tensor, layer, expert);
    if (layer_tensor_is_used(config, tensor, layer)) {
        const int rank = layer_tensor_shape(config, tensor, shape);
        return check_tensor(check, name, rank, shape,
                            is_last && tensor->step != STEP_HEADS ? TENSOR_FOR_LOGITS : TENSOR_FOR_HEADS, err);
    }
    if (checkpoint_has(check->ckpt, name))
        return rb_fail(err, RB_EMISMATCH, "%s: tensor \"%s\" is there, but config.json (model_type %s) does not use it",
                       checkpoint_folder(check->ckpt), name, config->facts.model_type);
    return RB_OK;
}

static rb_status check_layer(const check_state *check, int layer, rb_error *err)
{
    const model_config *config = checkpoint_config(check->ckpt);
    const checkpoint_tensors *tensors = config->family->tensors;
    rb_status st = RB_OK;
    for (int i = 0; i < tensors->n_layer && st == RB_OK; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        const int n_experts = tensor->step == STEP_EXPERT ? config->experts.n : 1;
        for (int expert = 0; expert < n_experts && st == RB_OK; expert++)
            st = check_layer_tensor(check, tensor, layer, expert, err);
    }
    return st;
}

static rb_status check_all(const check_state *check, rb_error *err)
{
    const model_config *config = checkpoint_config(check->ckpt);
    const checkpoint_tensors *tensors = config->family->tensors;
    const int64_t hidden[1] = {config->hidden_size}, vocab[2] = {config->vocab_size, config->hidden_size};
    char name[LAYER_TENSOR_NAME];
    rb_status st;

    model_tensor_name(name, config, tensors->embedding);
    RB_TRY(st, check_tensor(check, name, 2, vocab, TENSOR_FOR_HEADS, err), done);
    for (int layer = 0; layer < config->facts.n_layers; layer++) RB_TRY(st, check_layer(check, layer, err), done);
    model_tensor_name(name, config, tensors->final_norm);
    RB_TRY(st, check_tensor(check, name, 1, hidden, TENSOR_FOR_LOGITS, err), done);
    if (tensors->final_norm_bias) {
        model_tensor_name(name, config, tensors->final_norm_bias);
        RB_TRY(st, check_tensor(check, name, 1, hidden, TENSOR_FOR_LOGITS, err), done);
    }
    model_tensor_name(name, config, tensors->lm_head);
    if (!config->tied_embeddings) RB_TRY(st, check_tensor(check, name, 2, vocab, TENSOR_FOR_LOGITS, err), done);
done:
    return st;
}

rb_status checkpoint_uses(tensor_use **uses, const checkpoint *ckpt, rb_error *err)
{
    check_state check = {.ckpt = ckpt};
    rb_status st;
    *uses = NULL;
    RB_TRY(st, rb_alloc(&check.uses, (size_t)checkpoint_n_tensors(ckpt), sizeof *check.uses, "tensor list", err), done);
    RB_TRY(st, foreign_tensors_check(ckpt, err), done);
    RB_TRY(st, check_all(&check, err), done);
    RB_TRY(st, unread_tensors_check(ckpt, check.uses, err), done);
    *uses = check.uses;
    check.uses = NULL;
done:
    free(check.uses);
    return st;
}

rb_status checkpoint_check(const checkpoint *ckpt, rb_error *err)
{
    tensor_use *uses;
    const rb_status st = checkpoint_uses(&uses, ckpt, err);
    free(uses);
    return st;
}
