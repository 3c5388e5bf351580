/* The sections of plan.rbp before its heads, in file order: see plan/library/plan_rbp_library.h, and docs/plan-rbp.md
 * for the bytes. */
#include <math.h>
#include <stdlib.h>

#include "plan/library/plan_rbp_library.h"

enum { MAX_LAYERS = 1 << 16, MAX_HEADS = 1 << 16 };

void rbp_read_identity(rbp_reader *r, ropebits_plan *plan)
{
    ropebits_plan_info *info = &plan->info;
    rbp_take_name(r, plan->tool_version, "tool version");
    rbp_take_name(r, plan->method, "method");
    info->avg_bits = rbp_take_f64(r, "avg_bits");
    rbp_take_name(r, plan->model_type, "model type");
    rbp_take_sha256(r, plan->config_sha256, "config hash flag");
    rbp_take_sha256(r, plan->weights_sha256, "weights hash flag");
    rbp_take_sha256(r, plan->calibration_sha256, "calibration hash flag");
    info->calibration_n_tokens = rbp_take_uint(r, 8);
    info->calibration_context = rbp_take_uint(r, 8);
    info->tool_version = plan->tool_version;
    info->method = plan->method;
    info->model_type = plan->model_type;
    info->config_sha256 = plan->config_sha256;
    info->weights_sha256 = plan->weights_sha256;
    info->calibration_sha256 = plan->calibration_sha256;
}

static uint8_t take_rope_kind(rbp_reader *r, uint32_t version)
{
    const uint64_t last =
        version >= PLAN_RBP_MODEL_VERSION ? (uint64_t)ROPEBITS_ROPE_PROPORTIONAL : (uint64_t)PLAN_RBP_OLD_MAX_ROPE_KIND;
    return (uint8_t)rbp_take_range(r, 1, 0, last, "rope kind");
}

/* [rotary_dim / 2], owned by the caller. */
static double *take_frequencies(rbp_reader *r, const ropebits_plan *plan)
{
    const uint32_t n = plan->info.rotary_dim / 2;
    double *inv_freq = rbp_allocate(r, n, sizeof *inv_freq);
    for (uint32_t i = 0; i < n && !r->failed; i++) inv_freq[i] = rbp_take_f64(r, "inv_freq");
    return inv_freq;
}

static double take_attention_factor(rbp_reader *r, const char *what)
{
    const double factor = rbp_take_f64(r, what);
    if (!r->failed && !(factor > 0)) rbp_fail(r, "%s is %g, expected a number above 0", what, factor);
    return factor;
}

static void read_local_layers(rbp_reader *r, ropebits_plan *plan)
{
    uint32_t n = 0;
    plan->layer_is_local = rbp_allocate(r, plan->info.n_layers, 1);
    for (uint32_t layer = 0; layer < plan->info.n_layers && !r->failed; layer++)
        n += plan->layer_is_local[layer] = (uint8_t)rbp_take_range(r, 1, 0, 1, "flag of a layer with the local rope");
    if (!r->failed && n == 0) rbp_fail(r, "no layer has the local rope");
    plan->info.layer_is_local = plan->layer_is_local;
}

static void read_local_rope(rbp_reader *r, ropebits_plan *plan)
{
    ropebits_plan_info *info = &plan->info;
    info->local_rope_kind = take_rope_kind(r, plan->version);
    info->local_rope_theta = rbp_take_f64(r, "local rope theta");
    info->local_rope_factor = rbp_take_f64(r, "local rope factor");
    info->local_rope_low_freq_factor = rbp_take_f64(r, "local rope low_freq_factor");
    info->local_rope_high_freq_factor = rbp_take_f64(r, "local rope high_freq_factor");
    info->local_rope_original_max_position = rbp_take_uint(r, 8);
    info->local_rope_attention_factor = take_attention_factor(r, "local rope attention_factor");
    plan->local_inv_freq = take_frequencies(r, plan);
    info->local_inv_freq = plan->local_inv_freq;
    read_local_layers(r, plan);
}

