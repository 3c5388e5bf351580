/* Tables: columns as wide as their widest cell. */
#include "tests/test_support.h"

#include <math.h>

#include "core/table.h"

static rb_error err;

/* What a table prints; freed by free(). */
static char *printed(const rb_table *table)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    assert_ok(rb_table_print(out, table, &err));
    fclose(out);
    return text;
}

static void columns_fit_their_widest_cell(void **state)
{
    rb_table table = {.n_left = 1};
    (void)state;
    rb_table_add(&table, "plan");
    rb_table_add(&table, "a long head");
    rb_table_add(&table, "b");
    rb_table_end_row(&table);
    rb_table_add(&table, "%s", "a plan of a long name");
    rb_table_add_number(&table, 1, 2.25);
    rb_table_add_number(&table, 3, 123456.5);
    rb_table_end_row(&table);
    char *text = printed(&table);
    assert_string_equal(text, "plan                   a long head           b\n"
                              "a plan of a long name          2.2  123456.500\n");
    free(text);
    rb_table_free(&table);
}

static void what_was_not_measured_is_a_dash_and_lines_end_without_spaces(void **state)
{
    rb_table table = {.n_left = 1};
    (void)state;
    rb_table_add(&table, "layer");
    rb_table_add(&table, "bits");
    rb_table_add(&table, "won");
    rb_table_end_row(&table);
    rb_table_add(&table, "0");
    rb_table_add_number(&table, 2, (double)NAN);
    rb_table_add(&table, "%s", "");
    rb_table_end_row(&table);
    rb_table_add(&table, "1");
    rb_table_add(&table, "%s", "");
    rb_table_add(&table, "yes");
    rb_table_end_row(&table);
    rb_table_add(&table, "2");
    rb_table_end_row(&table);
    char *text = printed(&table);
    assert_string_equal(text, "layer  bits  won\n"
                              "0         -\n"
                              "1            yes\n"
                              "2\n");
    free(text);
    rb_table_free(&table);
}

/* A cell's last space keeps room for a mark, and is no space at the end of a line. */
static void a_space_at_the_end_of_a_cell_keeps_room(void **state)
{
    rb_table table = {0};
    (void)state;
    rb_table_add(&table, "1.5*");
    rb_table_add(&table, "2.5 ");
    rb_table_end_row(&table);
    rb_table_add(&table, "10.5 ");
    rb_table_add(&table, "20.5*");
    rb_table_end_row(&table);
    char *text = printed(&table);
    assert_string_equal(text, " 1.5*   2.5\n"
                              "10.5   20.5*\n");
    free(text);
    rb_table_free(&table);
}

static void characters_of_several_bytes_count_once(void **state)
{
    rb_table table = {.n_left = 1};
    (void)state;
    rb_table_add(&table, "é");
    rb_table_add(&table, "x");
    rb_table_end_row(&table);
    rb_table_add(&table, "ab");
    rb_table_add(&table, "y");
    rb_table_end_row(&table);
    char *text = printed(&table);
    assert_string_equal(text, "é   x\nab  y\n");
    free(text);
    rb_table_free(&table);
}

static void an_empty_table_prints_nothing(void **state)
{
    const rb_table table = {.n_left = 1};
    (void)state;
    char *text = printed(&table);
    assert_string_equal(text, "");
    free(text);
}

static void a_cell_without_room_is_told(void **state)
{
    const rb_table table = {.n_left = 1, .is_out_of_memory = true};
    (void)state;
    assert_fails(rb_table_print(stdout, &table, &err), RB_ENOMEM, "out of memory for a table");
}

static void names_from_files_stay_in_their_cell(void **state)
{
    rb_table table = {.n_left = 1};
    (void)state;
    rb_table_add(&table, "%s", "\np\x1b[2J");
    rb_table_add(&table, "1");
    rb_table_end_row(&table);
    char *text = printed(&table);
    assert_string_equal(text, "\\np\\x1b[2J  1\n");
    free(text);
    rb_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_from_files_stay_in_their_cell),
        cmocka_unit_test(columns_fit_their_widest_cell),
        cmocka_unit_test(what_was_not_measured_is_a_dash_and_lines_end_without_spaces),
        cmocka_unit_test(a_space_at_the_end_of_a_cell_keeps_room),
        cmocka_unit_test(characters_of_several_bytes_count_once),
        cmocka_unit_test(an_empty_table_prints_nothing),
        cmocka_unit_test(a_cell_without_room_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
