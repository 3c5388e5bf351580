/* See runtime.h. */
#include "export/runtimes/runtime.h"

#include <string.h>

/* Where keys and values are coded alike. */
#define BOTH(name, ...)                      \
    {                                        \
        name, {__VA_ARGS__}, { __VA_ARGS__ } \
    }
#define FP16(name) BOTH(name, QUANTIZER_FP16, 16, 0, ROTATE_NOTHING, false)

/* ---- vLLM ------------------------------------------------------------------------------------ */

#define VLLM_KEYS(width)                                          \
    {                                                             \
        QUANTIZER_DIRECTION, width, 0, ROTATE_POWER_OF_TWO, false \
    }
#define VLLM_VALUES(width)                               \
    {                                                    \
        QUANTIZER_RANGE, width, 0, ROTATE_NOTHING, false \
    }
static const runtime vllm = {
    .id = RUNTIME_VLLM,
    .name = "vllm",
    .version = "0.33.0",
    .granularity = GRANULARITY_SKIP,
    .is_joint = true,
    .n_forced = 2,
    .has_window_layers = true,
    .needs_power_of_two = true,
    .n_types = 5,
    .types = {FP16("auto"),
              {"turboquant_3bit_nc", VLLM_KEYS(3), VLLM_VALUES(3)},
              {"turboquant_k3v4_nc", VLLM_KEYS(3), VLLM_VALUES(4)},
              {"turboquant_4bit_nc", VLLM_KEYS(4), VLLM_VALUES(4)},
              {"turboquant_k8v4", {QUANTIZER_FP8, 8, 0, ROTATE_NOTHING, false}, VLLM_VALUES(4)}},
    .has_fp16 = true,
    .notes = {"The first two and the last two layers of a dense model stay in the model's dtype whatever is asked for; "
              "they are in the list and in the bytes.",
              "The other types of --kv-cache-dtype (fp8, int4_per_token_head, nvfp4, ...) are not looked at."}};

/* ---- llama.cpp and ik_llama.cpp -------------------------------------------------------------- */

/* Blocks of 32. */
#define GGML_TYPE(name, kind, width, keys_rotation, values_rotation)                               \
    {                                                                                              \
        name, {kind, width, 32, keys_rotation, false}, { kind, width, 32, values_rotation, false } \
    }
#define GGML_TYPES(keys, values)                                                                                    \
    GGML_TYPE("q8_0", QUANTIZER_LARGEST, 8, keys, values), GGML_TYPE("q5_1", QUANTIZER_RANGE, 5, keys, values),     \
        GGML_TYPE("q5_0", QUANTIZER_EXTREME, 5, keys, values), GGML_TYPE("q4_1", QUANTIZER_RANGE, 4, keys, values), \
        GGML_TYPE("iq4_nl", QUANTIZER_IQ4_NL, 4, keys, values), GGML_TYPE("q4_0", QUANTIZER_EXTREME, 4, keys, values)

static const runtime llama_cpp = {
    .id = RUNTIME_LLAMA_CPP,
    .name = "llama.cpp",
    .version = "2026, with rotated caches (pull request 21038)",
    .granularity = GRANULARITY_MODEL,
    .has_window_layers = true,
    .interleaves_llama = true,
    .n_types = 7,
    .types = {FP16("f16"), GGML_TYPES(ROTATE_LARGEST, ROTATE_64)},
    .has_fp16 = true,
    .notes = {"Types of values other than f16 need flash attention (-fa on).",
              "A build for CUDA has kernels for every pair of types only with GGML_CUDA_FA_ALL_QUANTS."}};

static const runtime ik_llama_cpp = {
    .id = RUNTIME_IK_LLAMA_CPP,
    .name = "ik_llama.cpp",
    .version = "2026, with -ctk-first and -vhad",
    .granularity = GRANULARITY_ENDS,
    .has_window_layers = true,
    .interleaves_llama = true,
    .n_types = 8,
    .types = {FP16("f16"), GGML_TYPE("q6_0", QUANTIZER_EXTREME, 6, ROTATE_POWER_OF_TWO, ROTATE_POWER_OF_TWO),
              GGML_TYPES(ROTATE_POWER_OF_TWO, ROTATE_POWER_OF_TWO)},
    .has_fp16 = true,
    .notes = {"Types of values other than f16 need flash attention (-fa on).", "Its type q8_KV is not looked at."}};