/* What version PLAN_RBP_MODEL_VERSION adds to the geometry. */
static void read_model(rbp_reader *r, ropebits_plan *plan)
{
    ropebits_plan_info *info = &plan->info;
    info->value_dim = (uint32_t)rbp_take_range(r, 4, 2, RBP_MAX_HEAD_DIM, "value_dim");
    if (!r->failed && info->value_dim % 2) rbp_fail(r, "value_dim is %u, expected an even number", info->value_dim);
    info->rope_attention_factor = take_attention_factor(r, "rope attention_factor");
    if (rbp_take_range(r, 1, 0, 1, "flag of a local rope")) read_local_rope(r, plan);
}

void rbp_read_geometry(rbp_reader *r, ropebits_plan *plan)
{
    ropebits_plan_info *info = &plan->info;
    info->n_layers = (uint32_t)rbp_take_range(r, 4, 1, MAX_LAYERS, "n_layers");
    info->n_q_heads = (uint32_t)rbp_take_range(r, 4, 1, MAX_HEADS, "n_q_heads");
    info->n_kv_heads = (uint32_t)rbp_take_range(r, 4, 1, MAX_HEADS, "n_kv_heads");
    info->head_dim = (uint32_t)rbp_take_range(r, 4, 2, RBP_MAX_HEAD_DIM, "head_dim");
    info->rotary_dim = (uint32_t)rbp_take_range(r, 4, 0, info->head_dim, "rotary_dim");
    if (!r->failed && info->n_q_heads % info->n_kv_heads != 0)
        rbp_fail(r, "%u query heads do not divide among %u KV heads", info->n_q_heads, info->n_kv_heads);
    if (!r->failed && (info->head_dim % 2 || info->rotary_dim % 2))
        rbp_fail(r, "head_dim %u and rotary_dim %u, expected even numbers", info->head_dim, info->rotary_dim);
    info->attention_scale = rbp_take_f64(r, "attention_scale");
    info->rope_kind = take_rope_kind(r, plan->version);
    info->pairing = (uint8_t)rbp_take_range(r, 1, 0, ROPEBITS_PAIRING_INTERLEAVED, "pairing");
    info->rope_theta = rbp_take_f64(r, "rope theta");
    info->rope_factor = rbp_take_f64(r, "rope factor");
    info->rope_low_freq_factor = rbp_take_f64(r, "rope low_freq_factor");
    info->rope_high_freq_factor = rbp_take_f64(r, "rope high_freq_factor");
    info->rope_original_max_position = rbp_take_uint(r, 8);
    plan->n_blocks = info->head_dim / 2;
    plan->inv_freq = take_frequencies(r, plan);
    info->inv_freq = plan->inv_freq;
    info->value_dim = info->head_dim;
    info->rope_attention_factor = 1;
    if (plan->version >= PLAN_RBP_MODEL_VERSION) read_model(r, plan);
}

void rbp_read_exact(rbp_reader *r, ropebits_plan *plan)
{
    plan->info.n_sink = (uint32_t)rbp_take_range(r, 4, 0, PLAN_RBP_MAX_EXACT, "sink");
    plan->info.n_recent = (uint32_t)rbp_take_range(r, 4, 0, PLAN_RBP_MAX_EXACT, "recent");
}

void rbp_read_codebooks(rbp_reader *r, ropebits_plan *plan)
{
    plan->n_tables = (uint32_t)rbp_take_uint(r, 2);
    plan->tables = rbp_allocate(r, plan->n_tables, sizeof *plan->tables);
    for (uint32_t i = 0; i < plan->n_tables && !r->failed; i++) {
        codebook_table *table = &plan->tables[i];
        table->kind = (uint8_t)rbp_take_range(r, 1, 0, ROPEBITS_CODEBOOK_SPHERE, "codebook kind");
        table->width = (uint8_t)rbp_take_range(r, 1, 1, RBP_MAX_WIDTH, "codebook width");
        table->dims = (uint16_t)rbp_take_range(r, 2, 0, RBP_MAX_HEAD_DIM, "codebook dims");
        if (r->failed) return; /* a width out of range must not become a shift */
        table->values = rbp_take(r, ((size_t)1 << (table->width - 1))
                                        * (table->dims == PLAN_RBP_UNIT_DIMS ? sizeof(double) : sizeof(float)));
    }
}

