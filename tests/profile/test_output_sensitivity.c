/* profile/output_sensitivity.h against one layer's attention in double, keys by finite differences: grouped query
 * heads, several sequences, a window, a softcap, an attention factor, values of another size, exact tokens, an output
 * metric of less than full rank. */
#include "tests/profile/profile_test.h"

#include "core/threads.h"
#include "kernels/reference/numpy_random.h"
#include "profile/gram.h"
#include "profile/output_sensitivity.h"

enum { TILE = 64, HEADS = 2, MAX_DIM = 12 }; /* TILE: tokens that share a random stream, as the product has it */

static rb_error err;

typedef struct layer_case {
    const char *name;
    int n_q, head_dim, rotary_dim, value_dim; /* n_q: query heads of a KV head */
    rope_pairing pairing;
    double attention_factor;
    int64_t n_tokens, context, n_sink, window, n_limit;
    double softcap;
    int metric_rank; /* of the output metric; 0: none */
    int n_draws;
} layer_case;

static const layer_case cases[] = {
    {"plain", 1, 8, 8, 8, ROPE_SPLIT_HALF, 1.0, 20, 20, 0, 0, 1000, 0.0, 0, 2},
    {"grouped", 3, 8, 4, 8, ROPE_INTERLEAVED, 1.0, 33, 15, 1, 0, 1000, 0.0, 24, 2},
    {"window", 2, 6, 6, 6, ROPE_SPLIT_HALF, 1.25, 67, 67, 2, 7, 1000, 0.0, 12, 1},
    {"softcap", 2, 8, 8, 8, ROPE_SPLIT_HALF, 1.0, 30, 16, 1, 0, 1000, 2.0, 16, 2},
    {"values", 2, 6, 4, 12, ROPE_SPLIT_HALF, 0.75, 67, 67, 0, 65, 1000, 0.0, 0, 1},
    {"rank", 2, 8, 8, 8, ROPE_SPLIT_HALF, 1.0, 24, 24, 3, 0, 1000, 0.0, 5, 2},
    {"some sequences", 1, 8, 8, 8, ROPE_SPLIT_HALF, 1.0, 75, 10, 1, 0, 35, 0.0, 8, 2},
    {"start of one", 1, 8, 8, 8, ROPE_SPLIT_HALF, 1.0, 40, 40, 1, 0, 17, 0.0, 8, 1},
};

/* ---- a layer --------------------------------------------------------------------------------- */

typedef struct test_layer {
    const layer_case *c;
    model_facts model;
    rope_table rope;
    float *q, *k, *v, *q_turned, *k_turned; /* two KV heads */
    float *metric;                          /* [HEADS][n_q * value_dim]^2; NULL */
    int64_t starts[32], n_starts;
} test_layer;

static void layer_free(test_layer *l)
{
    rope_table_free(&l->rope);
    free(l->q);
    free(l->k);
    free(l->v);
    free(l->q_turned);
    free(l->k_turned);
    free(l->metric);
}

static float *copy_of(const float *x, size_t n)
{
    float *out = malloc(n * sizeof *out);
    memcpy(out, x, n * sizeof *out);
    return out;
}

/* W^T W of W [rank][n]. */
static float *metric_of_rank(int rank, int n, uint64_t seed)
{
    float *w = random_floats((size_t)rank * (size_t)n, seed), *out = calloc((size_t)n * (size_t)n, sizeof *out);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0.0;
            for (int row = 0; row < rank; row++) sum += (double)w[row * n + i] * (double)w[row * n + j];
            out[i * n + j] = (float)sum;
        }
    free(w);
    return out;
}

