/* Understanding documents read back as text: the answer is what the text in front of the question says, the same seed
 * gives the same document, and none is longer than its context. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "texts/understanding_documents.h"

enum { CONTEXT = 400, N_SEEDS = 12, TEXT_BYTES = 1 << 14 };

typedef struct fixture {
    tokenizer *tok;
    text_pieces pieces;
    understanding_source source;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    rb_error err = {0};
    char *text = NULL;
    size_t length = 0;
    if (!f || tokenizer_open(&f->tok, "configs/demo-llama/tokenizer.json", &err) != RB_OK) return -1;
    if (rb_read_file(&text, &length, "configs/demo-text/calibration.txt", 1 << 20, &err) != RB_OK) return -1;
    if (text_pieces_make(&f->pieces, text, length, f->tok, &err) != RB_OK) return -1;
    free(text);
    f->source = (understanding_source){.pieces = &f->pieces, .tokens_of = f->tok};
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    text_pieces_free(&f->pieces);
    tokenizer_close(f->tok);
    free(f);
    return 0;
}

static needle_document make(const fixture *f, understanding_task task, int64_t context, uint64_t seed)
{
    rb_error err = {0};
    needle_document document;
    assert_ok(understanding_document_make(&document, &f->source, task, context, seed, &err));
    assert_int_equal(document.kind, DOCUMENT_UNDERSTANDING);
    assert_string_equal(document.task, understanding_task_names[task]);
    assert_int_equal(document.context, context);
    assert_int_equal(document.n_answers, 1);
    assert_int_equal(document.answers[0].first + document.answers[0].n, document.n_tokens);
    return document;
}

static void text_of(char *out, const fixture *f, const needle_document *document, int64_t from, int64_t to)
{
    size_t n = 0, length;
    for (int64_t t = from; t < to; t++) {
        const char *bytes = tokenizer_token_bytes(f->tok, document->tokens[t], &length);
        assert_non_null(bytes);
        assert_true(n + length < TEXT_BYTES);
        memcpy(out + n, bytes, length);
        n += length;
    }
    out[n] = '\0';
}

/* The document as its body, its question and its answer. */
typedef struct parts {
    char body[TEXT_BYTES], question[TEXT_BYTES], answer[TEXT_BYTES];
} parts;

static parts *read_parts(const fixture *f, understanding_task task, uint64_t seed, const char *question)
{
    static parts p;
    needle_document document = make(f, task, CONTEXT, seed);
    const int64_t first = document.answers[0].first;
    text_of(p.body, f, &document, 0, first);
    text_of(p.answer, f, &document, first, document.n_tokens);
    char *at = NULL;
    for (char *found = p.body; (found = strstr(found, question)) != NULL; found++) at = found;
    assert_non_null(at); /* the last one is the question */
    strcpy(p.question, at + strlen(question));
    *at = '\0';
    needle_document_free(&document);
    return &p;
}

static int count(const char *text, const char *word)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at++) n++;
    return n;
}

/* ---- all tasks ------------------------------------------------------------------------------- */

static void documents_fill_their_context_and_no_more(void **state)
{
    const fixture *f = *state;
    for (int task = 0; task < UNDERSTANDING_N_TASKS; task++)
        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
            needle_document document = make(f, (understanding_task)task, CONTEXT + (int64_t)seed, seed);
            assert_true(document.n_tokens <= CONTEXT + (int64_t)seed);
            assert_true(document.n_tokens > CONTEXT / 2);
            needle_document_free(&document);
        }
}

static void the_seed_makes_the_document(void **state)
{
    const fixture *f = *state;
    for (int task = 0; task < UNDERSTANDING_N_TASKS; task++) {
        needle_document a = make(f, (understanding_task)task, CONTEXT, 7),
                        b = make(f, (understanding_task)task, CONTEXT, 7),
                        other = make(f, (understanding_task)task, CONTEXT, 8);
        assert_int_equal(a.n_tokens, b.n_tokens);
        assert_memory_equal(a.tokens, b.tokens, (size_t)a.n_tokens * sizeof *a.tokens);
        assert_true(a.n_tokens != other.n_tokens
                    || memcmp(a.tokens, other.tokens, (size_t)a.n_tokens * sizeof *a.tokens) != 0);
        needle_document_free(&a);
        needle_document_free(&b);
        needle_document_free(&other);
    }
}

