/* Other runtimes as data: what each of them can keep in its KV cache, and what it cannot say. A plan is projected onto
 * such a description (projection.h). The versions are those whose sources were read; docs/runtimes.md says what of it
 * could not be checked. */
#ifndef RB_EXPORT_RUNTIMES_RUNTIME_H
#define RB_EXPORT_RUNTIMES_RUNTIME_H

#include "core/model_facts.h"
#include "export/runtimes/runtime_quantizer.h"

/* ROW(its part of a constant's name, of its variable's name, its name in options and files) */
#define RB_RUNTIMES(ROW)                            \
    ROW(VLLM, vllm, "vllm")                         \
    ROW(LLAMA_CPP, llama_cpp, "llama.cpp")          \
    ROW(IK_LLAMA_CPP, ik_llama_cpp, "ik_llama.cpp") \
    ROW(EXLLAMAV3, exllamav3, "exllamav3")          \
    ROW(MLX_LM, mlx_lm, "mlx-lm")                   \
    ROW(KVTUNER, kvtuner, "kvtuner")                \
    ROW(MODELOPT, modelopt, "modelopt")

#define RB_RUNTIME_NUMBER(NAME, variable, name) RUNTIME_##NAME,
typedef enum runtime_id { RB_RUNTIMES(RB_RUNTIME_NUMBER) RUNTIME_N } runtime_id;
#undef RB_RUNTIME_NUMBER

/* What may have a type of its own. */
typedef enum runtime_granularity {
    GRANULARITY_MODEL, /* nothing: one type for all layers */
    GRANULARITY_SKIP,  /* one type for all layers but those that stay 16 bits */
    GRANULARITY_ENDS,  /* the first N layers, the last M, those between */
    GRANULARITY_LAYER,
    GRANULARITY_HEAD
} runtime_granularity;

/* A type of the cache. Keys and values may be coded in two ways, and both count where is_joint. */
typedef struct runtime_type {
    const char *name; /* as the runtime spells it */
    runtime_quantizer keys, values;
} runtime_type;

enum { RUNTIME_MAX_TYPES = 16, RUNTIME_FP16_TYPE = 0 };

typedef struct runtime {
    runtime_id id;
    const char *name, *version;
    runtime_granularity granularity;
    bool is_joint;           /* keys and values of a layer have one type */
    int n_forced;            /* first and last layers, so many of each, that stay 16 bits whatever is asked for */
    bool has_window_layers;  /* layers with a sliding window can be quantized too */
    bool needs_power_of_two; /* of head_dim */
    bool interleaves_llama;  /* its files hold the dims of Llama's heads in pairs: 0, n, 1, n + 1, ... */
    bool (*has_type)(const runtime_type *type, const model_facts *model); /* NULL: groups being whole is enough */
    int n_types;
    runtime_type types[RUNTIME_MAX_TYPES]; /* the first is 16 bits a number */
    bool has_fp16;                         /* that type may be chosen */
    const char *exact_tokens;              /* what it keeps in 16 bits by itself; NULL: nothing */
    const char *notes[4];                  /* what else to know, sentences; NULL-terminated */
} runtime;

const runtime *runtime_of(runtime_id id);
const runtime *runtime_by_name(const char *name); /* NULL: there is none */

/* Whether the runtime can code vectors of this model by this type, and whether a plan may choose it: 16 bits are not
 * every runtime's to choose. */
bool runtime_codes(const runtime *r, int type, const model_facts *model);
bool runtime_has_type(const runtime *r, int type, const model_facts *model);
/* Layers whose type is not free, n_forced at either end and no more than half at each. */
bool runtime_is_forced(const runtime *r, int layer, int n_layers);
/* Whether it holds the dims of this model's heads in pairs, where RoPE turns halves: files of ggml do so with Llama and
 * its kin. And keys [n_tokens][head_dim] to that order, or back: dims 0, n, 1, n + 1, ..., n half of the turned ones.
 */
bool runtime_holds_pairs(const runtime *r, const model_facts *model);
void runtime_reorder(float *k, int64_t n_tokens, const model_facts *model, bool back);
/* Whether it can run plans of this model at all. RB_EUNSUPPORTED, saying what is in the way. */
rb_status runtime_check_model(const runtime *r, const model_facts *model, rb_error *err);

#endif