/* ---- exllamav3 ------------------------------------------------------------------------------- */

#define EXLLAMAV3_TYPE(name, width) BOTH(name, QUANTIZER_MIDRISE, width, 32, ROTATE_GROUP, false)
static const runtime exllamav3 = {
    .id = RUNTIME_EXLLAMAV3,
    .name = "exllamav3",
    .version = "1.6.5",
    .granularity = GRANULARITY_LAYER,
    .n_types = 8,
    .types = {FP16("16"), EXLLAMAV3_TYPE("8", 8), EXLLAMAV3_TYPE("7", 7), EXLLAMAV3_TYPE("6", 6),
              EXLLAMAV3_TYPE("5", 5), EXLLAMAV3_TYPE("4", 4), EXLLAMAV3_TYPE("3", 3), EXLLAMAV3_TYPE("2", 2)},
    .notes = {"Its own options give one width to the keys of all layers and one to their values; the file makes the "
              "layers of the cache by a function of its own in place of CacheLayer_quant.",
              "Without its compander (compand_a 0, the default)."}};

/* ---- mlx-lm ---------------------------------------------------------------------------------- */

/* QuantizedKVCache makes room for dims / (32 / bits) words of codes and writes dims * bits / 32: where these differ it
 * fails. */
static bool mlx_has_room(int dims, int width) { return dims / (32 / width) == dims * width / 32; }

static bool mlx_has_type(const runtime_type *type, const model_facts *model)
{
    return mlx_has_room(model->head_dim, type->keys.width) && mlx_has_room(model->value_dim, type->values.width);
}

#define MLX_TYPE(name, width) BOTH(name, QUANTIZER_EDGE, width, 64, ROTATE_NOTHING, false)
static const runtime mlx_lm = {
    .id = RUNTIME_MLX_LM,
    .name = "mlx-lm",
    .version = "0.32.2",
    .granularity = GRANULARITY_LAYER,
    .is_joint = true,
    .has_type = mlx_has_type,
    .n_types = 7,
    .types = {FP16("None"), MLX_TYPE("8", 8), MLX_TYPE("6", 6), MLX_TYPE("5", 5), MLX_TYPE("4", 4), MLX_TYPE("3", 3),
              MLX_TYPE("2", 2)},
    .has_fp16 = true,
    .notes = {"Groups of 64 with a scale and a bias in the model's dtype, taken for fp16.",
              "Its own options give one width to all layers; the file makes the list of caches itself."}};

/* ---- KVTuner --------------------------------------------------------------------------------- */

#define KVTUNER_TYPE(name, width)                                       \
    {                                                                   \
        name, {QUANTIZER_WHOLE_STEPS, width, 32, ROTATE_NOTHING, true}, \
        {                                                               \
            QUANTIZER_WHOLE_STEPS, width, 32, ROTATE_NOTHING, false     \
        }                                                               \
    }
static const runtime kvtuner = {
    .id = RUNTIME_KVTUNER,
    .name = "kvtuner",
    .version = "the code of arXiv 2502.04420",
    .granularity = GRANULARITY_HEAD,
    .has_window_layers = true,
    .n_types = 8,
    .types = {FP16("16"), KVTUNER_TYPE("8", 8), KVTUNER_TYPE("7", 7), KVTUNER_TYPE("6", 6), KVTUNER_TYPE("5", 5),
              KVTUNER_TYPE("4", 4), KVTUNER_TYPE("3", 3), KVTUNER_TYPE("2", 2)},
    .exact_tokens = "the tokens of a sequence that do not fill a group of 32 yet",
    .notes = {
        "For FlexibleVanillaQuantizedCache with axis_key 1, axis_value 0, asym, q_group_size 32, residual_length "
        "32 and force_quant: keys by dim, values by token (KIVI).",
        "That class holds a byte a code whatever its width, and codes what it holds again every 32 tokens; bytes and "
        "loss are those of codes that are packed, and made once."}};

/* ---- ModelOpt -------------------------------------------------------------------------------- */

#define MODELOPT_FP8                                      \
    {                                                     \
        QUANTIZER_FP8_SCALED, 8, 0, ROTATE_NOTHING, false \
    }
#define MODELOPT_NVFP4                                \
    {                                                 \
        QUANTIZER_NVFP4, 4, 16, ROTATE_NOTHING, false \
    }
