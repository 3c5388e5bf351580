/* What no average tells (study/robust.py): a codec with one fixed 2-D codebook a RoPE block, trained on ordinary text,
 * has less than half of block-gtq's logit error at fewer bits (tests/profile/test_fixed_codebook.c, where its tails
 * give it away) and answers no needle question, because the keys of a rare name lie outside its range. Block-GTQ at 2
 * bits answers most of them. Keys are restored, values stay exact. RB_TEST_REPORT=1 prints the counts. */
#include "tests/test_support.h"

#include <stdbool.h>

#include "calibrate/block_statistics.h"
#include "core/threads.h"
#include "kernels/reference/head_codec.h"
#include "methods/allocator.h"
#include "model/forward.h"
#include "tests/fixed_codebook.h"
#include "tests/texts/folder_tokens.h"
#include "texts/needle_documents.h"

enum {
    N_CALIBRATION = 4096,
    CALIBRATION_CONTEXT = 1024,
    NEEDLE_CONTEXT = 984, /* the study's: the model's 1024 less 40 */
    PART_SEQUENCES = 4,
    PIECE_TOKENS = 256
};
#define FOLDER          "configs/demo-llama"
#define FIXED_TRUE_BITS 2.25

/* Measured: 23, 0 and 12 of 24 (with WikiText-2 valid and test in place of the bundled texts 23, 0 and 16); other
 * rounding may move one or two. With sanitizers on 24 documents take minutes and run no other code. */
#ifdef __SANITIZE_ADDRESS__
enum { N_DOCUMENTS = 4, MIN_EXACT = 3, MAX_FIXED = 0, MIN_BLOCK_GTQ = 1 };
#else
enum { N_DOCUMENTS = 24, MIN_EXACT = 22, MAX_FIXED = 2, MIN_BLOCK_GTQ = 10 };
#endif

typedef enum codec_kind { EXACT, FIXED, BLOCK_GTQ, N_KINDS } codec_kind;

typedef struct judge {
    checkpoint *model;
    const model_facts *facts;
    gaussian_books *books;
    codec_tables *tables;
    block_statistics statistics;
    fixed_codebook **fixed; /* [n_layers][n_kv_heads] */
    head_codec **block_gtq; /* [n_layers][n_kv_heads] */
    needle_documents documents;
    codec_kind kind; /* of the pass that runs */
    bool is_right[N_DOCUMENTS];
    int64_t *logit_tokens; /* every answer token's place before it */
    struct {
        int32_t target, document;
    } * answers; /* [n_answers] */
    int64_t n_answers;
} judge;

static rb_error err;

/* ---- codecs from a calibration pass ---------------------------------------------------------- */

static rb_status train_layer(void *user, layer_heads *heads, rb_error *hook_err)
{
    judge *j = user;
    const int n_blocks = j->statistics.n_blocks, n_q = model_q_per_kv(j->facts);
    const int64_t n = heads->n_tokens * j->facts->head_dim;
    (void)hook_err;
    assert_ok(
        block_statistics_compute(&j->statistics, j->facts, heads->layer, heads->q, heads->k, heads->n_tokens, &err));
    for (int h = 0; h < j->facts->n_kv_heads; h++) {
        const int at = heads->layer * j->facts->n_kv_heads + h;
        const head_energy energy = {.n_blocks = n_blocks,
                                    .q_energy = j->statistics.q_energy + h * n_blocks,
                                    .k_energy = j->statistics.k_energy + h * n_blocks};
        plan_head plan = {0};
        assert_ok(fixed_codebook_train(&j->fixed[at], j->books, j->facts, heads->q + h * n_q * n, heads->k + h * n,
                                       heads->n_tokens, FIXED_TRUE_BITS, &err));
        assert_ok(allocate_head(&plan, METHOD_BLOCK_GTQ, 2, &energy, &err));
        assert_true(plan_head_true_bits(&plan, j->facts->head_dim) > FIXED_TRUE_BITS);
        assert_ok(head_codec_create(&j->block_gtq[at], &plan, j->facts, j->tables, &err));
        plan_head_clear(&plan);
    }
    return RB_OK;
}

