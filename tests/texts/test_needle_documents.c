/* Needle documents read back as text: every task has its statements, its questions and spans that hold the asked
 * values; the haystack is whole. */
#include "tests/test_support.h"

#include <stdbool.h>

#include "texts/needle_documents.h"

enum { CONTEXT = 512, N_HAYSTACK = 4000, FIRST_HAYSTACK_ID = 1000000, MAX_STATEMENTS = 8, N_SEEDS = 20 };

/* A haystack of ids that no tokenizer gives, each once: what a document has of it, and where, can be seen. */
typedef struct fixture {
    needle_template needles;
    tokenizer *tok;
    int32_t haystack[N_HAYSTACK];
    needle_source source;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    rb_error err = {0};
    if (!f || needle_template_open(&f->needles, "secret-number", &err) != RB_OK) return -1;
    if (tokenizer_open(&f->tok, "configs/demo-llama/tokenizer.json", &err) != RB_OK) return -1;
    for (int i = 0; i < N_HAYSTACK; i++) f->haystack[i] = FIRST_HAYSTACK_ID + i;
    f->source =
        (needle_source){.needles = &f->needles, .tokens_of = f->tok, .haystack = f->haystack, .n_haystack = N_HAYSTACK};
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    needle_template_free(&f->needles);
    tokenizer_close(f->tok);
    free(f);
    return 0;
}

static needle_document make(const fixture *f, needle_task task, double depth, uint64_t seed)
{
    rb_error err = {0};
    needle_document document;
    const needle_counts counts = needle_counts_default();
    assert_ok(needle_document_make(&document, &f->source, &counts, task, CONTEXT, depth, seed, &err));
    assert_int_equal(document.n_tokens, CONTEXT);
    assert_int_equal(document.context, CONTEXT);
    assert_string_equal(document.task, needle_task_names[task]);
    return document;
}

/* ---- reading a document back ----------------------------------------------------------------- */

/* Text of tokens [from, to), haystack tokens as '~'. */
static const char *text_of(const fixture *f, const needle_document *document, int64_t from, int64_t to)
{
    static char text[16 * CONTEXT];
    size_t n = 0;
    for (int64_t t = from; t < to; t++) {
        size_t length = 1;
        const char *bytes = document->tokens[t] >= FIRST_HAYSTACK_ID
                                ? "~"
                                : tokenizer_token_bytes(f->tok, document->tokens[t], &length);
        assert_non_null(bytes);
        assert_true(n + length < sizeof text);
        memcpy(text + n, bytes, length);
        n += length;
    }
    text[n] = '\0';
    return text;
}

typedef struct statement {
    char colour[32], thing[32], value[16];
} statement;

typedef struct statements {
    int n;
    statement at[MAX_STATEMENTS];
} statements;

static statements statements_of(const fixture *f, const needle_document *document)
{
    statements found = {0};
    for (const char *at = text_of(f, document, 0, CONTEXT); (at = strstr(at, "\nThe secret number of the ")); at++) {
        statement *s = &found.at[found.n++];
        assert_true(found.n <= MAX_STATEMENTS);
        assert_int_equal(
            sscanf(at, "\nThe secret number of the %31s %31s is %15[0-9].\n", s->colour, s->thing, s->value), 3);
        assert_int_equal(strlen(s->value), 5);
    }
    return found;
}

/* The value that stands in the document for a key. */
static const char *value_of(const statements *all, const char *colour, const char *thing)
{
    for (int i = 0; i < all->n; i++)
        if (strcmp(all->at[i].colour, colour) == 0 && strcmp(all->at[i].thing, thing) == 0) return all->at[i].value;
    fail_msg("no needle for %s %s", colour, thing);
    return NULL;
}

/* Span number `answer` is " VALUE", and `before` stands in front of it. */
static void assert_answer(const fixture *f, const needle_document *document, int answer, const char *value,
                          const char *before)
{
    const answer_span *span = &document->answers[answer];
    char expected[32];
    snprintf(expected, sizeof expected, " %s", value);
    assert_string_equal(text_of(f, document, span->first, span->first + span->n), expected);
    const char *text = text_of(f, document, 0, span->first);
    assert_true(strlen(text) >= strlen(before));
    assert_string_equal(text + strlen(text) - strlen(before), before);
}

static void assert_keys_differ(const statements *all)
{
    for (int i = 0; i < all->n; i++)
        for (int j = 0; j < i; j++) {
            assert_true(strcmp(all->at[i].colour, all->at[j].colour) != 0
                        || strcmp(all->at[i].thing, all->at[j].thing) != 0);
            assert_string_not_equal(all->at[i].value, all->at[j].value);
        }
}

