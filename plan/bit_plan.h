/* The bit plan as data: how the keys and values of every (layer, KV head) are quantized. Allocators make it, plan.json
 * and plan.rbp store it, the quantizer executes its heads (kernels/reference/plan_head.h). All heads of a layer are of
 * one codec family.
 *
 * Values are coded in one of three ways, the same in all heads: not at all, as published, with a width a head, or by
 * heads of their own, of family trellis. value_widths and value_heads say which; ask the functions. */
#ifndef RB_PLAN_BIT_PLAN_H
#define RB_PLAN_BIT_PLAN_H

#include "core/model_facts.h"
#include "kernels/reference/plan_head.h"
#include "plan/library/plan_rbp_format.h"

/* Tokens that stay fp16 at most, of sinks and of recent ones each. */
enum { PLAN_MAX_EXACT = PLAN_RBP_MAX_EXACT };
/* The value width of a plan whose values have heads of their own. */
enum { PLAN_WIDTH_OF_HEADS = 0 };

typedef struct bit_plan {
    model_facts model;
    text_facts calibration; /* what the plan was calibrated on */
    char method[32];        /* a name of methods/allocator.h, "block-gtq" */
    double avg_bits;        /* nominal budget of the keys */
    uint8_t *value_widths;  /* [n_layers][n_kv_heads], owned: 1..8, or all PLAN_FP16_WIDTH: values are not quantized, or
                             * all PLAN_WIDTH_OF_HEADS: value_heads says it. With a width, values are one group of all
                             * dims in natural order, haar, seed VALUE_SEED + kv_head, codebook value_codebook */
    codebook_kind value_codebook;
    plan_head *value_heads; /* [n_layers][n_kv_heads], owned: heads of family trellis for a model with the facts
                             * model_value_facts; NULL unless the widths are PLAN_WIDTH_OF_HEADS */
    /* Keys and values of the first n_sink tokens of a sequence, and of the last n_recent before a query (its own
     * included), stay fp16: exact tokens. 0 to PLAN_MAX_EXACT. */
    int64_t n_sink, n_recent;
    plan_head *heads; /* [n_layers][n_kv_heads], owned */
} bit_plan;

/* Bits a dim of the values' codes over all heads, their widths where they have such; one for all where least is most.
 */
typedef struct value_range {
    double least, most, mean;
} value_range;

/* What a plan costs. Bits are per dim, averages over all heads. */
typedef struct plan_cost {
    double key_nominal_bits; /* codes only */
    double key_true_bits;    /* codes, norms, padding */
    double value_true_bits;
    double bytes_per_token; /* of a token that is quantized: all layers and heads, keys and values */
    double fp16_bytes_per_token;
    double compression; /* fp16_bytes_per_token / bytes_per_token */
    int64_t n_exact;    /* tokens of a sequence that stay fp16: n_sink + n_recent, where it has so many */
} plan_cost;

rb_status bit_plan_create(bit_plan **out, const model_facts *model,
                          rb_error *err); /* heads of no groups, values fp16 */
/* A plan that says what another does, values included, with heads of no groups for the caller to make. */
rb_status bit_plan_create_like(bit_plan **out, const bit_plan *plan, rb_error *err);
void bit_plan_free(bit_plan *plan);
int bit_plan_n_heads(const bit_plan *plan); /* n_layers * n_kv_heads */
plan_head *bit_plan_head(const bit_plan *plan, int layer, int kv_head);
bool bit_plan_has_family(const bit_plan *plan, codec_family family);
/* Whether the published method's decoder restores it: every head of that form, one width of all values. */
bool bit_plan_is_published_form(const bit_plan *plan);

/* The value codec of a kv head as a head of its own, of a model with the facts model_value_facts (to be cleared by the
 * caller); RB_EINVAL where values are not quantized. */
rb_status bit_plan_value_head(const bit_plan *plan, int layer, int kv_head, plan_head *out, rb_error *err);
void bit_plan_set_value_width(bit_plan *plan, int width); /* of every head: 1..8 or PLAN_FP16_WIDTH */
/* Gives the values heads of their own, of no groups, for the caller to make; those it had are gone. */
rb_status bit_plan_create_value_heads(bit_plan *plan, rb_error *err);
/* The value head itself, to make or look at; NULL where values have no heads of their own. */
plan_head *bit_plan_value_head_at(const bit_plan *plan, int layer, int kv_head);
bool bit_plan_quantizes_values(const bit_plan *plan);
/* Whether values of head h of one plan and of another are coded alike; both are for the same model. A head is layer *
 * n_kv_heads + kv_head; of one plan, ask for heads of the same kv_head. */
bool bit_plan_same_values(const bit_plan *a, int head_a, const bit_plan *b, int head_b);
/* Whether the values of two layers of a plan are coded alike. */
bool bit_plan_same_layer_values(const bit_plan *plan, int layer_a, int layer_b);
/* Of a value vector of head h: bits a dim of its codes, and its stored bits. PLAN_FP16_WIDTH a dim where values are not
 * quantized. */
double bit_plan_value_code_bits(const bit_plan *plan, int h);
int bit_plan_value_stored_bits(const bit_plan *plan, int h);

plan_cost bit_plan_cost(const bit_plan *plan);
/* Bytes of a sequence of n_tokens: those of exact tokens in fp16, the others quantized. */
double plan_cost_bytes(const plan_cost *cost, int64_t n_tokens);
/* "6000 bytes a token, fp16 takes 23040: 3.84 times smaller", and for a plan with exact tokens what n_tokens take,
 * where that is above 0. */
void bit_plan_describe_cache(char *out, size_t size, const bit_plan *plan, int64_t n_tokens);
bool bit_plan_keeps_exact(const bit_plan *plan); /* any token */
/* "the first 4 and the last 128 tokens", "the first token", "no token". */
void bit_plan_describe_exact(char *out, size_t size, const bit_plan *plan);
int plan_value_bits(int width, int value_dim); /* stored bits of a value vector: 1..8 or PLAN_FP16_WIDTH */
value_range bit_plan_value_range(const bit_plan *plan);
/* "3.250 true bits a dim", or "3.250 true bits a dim, widths 1 to 5", or "3.250 true bits a dim, trellis, 2.5 to 4.25
 * a head". */
void bit_plan_describe_values(char *out, size_t size, const bit_plan *plan);

/* Every head can be executed (plan_head_check), and those of a layer are of one family: for plans that come from a
 * file. `where` starts the message. */
rb_status bit_plan_check(const bit_plan *plan, const char *where, rb_error *err);

#endif
