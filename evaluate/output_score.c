/* See output_score.h. */
#include "evaluate/output_score.h"

#include <stdlib.h>

rb_status output_scores_create(output_scores *out, const evaluate_request *request, const evaluate_batch *batch,
                               rb_error *err)
{
    const model_facts *model = &checkpoint_config(request->model)->facts;
    *out = (output_scores){.request = request, .batch = batch};
    return rb_alloc(&out->squares, (size_t)model->n_layers * (size_t)model->n_q_heads,
                    (size_t)batch->n_runs * sizeof *out->squares, "output errors", err);
}

void output_scores_free(output_scores *scores)
{
    free(scores->squares);
    *scores = (output_scores){0};
}

static float square_norm(const float *a, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * a[i];
    return sum;
}

static float square_distance(const float *a, const float *b, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

/* One head of one run over the part's text. A token is summed in f32, and tokens in f64, one after the other, so that
 * the result does not depend on the parts. */
static void add_head(double *square, const evaluate_batch *b, const layer_heads *heads, const float *attended,
                     int64_t row, int64_t dim, int run)
{
    for (int64_t s = b->part_start[heads->part]; s < evaluate_batch_text_end(b, heads->part); s += b->n_runs) {
        const int64_t n = b->sequence_start[s + 1] - b->sequence_start[s];
        const float *base = attended + (b->sequence_start[s] - heads->first_token) * row, *own = base + run * n * row;
        for (int64_t t = 0; t < n; t++)
            *square += (double)(run == 0 ? square_norm(base + t * row, dim)
                                         : square_distance(own + t * row, base + t * row, dim));
    }
}

void output_scores_add(output_scores *scores, const layer_heads *heads, const float *attended)
{
    const model_facts *model = &checkpoint_config(scores->request->model)->facts;
    const int n_runs = scores->batch->n_runs, n_items = model->n_q_heads * n_runs;
    const int64_t dim = checkpoint_config(scores->request->model)->attended_dim, row = model->n_q_heads * dim;
    double *squares = scores->squares + (int64_t)heads->layer * n_items;
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n_items; i++)
        add_head(&squares[i], scores->batch, heads, attended + i / n_runs * dim, row, dim, i % n_runs);
}
