/* The tensors of each family's checkpoints. Only model_family.c uses it. */
#ifndef RB_MODEL_FAMILY_TENSORS_H
#define RB_MODEL_FAMILY_TENSORS_H

#include "model/model_family.h"

extern const checkpoint_tensors LLAMA_TENSORS, GLM_TENSORS, GLM4_TENSORS, CHATGLM_TENSORS, DEEPSEEK_TENSORS,
    PHI3_TENSORS, GEMMA_TENSORS, GPT_NEOX_TENSORS, OLMO2_TENSORS;

#endif