static void a_series_has_every_task_and_context(void **state)
{
    const fixture *f = *state;
    rb_error err = {0};
    static const understanding_task tasks[] = {UNDERSTANDING_COPY, UNDERSTANDING_CLOZE};
    static const int64_t contexts[] = {300, 400};
    needle_documents few, more;
    understanding_series series = {
        .tasks = tasks, .contexts = contexts, .n_tasks = 2, .n_contexts = 2, .n_repeats = 1, .seed = 3};
    assert_ok(understanding_documents_make(&few, &f->source, &series, &err));
    series.n_repeats = 2;
    assert_ok(understanding_documents_make(&more, &f->source, &series, &err));
    assert_int_equal(few.n, 4);
    assert_int_equal(more.n, 8);
    for (int64_t i = 0; i < few.n; i++) { /* more repeats change none of the first ones */
        assert_string_equal(few.at[i].task, understanding_task_names[tasks[i / 2]]);
        assert_int_equal(few.at[i].context, contexts[i % 2]);
        assert_int_equal(few.at[i].n_tokens, more.at[2 * i].n_tokens);
        assert_memory_equal(few.at[i].tokens, more.at[2 * i].tokens, (size_t)few.at[i].n_tokens * sizeof(int32_t));
    }
    needle_documents_free(&few);
    needle_documents_free(&more);
}

/* ---- each task ------------------------------------------------------------------------------- */

static void cloze_asks_for_the_word_that_follows(void **state)
{
    const fixture *f = *state;
    char sentence[TEXT_BYTES];
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        const parts *p = read_parts(f, UNDERSTANDING_CLOZE, seed, "\n\nThe text above says:");
        snprintf(sentence, sizeof sentence, "%.8000s%.8000s", p->question, p->answer);
        assert_int_equal(count(p->body, p->question), 1);
        assert_int_equal(count(p->body, sentence), 1);
    }
}

static void passage_asks_where_the_words_stand(void **state)
{
    const fixture *f = *state;
    char label[64], words[TEXT_BYTES];
    int n_not_first = 0;
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        parts *p = read_parts(f, UNDERSTANDING_PASSAGE, seed, "\n\nThe words \"");
        const char *end = strstr(p->question, "\" stand in passage");
        assert_non_null(end);
        snprintf(words, sizeof words, "%.*s", (int)(end - p->question), p->question);
        snprintf(label, sizeof label, "\n\nPassage%.16s:", p->answer);
        char *passage = strstr(p->body, label);
        assert_non_null(passage);
        assert_true(count(p->body, "\n\nPassage ") >= 2);
        n_not_first += passage != p->body;
        char *next = strstr(passage + 1, "\n\nPassage ");
        if (next) *next = '\0';
        assert_int_equal(count(passage, words), 1);
    }
    assert_true(n_not_first > 0);
}

/* The lists of "List: a, b, .., h.\nMost common word: a": every one has 5 times the word that it names. */
static void assert_common(const char *list, const char *common)
{
    char words[256], word[32];
    const char *end = strstr(list, ".\nMost common word:");
    assert_non_null(end);
    snprintf(words, sizeof words, "%.*s,", (int)(end - list), list);
    snprintf(word, sizeof word, "%.20s,", common);
    assert_int_equal(count(words, ","), 8);
    assert_int_equal(count(words, word), 5);
}

static void common_word_asks_for_the_word_that_is_there_most_often(void **state)
{
    const fixture *f = *state;
    char named[32];
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        const parts *p = read_parts(f, UNDERSTANDING_COMMON_WORD, seed, "List:");
        assert_common(p->question, p->answer);
        assert_true(count(p->body, "List:") >= 2);
        for (const char *at = p->body; (at = strstr(at, "List:")) != NULL; at++) {
            const char *answer = strstr(at, "word:") + strlen("word:");
            snprintf(named, sizeof named, "%.*s", (int)strcspn(answer, "\n"), answer);
            assert_common(at + strlen("List:"), named);
        }
    }
}

/* "..  WORD .\nLast word: WORD" */
static void assert_last_word(const char *sentence, const char *answer)
{
    const char *end = strstr(sentence, "\nLast word:");
    const int length = (int)strlen(answer);
    assert_non_null(end);
    while (end[-1] < 'a' || end[-1] > 'z') end--;
    assert_true(end - sentence > length);
    assert_memory_equal(end - length, answer, (size_t)length);
}

static void few_shot_asks_for_the_last_word(void **state)
{
    const fixture *f = *state;
    char named[64];
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        const parts *p = read_parts(f, UNDERSTANDING_FEW_SHOT, seed, "Sentence: ");
        assert_last_word(p->question, p->answer);
        assert_true(count(p->body, "Sentence: ") >= 2);
        for (const char *at = p->body; (at = strstr(at, "Sentence: ")) != NULL; at++) {
            const char *answer = strstr(at, "\nLast word:") + strlen("\nLast word:");
            snprintf(named, sizeof named, "%.*s", (int)strcspn(answer, "\n"), answer);
            assert_last_word(at, named);
        }
    }
}