/* The last `n` questions "What is the secret number of the COLOUR THING?" with their answers make the end of the
 * document. */
static void assert_asks_each(const fixture *f, const needle_document *document, int n)
{
    const statements all = statements_of(f, document);
    char asked[MAX_STATEMENTS][2][32], tail[1024];
    int n_asked = 0;
    for (const char *at = text_of(f, document, 0, CONTEXT); (at = strstr(at, "\nQuestion: ")); at++, n_asked++) {
        assert_true(n_asked < MAX_STATEMENTS);
        assert_int_equal(sscanf(at, "\nQuestion: What is the secret number of the %31s %31[a-z]?\nAnswer:",
                                asked[n_asked][0], asked[n_asked][1]),
                         2);
    }
    assert_int_equal(n_asked, n);
    assert_int_equal(document->n_answers, n);
    for (int i = 0; i < n; i++) {
        const char *value = value_of(&all, asked[i][0], asked[i][1]);
        snprintf(tail, sizeof tail, "\nQuestion: What is the secret number of the %s %s?\nAnswer:", asked[i][0],
                 asked[i][1]);
        assert_answer(f, document, i, value, tail);
        if (i == n - 1)
            assert_string_equal(text_of(f, document, document->answers[i].first + document->answers[i].n, CONTEXT),
                                ".");
    }
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void single_and_multikey_ask_one_of_one_and_of_four(void **state)
{
    const fixture *f = *state;
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        needle_document single = make(f, NEEDLE_SINGLE, (double)NAN, seed),
                        multikey = make(f, NEEDLE_MULTIKEY, (double)NAN, seed);
        assert_int_equal(statements_of(f, &single).n, 1);
        assert_asks_each(f, &single, 1);
        const statements four = statements_of(f, &multikey);
        assert_int_equal(four.n, 4);
        assert_keys_differ(&four);
        assert_asks_each(f, &multikey, 1);
        needle_document_free(&single);
        needle_document_free(&multikey);
    }
}

static void multi_asks_for_every_needle_in_another_order_than_they_stand(void **state)
{
    const fixture *f = *state;
    int n_in_order = 0;
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        needle_document document = make(f, NEEDLE_MULTI, (double)NAN, seed);
        const statements four = statements_of(f, &document);
        assert_int_equal(four.n, 4);
        assert_keys_differ(&four);
        assert_asks_each(f, &document, 4);
        bool is_in_order = true;
        for (int i = 0; i < 4; i++) {
            const answer_span *span = &document.answers[i];
            if (strcmp(text_of(f, &document, span->first, span->first + span->n) + 1, four.at[i].value) != 0)
                is_in_order = false;
        }
        n_in_order += is_in_order;
        needle_document_free(&document);
    }
    assert_true(n_in_order < N_SEEDS / 4); /* one in 24 by chance */
}

static void distractors_share_the_colour_or_the_thing_of_the_asked_key(void **state)
{
    const fixture *f = *state;
    int n_colours = 0, n_things = 0;
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        needle_document document = make(f, NEEDLE_DISTRACTOR, (double)NAN, seed);
        const statements four = statements_of(f, &document);
        char colour[32], thing[32];
        assert_int_equal(four.n, 4);
        assert_keys_differ(&four);
        assert_asks_each(f, &document, 1);
        assert_int_equal(sscanf(strstr(text_of(f, &document, 0, CONTEXT), "What is"),
                                "What is the secret number of the %31s %31[a-z]", colour, thing),
                         2);
        for (int i = 0; i < 4; i++) {
            const bool same_colour = strcmp(four.at[i].colour, colour) == 0,
                       same_thing = strcmp(four.at[i].thing, thing) == 0;
            assert_true(same_colour || same_thing);
            n_colours += same_colour && !same_thing;
            n_things += same_thing && !same_colour;
        }
        needle_document_free(&document);
    }
    assert_int_equal(n_colours + n_things, 3 * N_SEEDS);
    assert_true(n_colours > N_SEEDS / 2 && n_things > N_SEEDS / 2);
}

