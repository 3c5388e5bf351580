/* A checkpoint: a folder in Hugging Face format, or a GGUF file.
 *
 * A folder has config.json, and model.safetensors or model.safetensors.index.json with its shards. File names of the
 * index may not leave the folder, and every tensor must be in the shard that the index names. A GGUF is seen as the
 * folder that it was made from: its metadata as a config.json (gguf/gguf_config.h), its tensors under their Hugging
 * Face names and with their values there (gguf/gguf_names.h). */
#ifndef RB_MODEL_CHECKPOINT_H
#define RB_MODEL_CHECKPOINT_H

#include "model/model_config.h"
#include "model/safetensors.h"

typedef struct checkpoint checkpoint;

rb_status checkpoint_open(checkpoint **out, const char *path, rb_error *err);
void checkpoint_close(checkpoint *ckpt);
/* SHA-256 of the config.json of a model that need not be open, or supported. */
rb_status checkpoint_config_sha256(char hex[RB_SHA256_HEX], const char *path, rb_error *err);
const model_config *checkpoint_config(const checkpoint *ckpt);
const char *checkpoint_folder(const checkpoint *ckpt); /* the path that was opened */

/* Resolves RoPE for sequences of which the longest has n_positions tokens (model_config_resolve_rope). Call it before
 * the facts of the configuration are used, where the length is known. */
rb_status checkpoint_set_longest(checkpoint *ckpt, int64_t n_positions, rb_error *err);

/* A tensor by its full name, with the shape that it must have (`rank` dims). A failure names the tensor, the shape
 * found and the shape expected. Its bytes are those of the file: values come from checkpoint_load. */
rb_status checkpoint_tensor(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape,
                            const safetensor **out, rb_error *err);
bool checkpoint_has(const checkpoint *ckpt, const char *name);
/* Reads the whole tensor as f32 into out (the caller's, as many floats as the shape says), then releases its pages.
 * Large tensors are converted in parallel. */
rb_status checkpoint_load(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape, float *out,
                          rb_error *err);

/* The same for rows [first_row, first_row + n_rows), a row being all elements of one index of the first dim. Several
 * threads may read at once. Pages of a large stretch are released, as those of a whole tensor are. */
rb_status checkpoint_load_rows(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape,
                               int64_t first_row, int64_t n_rows, float *out, rb_error *err);

/* The same tensor as a place in a file: the path of its shard (owned by the checkpoint) and where its elements
 * start. */
typedef struct tensor_place {
    const char *path;
    int64_t offset, size_bytes;
    tensor_dtype dtype;
    bool is_plain; /* F32, F16 or BF16 in the order of the shape; else only checkpoint_load_rows gives its values */
} tensor_place;
rb_status checkpoint_place(const checkpoint *ckpt, const char *name, int rank, const int64_t *shape, tensor_place *out,
                           rb_error *err);

/* All tensors, by name: their number, one of them, and the index of a name (-1: not there). */
int64_t checkpoint_n_tensors(const checkpoint *ckpt);
const safetensor *checkpoint_tensor_at(const checkpoint *ckpt, int64_t index);
int64_t checkpoint_tensor_index(const checkpoint *ckpt, const char *name);

/* Checks that every tensor a forward pass of the configured family needs is there with the right shape and dtype,
 * without reading data, and that there are no others (model/unread_tensors.h). */
rb_status checkpoint_check(const checkpoint *ckpt, rb_error *err);

/* What a tensor is needed for. */
typedef enum tensor_use {
    TENSOR_UNREAD,
    TENSOR_FOR_HEADS, /* for the queries and keys of some layer: what a capture reads */
    TENSOR_FOR_LOGITS /* only for what comes after those of the last layer */
} tensor_use;

/* The same check; *uses [checkpoint_n_tensors] is the caller's, freed by free(). */
rb_status checkpoint_uses(tensor_use **uses, const checkpoint *ckpt, rb_error *err);

/* Warns when weights are quantized: what is measured is then the quantized model. For programs, once nothing is left to
 * refuse. */
void checkpoint_warn_quantized(const checkpoint *ckpt);

/* Sets weights_sample_sha256 of the configuration's facts; programs call checkpoint_identify_weights
 * (model/weights_identity.h). */
void checkpoint_set_weights_sample(checkpoint *ckpt, const char hex[RB_SHA256_HEX]);

/* Total bytes of the tensors, and SHA-256 over all shards in name order (reads everything). */
int64_t checkpoint_weight_bytes(const checkpoint *ckpt);
rb_status checkpoint_weights_sha256(const checkpoint *ckpt, char hex[RB_SHA256_HEX], rb_error *err);

#endif
