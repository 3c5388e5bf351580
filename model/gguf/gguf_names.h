/* The model architectures of GGUF that are read: how llama.cpp names their tensors, and what it stores in another way
 * than the Hugging Face checkpoint that it converted.
 *
 *   token_embd.weight        model.embed_tokens.weight
 *   output_norm.weight       model.norm.weight
 *   output.weight            lm_head.weight
 *   blk.7.attn_q.weight      model.layers.7.self_attn.q_proj.weight, and so on
 *
 * Source: convert_hf_to_gguf.py and gguf/tensor_mapping.py of llama.cpp. */
#ifndef RB_MODEL_GGUF_NAMES_H
#define RB_MODEL_GGUF_NAMES_H

#include <stdbool.h>

#include "model/gguf/gguf_metadata.h"
#include "model/weight_map.h"

enum { GGUF_HF_NAME_BYTES = 128 };

/* RoPE's frequency factors: not a tensor of the checkpoint, but a part of its configuration. */
extern const char GGUF_ROPE_FACTORS[];

typedef struct gguf_part {
    const char *gguf, *hf; /* "attn_q", "self_attn.q_proj" */
    weight_storage storage;
} gguf_part;

typedef struct gguf_architecture {
    const char *name;                    /* general.architecture */
    const char *model_type, *class_name; /* of the same model in Hugging Face format */
    const gguf_part *parts;              /* of a layer, up to one without names */
    weight_storage final_norm;
} gguf_architecture;

/* The one that general.architecture names. Fails with RB_EUNSUPPORTED on one that is not read, and on a file of another
 * general.type (an adapter, a projector). */
rb_status gguf_architecture_of(const gguf_architecture **out, const gguf_metadata *metadata, rb_error *err);

/* The Hugging Face name of a tensor; false when the architecture has none for it. */
bool gguf_hf_name(char name[GGUF_HF_NAME_BYTES], weight_storage *storage, const gguf_architecture *architecture,
                  const char *gguf_name);

#endif