static void multivalue_answers_both_values_in_the_order_they_stand(void **state)
{
    const fixture *f = *state;
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        needle_document document = make(f, NEEDLE_MULTIVALUE, seed % 2 ? (double)NAN : 0.5, seed);
        const statements two = statements_of(f, &document);
        char tail[256];
        assert_int_equal(two.n, 2);
        assert_int_equal(document.n_answers, 2);
        assert_string_equal(two.at[0].colour, two.at[1].colour);
        assert_string_equal(two.at[0].thing, two.at[1].thing);
        snprintf(tail, sizeof tail, "\nQuestion: What are the secret numbers of the %s %s?\nAnswer:", two.at[0].colour,
                 two.at[0].thing);
        assert_answer(f, &document, 0, two.at[0].value, tail);
        assert_answer(f, &document, 1, two.at[1].value, " and");
        needle_document_free(&document);
    }
}

static void multiquery_answers_two_of_four_in_the_order_of_the_question(void **state)
{
    const fixture *f = *state;
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        needle_document document = make(f, NEEDLE_MULTIQUERY, (double)NAN, seed);
        const statements four = statements_of(f, &document);
        char colour[2][32], thing[2][32], tail[256];
        assert_int_equal(four.n, 4);
        assert_keys_differ(&four);
        assert_int_equal(document.n_answers, 2);
        const char *question = strstr(text_of(f, &document, 0, CONTEXT), "What are");
        assert_int_equal(sscanf(question, "What are the secret numbers of the %31s %31s and the %31s %31[a-z]?",
                                colour[0], thing[0], colour[1], thing[1]),
                         4);
        snprintf(tail, sizeof tail, "%s %s and the %s %s?\nAnswer:", colour[0], thing[0], colour[1], thing[1]);
        assert_answer(f, &document, 0, value_of(&four, colour[0], thing[0]), tail);
        assert_answer(f, &document, 1, value_of(&four, colour[1], thing[1]), " and");
        needle_document_free(&document);
    }
}

/* Haystack tokens before token `end` of a document; checks that they follow one another in the haystack. */
static int64_t count_haystack(const needle_document *document, int64_t end)
{
    int32_t last = -1;
    int64_t n = 0;
    for (int64_t t = 0; t < end; t++) {
        const int32_t id = document->tokens[t];
        if (id < FIRST_HAYSTACK_ID) continue;
        if (n > 0) assert_int_equal(id, last + 1);
        last = id;
        n++;
    }
    return n;
}

static void the_asked_needle_stands_at_its_depth_of_an_unbroken_haystack(void **state)
{
    const fixture *f = *state;
    static const double depths[] = {0.0, 0.25, 0.5, 1.0};
    for (int task = 0; task < NEEDLE_N_TASKS; task++)
        for (size_t d = 0; d < RB_COUNT(depths); d++) {
            if (task == NEEDLE_MULTIVALUE) continue; /* which of its values stands there is not asked for */
            needle_document document = make(f, (needle_task)task, depths[d], 7);
            const answer_span *span = &document.answers[0];
            char value[16];
            snprintf(value, sizeof value, "%s", text_of(f, &document, span->first, span->first + span->n) + 1);
            const char *text = text_of(f, &document, 0, CONTEXT), *needle = strstr(text, value);
            while (strncmp(needle, "\nThe", 4) != 0) needle--;
            int64_t before = 0;
            for (const char *at = text; at < needle; at++) before += *at == '~';
            assert_int_equal(before, (int64_t)(depths[d] * (double)count_haystack(&document, CONTEXT)));
            needle_document_free(&document);
        }
}

static void documents_start_at_random_places_of_the_haystack_and_needles_stand_everywhere(void **state)
{
    const fixture *f = *state;
    int n_first_half = 0, n_early = 0;
    enum { N = 200 };
    for (uint64_t seed = 0; seed < N; seed++) {
        needle_document document = make(f, NEEDLE_SINGLE, (double)NAN, seed);
        int64_t needle = 0;
        const int64_t room = count_haystack(&document, CONTEXT);
        while (needle < CONTEXT && document.tokens[needle] >= FIRST_HAYSTACK_ID) needle++;
        n_early += needle < room / 2;
        const int32_t first = needle > 0 ? document.tokens[0] : FIRST_HAYSTACK_ID;
        n_first_half += first - FIRST_HAYSTACK_ID < (N_HAYSTACK - room) / 2;
        needle_document_free(&document);
    }
    /* both are fair coins: 5 standard deviations are 35 of 200 */
    assert_in_range(n_early, 65, 135);
    assert_in_range(n_first_half, 65, 135);
}

