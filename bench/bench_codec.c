/* bench_codec: throughput of the CUDA codec on random keys, one JSON line a row:
 * {"plan", "step", "type", "n", "n_heads", "head_dim", "true_bits", "us", "vector_gb_per_s", "moved_gb_per_s"}.
 *
 *   bench_codec [N_TOKENS [N_HEADS [HEAD_DIM [TYPE [PLAN]]]]]
 *
 * N_TOKENS 65536, N_HEADS 8 and HEAD_DIM 128 where not given. TYPE: f16, bf16, f32, or all, which it is where not
 * given. PLAN: a codec family, for its plans only; all where not given.
 *
 * vector_gb_per_s counts the bytes of vectors that are read (encode) or written (decode), moved_gb_per_s all bytes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/random_plans.h"
#include "core/threads.h"
#include "kernels/check/codec_trial.h"
#include "kernels/reference/numpy_random.h"
#include "methods/allocator.h"

enum { N_BASE = 4096, N_QUERIES = 4 };

static float *normals(uint64_t seed, int64_t n)
{
    double *drawn = malloc((size_t)n * sizeof *drawn);
    float *out = malloc((size_t)n * sizeof *out);
    numpy_rng rng;
    if (!drawn || !out) exit(1);
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, drawn, (size_t)n);
    for (int64_t i = 0; i < n; i++) out[i] = (float)drawn[i];
    free(drawn);
    return out;
}

typedef struct bench {
    model_facts model;
    codec_tables *tables;
    plan_head *heads;
    int64_t n;
    const char *type;   /* only this one; NULL: all */
    const char *family; /* only its plans; NULL: all */
} bench;

static rb_status run(const bench *b, const char *what, codec_dtype type, rb_error *err)
{
    const int n_heads = b->model.n_kv_heads, d = b->model.head_dim;
    float *x = normals(1, (int64_t)n_heads * N_BASE * d), *queries = normals(2, (int64_t)n_heads * N_QUERIES * d);
    codec_trial trial = {0};
    codec_dtype_round(x, (int64_t)n_heads * N_BASE * d, type);
    const codec_trial_input in = {.heads = b->heads,
                                  .n_heads = n_heads,
                                  .model = &b->model,
                                  .tables = b->tables,
                                  .type = type,
                                  .x = x,
                                  .n = N_BASE,
                                  .queries = queries,
                                  .n_queries = N_QUERIES,
                                  .n_timed = b->n};
    const rb_status st = codec_trial_cuda(&trial, &in, err);
    if (st == RB_OK) {
        const double vectors = (double)b->n * n_heads * d * (type == CODEC_F32 ? 4 : 2);
        const double packed = (double)codec_image_packed_offset(trial.image, n_heads, b->n)
                              + (double)codec_image_norms_offset(trial.image, n_heads, b->n);
        const struct {
            const char *step;
            double seconds, moved;
        } rows[] = {{"encode", trial.times.encode_s, vectors + packed},
                    {"decode", trial.times.decode_s, vectors + packed},
                    {"logits", trial.times.logits_s, packed}};
        for (size_t i = 0; i < RB_COUNT(rows); i++)
            printf("{\"plan\": \"%s\", \"step\": \"%s\", \"type\": \"%s\", \"n\": %lld, \"n_heads\": %d, \"head_dim\": "
                   "%d, \"true_bits\": %.3f, \"us\": %.1f, "
                   "\"vector_gb_per_s\": %.0f, \"moved_gb_per_s\": %.0f}\n",
                   what, rows[i].step, codec_dtype_name(type), (long long)b->n, n_heads, d,
                   packed * 8.0 / ((double)b->n * n_heads * d), rows[i].seconds * 1e6, vectors / rows[i].seconds * 1e-9,
                   rows[i].moved / rows[i].seconds * 1e-9);
    }
    codec_trial_free(&trial);
    free(x);
    free(queries);
    return st;
}

/* Block-GTQ at `avg_bits`, from energies that spread as those of models do: e to a normal of deviation 1.5. */
static rb_status block_gtq(bench *b, double avg_bits, rotation_kind rotation, rb_error *err)
{
    const int n = model_n_blocks(&b->model);
    rb_status st = RB_OK;
    for (int h = 0; h < b->model.n_kv_heads && st == RB_OK; h++) {
        double energy[RB_MAX_BLOCKS];
        uint8_t bits[RB_MAX_BLOCKS];
        numpy_rng rng;
        numpy_rng_seed(&rng, 100 + (uint64_t)h);
        numpy_rng_standard_normal(&rng, energy, (size_t)n);
        for (int i = 0; i < n; i++) energy[i] = exp(1.5 * energy[i]);
        st = allocate_greedy(bits, energy, n, avg_bits, err);
        plan_head_clear(&b->heads[h]);
        if (st == RB_OK) st = plan_head_set_block_widths(&b->heads[h], bits, n, CODEBOOK_BLOCK_GTQ, err);
        for (int g = 0; st == RB_OK && g < b->heads[h].groups.n; g++) b->heads[h].groups.at[g].rotation.kind = rotation;
    }
    return st;
}

