/* Latent caches and mixtures of experts in config.json. */
#include <math.h>
#include <string.h>

#include "model/model_config_parts.h"

enum { MAX_EXPERTS = 1 << 14, MAX_DIM = 1 << 16 };

/* ---- latents --------------------------------------------------------------------------------- */

rb_status config_parse_latents(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    model_facts *facts = &config->facts;
    int without_rope = 0;
    rb_status st = RB_OK;

    config->query_dim = config->attended_dim = facts->value_dim = facts->head_dim;
    if (!config->family->has_latent_cache) return RB_OK;
    config->has_latent_cache = true;
    config->latent.norm_eps = 1e-6; /* the default of transformers' DeepseekV2RMSNorm, which the latents' norms take */
    RB_TRY(st, config_get_count(json, "kv_lora_rank", name, RB_MAX_HEAD_DIM, &config->latent.kv_rank, err), done);
    RB_TRY(st, config_get_count_or(json, "q_lora_rank", name, MODEL_MAX_HIDDEN, 0, &config->latent.q_rank, err), done);
    RB_TRY(st, config_get_count(json, "qk_nope_head_dim", name, MAX_DIM, &without_rope, err), done);
    RB_TRY(st, config_get_count(json, "v_head_dim", name, MAX_DIM, &config->attended_dim, err), done);
    if (config->latent.kv_rank % 2 != 0)
        RB_TRY(st,
               rb_fail(err, RB_EINVAL, "%s: kv_lora_rank %d, expected an even number", name, config->latent.kv_rank),
               done);
    config->query_dim = without_rope + facts->head_dim;
    config->extras |= config->latent.q_rank ? EXTRA_Q_LATENT : EXTRA_Q_DIRECT;
    facts->n_kv_heads = 1;
    facts->value_dim = config->latent.kv_rank;
done:
    return st;
}

/* ---- experts --------------------------------------------------------------------------------- */

/* Only the best groups of experts are open to a token. */
static rb_status parse_groups(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    expert_config *experts = &config->experts;
    const char *method = "greedy";
    rb_status st = RB_OK;

    experts->n_groups = experts->n_groups_per_token = 1;
    if (rb_json_find(json, "topk_method"))
        RB_TRY(st, rb_json_get_string(json, "topk_method", name, &method, err), done);
    if (strcmp(method, "greedy") == 0) return RB_OK;
    if (strcmp(method, "group_limited_greedy") != 0)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: topk_method is \"%s\", expected greedy or group_limited_greedy", name,
                       method);
    RB_TRY(st, config_get_count(json, "n_group", name, MAX_EXPERTS, &experts->n_groups, err), done);
    RB_TRY(st, config_get_count(json, "topk_group", name, experts->n_groups, &experts->n_groups_per_token, err), done);
    if (experts->n % experts->n_groups != 0)
        return rb_fail(err, RB_EINVAL, "%s: %d experts do not divide among n_group %d", name, experts->n,
                       experts->n_groups);
    if (experts->n / experts->n_groups * experts->n_groups_per_token < experts->n_per_token)
        st = rb_fail(err, RB_EINVAL, "%s: num_experts_per_tok is %d, but %d groups have %d experts", name,
                     experts->n_per_token, experts->n_groups_per_token,
                     experts->n / experts->n_groups * experts->n_groups_per_token);
done:
    return st;
}

static rb_status parse_shared(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    int n_shared = 0;
    const rb_status st = config_get_count_or(json, "n_shared_experts", name, MAX_EXPERTS, 0, &n_shared, err);
    if (st != RB_OK || n_shared == 0) return st;
    if ((int64_t)n_shared * config->experts.size > MODEL_MAX_INTERMEDIATE)
        return rb_fail(err, RB_EINVAL, "%s: %d shared experts of %d, expected at most %d together", name, n_shared,
                       config->experts.size, MODEL_MAX_INTERMEDIATE);
    config->experts.shared_size = n_shared * config->experts.size;
    config->extras |= EXTRA_SHARED_EXPERTS;
    return RB_OK;
}

/* Layers with experts: every decoder_sparse_step-th one that mlp_only_layers does not name, from first_k_dense_replace
 * on. */
static rb_status parse_layers(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const int n_layers = config->facts.n_layers;
    const cJSON *dense = NULL, *item;
    int step = 1;
    int64_t first = 0;
    rb_status st;

    RB_TRY(st, config_get_count_or(json, "decoder_sparse_step", name, INT32_MAX, 1, &step, err), done);
    if (rb_json_find(json, "first_k_dense_replace"))
        RB_TRY(st, rb_json_get_int(json, "first_k_dense_replace", name, 0, INT32_MAX, &first, err), done);
    for (int layer = 0; layer < n_layers; layer++)
        config->layer_has_experts[layer] = layer >= first && (layer + 1) % step == 0;
    if (!rb_json_find(json, "mlp_only_layers")) return RB_OK;
    RB_TRY(st, rb_json_get_array(json, "mlp_only_layers", name, &dense, err), done);
    cJSON_ArrayForEach (item, dense) {
        const double layer = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(layer >= 0 && layer < n_layers && layer == (int)layer))
            return rb_fail(err, RB_EINVAL, "%s: mlp_only_layers names no layer from 0 to %d", name, n_layers - 1);
        config->layer_has_experts[(int)layer] = false;
    }
done:
    return st;
}

rb_status config_parse_experts(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    expert_config *experts = &config->experts;
    rb_status st = RB_OK;
    if (!config->family->has_experts || !rb_json_find(json, "num_experts")) return RB_OK;
    RB_TRY(st, config_get_count(json, "num_experts", name, MAX_EXPERTS, &experts->n, err), done);
    RB_TRY(st, config_get_count(json, "num_experts_per_tok", name, experts->n, &experts->n_per_token, err), done);
    RB_TRY(st, config_get_count(json, "moe_intermediate_size", name, MODEL_MAX_INTERMEDIATE, &experts->size, err),
           done);
    RB_TRY(st, config_get_flag(json, "norm_topk_prob", name, &experts->normalizes, err), done);
    RB_TRY(st, config_get_scale(json, "routed_scaling_factor", name, 1, &experts->scale, err), done);
    RB_TRY(st, parse_groups(config, json, name, err), done);
    RB_TRY(st, parse_shared(config, json, name, err), done);
    st = parse_layers(config, json, name, err);
done:
    return st;
}
