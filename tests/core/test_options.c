/* core/options.h: what a table accepts, what it refuses and how it says so, and the help it prints. */
#include "tests/test_support.h"

#include "core/nearest_name.h"
#include "core/options.h"

static const char *const method_names[] = {"uniform", "block-gtq", "waterfill", NULL};

/* A program's options with their defaults, and the tables that fill them. */
typedef struct fixture {
    bool dry_run, quiet;
    int64_t n_tokens, seed;
    double avg_bits, scale;
    const char *output;
    int method;
    rb_number_list budgets;
    rb_string_list methods, names, texts;
    rb_option own[11], common[1];
    rb_string_list positionals;
    rb_error err;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    f->n_tokens = 2048;
    f->avg_bits = 3;
    f->scale = 0.5;
    f->budgets = (rb_number_list){.n = 3, .at = {2, 3, 4}};
    f->methods = (rb_string_list){.n = 2, .at = {"uniform", "block-gtq"}};
    const rb_option own[] = {
        {.long_name = "dry-run", .kind = RB_OPT_FLAG, .value = &f->dry_run, .help = "stop early"},
        {.short_name = 'n',
         .long_name = "n-tokens",
         .kind = RB_OPT_INT,
         .value = &f->n_tokens,
         .metavar = "N",
         .min = 1,
         .max = 1 << 24,
         .help = "tokens"},
        {.long_name = "seed", .kind = RB_OPT_INT, .value = &f->seed, .metavar = "N", .help = "any number"},
        {.long_name = "avg-bits",
         .kind = RB_OPT_NUMBER,
         .value = &f->avg_bits,
         .metavar = "B",
         .min = 1,
         .max = 8,
         .help = "bits"},
        {.long_name = "scale",
         .kind = RB_OPT_NUMBER,
         .value = &f->scale,
         .metavar = "X",
         .min = 0,
         .max = INFINITY,
         .help = "scale"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &f->output,
         .metavar = "FILE",
         .help = "the result",
         .required = true},
        {.long_name = "method",
         .kind = RB_OPT_CHOICE,
         .value = &f->method,
         .metavar = "NAME",
         .choices = method_names,
         .help = "how"},
        {.long_name = "budgets",
         .kind = RB_OPT_NUMBERS,
         .value = &f->budgets,
         .metavar = "B,B",
         .min = 1,
         .max = 8,
         .help = "budgets"},
        {.long_name = "methods",
         .kind = RB_OPT_STRINGS,
         .value = &f->methods,
         .metavar = "M,M",
         .choices = method_names,
         .help = "methods"},
        {.long_name = "names", .kind = RB_OPT_STRINGS, .value = &f->names, .metavar = "A,B", .help = "names"},
        {.short_name = 't',
         .long_name = "text",
         .kind = RB_OPT_REPEATED,
         .value = &f->texts,
         .metavar = "FILE",
         .help = "texts"},
    };
    memcpy(f->own, own, sizeof own);
    f->common[0] =
        (rb_option){.short_name = 'q', .long_name = "quiet", .kind = RB_OPT_FLAG, .value = &f->quiet, .help = "less"};
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    free(*state);
    return 0;
}

/* Words apart by one space become argv[1..]; "''" is the empty argument. The copy lives until the next call: values
 * point into it. */
static rb_status parse(fixture *f, const char *line)
{
    static char copy[2048];
    char program[] = "profile", *argv[RB_MAX_POSITIONALS + 16] = {program};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = strcmp(word, "''") == 0 ? word + 2 : word;
    const rb_option *const tables[] = {f->own, f->common};
    const int n_options[] = {RB_COUNT(f->own), RB_COUNT(f->common)};
    memset(&f->err, 0, sizeof f->err);
    return rb_options_parse(tables, n_options, RB_COUNT(tables), argc, argv, &f->positionals, &f->err);
}

static void assert_parses(fixture *f, const char *line)
{
    if (parse(f, line) != RB_OK) fail_msg("%s: %s", line, f->err.msg);
}

static void assert_refuses(fixture *f, const char *line, const char *message)
{
    if (parse(f, line) != RB_EUSAGE) fail_msg("%s: is no usage error", line);
    assert_string_equal(f->err.msg, message);
}

static void an_empty_command_line_keeps_every_default(void **state)
{
    fixture *f = *state;
    assert_parses(f, "");
    assert_int_equal(f->n_tokens, 2048);
    assert_int_equal(f->budgets.n, 3);
    assert_null(f->output);
    assert_false(f->dry_run);
    assert_int_equal(f->positionals.n, 0);
}

