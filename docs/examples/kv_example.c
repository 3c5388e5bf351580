/* Tokens into a packed cache, and attention over it, on the CPU. Keys and values are made up.
 *
 *   cc kv_example.c $(pkg-config --cflags --libs ropebits_kv) -lm -o kv_example && ./kv_example plan.rbp */
#include <math.h>
#include <ropebits_kv.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_TOKENS = 200, LAYER = 0, N_PAGES = (N_TOKENS + ROPEBITS_KV_PAGE_TOKENS - 1) / ROPEBITS_KV_PAGE_TOKENS };

static float *numbers(size_t n, double step)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; x && i < n; i++) x[i] = (float)sin(step * (double)(i + 1));
    return x;
}

int main(int argc, char **argv)
{
    char error[256];
    ropebits_kv *kv;
    if (argc != 2 || ropebits_kv_abi_version() != ROPEBITS_KV_ABI_VERSION) return 2;
    if (ropebits_kv_open(&kv, argv[1], "cpu", error, sizeof error) != ROPEBITS_KV_OK) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    const ropebits_plan_info *info = ropebits_plan_get_info(ropebits_kv_plan(kv));
    const int64_t dim = info->head_dim, kv_row = dim * info->n_kv_heads, q_row = dim * info->n_q_heads;
    const size_t page_bytes = ropebits_kv_page_bytes(kv, LAYER);

    /* Pages of one sequence, here in the order of its tokens. */
    int32_t block_table[N_PAGES], token[N_TOKENS], length = N_TOKENS;
    for (int p = 0; p < N_PAGES; p++) block_table[p] = p;
    for (int t = 0; t < N_TOKENS; t++) token[t] = t;
    ropebits_kv_pages cache = {.pages = aligned_alloc(128, (N_PAGES * page_bytes + 127) / 128 * 128),
                               .block_table = block_table,
                               .block_stride = N_PAGES,
                               .exact = malloc(ropebits_kv_exact_bytes(kv) + 1),
                               .exact_stride_bytes = (int64_t)ropebits_kv_exact_bytes(kv)};

    /* Keys as they enter RoPE; token t has position t. */
    float *keys = numbers((size_t)(N_TOKENS * kv_row), 0.37), *values = numbers((size_t)(N_TOKENS * kv_row), 0.59);
    float *query = numbers((size_t)q_row, 0.71), *out = numbers((size_t)q_row, 0), *sums = numbers(info->n_q_heads, 0);
    const ropebits_kv_tokens tokens = {.n = N_TOKENS,
                                       .token = token,
                                       .keys = {keys, ROPEBITS_KV_F32, kv_row, dim},
                                       .values = {values, ROPEBITS_KV_F32, kv_row, dim}};
    const ropebits_kv_queries queries = {.n_sequences = 1,
                                         .length = &length,
                                         .max_length = N_TOKENS,
                                         .queries = {query, ROPEBITS_KV_F32, q_row, dim},
                                         .out = {out, ROPEBITS_KV_F32, q_row, dim},
                                         .log_sum_exp = sums};
    int status = ropebits_kv_append(kv, LAYER, &tokens, &cache, NULL, NULL, error, sizeof error);
    if (status == ROPEBITS_KV_OK) status = ropebits_kv_attend(kv, LAYER, &queries, &cache, NULL, error, sizeof error);
    if (status != ROPEBITS_KV_OK) fprintf(stderr, "%s\n", error);
    else
        printf("%zu bytes of pages, fp16 takes %lld; log-sum-exp of head 0: %.3f, output: %.3f %.3f ...\n",
               N_PAGES * page_bytes, (long long)(N_PAGES * ROPEBITS_KV_PAGE_TOKENS * kv_row * 4), (double)sums[0],
               (double)out[0], (double)out[1]);
    free(cache.pages), free(cache.exact), free(keys), free(values), free(query), free(out), free(sums);
    ropebits_kv_close(kv);
    return status;
}
