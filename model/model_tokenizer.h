/* The tokenizer of a model, wherever the model keeps it. */
#ifndef RB_MODEL_MODEL_TOKENIZER_H
#define RB_MODEL_MODEL_TOKENIZER_H

#include "model/tokenizer/tokenizer.h"

/* tokenizer.json of a folder, or what a GGUF's metadata say. Closed by tokenizer_close. */
rb_status tokenizer_open_model(tokenizer **out, const char *model_path, rb_error *err);

/* Whether there is one: a GGUF, or a folder with tokenizer.json. */
bool tokenizer_is_there(const char *model_path);

#endif