/* As `allocate --method optimal` has them: blocks by energy in four groups and a few in none, 8-bit norms, a
 * centre: 2.88 true bits of 128 dims. */
static rb_status optimal(bench *b, plan_encoder encoder, rb_error *err)
{
    static const struct {
        int width, share;
    } groups[] = {{2, 20}, {3, 20}, {4, 12}, {5, 4}}; /* of 64 blocks */
    const int n = model_n_blocks(&b->model);
    rb_status st = RB_OK;
    for (int h = 0; h < b->model.n_kv_heads && st == RB_OK; h++) {
        plan_head *head = &b->heads[h];
        double center[RB_MAX_HEAD_DIM];
        int share_of[64], first = 8; /* the first 8 of 64 are in none */
        plan_head_clear(head);
        head->groups.norm = NORM_LOG8;
        head->groups.encoder = encoder;
        for (int i = 0; i < 64; i++) share_of[i] = i * (2 * h + 5) % 64; /* blocks in any order */
        for (size_t g = 0; g < RB_COUNT(groups) && st == RB_OK; first += groups[g++].share) {
            int blocks[RB_MAX_BLOCKS], n_blocks = 0;
            for (int i = 0; i < n; i++)
                if (share_of[i % 64] >= first && share_of[i % 64] < first + groups[g].share) blocks[n_blocks++] = i;
            if (n_blocks > 0)
                st = plan_head_add_group(head, groups[g].width, blocks, n_blocks, CODEBOOK_SPHERE, 4, err);
        }
        for (int i = 0; i < b->model.head_dim; i++) center[i] = sin(1.3 * i + h);
        if (st == RB_OK) st = plan_head_set_transform(head, NULL, n, center, b->model.head_dim, err);
    }
    return st;
}

static rb_status block_codebook_plans(bench *b, rb_error *err)
{
    rb_status st = RB_OK;
    for (int h = 0; h < b->model.n_kv_heads && st == RB_OK; h++)
        st = random_block_codebook(&b->heads[h], b->model.head_dim, 2.25, h, err);
    return st;
}

static rb_status trellis_plans(bench *b, bool is_folded, rb_error *err)
{
    rb_status st = RB_OK;
    for (int h = 0; h < b->model.n_kv_heads && st == RB_OK; h++)
        st = random_trellis(&b->heads[h], b->model.head_dim, 2.1, is_folded, h, err);
    return st;
}

static rb_status uniform(bench *b, int width, rotation_kind rotation, rb_error *err)
{
    rb_status st = RB_OK;
    for (int h = 0; h < b->model.n_kv_heads && st == RB_OK; h++) {
        plan_head_clear(&b->heads[h]);
        st = plan_head_set_uniform(&b->heads[h], width, model_n_blocks(&b->model), 1000 + (uint64_t)h,
                                   CODEBOOK_BLOCK_GTQ, err);
        if (st == RB_OK) b->heads[h].groups.at[0].rotation.kind = rotation;
    }
    return st;
}

/* Values of one group that are searched for. */
static rb_status searched_values(bench *b, int width, rb_error *err)
{
    const rb_status st = uniform(b, width, ROTATION_HAAR, err);
    for (int h = 0; h < b->model.n_kv_heads && st == RB_OK; h++) {
        b->heads[h].groups.norm = NORM_LOG8;
        b->heads[h].groups.at[0].norm_exponent = 6;
        b->heads[h].groups.encoder = ENCODER_SEARCH;
    }
    return st;
}

static rb_status run_general(bench *b, rb_error *err)
{
    rb_status st;
    RB_TRY(st, optimal(b, ENCODER_SEARCH, err), done);
    for (int type = 0; type < CODEC_N_DTYPES; type++)
        if (!b->type || strcmp(b->type, codec_dtype_name((codec_dtype)type)) == 0)
            RB_TRY(st, run(b, "optimal", (codec_dtype)type, err), done);
    RB_TRY(st, optimal(b, ENCODER_NEAREST, err), done);
    RB_TRY(st, run(b, "optimal nearest", CODEC_F16, err), done);
    for (int width = 2; width <= 4; width++) {
        char what[32];
        snprintf(what, sizeof what, "values %d search", width);
        RB_TRY(st, searched_values(b, width, err), done);
        RB_TRY(st, run(b, what, CODEC_F16, err), done);
    }
done:
    return st;
}