static const codebook_table *find_table(const ropebits_plan *plan, uint8_t kind, uint8_t width, uint16_t dims)
{
    for (uint32_t i = 0; i < plan->n_tables; i++) {
        const codebook_table *table = &plan->tables[i];
        if (table->kind == kind && table->width == width && (table->dims == dims || table->dims == PLAN_RBP_UNIT_DIMS))
            return table;
    }
    return NULL;
}

static bool fill_centroids(rbp_reader *r, float *centroids, const codebook_table *table, uint16_t dims)
{
    const int half = 1 << (table->width - 1);
    for (int i = 0; i < half; i++) {
        const float value = table->dims == PLAN_RBP_UNIT_DIMS
                                ? (float)(rbp_f64_at(table->values + 8 * i) / sqrt((double)dims))
                                : rbp_f32_at(table->values + 4 * i);
        if (!isfinite(value) || value <= (i ? centroids[half + i - 1] : 0.0f))
            return rbp_fail(r, "codebook of width %u for %u dims does not ascend at centroid %d", table->width, dims,
                            half + i);
        centroids[half + i] = value;
        centroids[half - 1 - i] = -value;
    }
    return true;
}

/* The centroids of (kind, width, dims); NULL after a failure. */
const float *rbp_centroids_for(rbp_reader *r, ropebits_plan *plan, uint8_t kind, uint8_t width, uint16_t dims)
{
    if (r->failed) return NULL;
    for (uint32_t i = 0; i < plan->n_sets; i++)
        if (plan->sets[i].kind == kind && plan->sets[i].width == width && plan->sets[i].dims == dims)
            return plan->sets[i].centroids;
    const codebook_table *table = find_table(plan, kind, width, dims);
    if (!table) {
        rbp_fail(r, "no codebook of kind %u, width %u for %u dims in the plan", kind, width, dims);
        return NULL;
    }
    if (plan->n_sets == plan->max_sets) {
        const uint32_t more = plan->max_sets ? 2 * plan->max_sets : 64;
        centroid_set *grown = realloc(plan->sets, more * sizeof *grown);
        if (!grown) {
            rbp_fail(r, "out of memory for a plan");
            return NULL;
        }
        plan->sets = grown;
        plan->max_sets = more;
    }
    float *centroids = rbp_allocate(r, (size_t)1 << width, sizeof *centroids);
    if (!centroids) return NULL;
    plan->sets[plan->n_sets++] = (centroid_set){kind, width, dims, centroids};
    return fill_centroids(r, centroids, table, dims) ? centroids : NULL;
}

void rbp_read_values(rbp_reader *r, ropebits_plan *plan)
{
    ropebits_plan_info *info = &plan->info;
    const size_t n_heads = (size_t)info->n_layers * info->n_kv_heads;
    plan->value_width = (uint8_t)rbp_take_uint(r, 1);
    info->value_codebook = (uint8_t)rbp_take_range(r, 1, 0, ROPEBITS_CODEBOOK_SPHERE, "value codebook");
    if (r->failed || plan->value_width == ROPEBITS_VALUES_FP16) return;
    if (plan->value_width == PLAN_RBP_VALUE_HEADS && plan->version >= PLAN_RBP_EXACT_VERSION) return;
    if (plan->value_width == PLAN_RBP_WIDTH_PER_HEAD && plan->version != PLAN_RBP_PUBLISHED_VERSION) {
        plan->value_widths = rbp_take(r, n_heads);
        for (size_t h = 0; plan->value_widths && h < n_heads; h++)
            if (plan->value_widths[h] < 1 || plan->value_widths[h] > RBP_MAX_WIDTH) {
                rbp_fail(r, "head %zu: value width is %u, expected 1 to %d", h, plan->value_widths[h], RBP_MAX_WIDTH);
                return;
            }
    } else if (plan->value_width < 1 || plan->value_width > RBP_MAX_WIDTH) {
        rbp_fail(r, "value width is %u, expected 1 to %d, or %d", plan->value_width, RBP_MAX_WIDTH,
                 ROPEBITS_VALUES_FP16);
    }
}