static void values_may_stand_behind_a_space_an_equals_sign_or_at_once(void **state)
{
    fixture *f = *state;
    assert_parses(f, "--n-tokens 7 --output=a=b --avg-bits 2.5 --seed -3 --method block-gtq");
    assert_int_equal(f->n_tokens, 7);
    assert_string_equal(f->output, "a=b");
    assert_true(f->avg_bits == 2.5);
    assert_int_equal(f->seed, -3);
    assert_int_equal(f->method, 1);
    assert_parses(f, "-o c.h5 -n9");
    assert_string_equal(f->output, "c.h5");
    assert_int_equal(f->n_tokens, 9);
    assert_parses(f, "-n 10 -n 11"); /* the last one holds */
    assert_int_equal(f->n_tokens, 11);
}

static void options_and_arguments_mix_until_two_dashes(void **state)
{
    fixture *f = *state;
    assert_parses(f, "a.h5 --dry-run - -q b.h5 -- --n-tokens -o");
    assert_true(f->dry_run);
    assert_true(f->quiet);
    assert_int_equal(f->positionals.n, 5);
    assert_string_equal(f->positionals.at[0], "a.h5");
    assert_string_equal(f->positionals.at[1], "-");
    assert_string_equal(f->positionals.at[2], "b.h5");
    assert_string_equal(f->positionals.at[3], "--n-tokens");
    assert_string_equal(f->positionals.at[4], "-o");
}

static void lists_replace_their_default(void **state)
{
    fixture *f = *state;
    assert_parses(f, "--budgets 2.25 --methods=waterfill,uniform,waterfill --names x,y=1");
    assert_int_equal(f->budgets.n, 1);
    assert_true(f->budgets.at[0] == 2.25);
    assert_int_equal(f->methods.n, 3);
    assert_string_equal(f->methods.at[0], "waterfill");
    assert_string_equal(f->methods.at[2], "waterfill");
    assert_int_equal(f->names.n, 2);
    assert_string_equal(f->names.at[1], "y=1");
}

static void a_repeated_option_collects_whole_arguments(void **state)
{
    fixture *f = *state;
    char line[600] = "";
    assert_false(rb_option_has_value(&f->own[10]));
    assert_parses(f, "--text a,b.txt --dry-run --text=c:2 -t a,b.txt");
    assert_int_equal(f->texts.n, 3);
    assert_string_equal(f->texts.at[0], "a,b.txt");
    assert_string_equal(f->texts.at[1], "c:2");
    assert_string_equal(f->texts.at[2], "a,b.txt");
    assert_true(rb_option_has_value(&f->own[10]));
    assert_refuses(f, "--text=", "--text is empty, expected FILE");
    for (int i = f->texts.n; i < RB_MAX_LIST; i++) strcat(line, "-tx ");
    assert_parses(f, line);
    assert_int_equal(f->texts.n, RB_MAX_LIST);
    assert_refuses(f, "--text one-more", "--text has more than 64 values");
}

static void unknown_names_are_errors_that_name_the_nearest(void **state)
{
    fixture *f = *state;
    assert_refuses(f, "--n-token 7", "unknown option --n-token; did you mean --n-tokens?");
    assert_refuses(f, "--quite", "unknown option --quite; did you mean --quiet?");
    assert_refuses(f, "--zebra=7", "unknown option --zebra");
    assert_refuses(f, "-z", "unknown option -z");
    assert_refuses(f, "--=7", "unknown option --");
    assert_refuses(f, "--method blok-gtq",
                   "--method is 'blok-gtq', expected one of uniform, block-gtq, waterfill; did you mean block-gtq?");
    assert_refuses(f, "--methods uniform,x", "--methods is 'x', expected one of uniform, block-gtq, waterfill");
}

static void missing_and_needless_values_are_told(void **state)
{
    fixture *f = *state;
    assert_refuses(f, "--output", "--output needs a value: FILE");
    assert_refuses(f, "-o", "-o needs a value: FILE");
    assert_refuses(f, "--output=", "--output is empty, expected FILE");
    assert_refuses(f, "--dry-run=yes", "--dry-run takes no value, found 'yes'");
    assert_refuses(f, "-qv", "-q takes no value, found 'v'");
}