static rb_status run_block_codebook(bench *b, rb_error *err)
{
    rb_status st = block_codebook_plans(b, err);
    for (int type = 0; type < CODEC_N_DTYPES && st == RB_OK; type++)
        if (!b->type || strcmp(b->type, codec_dtype_name((codec_dtype)type)) == 0)
            st = run(b, "block-codebook", (codec_dtype)type, err);
    return st;
}

static rb_status run_trellis(bench *b, rb_error *err)
{
    rb_status st = RB_OK;
    for (int is_folded = 0; is_folded < 2 && st == RB_OK; is_folded++) {
        st = trellis_plans(b, is_folded, err);
        for (int type = 0; type < CODEC_N_DTYPES && st == RB_OK; type++)
            if (!b->type || strcmp(b->type, codec_dtype_name((codec_dtype)type)) == 0)
                st = run(b, is_folded ? "trellis folded" : "trellis", (codec_dtype)type, err);
    }
    return st;
}

static bool is_asked_for(const bench *b, codec_family family)
{
    return !b->family || strcmp(b->family, codec_family_names[family]) == 0;
}

static rb_status run_all(bench *b, rb_error *err)
{
    rb_status st = RB_OK;
    if (is_asked_for(b, FAMILY_BLOCK_CODEBOOK)) RB_TRY(st, run_block_codebook(b, err), done);
    if (is_asked_for(b, FAMILY_TRELLIS)) RB_TRY(st, run_trellis(b, err), done);
    if (!is_asked_for(b, FAMILY_GROUPS)) goto done;
    RB_TRY(st, block_gtq(b, 3.0, ROTATION_HAAR, err), done);
    for (int type = 0; type < CODEC_N_DTYPES; type++)
        if (!b->type || strcmp(b->type, codec_dtype_name((codec_dtype)type)) == 0)
            RB_TRY(st, run(b, "block-gtq 3", (codec_dtype)type, err), done);
    RB_TRY(st, block_gtq(b, 3.0, ROTATION_HADAMARD, err), done);
    RB_TRY(st, run(b, "block-gtq 3 hadamard", CODEC_F16, err), done);
    RB_TRY(st, block_gtq(b, 2.0, ROTATION_HAAR, err), done);
    RB_TRY(st, run(b, "block-gtq 2", CODEC_F16, err), done);
    RB_TRY(st, block_gtq(b, 4.0, ROTATION_HAAR, err), done);
    RB_TRY(st, run(b, "block-gtq 4", CODEC_F16, err), done);
    for (int rotation = 0; rotation < ROTATION_N_KINDS; rotation++)
        for (int width = 2; width <= 4; width++) {
            char what[32];
            snprintf(what, sizeof what, "values %d%s", width, rotation == ROTATION_HADAMARD ? " hadamard" : "");
            RB_TRY(st, uniform(b, width, (rotation_kind)rotation, err), done);
            RB_TRY(st, run(b, what, CODEC_F16, err), done);
        }
    st = run_general(b, err);
done:
    return st;
}

int main(int argc, char **argv)
{
    bench b = {.n = argc > 1 ? atoll(argv[1]) : 65536,
               .type = argc > 4 && strcmp(argv[4], "all") != 0 ? argv[4] : NULL,
               .family = argc > 5 ? argv[5] : NULL};
    const int n_heads = argc > 2 ? atoi(argv[2]) : 8, d = argc > 3 ? atoi(argv[3]) : 128;
    rb_error err = {0};
    rb_status st;
    rb_threads_init(0);
    b.model = (model_facts){
        .n_layers = 1, .n_q_heads = n_heads, .n_kv_heads = n_heads, .head_dim = d, .rotary_dim = d, .value_dim = d};
    RB_TRY(st, rb_cuda_open(0, &err), done);
    fprintf(stderr, "%s\n", rb_cuda_device()->name);
    RB_TRY(st, codec_tables_create(&b.tables, &err), done);
    RB_TRY(st, rb_alloc(&b.heads, (size_t)n_heads, sizeof *b.heads, "heads", &err), done);
    st = run_all(&b, &err);
done:
    for (int h = 0; b.heads && h < n_heads; h++) plan_head_clear(&b.heads[h]);
    free(b.heads);
    codec_tables_free(b.tables);
    if (st != RB_OK) fprintf(stderr, "bench_codec: %s\n", err.msg);
    return rb_exit_code(st);
}