static void assert_same_document(const needle_document *a, const needle_document *b)
{
    assert_string_equal(a->task, b->task);
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_memory_equal(a->tokens, b->tokens, (size_t)a->n_tokens * sizeof *a->tokens);
    assert_int_equal(a->n_answers, b->n_answers);
    assert_memory_equal(a->answers, b->answers, (size_t)a->n_answers * sizeof *a->answers);
}

static void a_document_is_the_same_whatever_else_is_asked_for(void **state)
{
    const fixture *f = *state;
    rb_error err = {0};
    static const needle_task tasks[] = {NEEDLE_MULTI, NEEDLE_SINGLE};
    static const int64_t contexts[] = {300, 400};
    const double depths[] = {0.5, (double)NAN};
    needle_series series = {.tasks = tasks,
                            .n_tasks = 2,
                            .contexts = contexts,
                            .n_contexts = 2,
                            .depths = depths,
                            .n_depths = 2,
                            .n_repeats = 3,
                            .seed = 11,
                            .counts = needle_counts_default()};
    needle_documents all, one;
    assert_ok(needle_documents_make(&all, &f->source, &series, &err));
    assert_int_equal(all.n, 24);
    for (int i = 0; i < 24; i++) { /* [task][context][depth][repeat] */
        assert_string_equal(all.at[i].task, i < 12 ? "multi" : "single");
        assert_int_equal(all.at[i].n_tokens, i / 6 % 2 ? 400 : 300);
        assert_int_equal(isnan(all.at[i].depth) != 0, i / 3 % 2);
        for (int j = 0; j < i; j++)
            if (all.at[i].n_tokens == all.at[j].n_tokens)
                assert_memory_not_equal(all.at[i].tokens, all.at[j].tokens,
                                        (size_t)all.at[i].n_tokens * sizeof *all.at[i].tokens);
    }
    series.tasks++, series.n_tasks = 1, series.contexts++, series.n_contexts = 1, series.depths++, series.n_depths = 1;
    assert_ok(needle_documents_make(&one, &f->source, &series, &err));
    assert_int_equal(one.n, 3);
    for (int i = 0; i < 3; i++) assert_same_document(&one.at[i], &all.at[21 + i]);
    needle_documents_free(&all);
    needle_documents_free(&one);
}

/* " 12345" is one piece to the tokenizer; a question that ends in the space has it alone before it, and so the document
 * must have it. */
static void a_question_keeps_its_own_tokens_where_the_answer_would_join_them(void **state)
{
    fixture *f = *state;
    f->needles.ask = (needle_question){.question = "\nQuestion: {key}? ", .answer = "{value}!"};
    needle_document document = make(f, NEEDLE_SINGLE, (double)NAN, 3);
    const answer_span *span = &document.answers[0];
    int32_t *space = NULL;
    int64_t n_space;
    rb_error err = {0};
    assert_ok(tokenizer_encode(f->tok, " ", 1, &space, &n_space, &err));
    assert_int_equal(n_space, 1);
    assert_int_equal(document.tokens[span->first - 1], space[0]);
    const statements all = statements_of(f, &document);
    assert_string_equal(text_of(f, &document, span->first, span->first + span->n), all.at[0].value);
    assert_string_equal(text_of(f, &document, span->first + span->n, CONTEXT), "!");
    free(space);
    needle_document_free(&document);
}

static void the_opening_stands_in_front(void **state)
{
    fixture *f = *state;
    f->needles.opening = "Remember:\n";
    needle_document document = make(f, NEEDLE_MULTIVALUE, 0.0, 3);
    assert_memory_equal(text_of(f, &document, 0, CONTEXT), "Remember:\n\nThe secret number",
                        strlen("Remember:\n\nThe secret number"));
    needle_document_free(&document);
}

