/* The config.json that a GGUF's metadata stand for.
 *
 * Its text is read by model_config_parse like that of a folder, and its SHA-256 is the model's identity. It says what
 * the file says; what llama.cpp has in its code and not in the file (the layers of gemma3 that slide, its second RoPE
 * base, its query scale) is added. Numbers that the file keeps in f32 are written as the shortest decimal that means
 * them: 1e-05, not 9.99999974e-06.
 *
 *   rope_freqs.weight            a factor that divides each frequency (Llama 3.1 and later): rope_type longrope with
 * the same factors at every length and attention factor 1 rope.scaling.type linear     rope_type linear
 *   rope.scaling.type yarn       rope_type yarn */
#ifndef RB_MODEL_GGUF_CONFIG_H
#define RB_MODEL_GGUF_CONFIG_H

#include "model/gguf/gguf_file.h"

/* *text is freed by free(). Fails, naming key and value, on an architecture that is not read, a missing or unfit
 * value, and any key of the architecture whose meaning is not known here. */
rb_status gguf_config_text(char **text, const gguf_file *file, rb_error *err);

#endif