static test_layer make_layer(const layer_case *c)
{
    test_layer l = {.c = c, .model = small_model(c->n_q, c->head_dim, c->rotary_dim, c->pairing)};
    const size_t n = (size_t)c->n_tokens, n_k = HEADS * n * (size_t)c->head_dim, n_q = n_k * (size_t)c->n_q,
                 width = (size_t)(c->n_q * c->value_dim);
    l.model.n_kv_heads = HEADS;
    l.model.n_q_heads = HEADS * c->n_q;
    l.model.value_dim = c->value_dim;
    l.model.rope.attention_factor = c->attention_factor;
    l.q = random_floats(n_q, 1);
    l.k = random_floats(n_k, 2);
    l.v = random_floats(HEADS * n * (size_t)c->value_dim, 3);
    for (size_t i = 0; i < n_q; i++) l.q[i] *= 2.0f; /* weights far from equal */
    l.q_turned = copy_of(l.q, n_q);
    l.k_turned = copy_of(l.k, n_k);
    for (int64_t t = 0; t < c->n_tokens; t += c->context) l.starts[l.n_starts++] = t;
    l.starts[l.n_starts] = c->n_tokens;
    assert_ok(rope_table_init(&l.rope, &l.model, &l.model.rope, c->context, &err));
    rope_apply(&l.rope, l.q_turned, l.model.n_q_heads, c->head_dim, l.starts, l.n_starts);
    rope_apply(&l.rope, l.k_turned, HEADS, c->head_dim, l.starts, l.n_starts);
    if (c->metric_rank > 0) {
        l.metric = calloc(HEADS * width * width, sizeof *l.metric);
        for (int h = 0; h < HEADS; h++) {
            float *one = metric_of_rank(c->metric_rank, (int)width, 10 + (uint64_t)h);
            memcpy(l.metric + (size_t)h * width * width, one, width * width * sizeof *one);
            free(one);
        }
    }
    return l;
}

static output_sensitivity measure(const test_layer *l)
{
    const layer_case *c = l->c;
    const sensitivity_layer in = {.q = l->q_turned,
                                  .turned_k = l->k_turned,
                                  .k = l->k,
                                  .v = l->v,
                                  .output_metric = l->metric,
                                  .rope = &l->rope,
                                  .n_tokens = c->n_tokens,
                                  .context = c->context,
                                  .n_sink = c->n_sink,
                                  .window = c->window,
                                  .softcap = c->softcap,
                                  .n_limit = c->n_limit};
    output_sensitivity out;
    assert_ok(output_sensitivity_create(&out, &l->model, false, &err));
    out.n_draws = c->n_draws;
    out.seed = 7;
    assert_ok(output_sensitivity_measure(&out, &l->model, 0, &in, &err));
    return out;
}

/* ---- the definition -------------------------------------------------------------------------- */

/* p [n]: the weights of query t of head g of one sequence, for keys as they enter RoPE, in double. */
static void weights_of(double *p, const test_layer *l, int h, int g, int64_t first, int64_t t, const double *k)
{
    const layer_case *c = l->c;
    const float *q = l->q + (((int64_t)h * c->n_q + g) * c->n_tokens + first + t) * c->head_dim;
    const int64_t begin = c->window > 0 && t >= c->window ? t - c->window + 1 : 0;
    double most = -INFINITY, sum = 0.0;
    for (int64_t s = 0; s < begin; s++) p[s] = 0.0;
    for (int64_t s = begin; s <= t; s++) {
        p[s] = l->model.attention_scale * turned_dot(&l->model, q, k + s * c->head_dim, (double)(s - t));
        if (c->softcap > 0.0) p[s] = c->softcap * tanh(p[s] / c->softcap);
        most = fmax(most, p[s]);
    }
    for (int64_t s = begin; s <= t; s++) sum += p[s] = exp(p[s] - most);
    for (int64_t s = begin; s <= t; s++) p[s] /= sum;
}

/* sum over query heads and queries of a . o, for keys as they enter RoPE and values of one sequence, in double. */
static double projected_output(const test_layer *l, int h, int64_t first, int64_t n, const double *k, const double *v,
                               const double *a)
{
    const layer_case *c = l->c;
    double total = 0.0, p[128];
    for (int g = 0; g < c->n_q; g++)
        for (int64_t t = 0; t < n; t++) {
            weights_of(p, l, h, g, first, t, k);
            for (int64_t s = 0; s <= t; s++)
                for (int i = 0; i < c->value_dim; i++)
                    total += p[s] * a[(t * c->n_q + g) * c->value_dim + i] * v[s * c->value_dim + i];
        }
    return total;
}

