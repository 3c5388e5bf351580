/* A text as sentences and words. */
#include "tests/test_support.h"

#include "texts/text_pieces.h"

static text_pieces make(const char *text)
{
    tokenizer *tok = NULL;
    text_pieces pieces;
    rb_error err = {0};
    assert_ok(tokenizer_open(&tok, "configs/demo-llama/tokenizer.json", &err));
    assert_ok(text_pieces_make(&pieces, text, strlen(text), tok, &err));
    tokenizer_close(tok);
    return pieces;
}

static void assert_sentence(const text_pieces *pieces, int64_t i, const char *expected)
{
    assert_true(i < pieces->n_sentences);
    assert_int_equal(pieces->sentences[i].length, strlen(expected));
    assert_memory_equal(pieces->sentences[i].at, expected, strlen(expected));
    assert_true(pieces->sentences[i].tokens.n > 0);
}

static void sentences_end_at_full_stops(void **state)
{
    (void)state;
    text_pieces p =
        make(" = A Heading of the text . = \n\n"
             "The first of the sentences is here . It was written by J. R. Smith in a year of the war . \n"
             "Was the third one asked by someone? Yes! Too short. e.g. this one goes on and on until here\n");
    assert_int_equal(p.n_sentences, 3);
    assert_sentence(&p, 0, "The first of the sentences is here .");
    assert_sentence(&p, 1, "It was written by J. R. Smith in a year of the war .");
    assert_sentence(&p, 2, "Was the third one asked by someone?");
    text_pieces_free(&p);
}

static void a_fact_is_a_name_or_number_after_five_words(void **state)
{
    (void)state;
    text_pieces p = make("Then all of them went to see Smith in London .\n"
                         "When London burnt it was already the year 1666 of our time .\n"
                         "There are no names in here at all , nor any other fact .\n");
    assert_int_equal(p.n_sentences, 3);
    assert_memory_equal(p.sentences[0].at + p.sentences[0].fact, "Smith", 5);
    assert_int_equal(p.sentences[0].fact_length, 5);
    assert_memory_equal(p.sentences[1].at + p.sentences[1].fact, "1666", 4);
    assert_int_equal(p.sentences[0].last_length, 0);
    assert_memory_equal(p.sentences[1].at + p.sentences[1].last, "time", 4);
    assert_int_equal(p.sentences[1].last_length, 4);
    assert_int_equal(p.sentences[2].fact, 0);
    text_pieces_free(&p);
}

static void words_are_distinct(void **state)
{
    (void)state;
    text_pieces p = make("river and river, the Castle castle river overwhelmingly sea1 lantern");
    static const char *const expected[] = {"river", "castle", "lantern"};
    assert_int_equal(p.n_words, 3);
    for (int i = 0; i < 3; i++) assert_string_equal(p.words[i], expected[i]);
    assert_int_equal(text_pieces_count(&p, "river", 5), 2);
    assert_int_equal(text_pieces_count(&p, "lantern", 7), 1);
    assert_int_equal(text_pieces_count(&p, "absent", 6), 0);
    text_pieces_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sentences_end_at_full_stops),
                                       cmocka_unit_test(a_fact_is_a_name_or_number_after_five_words),
                                       cmocka_unit_test(words_are_distinct)};
    return cmocka_run_group_tests_name("text_pieces", tests, NULL, NULL);
}
