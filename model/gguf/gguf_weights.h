/* The tensors of a GGUF under their Hugging Face names. */
#ifndef RB_MODEL_GGUF_WEIGHTS_H
#define RB_MODEL_GGUF_WEIGHTS_H

#include "model/gguf/gguf_file.h"
#include "model/weight_map.h"

/* Fills an empty map. The file, the map's one shard, must outlive it; data stay in the file's mapping.
 * rope_freqs.weight is left out: it is part of the configuration (gguf_config.h). Fails with RB_EUNSUPPORTED on an
 * architecture that is not read, or a tensor that has no Hugging Face name in it. */
rb_status gguf_weights_open(weight_map *map, const gguf_file *file, rb_error *err);

#endif