/* Cholesky's factor, a column of no pivot left zero. */
static double *factor_by_hand(const float *m, int n)
{
    double *f = calloc((size_t)n * (size_t)n, sizeof *f);
    for (int j = 0; j < n; j++) {
        double pivot = (double)m[j * n + j];
        for (int i = 0; i < j; i++) pivot -= f[j * n + i] * f[j * n + i];
        if (pivot < 1e-5 * (double)m[j * n + j]) continue;
        for (int i = j; i < n; i++) {
            double sum = (double)m[i * n + j];
            for (int p = 0; p < j; p++) sum -= f[i * n + p] * f[j * n + p];
            f[i * n + j] = sum / sqrt(pivot);
        }
    }
    return f;
}

/* a [n][n_q][value_dim] of the sequence whose first token is the `at`-th of those used. */
static void directions(double *a, const test_layer *l, int h, int64_t at, int64_t n, int draw)
{
    const int width = l->c->n_q * l->c->value_dim;
    double *factor = l->metric ? factor_by_hand(l->metric + (size_t)h * (size_t)(width * width), width) : NULL, z[64];
    numpy_rng rng;
    for (int64_t t = 0; t < n; t++) {
        if (t % TILE == 0) numpy_rng_seed(&rng, 7 + ((uint64_t)h << 32) + (uint64_t)((at + t) * l->c->n_draws + draw));
        numpy_rng_standard_normal(&rng, z, (size_t)width);
        for (int i = 0; i < width; i++) {
            double sum = z[i];
            if (factor) {
                sum = 0.0;
                for (int j = 0; j <= i; j++) sum += factor[i * width + j] * z[j];
            }
            a[t * width + i] = sum;
        }
    }
    free(factor);
}

typedef struct expected_metrics {
    double key[MAX_DIM * MAX_DIM], value[MAX_DIM * MAX_DIM], weighted[MAX_DIM * MAX_DIM];
    double weight, n;
    int64_t n_used;
} expected_metrics;

static void add_product(double *out, const double *x, int dim, double weight)
{
    for (int i = 0; i < dim; i++)
        for (int j = 0; j < dim; j++) out[i * dim + j] += weight * x[i] * x[j];
}

/* Central differences by every dim of token s. */
static void differentiate(double *gradient, const test_layer *l, int h, int64_t first, int64_t n, double *k, double *v,
                          const double *a, double *x, int dim)
{
    const double step = 1e-4;
    for (int i = 0; i < dim; i++) {
        const double kept = x[i];
        x[i] = kept + step;
        const double above = projected_output(l, h, first, n, k, v, a);
        x[i] = kept - step;
        gradient[i] = (above - projected_output(l, h, first, n, k, v, a)) / (2.0 * step);
        x[i] = kept;
    }
}

/* One query of the sequence in the metric of token s's value: (sum_g p_g W_g)^T (sum_g p_g W_g). */
static void add_value_products(double *out, const test_layer *l, int h, const double *p)
{
    const layer_case *c = l->c;
    const int dim = c->value_dim, width = c->n_q * dim;
    for (int g = 0; g < c->n_q; g++)
        for (int other = 0; other < c->n_q; other++)
            for (int i = 0; i < dim; i++)
                for (int j = 0; j < dim; j++) {
                    const double block = l->metric
                                             ? (double)l->metric[(size_t)h * (size_t)(width * width)
                                                                 + (size_t)((g * dim + i) * width + other * dim + j)]
                                             : (g == other && i == j);
                    out[i * dim + j] += p[g] * p[other] * block;
                }
}

static void add_values(expected_metrics *e, const test_layer *l, int h, int64_t first, int64_t n, const double *k,
                       const double *v)
{
    const layer_case *c = l->c;
    const int dim = c->value_dim;
    for (int64_t s = c->n_sink; s < n; s++) {
        double metric[MAX_DIM * MAX_DIM] = {0.0}, weight = 0.0;
        for (int64_t t = s; t < n; t++) {
            double p[128], of_heads[8];
            for (int g = 0; g < c->n_q; g++) {
                weights_of(p, l, h, g, first, t, k);
                of_heads[g] = p[s];
            }
            add_value_products(metric, l, h, of_heads);
        }
        for (int i = 0; i < dim * dim; i++) e->value[i] += metric[i];
        for (int i = 0; i < dim; i++) weight += metric[i * dim + i];
        add_product(e->weighted, v + s * dim, dim, weight);
        e->weight += weight;
    }
}