static const runtime modelopt = {
    .id = RUNTIME_MODELOPT,
    .name = "modelopt",
    .version = "its main branch after 0.47.0, experimental",
    .granularity = GRANULARITY_LAYER,
    .is_joint = true,
    .has_window_layers = true,
    .n_types = 4,
    .types = {FP16("none"),
              {"FP8", MODELOPT_FP8, MODELOPT_FP8},
              {"FP8_K_NVFP4_V", MODELOPT_FP8, MODELOPT_NVFP4},
              {"NVFP4", MODELOPT_NVFP4, MODELOPT_NVFP4}},
    .has_fp16 = true,
    .notes = {"No released program reads the map: kv_cache_quantized_layers is not in ModelOpt 0.47.0.",
              "The scale of a layer is taken of the test text here, a head at a time."}};

/* ---- looking --------------------------------------------------------------------------------- */

const runtime *runtime_of(runtime_id id)
{
#define RB_RUNTIME_POINTER(NAME, variable, name) [RUNTIME_##NAME] = &variable,
    static const runtime *const runtimes[RUNTIME_N] = {RB_RUNTIMES(RB_RUNTIME_POINTER)};
#undef RB_RUNTIME_POINTER
    return runtimes[id];
}

const runtime *runtime_by_name(const char *name)
{
    for (int id = 0; id < RUNTIME_N; id++)
        if (strcmp(runtime_of((runtime_id)id)->name, name) == 0) return runtime_of((runtime_id)id);
    return NULL;
}

bool runtime_codes(const runtime *r, int type, const model_facts *model)
{
    const runtime_type *t = &r->types[type];
    return runtime_quantizer_fits(&t->keys, model->head_dim) && runtime_quantizer_fits(&t->values, model->value_dim)
           && (type == RUNTIME_FP16_TYPE || !r->has_type || r->has_type(t, model));
}

bool runtime_has_type(const runtime *r, int type, const model_facts *model)
{
    return runtime_codes(r, type, model) && (type != RUNTIME_FP16_TYPE || r->has_fp16);
}

bool runtime_is_forced(const runtime *r, int layer, int n_layers)
{
    const int n = r->n_forced < n_layers / 2 ? r->n_forced : n_layers / 2;
    return layer < n || layer >= n_layers - n;
}

bool runtime_holds_pairs(const runtime *r, const model_facts *model)
{
    static const char *const kin[] = {"llama", "mistral", "granite"};
    if (!r->interleaves_llama || model->rope.pairing != ROPE_SPLIT_HALF) return false;
    for (size_t i = 0; i < RB_COUNT(kin); i++)
        if (strcmp(model->model_type, kin[i]) == 0) return true;
    return false;
}

/* The place of a turned dim in pairs. */
static int place_of(int dim, int n) { return dim < n ? 2 * dim : 2 * (dim - n) + 1; }

void runtime_reorder(float *k, int64_t n_tokens, const model_facts *model, bool back)
{
    const int n = model->rotary_dim / 2, dims = model->head_dim;
    float row[RB_MAX_HEAD_DIM];
    for (float *at = k; at < k + n_tokens * dims; at += dims) {
        memcpy(row, at, (size_t)dims * sizeof *at);
        for (int i = 0; i < 2 * n; i++) at[back ? i : place_of(i, n)] = row[back ? place_of(i, n) : i];
    }
}

static bool is_power_of_two(int n) { return n > 0 && (n & (n - 1)) == 0; }

rb_status runtime_check_model(const runtime *r, const model_facts *model, rb_error *err)
{
    if (model->value_dim != model->head_dim)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "%s: values of %d dims and keys of %d, as in a latent cache; only values as long as keys can be "
                       "projected",
                       r->name, model->value_dim, model->head_dim);
    if (model->has_local_rope && !r->has_window_layers)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "%s: the model has layers with a sliding window, which this runtime keeps in a cache of their "
                       "own that is not quantized",
                       r->name);
    if (r->needs_power_of_two && !is_power_of_two(model->head_dim))
        return rb_fail(err, RB_EUNSUPPORTED, "%s: head_dim is %d, expected a power of two", r->name, model->head_dim);
    for (int type = 0; type < r->n_types; type++)
        if (type != RUNTIME_FP16_TYPE && runtime_has_type(r, type, model)) return RB_OK;
    return rb_fail(err, RB_EUNSUPPORTED, "%s: head_dim is %d, which none of its types can code", r->name,
                   model->head_dim);
}