static void train(judge *j, const char *text)
{
    token_list tokens = {0};
    int64_t starts[N_CALIBRATION / CALIBRATION_CONTEXT + 1];
    assert_ok(folder_tokens(&tokens, text, FOLDER, N_CALIBRATION, &err));
    assert_true(tokens.n >= N_CALIBRATION);
    for (int s = 0; s <= N_CALIBRATION / CALIBRATION_CONTEXT; s++) starts[s] = s * CALIBRATION_CONTEXT;
    const token_batch batch = {tokens.ids, N_CALIBRATION, starts, N_CALIBRATION / CALIBRATION_CONTEXT};
    assert_ok(forward_run(j->model, &batch, &(forward_hooks){.user = j, .on_qkv = train_layer}, &err));
    token_list_free(&tokens);
}

/* ---- questions ------------------------------------------------------------------------------- */

static void make_documents(judge *j, const char *haystack)
{
    const needle_task task = NEEDLE_MULTIKEY;
    const int64_t context = NEEDLE_CONTEXT;
    const double random_depth = NAN;
    const needle_series series = {.tasks = &task,
                                  .contexts = &context,
                                  .depths = &random_depth,
                                  .n_tasks = 1,
                                  .n_contexts = 1,
                                  .n_depths = 1,
                                  .n_repeats = N_DOCUMENTS,
                                  .seed = 1,
                                  .counts = needle_counts_default()};
    needle_template words = {0};
    tokenizer *tok = NULL;
    token_list text = {0};
    assert_ok(needle_template_open(&words, "configs/needles/secret-number.json", &err));
    assert_ok(tokenizer_open(&tok, FOLDER "/tokenizer.json", &err));
    assert_ok(folder_tokens(&text, haystack, FOLDER, 1 << 16, &err));
    assert_ok(needle_documents_make(&j->documents, &(needle_source){&words, tok, text.ids, text.n}, &series, &err));
    assert_int_equal(j->documents.n, N_DOCUMENTS);
    needle_template_free(&words);
    tokenizer_close(tok);
    token_list_free(&text);
}

/* Where the answers are asked, the documents being laid end to end. */
static void find_answers(judge *j)
{
    int64_t n = 0;
    for (int64_t d = 0; d < N_DOCUMENTS; d++)
        for (int i = 0; i < j->documents.at[d].n_answers; i++) n += j->documents.at[d].answers[i].n;
    assert_ok(rb_alloc(&j->logit_tokens, (size_t)n, sizeof *j->logit_tokens, "answers", &err));
    assert_ok(rb_alloc(&j->answers, (size_t)n, sizeof *j->answers, "answers", &err));
    for (int d = 0; d < N_DOCUMENTS; d++) {
        const needle_document *document = &j->documents.at[d];
        for (int i = 0; i < document->n_answers; i++)
            for (int64_t t = document->answers[i].first; t < document->answers[i].first + document->answers[i].n; t++) {
                j->logit_tokens[j->n_answers] = d * NEEDLE_CONTEXT + t - 1;
                j->answers[j->n_answers].target = document->tokens[t];
                j->answers[j->n_answers++].document = d;
            }
    }
    assert_int_equal(j->n_answers, n);
}

/* ---- a pass ---------------------------------------------------------------------------------- */

static rb_status restore_keys(void *user, layer_heads *heads, rb_error *hook_err)
{
    const judge *j = user;
    const int dim = j->facts->head_dim, n_heads = j->facts->n_kv_heads;
    const int64_t n_pieces = (heads->n_tokens + PIECE_TOKENS - 1) / PIECE_TOKENS;
    bool failed = false;
    (void)hook_err;
    if (j->kind == EXACT) return RB_OK;
#pragma omp parallel for collapse(2) schedule(dynamic) reduction(|| : failed)
    for (int h = 0; h < n_heads; h++)
        for (int64_t piece = 0; piece < n_pieces; piece++) {
            const int at = heads->layer * n_heads + h;
            const int64_t first = piece * PIECE_TOKENS, left = heads->n_tokens - first,
                          n = left < PIECE_TOKENS ? left : PIECE_TOKENS;
            float *k = heads->k + (h * heads->n_tokens + first) * dim;
            rb_error mine = {0};
            if (j->kind == FIXED) fixed_codebook_restore(j->fixed[at], k, n, k);
            else if (head_codec_round_trip(j->block_gtq[at], k, n, k, &mine) != RB_OK) failed = true;
        }
    assert_false(failed);
    return RB_OK;
}

static rb_status score_answers(void *user, int64_t first, int64_t n, const float *logits, rb_error *hook_err)
{
    judge *j = user;
    const int64_t n_vocab = checkpoint_config(j->model)->vocab_size;
    (void)hook_err;
    for (int64_t i = 0; i < n; i++) {
        const float *row = logits + i * n_vocab;
        const int32_t target = j->answers[first + i].target;
        for (int64_t v = 0; v < n_vocab; v++)
            if (v != target && row[v] >= row[target]) j->is_right[j->answers[first + i].document] = false;
    }
    return RB_OK;
}