static void add_sequence(expected_metrics *e, const test_layer *l, int h, int64_t first, int64_t n)
{
    const layer_case *c = l->c;
    double *k = calloc((size_t)(n * c->head_dim), sizeof *k), *v = calloc((size_t)(n * c->value_dim), sizeof *v),
           *a = calloc((size_t)(n * c->n_q * c->value_dim), sizeof *a), gradient[MAX_DIM];
    for (int64_t i = 0; i < n * c->head_dim; i++) k[i] = (double)l->k[(h * c->n_tokens + first) * c->head_dim + i];
    for (int64_t i = 0; i < n * c->value_dim; i++) v[i] = (double)l->v[(h * c->n_tokens + first) * c->value_dim + i];
    for (int draw = 0; draw < c->n_draws; draw++) {
        directions(a, l, h, e->n_used, n, draw);
        for (int64_t s = c->n_sink; s < n; s++) {
            differentiate(gradient, l, h, first, n, k, v, a, k + s * c->head_dim, c->head_dim);
            add_product(e->key, gradient, c->head_dim, 1.0 / c->n_draws);
        }
    }
    add_values(e, l, h, first, n, k, v);
    if (n > c->n_sink) e->n += (double)(n - c->n_sink);
    e->n_used += n;
    free(k);
    free(v);
    free(a);
}

static void assert_matrix(const char *name, const char *what, const float *found, const double *expected, int dim,
                          double scale)
{
    double trace = 0.0;
    for (int i = 0; i < dim; i++) trace += scale * expected[i * dim + i];
    for (int i = 0; i < dim * dim; i++)
        if (!(fabs((double)found[i] - scale * expected[i]) < 2e-5 * trace)) /* f32, and the differences */
            fail_msg("%s: %s entry %d is %g, expected %g", name, what, i, (double)found[i], scale * expected[i]);
}

static void metrics_are_those_of_the_definition(void **state)
{
    (void)state;
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        const layer_case *c = &cases[i];
        test_layer l = make_layer(c);
        output_sensitivity found = measure(&l);
        for (int h = 0; h < HEADS; h++) {
            const int key = h * c->head_dim * c->head_dim, value = h * c->value_dim * c->value_dim;
            const int64_t most = c->n_limit / c->context, n_all = l.n_starts,
                          n = most < 1       ? 1
                              : most < n_all ? most
                                             : n_all;
            expected_metrics e = {.weight = 0.0};
            for (int64_t s = 0; s < n; s++) {
                const int64_t first = l.starts[s * n_all / n], left = l.starts[s * n_all / n + 1] - first;
                add_sequence(&e, &l, h, first, left < c->n_limit ? left : c->n_limit);
            }
            assert_int_equal(found.n_tokens, e.n_used);
            assert_matrix(c->name, "key_metric", found.key_metric + key, e.key, c->head_dim, 1.0 / e.n);
            assert_matrix(c->name, "value_metric", found.value_metric + value, e.value, c->value_dim, 1.0 / e.n);
            assert_matrix(c->name, "value_moment_weighted", found.value_moment_weighted + value, e.weighted,
                          c->value_dim, 1.0 / e.weight);
        }
        output_sensitivity_free(&found);
        layer_free(&l);
    }
}

