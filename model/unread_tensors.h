/* Tensors of a checkpoint that the forward pass would not read: what they are, in one sentence. A norm, a bias or a
 * layer that is left out gives another model than the one in the folder, and its numbers look as good. */
#ifndef RB_MODEL_UNREAD_TENSORS_H
#define RB_MODEL_UNREAD_TENSORS_H

#include "model/checkpoint.h"

/* Fails on tensors of an adapter (lora_A, ...) and of quantized weights (.weight_scale, .qweight, ...), by kind, name
 * and number. To be called before tensors are looked for, since those would be missing. */
rb_status foreign_tensors_check(const checkpoint *ckpt, rb_error *err);

/* uses [checkpoint_n_tensors]. Fails on tensors that are TENSOR_UNREAD, by name and number: layers past the last one,
 * tensors of a layer, others. Not read without an error: rotary_emb.inv_freq, what the family ignores
 * (checkpoint_tensors.ignored), and lm_head.weight of a tied model where it equals the embedding. */
rb_status unread_tensors_check(const checkpoint *ckpt, const tensor_use *uses, rb_error *err);

#endif