static void key_value_asks_for_one_of_keys_that_share_words(void **state)
{
    const fixture *f = *state;
    char entry[256], first[64];
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        const parts *p = read_parts(f, UNDERSTANDING_KEY_VALUE, seed, "\n\nFrom the table above:");
        snprintf(entry, sizeof entry, "%.100s%.100s", p->question, p->answer);
        assert_int_equal(count(p->body, p->question), 1);
        assert_int_equal(count(p->body, entry), 1);
        snprintf(first, sizeof first, "%.*s", (int)strcspn(p->question, " ") + 1, p->question);
        assert_true(count(p->body, first) >= 1);
        assert_true(count(p->body, "\n") >= 8);
    }
}

static void copy_asks_for_the_list_again(void **state)
{
    const fixture *f = *state;
    char list[TEXT_BYTES];
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        const parts *p = read_parts(f, UNDERSTANDING_COPY, seed, "\n\nThe list again:");
        snprintf(list, sizeof list, "A list:%.8000s.", p->answer);
        assert_ptr_equal(strstr(p->body, list), p->body);
        assert_int_equal(count(p->answer, ","), 7);
    }
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void a_small_context_is_refused(void **state)
{
    const fixture *f = *state;
    for (int task = 0; task < UNDERSTANDING_N_TASKS; task++) {
        rb_error err = {0};
        needle_document document;
        assert_int_equal(understanding_document_make(&document, &f->source, (understanding_task)task, 8, 1, &err),
                         RB_EINVAL);
        assert_non_null(strstr(err.msg, "a context of 8 tokens is too small for understanding task"));
        assert_non_null(strstr(err.msg, understanding_task_names[task]));
        assert_null(document.tokens);
    }
}

static void a_short_text_is_refused(void **state)
{
    const fixture *f = *state;
    static const char *const messages[UNDERSTANDING_N_TASKS] = {
        [UNDERSTANDING_CLOZE] = "the text has too few sentences with a name or a number in them",
        [UNDERSTANDING_PASSAGE] = "the text has 1 sentences, expected at least 4",
        [UNDERSTANDING_COMMON_WORD] = "the text has 6 different words",
        [UNDERSTANDING_FEW_SHOT] =
            "the text has 1 short sentences that end with a word of lower-case letters, expected at least 3",
        [UNDERSTANDING_KEY_VALUE] = "the text has 6 different words",
        [UNDERSTANDING_COPY] = "the text has 6 different words"};
    static const char text[] = "There are only five words in this short text .\n";
    rb_error err = {0};
    text_pieces pieces;
    assert_ok(text_pieces_make(&pieces, text, strlen(text), f->tok, &err));
    const understanding_source source = {.pieces = &pieces, .tokens_of = f->tok};
    for (int task = 0; task < UNDERSTANDING_N_TASKS; task++) {
        needle_document document;
        assert_int_equal(understanding_document_make(&document, &source, (understanding_task)task, CONTEXT, 1, &err),
                         RB_EINVAL);
        if (!strstr(err.msg, messages[task])) fail_msg("%s", err.msg);
        err = (rb_error){0};
    }
    text_pieces_free(&pieces);
}

static void a_text_that_does_not_fill_the_context_is_refused(void **state)
{
    const fixture *f = *state;
    static const understanding_task tasks[] = {UNDERSTANDING_CLOZE,       UNDERSTANDING_PASSAGE,
                                               UNDERSTANDING_COMMON_WORD, UNDERSTANDING_FEW_SHOT,
                                               UNDERSTANDING_KEY_VALUE,   UNDERSTANDING_COPY};
    for (size_t i = 0; i < RB_COUNT(tasks); i++) {
        rb_error err = {0};
        needle_document document;
        assert_int_equal(understanding_document_make(&document, &f->source, tasks[i], 60000, 1, &err), RB_EINVAL);
        if (!strstr(err.msg, "in a context of 60000")) fail_msg("%s", err.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(documents_fill_their_context_and_no_more),
                                       cmocka_unit_test(the_seed_makes_the_document),
                                       cmocka_unit_test(a_series_has_every_task_and_context),
                                       cmocka_unit_test(cloze_asks_for_the_word_that_follows),
                                       cmocka_unit_test(passage_asks_where_the_words_stand),
                                       cmocka_unit_test(common_word_asks_for_the_word_that_is_there_most_often),
                                       cmocka_unit_test(few_shot_asks_for_the_last_word),
                                       cmocka_unit_test(key_value_asks_for_one_of_keys_that_share_words),
                                       cmocka_unit_test(copy_asks_for_the_list_again),
                                       cmocka_unit_test(a_small_context_is_refused),
                                       cmocka_unit_test(a_short_text_is_refused),
                                       cmocka_unit_test(a_text_that_does_not_fill_the_context_is_refused)};
    return cmocka_run_group_tests_name("understanding_documents", tests, set_up, tear_down);
}