/* Of all tokens of the text that do not stay exact. */
static void moments_are_those_of_the_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        const layer_case *c = &cases[i];
        test_layer l = make_layer(c);
        output_sensitivity found = measure(&l);
        for (int h = 0; h < HEADS; h++) {
            double mean[MAX_DIM] = {0.0}, covariance[MAX_DIM * MAX_DIM] = {0.0}, moment[MAX_DIM * MAX_DIM] = {0.0},
                   n = 0.0;
            for (int pass = 0; pass < 2; pass++)
                for (int64_t t = 0; t < c->n_tokens; t++) {
                    double x[MAX_DIM];
                    if (t % c->context < c->n_sink) continue;
                    for (int d = 0; d < c->head_dim; d++)
                        x[d] = (double)l.k[(h * c->n_tokens + t) * c->head_dim + d] - (pass ? mean[d] / n : 0.0);
                    if (pass) add_product(covariance, x, c->head_dim, 1.0 / n);
                    for (int d = 0; d < c->head_dim && !pass; d++) mean[d] += x[d];
                    n += pass ? 0.0 : 1.0;
                }
            for (int64_t t = 0; t < c->n_tokens; t++) {
                double x[MAX_DIM];
                for (int d = 0; d < c->value_dim; d++) x[d] = (double)l.v[(h * c->n_tokens + t) * c->value_dim + d];
                if (t % c->context >= c->n_sink) add_product(moment, x, c->value_dim, 1.0 / n);
            }
            assert_matrix(c->name, "key_covariance", found.key_covariance + h * c->head_dim * c->head_dim, covariance,
                          c->head_dim, 1.0);
            assert_matrix(c->name, "value_moment", found.value_moment + h * c->value_dim * c->value_dim, moment,
                          c->value_dim, 1.0);
        }
        output_sensitivity_free(&found);
        layer_free(&l);
    }
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    test_layer l = make_layer(&cases[2]);
    const size_t key = HEADS * 6 * 6 * sizeof(float);
    output_sensitivity found[2];
    for (int i = 0; i < 2; i++) {
        rb_threads_init(i == 0 ? 1 : 3);
        found[i] = measure(&l);
    }
    rb_threads_init(0);
    assert_memory_equal(found[0].key_metric, found[1].key_metric, key);
    assert_memory_equal(found[0].key_covariance, found[1].key_covariance, key);
    assert_memory_equal(found[0].value_metric, found[1].value_metric, key);
    assert_memory_equal(found[0].value_moment, found[1].value_moment, key);
    assert_memory_equal(found[0].value_moment_weighted, found[1].value_moment_weighted, key);
    for (int i = 0; i < 2; i++) output_sensitivity_free(&found[i]);
    layer_free(&l);
}

static void what_leaves_f32_is_named(void **state)
{
    (void)state;
    test_layer l = make_layer(&cases[1]);
    const sensitivity_layer in = {.q = l.q_turned,
                                  .turned_k = l.k_turned,
                                  .k = l.k,
                                  .v = l.v,
                                  .rope = &l.rope,
                                  .n_tokens = l.c->n_tokens,
                                  .context = l.c->context,
                                  .n_limit = 1000};
    output_sensitivity out;
    assert_ok(output_sensitivity_create(&out, &l.model, false, &err));
    out.n_draws = 1;
    l.v[(l.c->n_tokens + 3) * l.c->value_dim] = 1e30f;
    assert_fails(output_sensitivity_measure(&out, &l.model, 0, &in, &err), RB_ENONFINITE,
                 "layer 0 kv_head 1: the metric of attention's output is not finite");
    output_sensitivity_free(&out);
    layer_free(&l);
}

/* ---- sums of products ------------------------------------------------------------------------ */

static void gram_and_factor_hold_for_any_size_and_rank(void **state)
{
    (void)state;
    static const struct {
        int n_rows, dim;
    } sizes[] = {{1, 1}, {3, 7}, {200, 65}, {40, 130}, {1100, 64}, {2500, 3}};
    for (size_t c = 0; c < RB_COUNT(sizes); c++) {
        const int n = sizes[c].dim, n_rows = sizes[c].n_rows;
        float *x = random_floats((size_t)n_rows * (size_t)n, 5), *gram = calloc((size_t)(n * n), sizeof *gram),
              *factor = calloc((size_t)(n * n), sizeof *factor);
        gram_matrix(gram, x, n_rows, n, 0.5);
        assert_ok(gram_factor(factor, gram, n, &err));
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                double sum = 0.0, product = 0.0;
                const double size = 0.5 * n_rows;
                for (int row = 0; row < n_rows; row++) sum += 0.5 * (double)x[row * n + i] * (double)x[row * n + j];
                for (int p = 0; p < n; p++) product += (double)factor[i * n + p] * (double)factor[j * n + p];
                assert_close((double)gram[i * n + j], sum, 1e-6 * size);
                assert_close(product, sum, 1e-4 * size);
                assert_true(gram[i * n + j] == gram[j * n + i] && (j <= i || factor[i * n + j] == 0.0f));
            }
        free(x);
        free(gram);
        free(factor);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics_are_those_of_the_definition),
        cmocka_unit_test(moments_are_those_of_the_text),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(what_leaves_f32_is_named),
        cmocka_unit_test(gram_and_factor_hold_for_any_size_and_rank),
    };
    return cmocka_run_group_tests_name("output_sensitivity", tests, NULL, NULL);
}