static void numbers_are_whole_finite_and_in_range(void **state)
{
    fixture *f = *state;
    assert_refuses(f, "--n-tokens 7x", "--n-tokens is '7x', expected a whole number");
    assert_refuses(f, "--n-tokens 1.5", "--n-tokens is '1.5', expected a whole number");
    assert_refuses(f, "--n-tokens ''", "--n-tokens is '', expected a whole number");
    assert_refuses(f, "--n-tokens 0", "--n-tokens is 0, expected 1 to 16777216");
    assert_refuses(f, "--n-tokens 16777217", "--n-tokens is 16777217, expected 1 to 16777216");
    assert_refuses(f, "--seed 9223372036854775808", "--seed is 9223372036854775808, expected a number within 64 bits");
    assert_refuses(f, "--avg-bits nan", "--avg-bits is 'nan', expected a number");
    assert_refuses(f, "--avg-bits 1e999", "--avg-bits is '1e999', expected a number");
    assert_refuses(f, "--avg-bits 8.5", "--avg-bits is 8.5, expected 1 to 8");
    assert_refuses(f, "--scale -1", "--scale is -1, expected at least 0");
    assert_parses(f, "--seed 9223372036854775807 --n-tokens 16777216");
    assert_int_equal(f->seed, INT64_MAX);
    assert_int_equal(f->n_tokens, 1 << 24);
}

static void a_dash_is_no_output_and_an_ordinary_text(void **state)
{
    fixture *f = *state;
    assert_refuses(
        f, "-o -",
        "--output is '-', expected a path: nothing is written to standard output by it, and a file of that name "
        "is ./-");
    assert_refuses(
        f, "--output=-",
        "--output is '-', expected a path: nothing is written to standard output by it, and a file of that name "
        "is ./-");
    assert_parses(f, "-o ./- --text -");
    assert_string_equal(f->output, "./-");
    assert_string_equal(f->texts.at[0], "-");
}

static void lists_with_holes_or_without_end_are_refused(void **state)
{
    fixture *f = *state;
    char line[600] = "--budgets 3";
    assert_refuses(f, "--budgets 2,,4", "--budgets has an empty value, expected values with a comma between");
    assert_refuses(f, "--budgets 2,", "--budgets has an empty value, expected values with a comma between");
    assert_refuses(f, "--names ,", "--names has an empty value, expected values with a comma between");
    assert_refuses(f, "--budgets 2,9", "--budgets is 9, expected 1 to 8");
    for (int i = 1; i < RB_MAX_LIST; i++) strcat(line, ",3");
    assert_parses(f, line);
    assert_int_equal(f->budgets.n, RB_MAX_LIST);
    assert_refuses(f, strcat(line, ",3"), "--budgets has more than 64 values");
    strcpy(line, "--names a");
    for (int i = 0; i < RB_MAX_LIST; i++) strcat(line, ",a");
    assert_refuses(f, line, "--names has more than 64 values");
}

static void too_many_arguments_are_refused(void **state)
{
    fixture *f = *state;
    char line[600] = "0";
    for (int i = 1; i < RB_MAX_POSITIONALS; i++) strcat(line, " a");
    assert_parses(f, line);
    assert_refuses(f, strcat(line, " last"), "more than 256 arguments, first too many is 'last'");
}

static void required_options_are_asked_for_separately(void **state)
{
    fixture *f = *state;
    rb_error err = {0};
    assert_parses(f, "a.h5");
    assert_fails(rb_options_check_required(f->own, RB_COUNT(f->own), &err), RB_EUSAGE, "-o (--output) FILE is missing");
    assert_parses(f, "a.h5 -o b.h5");
    assert_ok(rb_options_check_required(f->own, RB_COUNT(f->own), &err));
    f->own[9].required = true;
    assert_fails(rb_options_check_required(f->own, RB_COUNT(f->own), &err), RB_EUSAGE, "--names A,B is missing");
    assert_parses(f, "--names a");
    assert_ok(rb_options_check_required(f->own, RB_COUNT(f->own), &err));
}

static char *printed_help(const rb_option *table, int n_options)
{
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    assert_non_null(stream);
    rb_options_print(stream, table, n_options);
    fclose(stream);
    return text;
}

static void help_is_aligned_and_shows_the_defaults(void **state)
{
    fixture *f = *state;
    static const char expected[] =
        "      --dry-run      stop early\n"
        "  -n, --n-tokens N   tokens (default 2048)\n"
        "      --seed N       any number (default 0)\n"
        "      --avg-bits B   bits (default 3)\n"
        "      --scale X      scale (default 0.5)\n"
        "  -o, --output FILE  the result (required)\n"
        "      --method NAME  how (uniform, block-gtq, waterfill; default uniform)\n"
        "      --budgets B,B  budgets (default 2,3,4)\n"
        "      --methods M,M  methods (uniform, block-gtq, waterfill; default uniform,block-gtq)\n"
        "      --names A,B    names\n"
        "  -t, --text FILE    texts\n";
    char *text = printed_help(f->own, RB_COUNT(f->own));
    assert_string_equal(text, expected);
    free(text);
}