static int count_right(judge *j, codec_kind kind)
{
    enum { N_PARTS = (N_DOCUMENTS + PART_SEQUENCES - 1) / PART_SEQUENCES };
    int64_t starts[N_DOCUMENTS + 1], parts[N_PARTS + 1];
    int32_t *tokens = malloc((size_t)N_DOCUMENTS * NEEDLE_CONTEXT * sizeof *tokens);
    int n_right = 0;
    assert_non_null(tokens);
    for (int d = 0; d < N_DOCUMENTS; d++) {
        assert_int_equal(j->documents.at[d].n_tokens, NEEDLE_CONTEXT);
        memcpy(tokens + d * NEEDLE_CONTEXT, j->documents.at[d].tokens, NEEDLE_CONTEXT * sizeof *tokens);
        j->is_right[d] = true;
    }
    for (int d = 0; d <= N_DOCUMENTS; d++) starts[d] = d * NEEDLE_CONTEXT;
    for (int p = 0; p <= N_PARTS; p++) parts[p] = p < N_PARTS ? p * PART_SEQUENCES : N_DOCUMENTS;
    j->kind = kind;
    const token_batch batch = {tokens, N_DOCUMENTS * NEEDLE_CONTEXT, starts, N_DOCUMENTS};
    const forward_hooks hooks = {.user = j,
                                 .on_qkv = restore_keys,
                                 .on_logits = score_answers,
                                 .part_start = parts,
                                 .n_parts = N_PARTS,
                                 .logit_tokens = j->logit_tokens,
                                 .n_logit_tokens = j->n_answers};
    assert_ok(forward_run(j->model, &batch, &hooks, &err));
    for (int d = 0; d < N_DOCUMENTS; d++) n_right += j->is_right[d];
    free(tokens);
    return n_right;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void check_needles(const char *calibration_text, const char *haystack)
{
    judge j = {0};
    int n_right[N_KINDS];
    assert_ok(checkpoint_open(&j.model, FOLDER, &err));
    j.facts = &checkpoint_config(j.model)->facts;
    const int n_heads = j.facts->n_layers * j.facts->n_kv_heads;
    assert_ok(gaussian_books_create(&j.books, &err));
    assert_ok(codec_tables_create(&j.tables, &err));
    assert_ok(block_statistics_create(&j.statistics, j.facts, &err));
    assert_ok(rb_alloc(&j.fixed, (size_t)n_heads, sizeof *j.fixed, "codecs", &err));
    assert_ok(rb_alloc(&j.block_gtq, (size_t)n_heads, sizeof *j.block_gtq, "codecs", &err));
    train(&j, calibration_text);
    make_documents(&j, haystack);
    find_answers(&j);
    for (int kind = 0; kind < N_KINDS; kind++) n_right[kind] = count_right(&j, (codec_kind)kind);
    if (getenv("RB_TEST_REPORT"))
        fprintf(stderr,
                "%s in %s, of %d needles: exact %d, fixed codebook at %g true bits %d, block-gtq at 2 bits %d\n",
                calibration_text, haystack, N_DOCUMENTS, n_right[EXACT], FIXED_TRUE_BITS, n_right[FIXED],
                n_right[BLOCK_GTQ]);
    assert_true(n_right[EXACT] >= MIN_EXACT);
    assert_true(n_right[FIXED] <= MAX_FIXED);
    assert_true(n_right[BLOCK_GTQ] >= MIN_BLOCK_GTQ);
    for (int h = 0; h < n_heads; h++) {
        fixed_codebook_free(j.fixed[h]);
        head_codec_free(j.block_gtq[h]);
    }
    free(j.fixed);
    free(j.block_gtq);
    free(j.logit_tokens);
    free(j.answers);
    needle_documents_free(&j.documents);
    block_statistics_free(&j.statistics);
    gaussian_books_free(j.books);
    codec_tables_free(j.tables);
    checkpoint_close(j.model);
}

static void a_fixed_codebook_answers_no_needle_of_the_bundled_texts(void **state)
{
    (void)state;
    check_needles("configs/demo-text/calibration.txt", "configs/demo-text/heldout.txt");
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fixed_codebook_answers_no_needle_of_the_bundled_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