static void what_does_not_fit_is_refused_with_both_numbers(void **state)
{
    fixture *f = *state;
    rb_error err = {0};
    needle_document document;
    needle_counts counts = needle_counts_default();
    assert_fails(needle_document_make(&document, &f->source, &counts, NEEDLE_MULTIKEY, 64, (double)NAN, 1, &err),
                 RB_EINVAL, "a context of 64 tokens is too small for task multikey, expected at least");
    assert_null(document.tokens);
    assert_fails(needle_document_make(&document, &f->source, &counts, NEEDLE_SINGLE, 5000, (double)NAN, 1, &err),
                 RB_EINVAL, "the haystack has 4000 tokens, expected at least 49");
    assert_fails(needle_document_make(&document, &f->source, &counts, NEEDLE_SINGLE, CONTEXT, 1.5, 1, &err), RB_EINVAL,
                 "depth of a needle is 1.5, expected 0 to 1");
    counts.n_queries = 5;
    assert_fails(needle_document_make(&document, &f->source, &counts, NEEDLE_SINGLE, CONTEXT, 0.5, 1, &err), RB_EINVAL,
                 "n_queries is 5, expected 1 to 4");
    counts = (needle_counts){.n_keys = 33, .n_distractors = 1, .n_values = 1, .n_queries = 1};
    assert_fails(needle_document_make(&document, &f->source, &counts, NEEDLE_SINGLE, CONTEXT, 0.5, 1, &err), RB_EINVAL,
                 "n_keys is 33, expected 1 to 32");
    counts = needle_counts_default();
    f->needles.colours.n = 2, f->needles.things.n = 1;
    assert_fails(needle_document_make(&document, &f->source, &counts, NEEDLE_MULTI, CONTEXT, 0.5, 1, &err), RB_EINVAL,
                 "2 colours and 1 things, expected enough for 4 keys");
    f->needles.things.n = 2;
    assert_fails(needle_document_make(&document, &f->source, &counts, NEEDLE_DISTRACTOR, CONTEXT, 0.5, 1, &err),
                 RB_EINVAL, "expected enough for 3 keys that share");
}

static void a_beginning_moves_tokens_and_answers_along(void **state)
{
    const fixture *f = *state;
    rb_error err = {0};
    needle_document plain = make(f, NEEDLE_MULTIVALUE, 0.5, 3), document = make(f, NEEDLE_MULTIVALUE, 0.5, 3);
    needle_documents documents = {.n = 1, .at = &document};
    const bos_tokens bos = {.n = 2, .ids = {7, 8}};
    assert_ok(needle_documents_begin(&documents, &bos, &err));
    assert_int_equal(document.n_tokens, CONTEXT + 2);
    assert_int_equal(document.context, CONTEXT + 2);
    assert_int_equal(document.tokens[0], 7);
    assert_int_equal(document.tokens[1], 8);
    assert_memory_equal(document.tokens + 2, plain.tokens, CONTEXT * sizeof *plain.tokens);
    assert_int_equal(document.n_answers, plain.n_answers);
    for (int i = 0; i < plain.n_answers; i++) {
        assert_int_equal(document.answers[i].first, plain.answers[i].first + 2);
        assert_int_equal(document.answers[i].n, plain.answers[i].n);
    }
    needle_document_free(&plain);
    needle_document_free(&document);
}

static void ids_outside_the_vocabulary_are_named(void **state)
{
    const fixture *f = *state;
    rb_error err = {0};
    needle_document document = make(f, NEEDLE_SINGLE, 1.0, 3);
    const needle_documents documents = {.n = 1, .at = &document};
    char expected[128];
    assert_ok(needle_documents_check_vocabulary(&documents, FIRST_HAYSTACK_ID + N_HAYSTACK, "x", &err));
    snprintf(expected, sizeof expected,
             "x: document 0: token 0 is %d, expected an id below the model's vocabulary of 4096", document.tokens[0]);
    assert_fails(needle_documents_check_vocabulary(&documents, 4096, "x", &err), RB_EINVAL, expected);
    needle_document_free(&document);
}

int main(void)
{
#define NEEDLE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        NEEDLE_TEST(single_and_multikey_ask_one_of_one_and_of_four),
        NEEDLE_TEST(multi_asks_for_every_needle_in_another_order_than_they_stand),
        NEEDLE_TEST(distractors_share_the_colour_or_the_thing_of_the_asked_key),
        NEEDLE_TEST(multivalue_answers_both_values_in_the_order_they_stand),
        NEEDLE_TEST(multiquery_answers_two_of_four_in_the_order_of_the_question),
        NEEDLE_TEST(the_asked_needle_stands_at_its_depth_of_an_unbroken_haystack),
        NEEDLE_TEST(documents_start_at_random_places_of_the_haystack_and_needles_stand_everywhere),
        NEEDLE_TEST(a_document_is_the_same_whatever_else_is_asked_for),
        NEEDLE_TEST(a_question_keeps_its_own_tokens_where_the_answer_would_join_them),
        NEEDLE_TEST(the_opening_stands_in_front),
        NEEDLE_TEST(what_does_not_fit_is_refused_with_both_numbers),
        NEEDLE_TEST(a_beginning_moves_tokens_and_answers_along),
        NEEDLE_TEST(ids_outside_the_vocabulary_are_named),
    };
    return cmocka_run_group_tests_name("needle_documents", tests, NULL, NULL);
}