static void a_number_may_have_words_in_its_place(void **state)
{
    (void)state;
    static const char *const words[] = {"plan", "auto", NULL};
    int64_t sink = -2;
    rb_error err = {0};
    rb_string_list rest;
    char program[] = "x", name[] = "--sink", plan[] = "plan", number[] = "3", minus[] = "-1", other[] = "all";
    const rb_option option = {.long_name = "sink",
                              .kind = RB_OPT_INT,
                              .value = &sink,
                              .metavar = "N",
                              .min = 0,
                              .max = 8,
                              .choices = words,
                              .help = "how many"},
                    *table = &option;
    char *text = printed_help(&option, 1);
    assert_string_equal(text, "      --sink N  how many (plan, auto; default auto)\n");
    free(text);
    const int one = 1;
    assert_ok(rb_options_parse(&table, &one, 1, 3, (char *[]){program, name, plan}, &rest, &err));
    assert_int_equal(sink, -1);
    assert_ok(rb_options_parse(&table, &one, 1, 3, (char *[]){program, name, number}, &rest, &err));
    assert_int_equal(sink, 3);
    assert_fails(rb_options_parse(&table, &one, 1, 3, (char *[]){program, name, minus}, &rest, &err), RB_EUSAGE,
                 "--sink is -1, expected 0 to 8");
    assert_fails(rb_options_parse(&table, &one, 1, 3, (char *[]){program, name, other}, &rest, &err), RB_EUSAGE,
                 "--sink is 'all', expected a whole number, or plan");
}

static void help_wraps_at_100_columns(void **state)
{
    (void)state;
    const char *value = NULL;
    const rb_option table[] = {
        {.long_name = "text",
         .kind = RB_OPT_STRING,
         .value = &value,
         .metavar = "FILE",
         .help = "a sentence that goes on and on, so that its words have to be laid over several lines, each of which "
                 "has to stay "
                 "within one hundred columns, whatever the length of the words"},
        {.long_name = "an-option-name-past-the-column",
         .kind = RB_OPT_STRING,
         .value = &value,
         .metavar = "FILE",
         .help = "below"},
    };
    char *text = printed_help(table, RB_COUNT(table));
    int n_lines = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        assert_in_range(strlen(line), 1, 100);
        n_lines++;
        if (n_lines == 2)
            assert_memory_equal(line, "                   lines,", 25); /* 19 = "      --text FILE" and a gap of 2 */
        if (n_lines == 4) assert_string_equal(line, "      --an-option-name-past-the-column FILE");
        if (n_lines == 5) assert_string_equal(line, "                   below");
    }
    assert_int_equal(n_lines, 5);
    free(text);
}

static void the_nearest_name_is_at_most_two_edits_away(void **state)
{
    (void)state;
    static const char *const names[] = {"calibrate", "profile", "run"};
    assert_string_equal(rb_nearest_name("profil", names, 3), "profile");    /* one missing */
    assert_string_equal(rb_nearest_name("prrofilee", names, 3), "profile"); /* two more */
    assert_string_equal(rb_nearest_name("porfile", names, 3), "profile");   /* two exchanged: two edits */
    assert_string_equal(rb_nearest_name("rum", names, 3), "run");
    assert_null(rb_nearest_name("porfiel", names, 3));
    assert_null(rb_nearest_name("cat", names, 3));
    assert_null(rb_nearest_name("xu", names, 3)); /* two edits of two letters keep nothing */
    assert_null(rb_nearest_name("", names, 3));
    assert_null(rb_nearest_name("run", names, 0));
}

int main(void)
{
#define OPTIONS_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        OPTIONS_TEST(an_empty_command_line_keeps_every_default),
        OPTIONS_TEST(values_may_stand_behind_a_space_an_equals_sign_or_at_once),
        OPTIONS_TEST(options_and_arguments_mix_until_two_dashes),
        OPTIONS_TEST(lists_replace_their_default),
        OPTIONS_TEST(a_repeated_option_collects_whole_arguments),
        OPTIONS_TEST(unknown_names_are_errors_that_name_the_nearest),
        OPTIONS_TEST(missing_and_needless_values_are_told),
        OPTIONS_TEST(numbers_are_whole_finite_and_in_range),
        OPTIONS_TEST(a_dash_is_no_output_and_an_ordinary_text),
        OPTIONS_TEST(lists_with_holes_or_without_end_are_refused),
        OPTIONS_TEST(too_many_arguments_are_refused),
        OPTIONS_TEST(required_options_are_asked_for_separately),
        OPTIONS_TEST(help_is_aligned_and_shows_the_defaults),
        OPTIONS_TEST(help_wraps_at_100_columns),
        cmocka_unit_test(a_number_may_have_words_in_its_place),
        cmocka_unit_test(the_nearest_name_is_at_most_two_edits_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
